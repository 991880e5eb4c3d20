"""What DVC runs: one function per stage. Files in, one btx_core call, files out. No database.

In:  branches.yaml or snapshot.json and the folders they name.  Out: work/branches/NAME, work/mixed, work/tuned, work/evaluation.json.
Called as `python -m pipelines.stages STAGE [NAME]` in a workspace's root.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from pipelines.workspace import folders
from pipelines.workspace.failures import error_text
from pipelines.workspace.progress import bar, bar_or_notes, note_of
from pipelines.workspace.recipes import EvaluateRecipe, recipe
from registry.digest import sha256_file
from registry.errors import Damaged


def train(name: str) -> None:
    import torch

    from btx_core.training.loop import TrainRecipe
    from btx_core.training.loop import train as train_branch

    order = yaml.safe_load(Path("branches.yaml").read_text())["branches"][name]
    torch.set_num_threads(order["threads"])
    general = [_proven(item) for item in order["general"]]
    chosen = recipe(TrainRecipe, order["recipe"])
    with bar_or_notes(f"train {name}", note_of(Path(), name)) as progress:
        train_branch(
            _proven(order["seed"]),
            [_proven(order["data"])],
            chosen,
            Path("work/branches") / name,
            general=general[0] if general else None,
            progress=progress,
        )


def mix() -> None:
    from btx_core.mixing.mix import Member, MixRecipe
    from btx_core.mixing.mix import mix as compose

    started = time.monotonic()
    snapshot = _snapshot()
    members = [
        Member(
            item["name"],
            item["slot"],
            _proven(item),
            Path(item["shard"]) if item["shard"] else None,
        )
        for item in snapshot["members"]
    ]
    chosen = recipe(MixRecipe, snapshot["recipe"]["mix"])
    out = Path("work/mixed")
    previous = Path(snapshot["previous"]) if snapshot["previous"] else None
    with bar("mix") as progress:
        digests = {
            "seed": snapshot["seed"]["tensors"],
            **{item["name"]: item["tensors"] for item in snapshot["members"]},
        }
        compose(
            _proven(snapshot["seed"]),
            members,
            chosen,
            out,
            previous=previous,
            digests=digests,
            progress=progress,
        )
    files = [{"path": file.path, "sha256": file.sha256} for file in folders.manifest(out)]
    _write(
        out / "btx-mix.json",
        {"recipe": asdict(chosen), "files": files, "wall_s": round(time.monotonic() - started, 3)},
    )


def tune() -> None:
    from btx_core.training.tune import GENERAL, Grown, Home, TuneRecipe
    from btx_core.training.tune import tune as tune_mixed

    snapshot = _snapshot()
    general = {item["ref"] for item in snapshot["general"]}
    texts = {item["ref"]: item for item in (*snapshot["general"], *snapshot["domains"].values())}
    domains: dict[str, list[Path]] = {}
    for ref, item in texts.items():
        domains.setdefault(GENERAL if ref in general else ref, []).append(_proven(item))
    first = int(
        snapshot["recipe"]["mix"].get("seed_expert", True)
    )  # the seed's own row, if it has one, comes before the members'
    homes = {GENERAL: Home(0, _proven(snapshot["seed"]))} if first and general else {}
    for place, member in enumerate(snapshot["members"], first):
        homes.update(
            {
                GENERAL if ref in general else ref: Home(place, _proven(member))
                for ref in member["data"]
                if ref in texts
            }
        )
    before = snapshot["grown_from"]
    grown = Grown(_proven(before), dict(before["kept"])) if before else None
    chosen, out = recipe(TuneRecipe, snapshot["recipe"]["tune"]), Path("work/tuned")
    with bar("tune") as progress:
        report = tune_mixed(
            Path("work/mixed"),
            domains,
            chosen,
            out,
            homes=homes,
            seed=_proven(snapshot["seed"]),
            grown=grown,
            progress=progress,
        )
    _write(
        out / "btx-tune.json",
        {
            "recipe": asdict(chosen),
            **(report.to_json() if report else {"tokens": 0, "flops": 0.0, "wall_s": 0.0}),
        },
    )


def evaluate() -> None:
    from btx_core.measuring.evaluation import evaluate as measure

    started = time.monotonic()
    snapshot = _snapshot()
    chosen = recipe(EvaluateRecipe, snapshot["recipe"]["evaluate"])
    domains = {name: _proven(item) for name, item in snapshot["domains"].items()}
    with bar("evaluate") as progress:
        result = measure(Path("work/tuned"), domains, progress=progress, **chosen.text).to_json()
    if isinstance(chosen.tasks, dict) and chosen.tasks:
        result["tasks"] = _tasks(chosen.tasks, chosen.batch_tokens)
    _write(Path("work/evaluation.json"), result | {"wall_s": round(time.monotonic() - started, 3)})


def _tasks(
    frozen: dict[str, dict[str, str]], batch_tokens: int
) -> dict[str, dict[str, float | None]]:
    """Figures by task. Raises Damaged for a file that is not the one that the snapshot froze."""
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
    with bar("tasks") as progress:
        return harness.run(
            Path("work/tuned"), list(frozen), Path(), batch_tokens=batch_tokens, progress=progress
        )


def _snapshot() -> dict[str, Any]:
    """The frozen snapshot; sets the thread count, which the order of float additions follows."""
    import torch

    document: dict[str, Any] = json.loads(Path("snapshot.json").read_text())
    torch.set_num_threads(document["threads"])
    return document


def _proven(item: dict[str, Any]) -> Path:
    """The folder that an order names. Raises Damaged unless it holds the registered bytes."""
    folder = Path(item["path"])
    found = folders.files_digest(folders.manifest(folder)) if folder.is_dir() else "no folder"
    if found != item["digest"]:
        raise Damaged(
            f"{item['ref']}, {folder}",
            found=found,
            expected=item["digest"],
            next=f"dvc checkout --force {folder}.dvc",
        )
    return folder


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


STAGES: dict[str, Callable[..., None]] = {
    "train": train,
    "mix": mix,
    "tune": tune,
    "evaluate": evaluate,
}


def run(stage: str, *arguments: str) -> str | None:
    """Run one stage in the current folder; returns the message of an error that a user can mend."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars are ours: progress.py
    try:
        STAGES[stage](*arguments)
    except Exception as error:
        text = error_text(error)
        if text is None:
            raise
        return text
    return None
