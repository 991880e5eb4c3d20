"""Train a branch: a copy of a seed model, on one domain's text.

In:  a dense seed folder, data folders, a recipe.  Out: a dense checkpoint folder, whole or not at
all, and what it cost.
An anchored branch trains its feed-forward blocks; everything shared is written from the seed
model's own values. Composing branches into a mixture is left to `btx_core.mixing`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from btx_core.batches import Corpus, Mixture
from btx_core.checkpoints.dense import FEED_FORWARD, feed_forward_blocks
from btx_core.machine import Machine, here, load
from btx_core.texts import AnyText
from btx_core.tokens import end_token
from btx_core.training.adapter import add_adapters
from btx_core.training.beside import GENERAL, BesideSeed, beside_seed
from btx_core.training.heldout import HeldOutLooks
from btx_core.training.loop import UNWATCHED, Training, TrainingReport, Watch, optimise
from btx_core.training.objectives import NextToken
from btx_core.training.recipes import BranchMode, TrainRecipe, check_beside
from btx_core.training.run_state import RunCheckpoints
from btx_core.training.write_back import write_branch

# The domain of a branch's training that is its own text.
OWN = "data"
# The file beside a branch's checkpoint that tells how it was trained.
REPORT = "btx-train.json"


def train(
    seed_model: Path,
    data: Sequence[AnyText],
    recipe: TrainRecipe,
    out: Path,
    *,
    general: Sequence[AnyText] = (),
    watch: Watch = UNWATCHED,
) -> TrainingReport:
    """Train a copy of the seed model. Interrupted, the same call goes on at its last checkpoint.

    Several processes that train together all call.

    Args:
        seed_model: a dense checkpoint folder.
        data: the data folders of the domain.
        recipe: how to train; mode anchored leaves every tensor outside the feed-forward blocks as
            it is in the seed model.
        out: the folder to be made. Beside the checkpoint it holds btx-train.json: recipe and
            report.
        general: the data folders of the seed model's general text, for `replay` and `beside`.
        watch: who is told how the training comes on.

    Returns:
        What the training took.

    Raises:
        WrongUsage: where `beside` lacks what it builds on, or `out` exists.
        Unreadable: for a data folder that does not hold text as promised.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(seed_model)
    mixture = _mixture(data, general, tokenizer, recipe)
    # On general text there is nothing to tell apart.
    beside = bool(recipe.beside) and not any(folder in data for folder in general)
    if beside:
        check_beside(recipe, has_general=GENERAL in mixture.corpora)
    machine = here()
    compute = torch.bfloat16 if recipe.precision == "bfloat16" else None
    branch = load_branch(seed_model, recipe.mode, machine=machine, compute=compute)
    # What adapters start with is drawn.
    torch.manual_seed(recipe.seed)
    adapted = add_adapters(branch, recipe.lora_rank) if recipe.lora_rank else None
    trained = branch if adapted is None else adapted
    checkpoints = RunCheckpoints.beside(out, recipe, seed_model, mixture)
    end = end_token(tokenizer)
    heldout = HeldOutLooks.of([mixture.corpora[OWN]], end, recipe)
    if beside:
        copies = () if machine.world == 1 else seed_blocks(seed_model, machine, compute)
        with beside_seed(trained, recipe.beside, machine=machine, seed_blocks=copies) as pairs:
            objective = BesideSeed(pairs, end, recipe.keep, recipe.tag, machine)
            training = Training(trained, mixture, objective, machine=machine, heldout=heldout)
            done = optimise(training, recipe, checkpoints, watch)
    else:
        training = Training(trained, mixture, NextToken(end), machine=machine, heldout=heldout)
        done = optimise(training, recipe, checkpoints, watch)
    notes = {REPORT: json.dumps({"recipe": asdict(recipe), "report": done.to_json()}, indent=1)}
    write_branch(trained, seed_model, out, machine, notes)
    # Only now: until the result stands, the run may have to go on.
    checkpoints.clear()
    return done


def load_branch(
    seed_model: Path,
    mode: BranchMode,
    *,
    machine: Machine | None = None,
    compute: torch.dtype | None = None,
) -> PreTrainedModel:
    """Load a seed model as a branch of it to be trained.

    Args:
        seed_model: a dense checkpoint folder.
        mode: "anchored": only feed-forward parameters require a gradient; "full": all do.
        machine: where it is to be; this process's own unless given.
        compute: the dtype that is computed in, and of what does not train; None: float32.

    Returns:
        The model; what trains is float32.
    """

    def trains(model: PreTrainedModel) -> set[str]:
        names = [name for name, _ in model.named_parameters()]
        return {name for name in names if mode == "full" or FEED_FORWARD.search(name)}

    return load(seed_model, torch.float32, machine=machine, trains=trains, compute=compute)


def seed_blocks(
    seed_model: Path, machine: Machine, compute: torch.dtype | None = None
) -> tuple[torch.nn.Module, ...]:
    """Load the feed-forward blocks of a seed model to run by themselves, shared by all processes.

    Args:
        seed_model: a dense checkpoint folder.
        machine: the processes, which all call.
        compute: the dtype that is computed in; None: float32.

    Returns:
        The blocks in layer order.
    """
    seed = load(
        seed_model,
        torch.float32,
        machine=machine,
        trains=lambda _: (),
        compute=compute,
        blocks=lambda model: feed_forward_blocks(model).keys(),
    )
    return tuple(feed_forward_blocks(seed).values())


def _mixture(
    data: Sequence[AnyText],
    general: Sequence[AnyText],
    tokenizer: PreTrainedTokenizerBase,
    recipe: TrainRecipe,
) -> Mixture:
    """Return the domain's text, with the share of general text that the recipe asks for."""
    corpora = {OWN: Corpus.of(data, tokenizer, recipe.seed)}
    shares = {OWN: 1.0}
    if recipe.replay and general:
        corpora[GENERAL] = Corpus.of(general, tokenizer, recipe.seed)
        shares = {OWN: 1 - recipe.replay, GENERAL: recipe.replay}
    return Mixture(corpora, shares)
