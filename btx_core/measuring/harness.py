"""Measure a checkpoint by local task files of the lm-evaluation-harness, without a network.

In:  a checkpoint folder, task files, the folder that they and the data files in them are relative to.  Out: {task: {metric: value}}.
A task is data alone: no code (`!function`), no `include`, no data set that is not on this disk; what it reads can be told by digest.
"""

import importlib.util
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from btx_core.problems import WrongUsage

Progress = Callable[[int, int, str], None]
READERS = (
    "json",
    "csv",
    "parquet",
    "text",
)  # of local files; any other name is looked for on the network
SEED = 0  # of few-shot choice and of sampled answers


def check_installed() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        advice = "pip install 'btx-registry[harness]'"
        raise WrongUsage(
            "tasks of the lm-evaluation-harness",
            found="no lm_eval",
            expected="the packages of extra harness",
            next=advice,
        )


def files(task: str, root: Path) -> list[str]:
    """The task file and the data files that it names. Raises WrongUsage, naming the file, where one is missing or cannot be read."""
    return [task, *_data_files(task, _settings(task, root), root)]


def run(
    folder: Path,
    tasks: Sequence[str],
    root: Path,
    *,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> dict[str, dict[str, float | None]]:
    """Raises WrongUsage, naming the file, for a task that the harness cannot run."""
    check_installed()
    found: dict[str, dict[str, float | None]] = {}
    with _quiet_and_offline(), tempfile.TemporaryDirectory() as cache:
        model: Any = None
        for number, path in enumerate(tasks):
            settings = _settings(path, root)
            if (name := settings["task"]) in found:
                raise WrongUsage(
                    path,
                    found=f"task {name} again",
                    expected="a name of its own",
                    next="rename one of the two",
                )
            if progress:
                progress(number, len(tasks), name)
            model = model or _model(folder, batch_tokens)
            try:
                found[name] = _measure(
                    model, _placed(settings, root) | {"cache_dir": cache}, settings
                )
            except (OSError, MemoryError, RuntimeError):
                raise  # of the machine or the model
            except Exception as error:  # the harness has no error of its own: whatever its YAML, templates and metrics raise
                raise _broken(path, error) from error
    return found


def _settings(path: str, root: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load((root / path).read_text())
    except OSError as error:
        raise WrongUsage(
            path,
            found=error.strerror,
            expected="a task file",
            next="mend the path: it is relative to the workspace",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _broken(path, error) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("task"), str):
        raise WrongUsage(
            path,
            found="no `task: NAME`",
            expected="one task of the lm-evaluation-harness",
            next="mend the file",
        )
    if "include" in settings:
        raise WrongUsage(
            path,
            found="include",
            expected="the whole task in one file",
            next="copy the included keys here",
        )
    if settings.get("dataset_path") not in READERS:
        expected = f"dataset_path: {' | '.join(READERS)}, with local data_files"
        raise WrongUsage(
            path,
            found=f"dataset_path: {settings.get('dataset_path')}",
            expected=expected,
            next="keep the data beside the task",
        )
    _data_files(path, settings, root)
    return settings


def _data_files(path: str, settings: dict[str, Any], root: Path) -> list[str]:
    chosen = settings.get("dataset_kwargs")
    named = (
        chosen.get("data_files") if isinstance(chosen, dict) and "data_dir" not in chosen else None
    )
    groups = list(named.values()) if isinstance(named, dict) else [named]
    given = [name for group in groups for name in (group if isinstance(group, list) else [group])]
    names = [name for name in given if isinstance(name, str)]
    if not names or len(names) < len(given):
        expected = "dataset_kwargs: {data_files: FILE, [FILE, ...] or {SPLIT: FILE}}"
        raise WrongUsage(
            path, found="no data_files", expected=expected, next="name the local files"
        )
    for name in names:
        if not (root / name).is_file():
            raise WrongUsage(
                f"{path}, data file {name}",
                found="no file",
                expected="one on this disk, relative to the workspace",
                next="mend it",
            )
    return list(dict.fromkeys(names))


def _placed(settings: dict[str, Any], root: Path) -> dict[str, Any]:
    """The data set's arguments with every data file absolute."""
    arguments: dict[str, Any] = settings["dataset_kwargs"]

    def place(named: Any) -> Any:
        if isinstance(named, dict):
            return {split: place(group) for split, group in named.items()}
        return [
            str(root.absolute() / name) for name in ([named] if isinstance(named, str) else named)
        ]

    return arguments | {"data_files": place(arguments["data_files"])}


def _model(folder: Path, batch_tokens: int) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from btx_core.checkpoints.dense import load

    model = HFLM(pretrained=load(folder), tokenizer=AutoTokenizer.from_pretrained(folder))
    model.batch_size_per_gpu = max(1, batch_tokens // model.max_length)
    return model


def _measure(
    model: Any, dataset_kwargs: dict[str, Any], settings: dict[str, Any]
) -> dict[str, float | None]:
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_defaults=False).load(
        [settings | {"dataset_kwargs": dataset_kwargs}]
    )
    (task,) = loaded["tasks"].values()
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=SEED)
    torch.manual_seed(SEED)
    (figures,) = evaluate(model, loaded, bootstrap_iters=0, log_samples=False)["results"].values()
    return {
        key.removesuffix(",none"): float(value)
        if math.isfinite(value)
        else None  # JSON knows no infinity
        for key, value in figures.items()
        if isinstance(value, Real)  # NumPy's too
    }


def _broken(path: str, error: Exception) -> WrongUsage:
    text = " ".join(str(error).split())[:300]
    return WrongUsage(
        path,
        found=f"{type(error).__name__}: {text}",
        expected="a task that the harness can run",
        next="mend the file",
    )


@contextmanager
def _quiet_and_offline() -> Iterator[None]:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        os.environ[name] = "1"
    from huggingface_hub import (
        constants,  # transformers may have imported it before, with the variables as they were
    )

    constants.HF_HUB_OFFLINE = True
    from tqdm import tqdm

    log = logging.getLogger("lm_eval")  # it warns of every default
    level, start = log.level, tqdm.__init__

    def unseen(bar: Any, *arguments: Any, **settings: Any) -> None:
        start(bar, *arguments, **{**settings, "disable": True})

    log.setLevel(logging.ERROR)
    tqdm.__init__ = (
        unseen  # TQDM_DISABLE comes too late where tqdm is imported, and the harness overrules it
    )
    try:
        yield
    finally:
        tqdm.__init__ = start
        log.setLevel(level)
