"""Fine-tune a mixed folder: the router alone, or the router and everything shared. Expert shards stay the same files.

In:  a mixed folder, training text by domain and where each is at home, a recipe.  Out: a whole folder; only model-router and model-shared are new.
Loss: next token; on the seed's own text also the distance to what the seed predicts; per layer the load balance αN Σ u_i p_i over batch
means, the z-loss on the router's logits, and where asked for the choice of each text's own expert.
Shapes: B rows, S tokens a row, T = B × S, E experts, D model width.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, linear
from transformers import AutoTokenizer
from transformers.core_model_loading import revert_weight_conversion

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.dense import load
from btx_core.checkpoints.strict_json import read_json
from btx_core.files import link_or_copy, whole_folder
from btx_core.measuring.evaluation import gate_weights, gates
from btx_core.mixing.weight_files import PROVENANCE, ROUTER, SHARED
from btx_core.problems import WrongUsage
from btx_core.texts import Corpus, Mixture, end_token
from btx_core.training.loop import Checkpoints, Precision, Progress, TrainReport, optimise
from btx_core.training.losses import distance, next_token_scores
from btx_core.training.router import ROWS, Start, Statistics, joining_row, statistics
from btx_core.training.router import rows as first_rows
from btx_core.training.routing import Routing, in_training

GENERAL = "seed"  # the key of the seed's own data among the domains


@dataclass(frozen=True, kw_only=True)
class TuneRecipe:
    mode: Literal["none", "router", "shared", "all"] = "shared"
    start: Start = "fitted"  # of the router's rows; fitted and centroid need one row an expert
    steps: int = 600
    batch: int = 4
    sequence: int = 128
    learning_rate: float = 5e-3  # of the router, peak
    shared_rate: float = 0.6  # of everything else that trains, as a share of learning_rate
    general_share: float = (
        0.4  # share of rows from the seed's own data; the other domains share the rest evenly
    )
    text: float = 1.0  # weight of the next token's cross-entropy; without it and keep, nothing flows back through the model: twice as fast
    keep: float = (
        1.0  # weight of the distance to the seed's predictions on its own text, nats per token
    )
    home: float = 0.0  # weight of the routers' cross-entropy to the expert that each text trained, summed over layers
    balance: float = 0.01  # α
    z: float = 0.001
    warmup_steps: int = 20
    final_rate: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1  # parts that a step's rows are computed in
    precision: Precision = "float32"
    save_every: int = 200  # steps between checkpoints
    seed: int = 0
    capacity: float = 1.5  # routing switch: even shares of a batch that one expert takes
    temperature: float = 0.5  # routing sample: where the Gumbel temperature, 1 at first, ends
    grow: float = 0.0  # share of the steps when an expert joins a tuned build, which is then gone on from; 0: always from nothing
    grow_rate: float = 0.2  # share of the learning rate then: at the whole of it kept rows forget (benchmarks/btx_table)


@dataclass(frozen=True)
class Grown:
    """A tuned folder of the same seed to go on from, and which of its rows are kept: place now -> place there.

    A build that only lost experts keeps the rest of its rows as they are; one that gained some is tuned for a share of the steps.
    """

    folder: Path
    kept: Mapping[int, int]


@dataclass(frozen=True)
class Home:
    """Which expert a domain's text trained: its place among the router's rows, its dense folder."""

    place: int
    folder: Path


def tune(
    mixed: Path,
    domains: Mapping[str, Sequence[Path]],
    recipe: TuneRecipe,
    out: Path,
    *,
    homes: Mapping[str, Home] | None = None,
    seed: Path | None = None,
    grown: Grown | None = None,
    progress: Progress | None = None,
) -> TrainReport | None:
    """Tune on the domains' training text; the domain "seed" is the seed's own. Returns what it cost, None for mode "none".

    homes: by domain; without it the router's rows start as they were mixed. seed: a dense folder whose predictions the tuned model
    keeps on the seed's own text. grown: the build before, to go on from instead of from nothing.
    """
    model, tokenizer, report = (
        load(mixed, torch.float32),
        AutoTokenizer.from_pretrained(mixed),
        None,
    )
    routing = read_json(mixed / PROVENANCE)["recipe"]["routing"]
    if recipe.mode != "none":
        report = tune_model(
            model,
            tokenizer,
            domains,
            recipe,
            homes,
            seed,
            grown,
            progress,
            where=(mixed, out),
            routing=routing,
        )
    changed = {
        "none": (),
        "router": (ROUTER,),
        "shared": (ROUTER, SHARED),
        "all": weight_files(mixed),
    }[recipe.mode]
    if not PartialState().is_main_process:
        return report
    with whole_folder(out) as aside:
        write_tuned(model, mixed, changed, aside)
    return report


def tune_model(
    model: Any,
    tokenizer: Any,
    domains: Mapping[str, Sequence[Path]],
    recipe: TuneRecipe,
    homes: Mapping[str, Home] | None = None,
    seed: Path | None = None,
    grown: Grown | None = None,
    progress: Progress | None = None,
    where: tuple[Path, Path] | None = None,
    routing: Routing = "top-k",
) -> TrainReport:
    """As `tune`, on a model in memory. where: the mixed folder and the one to be, to take up a run that died."""
    corpora = {
        name: Corpus.of(folders, tokenizer, recipe.seed) for name, folders in domains.items()
    }
    mixture, end = (
        Mixture(corpora, shares(list(domains), recipe.general_share)),
        end_token(tokenizer),
    )
    routers = gates(model)
    if recipe.mode != "router" and not (recipe.text or recipe.keep):
        raise WrongUsage(
            "[recipe.tune] text, keep",
            found=f'both 0, mode = "{recipe.mode}"',
            expected='mode = "router"',
            next="give text a weight: 1",
        )
    growing = grown if recipe.grow else None
    if growing:
        take_over(model, routers, growing)
    if homes and recipe.start != "random":
        if not growing:
            place_rows(routers, homes, corpora, tokenizer, recipe)
        elif {home.place for home in homes.values()} - growing.kept.keys():
            join(
                routers,
                growing,
                homes,
                router_states(model, routers, corpora, end, recipe.sequence),
            )
    if growing:
        gained = len(next(iter(routers.values())).weight) > len(growing.kept)
        steps, rate = (
            math.ceil(recipe.steps * recipe.grow) if gained else 0,
            recipe.learning_rate * recipe.grow_rate,
        )
        recipe = replace(recipe, steps=steps, learning_rate=rate)
    teacher = load(seed, torch.float32).eval() if seed and recipe.keep else None
    for name, parameter in model.named_parameters():
        of_router = name.removesuffix(".weight") in routers
        parameter.requires_grad_(
            of_router
            or recipe.mode == "all"
            or (recipe.mode == "shared" and ".experts." not in name)
        )

    through = bool(recipe.text or recipe.keep)

    def loss(running: Any, ids: torch.Tensor, names: Sequence[str], done: float) -> torch.Tensor:
        warmth = 1 - done * (1 - recipe.temperature)
        with (
            torch.set_grad_enabled(through),
            router_inputs(routers) as inputs,
            in_training(routers, routing, capacity=recipe.capacity, temperature=warmth),
        ):
            scores = next_token_scores(running, ids, end)
        value = (
            recipe.text * cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())
            if recipe.text
            else scores.new_zeros(())
        )
        places = [homes[name].place if homes and name in homes else None for name in names]
        general = [row for row, name in enumerate(names) if name == GENERAL]
        if teacher is not None and general:
            with torch.no_grad():
                wanted = next_token_scores(teacher, ids[general], end)
            value = value + recipe.keep * distance(scores[general], wanted) * len(general) / len(
                names
            )
        for name, hidden in inputs.items():
            logits = linear(hidden, routers[name].weight).float()
            value = (
                value
                + recipe.balance * balance_loss(logits, gate_weights(routers[name], hidden))
                + recipe.z * z_loss(logits)
            )
            if recipe.home and homes:
                value = value + recipe.home * home_loss(logits, places)
        return value

    rates = {f"{name}.weight": 1.0 for name in routers} | {"": recipe.shared_rate}
    checkpoints = Checkpoints.beside(where[1], recipe, where[0], mixture) if where else None
    return optimise(
        model,
        mixture,
        loss,
        recipe,
        rates=rates,
        through=through,
        checkpoints=checkpoints,
        progress=progress,
    )


def place_rows(
    routers: Mapping[str, Any],
    homes: Mapping[str, Home],
    corpora: Mapping[str, Corpus],
    tokenizer: Any,
    recipe: TuneRecipe,
) -> None:
    """Set every router's rows to what one pass of each expert over its own text gives."""
    found: dict[int, Statistics] = {}
    for name, home in homes.items():
        one = statistics(
            load(home.folder, torch.float32).eval(), tokenizer, corpora[name], recipe.sequence
        )
        found[home.place] = found[home.place] + one if home.place in found else one
    placed_LED = first_rows(found, len(next(iter(routers.values())).weight), recipe.start)
    for router, rows_ED in zip(routers.values(), placed_LED, strict=True):
        router.weight.data.copy_(rows_ED)


def take_over(model: Any, routers: Mapping[str, Any], grown: Grown) -> None:
    """The tuned build's shared parameters, and its rows where they are kept."""
    before = load(grown.folder, torch.float32)
    old = dict(before.named_parameters())
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") in routers:
            for place, was in grown.kept.items():
                parameter.data[place] = old[name].data[was]
        elif ".experts." not in name:
            parameter.data.copy_(old[name].data)


@torch.no_grad()
def router_states(
    model: Any, routers: Mapping[str, Any], corpora: Mapping[str, Corpus], end: int, sequence: int
) -> dict[str, dict[str, torch.Tensor]]:
    """What each router of this very model sees of each domain's text, (T, D) by domain and router."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for domain, corpus in corpora.items():
        ids = torch.from_numpy(np.stack([corpus.row(number, sequence) for number in range(ROWS)]))
        with router_inputs(routers) as states[domain]:
            next_token_scores(model, ids, end)
    return states


def join(
    routers: Mapping[str, Any],
    grown: Grown,
    homes: Mapping[str, Home],
    states: Mapping[str, Mapping[str, torch.Tensor]],
) -> None:
    """Set the row of every expert that joins. Its states are the tuned model's, whose shared parameters are not the seed's any more."""
    kept = sorted(grown.kept)
    for place in sorted({home.place for home in homes.values()} - grown.kept.keys()):
        at_home = [domain in homes and homes[domain].place == place for domain in states]
        if all(at_home) or not any(at_home):
            continue  # nothing to tell it by
        for name, router in routers.items():
            own, others = (
                torch.cat(
                    [
                        found[name]
                        for found, here in zip(states.values(), at_home, strict=True)
                        if here == wanted
                    ]
                )
                for wanted in (True, False)
            )
            router.weight.data[place] = joining_row(own, others, router.weight.data[kept])
        kept.append(place)


def shares(domains: list[str], general: float) -> dict[str, float]:
    others = [name for name in domains if name != GENERAL]
    if GENERAL not in domains or not others:
        return dict.fromkeys(domains, 1.0)
    return {name: general if name == GENERAL else (1 - general) / len(others) for name in domains}


def balance_loss(logits_TE: torch.Tensor, weights_TE: torch.Tensor) -> torch.Tensor:
    """N Σ u_i p_i: u the batch mean of the sparse gate weights, p of the full softmax. 1 when balanced, N when one expert takes all.

    Products of means, not the mean of products, which cannot tell the two apart.
    """
    return logits_TE.shape[1] * (weights_TE.mean(0) * logits_TE.softmax(-1).mean(0)).sum()


def home_loss(logits_TE: torch.Tensor, places: Sequence[int | None]) -> torch.Tensor:
    """Cross-entropy of choosing each row's own expert, nats per token. places: of B rows of T / B tokens; None: at home nowhere."""
    wanted = torch.tensor(
        [-100 if place is None else place for place in places], device=logits_TE.device
    )
    wanted_T = wanted.repeat_interleave(len(logits_TE) // len(places))
    return cross_entropy(logits_TE, wanted_T, reduction="sum") / len(logits_TE)


def z_loss(logits_TE: torch.Tensor) -> torch.Tensor:
    """Mean squared log-partition: keeps logits from drifting."""
    return logits_TE.logsumexp(-1).square().mean()


@contextmanager
def router_inputs(routers: Mapping[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """Collects what each router saw, (T, D) by name, in the forward passes inside the block."""
    inputs: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Any:
        def hook(gate: Any, arguments: tuple[torch.Tensor, ...]) -> None:
            inputs[name] = arguments[0].reshape(-1, gate.weight.shape[1])

        return hook

    handles = [gate.register_forward_pre_hook(listen(name)) for name, gate in routers.items()]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def weight_files(mixed: Path) -> tuple[str, ...]:
    return tuple(sorted(file.name for file in mixed.glob("*.safetensors")))


def write_tuned(model: Any, mixed: Path, changed: tuple[str, ...], aside: Path) -> None:
    """Every file of `mixed` as a hard link, but for the changed shards: the same tensors under the same names, new values."""
    opened, whole = Checkpoint.open(mixed), changed == weight_files(mixed)
    state = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if whole or ".experts." not in name
    }
    on_disk = revert_weight_conversion(model, state)
    for file in sorted(mixed.iterdir()):
        if file.name in changed:
            old = {
                name: info for name, info in opened.tensors.items() if info.file.name == file.name
            }
            new = {name: on_disk[name].to(opened.read(name).dtype).contiguous() for name in old}
            save_file(
                new, aside / file.name, metadata={"format": "pt"}
            )  # one key: safetensors writes several in any order
            (aside / file.name).chmod(0o644)
        else:
            link_or_copy(file, aside / file.name)
