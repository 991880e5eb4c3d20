"""Compose a seed and its experts into one mixture-of-experts checkpoint.

In:  checkpoint folders, the members' slots, a recipe.  Out: a new folder that stock transformers loads, whole or not at all.
Streams byte ranges: no model object is built, memory stays flat in the number of experts and in their size. What is known to be
unchanged is hard-linked. Training is tune.py's work, router rows other than small random ones are router.py's.
Shapes: E experts, D model width.  Method: Branch-Train-MiX (arXiv:2403.07816).
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from btx_core.checkpoints.checkpoint import INDEX, TORCH_NAMES, Checkpoint, read_json
from btx_core.checkpoints.families import Family, family
from btx_core.files import whole_folder, write_json
from btx_core.mixing.plan import (
    GROUPS,
    SEED,
    SHARED,
    Contribution,
    Plan,
    compose,
    layers,
    match,
    parts,
    sizes,
)
from btx_core.mixing.shards import FileWritten, Progress, write_shards
from btx_core.problems import BtxError, ShapeMismatch, Unsupported, WrongUsage

if TYPE_CHECKING:
    import torch

PROVENANCE = "provenance.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")


@dataclass(frozen=True)
class Member:
    """One expert to be mixed. shard: an earlier build's shard of this very member at this slot; it is linked, not written."""

    name: str
    slot: int
    folder: Path
    shard: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MixRecipe:
    """What the mixture is to be; its digest belongs to what it made."""

    mode: Literal["anchored", "full"] = (
        "anchored"  # shared parameters: the seed's / combined over seed and members
    )
    routing: Literal["top-k", "soft", "switch", "sample"] = (
        "top-k"  # routing.py says how each chooses and where it exports to
    )
    top_k: int = 2  # experts a token, of routing top-k; soft takes all, switch and sample one
    seed_expert: bool = True  # the seed's own feed-forward blocks are slot 0, and the seed takes part in the average
    split: int = 1  # each expert into this many narrower ones
    blend: bool = False  # each expert takes a chunk of every member's
    method: Literal["mean", "task", "ties", "dare"] = (
        "mean"  # how shared parameters are combined (mode full)
    )
    weights: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # parameter group (plan.GROUPS, or "*") -> member -> weight; absent: 1
    scale: float = (
        1.0  # task, ties, dare: how much of the combined task vector is added to the seed
    )
    density: float = 0.5  # ties: share of each task vector kept, by size; dare: by chance
    router_std: float = 0.02  # standard deviation of random router rows; zero would tie for ever
    random_seed: int = 0


@dataclass(frozen=True)
class MixReport:
    files: tuple[FileWritten, ...]

    @property
    def bytes_written(self) -> int:
        return sum(file.bytes for file in self.files if not file.linked)

    @property
    def bytes_linked(self) -> int:
        return sum(file.bytes for file in self.files if file.linked)


def mix(
    seed: Path,
    members: Sequence[Member],
    recipe: MixRecipe,
    out: Path,
    *,
    router: Mapping[int, torch.Tensor] | None = None,
    previous: Path | None = None,
    digests: Mapping[str, Mapping[str, str]] | None = None,
    progress: Progress | None = None,
) -> MixReport:
    """Write the mixture of the seed and its members to `out`.

    router: layer -> rows [E, D] in slot order, instead of random ones. previous: an earlier build of this very seed; what does not
    depend on the members (anchored: shared parameters, the seed's expert) is linked from it. digests: member (or "seed") -> tensor ->
    SHA-256, where the caller has just proven that the folder holds these; what is absent is hashed here.
    Raises ShapeMismatch, NotFinite, Unsafe, Unsupported, WrongUsage; then nothing is left behind.
    """
    digests = digests or {}
    opened = Checkpoint.open(seed, digests.get(SEED))
    family(opened.config)  # refuse by name what is unknown, before transformers is asked
    dense = dense_config(opened)
    row = family(dense, raw=recipe.routing == "switch")
    plan = plan_mix(opened, row, dense, members, recipe, previous, digests)
    config = mixture_config(row, opened, dense, len(plan.rows), recipe)
    rows = given_rows(plan, router) if router is not None else random_rows(plan, recipe)
    with whole_folder(out) as aside:
        files, tensors = write_shards(plan, aside, recipe, rows, progress)
        write_json(aside / "config.json", config)
        write_json(aside / INDEX, index(plan))
        copy_words(opened.folder, aside)
        write_json(aside / PROVENANCE, provenance(plan, members, recipe, tensors))
        written = {file.path for file in files}
        rest = (path for path in sorted(aside.iterdir()) if path.name not in written)
        files += [FileWritten(path.name, path.stat().st_size, False) for path in rest]
    return MixReport(tuple(files))


def plan_mix(
    seed: Checkpoint,
    row: Family,
    dense: Mapping[str, Any],
    members: Sequence[Member],
    recipe: MixRecipe,
    previous: Path | None,
    digests: Mapping[str, Mapping[str, str]] | None = None,
) -> Plan:
    """Open and match every member, then plan. The order of `members` counts for nothing: slots do."""
    check_members(members, recipe)
    ordered = sorted(members, key=lambda member: member.slot)
    opened = {
        member.name: Checkpoint.open(member.folder, (digests or {}).get(member.name))
        for member in ordered
    }
    experts = [
        Contribution(member.name, member.slot, opened[member.name], member.shard)
        for member in ordered
    ]
    for expert in experts:
        match(seed, expert.dense, expert.name)
    averaged = {SEED: seed}
    if recipe.mode == "full":
        # By name: even a float64 sum may depend on its order, and slots differ between builds.
        named = {
            expert.name: expert.dense for expert in sorted(experts, key=lambda expert: expert.name)
        }
        averaged = (
            named if recipe.method == "mean" and not recipe.seed_expert else {SEED: seed, **named}
        )
    if recipe.seed_expert:
        experts = [
            Contribution(
                SEED, 0, seed, _earlier(previous, f"model-expert-{SEED}.safetensors"), hint=True
            ),
            *experts,
        ]
    layers(row, seed)
    shared = _earlier(previous, SHARED) if recipe.mode == "anchored" and recipe.split == 1 else None
    return compose(
        row,
        seed,
        sizes(row, seed, dense),
        experts,
        averaged,
        split=recipe.split,
        blend=recipe.blend,
        shared=shared,
    )


def _earlier(previous: Path | None, file: str) -> Path | None:
    path = previous / file if previous else None
    return path if path and path.is_file() else None


def check_members(members: Sequence[Member], recipe: MixRecipe) -> None:
    names, count = (
        [member.name for member in members],
        (len(members) + recipe.seed_expert) * recipe.split,
    )
    for name in names:
        if not NAME.fullmatch(name) or names.count(name) > 1 or name == SEED:
            raise WrongUsage(
                f"member {name!r}",
                found="a name that is taken, reserved or no file name",
                expected="letters, digits and ._@+-, each name once, not 'seed'",
                next="rename the member",
            )
    if recipe.routing == "top-k" and not 1 <= recipe.top_k <= count:
        raise WrongUsage(
            "top_k",
            found=f"{recipe.top_k} with {count} experts",
            expected=f"1 to {count}",
            next="choose top_k within the experts",
        )
    check_recipe(recipe, {SEED, *names})
    if recipe.seed_expert and any(member.slot < 1 for member in members):
        raise WrongUsage(
            "slots",
            found="a member at slot 0 or below",
            expected="slot 0 is the seed's own",
            next="number members from 1",
        )


def check_recipe(recipe: MixRecipe, names: set[str]) -> None:
    given = {name for group in recipe.weights.values() for name in group}
    weights = [weight for group in recipe.weights.values() for weight in group.values()]
    faults = {
        "routing": recipe.routing not in ("top-k", "soft", "switch", "sample")
        and "top-k, soft, switch or sample",
        "mode": recipe.mode not in ("anchored", "full") and "anchored or full",
        "method": (
            recipe.method not in ("mean", "task", "ties", "dare")
            or (recipe.mode == "anchored" and recipe.method != "mean")
        )
        and "mean; task, ties or dare in mode full",
        "weights": (
            bool(recipe.weights.keys() - {*GROUPS, "*"} or given - names)
            or not all(0 < weight < 1e6 for weight in weights)
        )
        and f"groups {', '.join(GROUPS)} or *, members of this mix, weights above 0",
        "density": not 0 < recipe.density <= 1 and "above 0, at most 1",
        "split": (recipe.split < 1 or (recipe.blend and recipe.split > 1))
        and "1 or more; 1 with blend",
    }
    for key, expected in faults.items():
        if expected:
            raise WrongUsage(
                f"recipe, {key}",
                found=getattr(recipe, key),
                expected=expected,
                next="change the recipe",
            )


def dense_config(seed: Checkpoint) -> dict[str, Any]:
    """The dense config as transformers understands it: raw JSON leaves out defaults, and classes differ in them."""
    from transformers import AutoConfig  # here, since it takes torch along

    with refusing(seed.folder / "config.json", "a config that transformers reads"):
        found: dict[str, Any] = AutoConfig.from_pretrained(
            seed.folder, trust_remote_code=False, local_files_only=True
        ).to_dict()
    return found


class refusing:
    """Turn whatever another library raises over a user's file into one refusal."""

    def __init__(self, subject: Path, expected: str) -> None:
        self.subject, self.expected = subject, expected

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, BtxError):
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
            raise Unsupported(
                self.subject,
                found=found,
                expected=self.expected,
                next="save the checkpoint anew with save_pretrained",
            ) from None


def mixture_config(
    row: Family, seed: Checkpoint, dense: Mapping[str, Any], experts: int, recipe: MixRecipe
) -> dict[str, Any]:
    """The mixture's config: what both classes know, then the table's settings."""
    from transformers import AutoConfig

    with refusing(seed.folder / "config.json", "a config that has a mixture"):
        made = type(AutoConfig.for_model(row.layout.model_type))
        known = made().to_dict().keys() - {
            "model_type",
            "architectures",
            "transformers_version",
            "_name_or_path",
        }
        settings = {key: value for key, value in dense.items() if key in known}
        bounds = sizes(row, seed, dense)
        width = bounds["F"] // recipe.split
        settings |= {"intermediate_size": width} if recipe.split > 1 else {}
        settings |= row.settings({**dense, **bounds, "W": width})
        kept = {"top-k": recipe.top_k, "soft": experts}.get(recipe.routing, 1)
        settings |= {row.layout.count_key: experts, row.layout.top_k_key: kept}
        settings |= {"norm_topk_prob": False} if recipe.routing == "switch" else {}
        config: dict[str, Any] = made(**settings).to_dict()
    config = {
        key: value
        for key, value in config.items()
        if key not in ("transformers_version", "_name_or_path")
    }
    dtype = seed.tensors[row.down.name.format(l=0)].dtype
    return config | {
        "architectures": [row.layout.architecture],
        "dtype": TORCH_NAMES[dtype],
    }  # else the first shard decides


def index(plan: Plan) -> dict[str, Any]:
    names = {output.name: shard.file for shard in plan.shards for output in shard.outputs}
    return {
        "metadata": {},
        "weight_map": dict(sorted(names.items())),
    }  # loaders want the key "metadata"


def provenance(
    plan: Plan, members: Sequence[Member], recipe: MixRecipe, tensors: Mapping[str, Any]
) -> dict[str, Any]:
    ordered = sorted(members, key=lambda member: member.slot)
    return {
        "format": "btx-provenance-1",
        "family": plan.family.name,
        "recipe": asdict(recipe),
        "rows": list(plan.rows),
        "members": [{"name": member.name, "slot": member.slot} for member in ordered],
        "tensors": tensors,
    }


def copy_words(seed: Path, out: Path) -> None:
    """The tokenizer, under a class that does not depend on the model type, and the generation settings."""
    if (seed / "generation_config.json").exists():
        shutil.copyfile(seed / "generation_config.json", out / "generation_config.json")
    if not any(
        (seed / name).exists()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        return
    from transformers import AutoTokenizer

    with refusing(seed / "tokenizer.json", "a tokenizer that transformers reads"):
        AutoTokenizer.from_pretrained(
            seed, trust_remote_code=False, local_files_only=True
        ).save_pretrained(out)
    settings = read_json(out / "tokenizer_config.json") | {"tokenizer_class": "TokenizersBackend"}
    settings.pop("name_or_path", None)
    write_json(out / "tokenizer_config.json", settings)


# Router rows


def random_rows(plan: Plan, recipe: MixRecipe) -> dict[int, np.ndarray]:
    """Small random rows [E, D]. A row depends on its expert's name alone: others may come and go."""
    width = next(
        output.shape[1]
        for shard in plan.shards
        for output in shard.outputs
        if output.rule == "router"
    )
    return {
        layer: np.stack([_random_row(recipe, layer, name, width) for name in plan.rows])
        for layer in range(plan.layers)
    }


def _random_row(recipe: MixRecipe, layer: int, name: str, width: int) -> np.ndarray:
    key = int.from_bytes(
        hashlib.sha256(f"{recipe.random_seed}/{layer}/{name}".encode()).digest()[:16], "little"
    )
    row: np.ndarray = (
        np.random.Generator(np.random.Philox(key=key)).standard_normal(width) * recipe.router_std
    )
    return row


def given_rows(plan: Plan, router: Mapping[int, torch.Tensor]) -> dict[int, np.ndarray]:
    rows = {layer: tensor.detach().double().cpu().numpy() for layer, tensor in router.items()}
    for output in (
        output for shard in plan.shards for output in shard.outputs if output.rule == "router"
    ):
        if (found := getattr(rows.get(output.layer), "shape", None)) != output.shape:
            raise ShapeMismatch(
                f"router rows, layer {output.layer}",
                found=found,
                expected=output.shape,
                next="give one row per expert, in slot order",
            )
    return rows


def router_rows(folder: Path) -> dict[int, torch.Tensor]:
    """A built folder's router rows, layer -> [E, D], in slot order."""
    built = Checkpoint.open(folder)
    return {layer: built.read(name) for layer, name in parts(built).router.items()}
