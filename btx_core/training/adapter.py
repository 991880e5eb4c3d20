"""LoRA adapters: put on a branch that trains, or merged into the seed model that they belong to.

Merged, an adapter that was trained elsewhere becomes an expert like any other.

In:  a model in memory; or the seed's folder and an adapter folder in PEFT format (safetensors).
Out: the model with adapters on it; or a whole dense checkpoint.
An adapter is merged only where its merge is known. Settings that are proven to be a plain sum are
summed here: W' = W + scale × B A, computed in float32 or wider and rounded once, one tensor at a
time. What is more than a sum and PEFT can merge, PEFT merges, and the result must compute what the
adapter computes. Everything else is refused by name. Judging the result is left to
`btx_core.mixing.preflight`.
Shapes: R rank, A [R, in], B [out, R], W [out, in].
Methods: LoRA (arXiv:2106.09685), rank-stabilised (arXiv:2312.03732), DoRA (arXiv:2402.09353).
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btx_core.checkpoints.canonical import EMBEDDING, HEAD, canonical
from btx_core.checkpoints.checkpoint import Checkpoint, read_tensor
from btx_core.checkpoints.contents import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    KEPT_ADAPTER,
    contents_of,
)
from btx_core.checkpoints.headers import TensorInfo, read_header
from btx_core.checkpoints.rewriting import write_again
from btx_core.checkpoints.settings import different_settings
from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.checkpoints.strict_json import read_json
from btx_core.files import link_or_copy, whole_folder
from btx_core.problems import BtxError, ShapeMismatch, Unsupported

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
OWN_SEED = "name the seed that it was trained on"
MERGE_YOURSELF = "merge it with the library that trained it, and register the whole checkpoint"
CONVERT = (
    "save it again with PEFT's conversion: model.save_pretrained(out, "
    "path_initial_model_for_weight_conversion=FOLDER_OF_THE_FRESH_ADAPTER)"
)
# Settings whose every value was found to leave the merge a plain sum, or to be read here.
PLAIN = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "target_parameters",
        "task_type",
        "use_rslora",
    }
)
# Initialisations that leave the base as it is, and those that take the adapter's start out of it.
PLAIN_STARTS = (None, True, False, "eva", "gaussian", "mica", "orthogonal")
STARTS_IN_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Settings of what is more than a sum, and PEFT merges.
MERGED_BY_PEFT = frozenset({"bias", "lora_bias", "trainable_token_indices", "use_dora"})
# The largest difference of a merged model's logits, as a share of the largest logit or of 1.
TOLERANCE = 1e-4
PROBE_TOKENS = 48
# The two halves of a low-rank change, and what stands for each in a tensor's name.
HALF = re.compile(r"(.+)\.lora_(A|B)(\.default)?\.weight")
# adapter_config.json as PEFT wrote it.
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Delta:
    """One weight's change: B A times scale."""

    a: TensorInfo
    b: TensorInfo
    scale: float


@dataclass(frozen=True)
class Changes:
    """What an adapter does to the tensors of its seed model.

    Attributes:
        deltas: by tensor name, what is added to it.
        replaced: by tensor name, the tensor that replaces it (PEFT's modules_to_save).
    """

    deltas: dict[str, Delta] = field(default_factory=dict)
    replaced: dict[str, TensorInfo] = field(default_factory=dict)


@dataclass(frozen=True)
class Adapter:
    """An adapter folder that was found to belong to a seed model.

    Attributes:
        folder: where it lies.
        base: the seed model, as it lies on disk.
        settings: its adapter_config.json.
        tensors: its tensors by name.
        changes: the sum that it is; None for what PEFT must merge.
        named: what messages call it: the path that a person gave.
    """

    folder: Path
    base: Checkpoint
    settings: Settings
    tensors: Mapping[str, TensorInfo]
    changes: Changes | None
    named: Path

    @classmethod
    def open(cls, seed_model: Path, folder: Path, named: Path | None = None) -> Adapter:
        """Check an adapter from headers alone.

        Args:
            seed_model: the dense folder that it was trained on.
            folder: an adapter folder in PEFT format.
            named: what messages call it, if it is a copy of something else.

        Returns:
            The adapter.

        Raises:
            Unsupported: for settings whose merge is not known.
            ShapeMismatch: for an adapter of another seed model.
            Unsafe: for a folder that must not be read.
        """
        named = named or folder
        base = Checkpoint.open(seed_model)
        contents = contents_of(folder)
        if ADAPTER_WEIGHTS not in contents.taken:
            raise Unsupported(
                folder,
                found=f"no {ADAPTER_WEIGHTS}",
                expected="an adapter saved as safetensors",
                next="save it anew with PEFT: model.save_pretrained(out)",
            )
        settings = read_json(folder / ADAPTER_CONFIG)
        tensors = read_header(folder / ADAPTER_WEIGHTS)
        check_settings(named, settings)
        _require_same_base(canonical(base), named, settings)
        changes = None
        if not _is_for_peft(base, settings, tensors):
            changes = changes_of(base, named, settings, tensors)
        return cls(folder, base, settings, tensors, changes, named)


def add_adapters(model: PreTrainedModel, rank: int) -> PeftModel:
    """Put low-rank adapters on every trainable linear layer of a model, and freeze all else.

    Args:
        model: changed in place.
        rank: of the adapters; their scale is 2.

    Returns:
        The model wrapped by PEFT; its `merge_and_unload` gives the model back, adapters merged.
    """
    # Here, since they take seconds to import and are seldom asked for.
    import torch
    from peft import LoraConfig, get_peft_model

    trainable = {
        name.removesuffix(".weight")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2
    }
    targets = [
        name
        for name, module in model.named_modules()
        if name in trainable and isinstance(module, torch.nn.Linear)
    ]
    adapted: PeftModel = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    )
    return adapted


def merge(seed_model: Path, adapter: Path, out: Path, named: Path | None = None) -> str:
    """Write the seed model plus an adapter to a new folder.

    Args:
        seed_model: the dense folder that the adapter was trained on.
        adapter: an adapter folder in PEFT format.
        out: the folder to be made; the adapter's own files go under adapter/ in it.
        named: what messages call the adapter, if it is a copy of something else.

    Returns:
        What merged it: "sum", or PEFT with its version.

    Raises:
        BtxError: as `Adapter.open`; and Unsupported where the merged model computes something
            else than the adapter.
    """
    opened = Adapter.open(seed_model, adapter, named)
    if opened.changes is None:
        value_of, merged_by = _merged_by_peft(opened)
    else:
        value_of, merged_by = _summed(opened.changes), "sum"
    with whole_folder(out) as folder:
        write_again(opened.base, value_of, folder)
        (folder / KEPT_ADAPTER).mkdir()
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            link_or_copy(adapter / name, folder / KEPT_ADAPTER / name)
        Checkpoint.open(folder)
    return merged_by


def merge_in_place(seed_model: Path, folder: Path, named: Path | None = None) -> str:
    """Replace an adapter by the merged checkpoint; the adapter itself moves to adapter/.

    Args:
        seed_model: the dense folder that the adapter was trained on.
        folder: an adapter folder; whatever else lies in it stays.
        named: what messages call it, if it is a copy of something else.

    Returns:
        What merged it, as `merge`.

    Raises:
        BtxError: as `merge`.
    """
    merged = folder.with_name(f".{folder.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)
    merged_by = merge(seed_model, folder, merged, named)
    for path in sorted(folder.iterdir()):
        # What else lies there: a README, what the training wrote of itself.
        if path.name not in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) and not (merged / path.name).exists():
            os.rename(path, merged / path.name)
    shutil.rmtree(folder)
    os.rename(merged, folder)
    return merged_by


def check_settings(adapter: Path, settings: Settings) -> None:
    """Refuse an adapter whose merge is not known, or whose scale is no number.

    Args:
        adapter: its folder, for the message.
        settings: its adapter_config.json.

    Raises:
        Unsupported: naming the setting.
    """
    subject = adapter / ADAPTER_CONFIG
    if settings.get("peft_type") != "LORA":
        raise Unsupported(
            subject,
            found=f"peft_type {settings.get('peft_type')}",
            expected="LORA",
            next=MERGE_YOURSELF,
        )
    start = settings.get("init_lora_weights")
    if str(start).lower().startswith(STARTS_IN_THE_BASE):
        raise Unsupported(
            subject,
            found=f"init_lora_weights {start!r}, which takes the adapter's start out of the base",
            expected="an adapter of the seed's own weights",
            next=CONVERT,
        )
    known = PLAIN | MERGED_BY_PEFT | ({"init_lora_weights"} if start in PLAIN_STARTS else set())
    for key in sorted(settings.keys() - known):
        if not _is_off(settings[key]):
            raise Unsupported(
                subject,
                found=f"{key}: {settings[key]}"[:200],
                expected=f"no {key}: its merge is not known to give what the adapter computes",
                next=MERGE_YOURSELF,
            )
    numbers = [
        settings.get("r"),
        settings.get("lora_alpha"),
        *(settings.get("rank_pattern") or {}).values(),
        *(settings.get("alpha_pattern") or {}).values(),
    ]
    if not all(_is_positive_number(number) for number in numbers):
        raise Unsupported(
            subject,
            found=f"r, lora_alpha and patterns {numbers}"[:200],
            expected="numbers above 0",
            next="save the adapter anew",
        )


def _is_off(value: object) -> bool:
    return not value or value == "none"


def _require_same_base(seed: Checkpoint, adapter: Path, settings: Settings) -> None:
    """Require the seed's settings of the base that an adapter names, where that lies here."""
    named = settings.get("base_model_name_or_path")
    try:
        base = canonical(Checkpoint.open(Path(str(named))))
    # A name on a hub, or a folder of another machine: nothing is known of it.
    except (BtxError, OSError, ValueError):
        return
    for difference in different_settings(seed.config, base.config):
        raise ShapeMismatch(
            f"{adapter / ADAPTER_CONFIG}, base {named}, config {difference.key}",
            found=difference.member,
            expected=f"{difference.seed}, as in the seed",
            next=OWN_SEED,
        )


def _is_for_peft(base: Checkpoint, settings: Settings, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether an adapter is more than a sum of whole matrices of the seed model."""
    if any(not _is_off(settings.get(key)) for key in MERGED_BY_PEFT):
        return True
    if any("lora_embedding" in name for name in tensors):
        return True
    changed = {_target(name) for name in tensors}
    # Embeddings and head are one matrix or two: only the whole model shows what a change does.
    own_head = HEAD in canonical(base).tensors
    return not own_head and bool(changed & {EMBEDDING, HEAD})


def _target(name: str) -> str:
    """The tensor of the seed model that a tensor of an adapter belongs to."""
    target = (
        name.removeprefix(PREFIX)
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".")
        # What PEFT saves of a changed embedding or head itself.
        .replace(".base_layer.", ".")
    )
    half = HALF.fullmatch(target)
    return f"{half[1]}.weight" if half else target


def _merged_by_peft(adapter: Adapter) -> tuple[Callable[[TensorInfo], torch.Tensor | None], str]:
    """Let PEFT merge an adapter, and prove that the merged model computes what the adapter does."""
    # Here, since they take seconds to import and are seldom asked for.
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(adapter.base.folder, dtype=torch.float32)
    subject = adapter.named / ADAPTER_CONFIG
    with torch.no_grad(), refused_as_unsupported(subject, "an adapter that PEFT loads and merges"):
        adapted = peft.PeftModel.from_pretrained(model, str(adapter.folder), local_files_only=True)
        _require_all_loaded(adapter, peft.get_peft_model_state_dict(adapted))
        ids = torch.arange(PROBE_TOKENS)[None] * 7 % model.config.vocab_size
        expected = adapted.eval()(input_ids=ids).logits
        merged = adapted.merge_and_unload(safe_merge=True)
        tied = HEAD not in canonical(adapter.base).tensors
        if tied:
            # As it will be loaded.
            merged.get_output_embeddings().weight = merged.get_input_embeddings().weight
        difference = (merged.eval()(input_ids=ids).logits - expected).abs().max()
        share = float(difference / expected.abs().max().clamp(min=1))
    if not share <= TOLERANCE:
        reason = ": the seed's head and embeddings are one matrix" if tied else ""
        raise Unsupported(
            subject,
            found=f"logits that differ by {share:.2g} once it is merged{reason}",
            expected=f"at most {TOLERANCE:.0e}",
            next="register a whole checkpoint, under a seed that has it its way",
        )
    state = merged.state_dict()

    def value_of(info: TensorInfo) -> torch.Tensor | None:
        value: torch.Tensor | None = state.get(info.name)
        return value

    return value_of, f"peft {peft.__version__}"


def _require_all_loaded(adapter: Adapter, loaded: Mapping[str, torch.Tensor]) -> None:
    """PEFT only warns of a tensor that it cannot place."""
    for name in sorted(adapter.tensors.keys() ^ loaded.keys()):
        raise ShapeMismatch(
            f"{adapter.named}, {name}",
            found="a tensor that PEFT does not place" if name in adapter.tensors else "no tensor",
            expected="the tensors that its settings name",
            next=OWN_SEED,
        )


def _is_positive_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < 1e6


def changes_of(
    base: Checkpoint, adapter: Path, settings: Settings, tensors: Mapping[str, TensorInfo]
) -> Changes:
    """Match every tensor of an adapter with the tensor of the seed model that it changes.

    Args:
        base: the seed model.
        adapter: the adapter's folder, for the messages.
        settings: its adapter_config.json.
        tensors: its tensors by name.

    Returns:
        What is added to which tensor, and which are replaced whole.

    Raises:
        ShapeMismatch: naming the first tensor that matches none of the seed model.
    """
    changes = Changes()
    for name, info in tensors.items():
        subject = f"{adapter}, {name}"
        target = _target(name)
        half = ".lora_A." in name or ".lora_B." in name
        weight = base.tensors.get(target)
        if weight is None:
            raise ShapeMismatch(
                subject,
                found=f"a change of {target}, which the seed has not",
                expected="an adapter of this seed",
                next=OWN_SEED,
            )
        if half:
            a, b = _halves(subject, name, tensors, weight)
            module = target.removesuffix(".weight")
            changes.deltas[target] = Delta(a, b, scale(settings, module, a.shape[0]))
        elif info.shape != weight.shape:
            raise ShapeMismatch(subject, found=info.shape, expected=weight.shape, next=OWN_SEED)
        else:
            changes.replaced[target] = info
    return changes


def _halves(
    subject: str, name: str, tensors: Mapping[str, TensorInfo], weight: TensorInfo
) -> tuple[TensorInfo, TensorInfo]:
    """Return the A and B that the tensor `name` is one of, and check their shapes."""
    a = tensors.get(name.replace(".lora_B.", ".lora_A."))
    b = tensors.get(name.replace(".lora_A.", ".lora_B."))
    if a and b and len(a.shape) == 2:
        rank, width = a.shape
        if b.shape == (weight.shape[0], rank) and (width,) == weight.shape[1:]:
            return a, b
    raise ShapeMismatch(
        subject,
        found=f"A {a and a.shape}, B {b and b.shape}",
        expected=f"two that give {weight.shape}",
        next=OWN_SEED,
    )


def scale(settings: Settings, module: str, rank: int) -> float:
    """Return what one module's change is multiplied with.

    Args:
        settings: the adapter's adapter_config.json; alpha may differ by module, and PEFT takes the
            first pattern that ends the module's name.
        module: the module's name in the seed model.
        rank: of its adapter.

    Returns:
        alpha / rank, or alpha / sqrt(rank) where the adapter is rank-stabilised.
    """
    alpha = settings["lora_alpha"]
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _summed(changes: Changes) -> Callable[[TensorInfo], torch.Tensor | None]:
    """The new value of each tensor that a sum changes."""

    def value_of(info: TensorInfo) -> torch.Tensor | None:
        # Here, so that headers can be checked without loading it.
        import torch

        replacement = changes.replaced.get(info.name)
        delta = changes.deltas.get(info.name)
        if replacement is not None and delta is None:
            return read_tensor(replacement)
        if delta is None:
            return None
        weight = read_tensor(replacement or info)
        wide = torch.promote_types(weight.dtype, torch.float32)
        change = read_tensor(delta.b).to(wide) @ read_tensor(delta.a).to(wide)
        return weight.to(wide) + delta.scale * change

    return value_of
