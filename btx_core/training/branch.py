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
from accelerate import PartialState
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from btx_core.checkpoints.dense import FEED_FORWARD, write_dense
from btx_core.files import whole_folder
from btx_core.machine import load
from btx_core.problems import WrongUsage
from btx_core.texts import Corpus, Mixture, end_token
from btx_core.training.adapter import add_adapters
from btx_core.training.beside import GENERAL, BesideSeed, beside_seed
from btx_core.training.heldout import HeldOutLooks
from btx_core.training.loop import UNWATCHED, Training, TrainingReport, Watch, optimise
from btx_core.training.objectives import NextToken
from btx_core.training.recipes import BranchMode, TrainRecipe
from btx_core.training.run_state import RunCheckpoints

# The domain of a branch's training that is its own text.
OWN = "data"


def train(
    seed_model: Path,
    data: Sequence[Path],
    recipe: TrainRecipe,
    out: Path,
    *,
    general: Path | None = None,
    watch: Watch = UNWATCHED,
) -> TrainingReport:
    """Train a copy of the seed model. Interrupted, the same call goes on at its last checkpoint.

    Args:
        seed_model: a dense checkpoint folder.
        data: the data folders of the domain.
        recipe: how to train; mode anchored leaves every tensor outside the feed-forward blocks as
            it is in the seed model.
        out: the folder to be made. Beside the checkpoint it holds btx-train.json: recipe and
            report.
        general: the data folder of the seed model's general text, for `replay` and `beside`.
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
    beside = bool(recipe.beside) and general not in data
    if beside:
        _check_beside(recipe, mixture)
    branch = load_branch(seed_model, recipe.mode)
    adapted = add_adapters(branch, recipe.lora_rank) if recipe.lora_rank else None
    trained = branch if adapted is None else adapted
    checkpoints = RunCheckpoints.beside(out, recipe, seed_model, mixture)
    end = end_token(tokenizer)
    heldout = HeldOutLooks.of(data, tokenizer, end, recipe)
    if beside:
        with beside_seed(trained, recipe.beside) as pairs:
            objective = BesideSeed(pairs, end, keep=recipe.keep, tag=recipe.tag)
            training = Training(trained, mixture, objective, heldout=heldout)
            report = optimise(training, recipe, checkpoints, watch)
    else:
        training = Training(trained, mixture, NextToken(end), heldout=heldout)
        report = optimise(training, recipe, checkpoints, watch)
    if adapted is not None:
        branch = adapted.merge_and_unload()
    if PartialState().is_main_process:
        _write(branch, seed_model, recipe, report, out)
    return report


def load_branch(seed_model: Path, mode: BranchMode) -> PreTrainedModel:
    """Load a seed model as a branch of it to be trained.

    Args:
        seed_model: a dense checkpoint folder.
        mode: "anchored": only feed-forward parameters require a gradient; "full": all do.

    Returns:
        The model in float32.
    """
    model = load(seed_model, torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(mode == "full" or bool(FEED_FORWARD.search(name)))
    return model


def _mixture(
    data: Sequence[Path],
    general: Path | None,
    tokenizer: PreTrainedTokenizerBase,
    recipe: TrainRecipe,
) -> Mixture:
    """Return the domain's text, with the share of general text that the recipe asks for."""
    corpora = {OWN: Corpus.of(data, tokenizer, recipe.seed)}
    shares = {OWN: 1.0}
    if recipe.replay and general is not None:
        corpora[GENERAL] = Corpus.of([general], tokenizer, recipe.seed)
        shares = {OWN: 1 - recipe.replay, GENERAL: recipe.replay}
    return Mixture(corpora, shares)


def _check_beside(recipe: TrainRecipe, mixture: Mixture) -> None:
    subject = "[recipe.train] beside"
    # In any other mode the seed model's block would meet states that it never saw.
    if recipe.mode != "anchored":
        raise WrongUsage(
            subject,
            found=f'mode = "{recipe.mode}"',
            expected='mode = "anchored"',
            next="choose one of the two",
        )
    if GENERAL not in mixture.corpora:
        raise WrongUsage(
            subject,
            found="no general rows to tell the domain from",
            expected="replay above 0",
            next=(
                "set replay = 0.5, and name the seed's data: "
                "btx seed add NAME PATH --data data/NAME"
            ),
        )


def _write(
    branch: PreTrainedModel,
    seed_model: Path,
    recipe: TrainRecipe,
    report: TrainingReport,
    out: Path,
) -> None:
    trained = {"recipe": asdict(recipe), "report": report.to_json()}
    with whole_folder(out) as folder:
        write_dense(branch, seed_model, folder)
        (folder / "btx-train.json").write_text(json.dumps(trained, indent=1))
