"""What DVC runs: one function per stage. Files in, one btx_core call, files out. No database.

In:  branches.yaml or snapshot.json, and the folders that they name.
Out: work/branches/NAME, work/mixed, work/tuned, work/evaluation.json.
Called as `python -m pipelines.stages STAGE [NAME]` in a workspace's root.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.stages.task import Task
from pipelines.workspace import folders, reports
from pipelines.workspace.bars import bar, bar_or_notes, is_first_process, note_of
from pipelines.workspace.failures import error_text
from pipelines.workspace.metrics import TrackerName, metrics_log
from pipelines.workspace.orders import BuildOrder, FolderOrder, read_branches, read_build
from pipelines.workspace.recipe_reader import EvaluateRecipe, complete, recipe
from pipelines.workspace.settings_file import SETTINGS, read_settings
from registry.digest import sha256_file
from registry.errors import Damaged
from registry.records.version import content_digest

if TYPE_CHECKING:
    from btx_core.texts import TextFolder
    from btx_core.training.router_start import OwnExpert

ROOT = Path()  # a stage runs in the workspace's root
WORK = Path("work")


def train(name: str) -> None:
    """Train the branch of this name."""
    from btx_core.training.branch import train as train_branch
    from btx_core.training.loop import Watch
    from btx_core.training.recipes import TrainRecipe

    order, run_name = read_branches(ROOT)[name], Task("train", name).run
    _set_threads(order.threads)
    general = [_text(folder) for folder in order.general]
    chosen = recipe(TrainRecipe, complete(order.recipe, order.chosen))
    with (
        bar_or_notes(f"train {name}", note_of(ROOT, run_name)) as progress,
        metrics_log(ROOT, run_name, _report_to(), asdict(chosen)) as report,
    ):
        train_branch(
            _proven(order.seed),
            [_text(order.data)],
            chosen,
            WORK / "branches" / name,
            general=general,
            watch=Watch(progress, report),
        )


def mix() -> None:
    """Write the mixture of the frozen snapshot."""
    from btx_core.mixing.mix import Known, Member, MixRecipe
    from btx_core.mixing.mix import mix as compose

    started = time.monotonic()
    order = _build_order()
    members = [
        Member(one.name, one.slot, _proven(one), Path(one.shard) if one.shard else None)
        for one in order.members
    ]
    chosen = recipe(MixRecipe, order.recipe.mix)
    out = WORK / "mixed"
    digests = {one.name: one.tensors or {} for one in order.members}
    digests["seed"] = order.seed.tensors or {}
    previous = Path(order.previous) if order.previous else None
    with bar("mix") as progress:
        compose(
            _proven(order.seed),
            members,
            chosen,
            out,
            known=Known(previous=previous, digests=digests),
            progress=progress,
        )
    files = [{"path": file.path, "sha256": file.sha256} for file in folders.manifest(out)]
    seconds = round(time.monotonic() - started, 3)
    _write(out / reports.MIXED, {"recipe": asdict(chosen), "files": files, "wall_s": seconds})


def tune() -> None:
    """Tune the mixture on the text of its members and its seed."""
    from btx_core.machine import here
    from btx_core.training.loop import Watch
    from btx_core.training.objectives import GENERAL
    from btx_core.training.recipes import TuneRecipe
    from btx_core.training.router_start import Grown
    from btx_core.training.tune import TuneInputs
    from btx_core.training.tune import tune as tune_mixed

    order = _build_order()
    general = {folder.ref for folder in order.general}
    domains: dict[str, list[TextFolder]] = {}
    for folder in _texts(order).values():
        domain = GENERAL if folder.ref in general else folder.ref
        domains.setdefault(domain, []).append(_text(folder))
    before = order.grown_from
    grown = Grown(_proven(before), dict(before.kept)) if before else None
    chosen, out = recipe(TuneRecipe, order.recipe.tune), WORK / "tuned"
    own_experts, seed = _own_experts(order), _proven(order.seed)
    inputs = TuneInputs(WORK / "mixed", domains, own_experts, seed, grown)
    with (
        bar_or_notes("tune", note_of(ROOT, "tune")) as progress,
        metrics_log(ROOT, "tune", _report_to(), asdict(chosen)) as report,
    ):
        done = tune_mixed(inputs, chosen, out, Watch(progress, report))
    nothing = {"tokens": 0, "flops": 0.0, "wall_s": 0.0}
    spent = done.to_json() if done else nothing
    if here().is_main:
        _write(out / reports.TUNED, {"recipe": asdict(chosen), **spent})


def evaluate() -> None:
    """Measure the tuned mixture and its seed on the held-out text of every data version."""
    from btx_core.machine import here
    from btx_core.measuring.evaluation import evaluate as measure

    started = time.monotonic()
    order = _build_order()
    chosen = recipe(EvaluateRecipe, order.recipe.evaluate)
    measured = (*order.domains.values(), *order.general, *order.evaluation)
    texts = {folder.ref: _text(folder) for folder in measured}
    with bar_or_notes("evaluate", note_of(ROOT, "evaluate")) as progress:
        result = measure(WORK / "tuned", texts, progress=progress, **chosen.text).to_json()
    with bar_or_notes("evaluate the seed", note_of(ROOT, "evaluate")) as progress:
        seed = measure(_proven(order.seed), texts, progress=progress, **chosen.text)
    result["seed"] = seed.to_json()["domains"]
    result |= _division(order)
    if isinstance(chosen.tasks, dict) and chosen.tasks:
        result["tasks"] = _tasks(chosen.tasks, chosen.batch_tokens)
    seconds = round(time.monotonic() - started, 3)
    if here().is_main:
        _write(WORK / reports.EVALUATED, {**result, "wall_s": seconds})


# Any: JSON objects for data versions, and for every two.
def _division(order: BuildOrder) -> dict[str, list[dict[str, Any]]]:
    """Measure how the text is divided among the members that were trained on it.

    That is how far apart their texts are, and which of these have parts that teach each other
    little.
    """
    from transformers import AutoTokenizer

    from btx_core.measuring.text_distance import apart
    from btx_core.measuring.text_parts import parted, passages
    from btx_core.tokens import Tokens

    tokenizer = AutoTokenizer.from_pretrained(WORK / "tuned")
    texts = {ref: Tokens.of(_text(folder), tokenizer) for ref, folder in _texts(order).items()}
    trained_on = {ref: texts[folder.ref] for ref, folder in order.domains.items()}
    read = {ref: passages(tokens.train, tokenizer) for ref, tokens in texts.items()}
    return {
        "texts_apart": [asdict(pair) for pair in apart(trained_on)],
        "texts_parted": [asdict(one) for one in parted(read, trained_on)],
    }


def _texts(order: BuildOrder) -> Mapping[str, FolderOrder]:
    """Return every text that tuning reads, each once, by data version."""
    return {folder.ref: folder for folder in (*order.general, *order.domains.values())}


def _own_experts(order: BuildOrder) -> dict[str, "OwnExpert"]:
    """Return the expert that each text trained, by domain as `tune` knows it.

    Of several that were trained on a text it is whose that was trained on the fewest others. The
    seed's own text is its own expert's, unless a member was trained on nothing else.
    """
    from btx_core.mixing.mix import MixRecipe
    from btx_core.training.objectives import GENERAL
    from btx_core.training.router_start import OwnExpert

    general = {folder.ref for folder in order.general}
    texts = _texts(order)
    # The seed's own expert, where there is one, comes before the members'.
    first = int(recipe(MixRecipe, order.recipe.mix).seed_expert)
    own: dict[str, OwnExpert] = {}
    for index, member in sorted(enumerate(order.members, first), key=lambda one: len(one[1].data)):
        expert = OwnExpert(index, _proven(member))
        if general.issuperset(member.data) and member.data:
            own.setdefault(GENERAL, expert)
        for data in member.data:
            if data in texts and data not in general:
                own.setdefault(data, expert)
    if first and general:
        own.setdefault(GENERAL, OwnExpert(0, _proven(order.seed)))
    return own


def _tasks(
    frozen: dict[str, dict[str, str]], batch_tokens: int
) -> dict[str, dict[str, float | None]]:
    """Return figures by task. Raises Damaged for a file that is not what the order froze."""
    from btx_core.measuring import harness

    for path, sha256 in (item for files in frozen.values() for item in files.items()):
        found = sha256_file(Path(path)) if Path(path).is_file() else "no file"
        if found != sha256:
            raise Damaged(
                path,
                found=found,
                expected=f"{sha256}, as when the rebuild began",
                next="btx rebuild",
            )
    with bar_or_notes("tasks", note_of(ROOT, "evaluate")) as progress:
        return harness.run(
            WORK / "tuned", list(frozen), ROOT, batch_tokens=batch_tokens, progress=progress
        )


def _build_order() -> BuildOrder:
    """Return the rebuild that is ordered, and set the threads that it is to run with."""
    order = read_build(ROOT)
    _set_threads(order.threads)
    return order


def _set_threads(count: int) -> None:
    """Set the threads of a stage that computes on the CPU.

    The order of float additions follows their number. On a GPU they only prepare its work.
    """
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(count)


def _proven(order: FolderOrder) -> Path:
    """Return the folder that an order names.

    Raises:
        Damaged: unless it holds the registered bytes.
    """
    folder = Path(order.path)
    found = content_digest(folders.manifest(folder)) if folder.is_dir() else "no folder"
    if found != order.digest:
        raise Damaged(
            f"{order.ref}, {folder}",
            found=found,
            expected=order.digest,
            next=f"dvc checkout --force {folder}.dvc",
        )
    return folder


def _text(order: FolderOrder) -> "TextFolder":
    """Return a data version's text; raises Damaged as `_proven` does."""
    how = folders.HowRead(order.held_out, order.reading)
    return folders.text_folder(_proven(order), how, folders.TOKENS)


def _report_to() -> "list[TrackerName]":
    """Return the trackers that the workspace names. What they are told changes nothing of a run."""
    settings = ROOT / SETTINGS
    return read_settings(settings).log.report_to if settings.is_file() else []


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Write a report, once where several processes compute the stage."""
    if is_first_process():
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


STAGES: dict[str, Callable[..., None]] = {
    "train": train,
    "mix": mix,
    "tune": tune,
    "evaluate": evaluate,
}


def run(stage: str, *arguments: str) -> str | None:
    """Run one stage in the current folder; returns the message of an error that a user can fix."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars are ours: progress.py
    try:
        STAGES[stage](*arguments)
    except Exception as error:
        text = error_text(error)
        if text is None:
            raise
        return text
    return None
