"""The seed of a mixture: its checkpoint, and what its config and headers say of the mixture.

In:  the seed's folder.
Out: a `SeedModel` that the plan is made from, and the mixture's own config. No tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

# A config's values are whatever its class defines.
from typing import Any

from btx_core.checkpoints.both_spellings import with_both_spellings
from btx_core.checkpoints.canonical import EMBEDDING, TIE, canonical
from btx_core.checkpoints.checkpoint import TORCH_NAMES, Checkpoint
from btx_core.checkpoints.families import Family, find_family
from btx_core.checkpoints.pieces import Sizes
from btx_core.checkpoints.settings import defined_settings
from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.checkpoints.token_meaning import require_tokenizer
from btx_core.checkpoints.whole import require_whole
from btx_core.mixing.parts import template_pattern
from btx_core.mixing.recipe import MixRecipe
from btx_core.problems import ShapeMismatch

# Config keys that say where a config comes from, not what the model is.
ORIGIN = ("transformers_version", "_name_or_path")


@dataclass(frozen=True)
class SeedModel:
    """A dense seed that has a mixture.

    Attributes:
        checkpoint: the open folder, canonical.
        family: the table's entry for it.
        sizes: its sizes.
        layers: the number of its layers.
    """

    checkpoint: Checkpoint
    family: Family
    sizes: Sizes
    layers: int

    @classmethod
    def open(
        cls, folder: Path, recipe: MixRecipe, digests: Mapping[str, str] | None = None
    ) -> SeedModel:
        """Open a seed and find the mixture that it can become.

        Args:
            folder: the dense checkpoint.
            recipe: the mixture's recipe; its routing decides which mixture is able.
            digests: SHA-256 of the seed's tensors that the caller has proven, by name.

        Raises:
            Unsafe: for a folder that must not be read.
            Unsupported: for a model without a faithful mixture.
            ShapeMismatch: for tensors that are not those of its model's class.
        """
        opened = Checkpoint.open(folder, digests)
        # Refuses by name what is unknown, before transformers is asked.
        find_family(opened.config)
        require_whole(opened)
        checkpoint = canonical(opened)
        family = find_family(checkpoint.config, full_softmax=recipe.routing == "switch")
        layers = _count_layers(family, checkpoint)
        with refused_as_unsupported(folder / "config.json", "settings that give a head's width"):
            sizes = _sizes(family, checkpoint)
        return cls(checkpoint, family, sizes, layers)

    @property
    def config(self) -> Mapping[str, Any]:
        """The dense config, as transformers understands it."""
        return self.checkpoint.config

    @property
    def dtype(self) -> str:
        """The dtype of the feed-forward blocks, as safetensors names it."""
        return self.checkpoint.tensors[self.family.down.name.format(l=0)].dtype

    def split(self, chunks: int) -> SeedModel:
        """Return the seed whose experts are split into this many narrower ones."""
        return replace(self, sizes=self.sizes.split(chunks))


def open_seed(folder: Path) -> SeedModel:
    """Open a seed that is to be registered: it must mix, and train as it is.

    Args:
        folder: the dense checkpoint.

    Raises:
        BtxError: as `SeedModel.open`; and for a tokenizer that is not there, that transformers
            cannot read, or that gives ids without a row.
    """
    seed = SeedModel.open(folder, MixRecipe())
    require_tokenizer(Checkpoint.open(folder), seed.checkpoint.tensors[EMBEDDING].shape[0])
    return seed


def mixture_config(seed: SeedModel, experts: int, recipe: MixRecipe) -> dict[str, Any]:
    """Return the mixture's config: what both classes know, then the table's settings.

    Args:
        seed: the seed.
        experts: E, the number of experts.
        recipe: the mixture's recipe.

    Raises:
        Unsupported: when the mixture's class does not take the settings.
    """
    # Here, since it takes torch along.
    from transformers import AutoConfig

    layout = seed.family.layout
    subject = seed.checkpoint.folder / "config.json"
    with refused_as_unsupported(subject, "a config that has a mixture"):
        mixture_class = type(AutoConfig.for_model(layout.model_type))
        own_keys = {"model_type", "architectures", *ORIGIN}
        # What the dense class does not define has no effect there, and may have one here.
        known = mixture_class().to_dict().keys() & defined_settings(seed.checkpoint.model_type)
        known -= own_keys
        settings = {key: value for key, value in seed.config.items() if key in known}
        settings |= _mixture_settings(seed.split(recipe.split), experts, recipe)
        config: dict[str, Any] = mixture_class(**settings).to_dict()
    for key in ORIGIN:
        config.pop(key, None)
    config["architectures"] = [layout.architecture]
    # Named, since loaders take the first file's dtype otherwise.
    config["dtype"] = TORCH_NAMES[seed.dtype]
    # A head that differs from the embeddings is its own, which other loaders take from here alone.
    if seed.config[TIE] is False:
        config[TIE] = False
    # Granite 4 has an infinite limit, which JSON has no number for.
    return with_both_spellings(mixture_class._encode_special_floats(config))


def _mixture_settings(seed: SeedModel, experts: int, recipe: MixRecipe) -> dict[str, Any]:
    """The settings that the dense config lacks or gives otherwise."""
    layout, sizes = seed.family.layout, seed.sizes
    settings: dict[str, Any] = {}
    if recipe.split > 1:
        settings["intermediate_size"] = sizes.expert_inner
    settings |= seed.family.settings(seed.config, sizes)
    chosen = {"top-k": recipe.top_k, "soft": experts}
    settings[layout.count_key] = experts
    settings[layout.top_k_key] = chosen.get(recipe.routing, 1)
    if recipe.routing == "switch":
        settings["norm_topk_prob"] = False
    return settings


def _count_layers(family: Family, dense: Checkpoint) -> int:
    """The number of layers, from the names; every one must have its feed-forward block."""
    pattern = template_pattern(family.down.name)
    matches = [pattern.fullmatch(name) for name in dense.tensors]
    layers = sorted(int(match["l"]) for match in matches if match)
    if not layers or layers != list(range(len(layers))):
        raise ShapeMismatch(
            dense.folder,
            found=f"feed-forward blocks in layers {layers[:4]}",
            expected=f"{family.down.name} from layer 0 on",
            next="save the causal language model itself, not its body",
        )
    return len(layers)


def _sizes(family: Family, dense: Checkpoint) -> Sizes:
    """The sizes, from the shapes of layer 0 and the parsed config."""
    config = dense.config
    width, inner = dense.tensors[family.down.name.format(l=0)].shape
    heads = config.get("num_attention_heads") or 1
    head = config.get("head_dim") or config.get("hidden_size", width) // heads
    rope = config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor") or 1.0
    joined = dense.tensors.get("model.layers.0.self_attn.qkv_proj.weight")
    return Sizes(
        width=width,
        inner=inner,
        expert_inner=inner,
        heads=heads,
        head=head,
        rotated=int(head * share),
        joined_rows=joined.shape[0] if joined else 0,
    )
