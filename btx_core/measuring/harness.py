"""Measure a checkpoint by local task files of the lm-evaluation-harness, without a network.

In:  a checkpoint folder, task files, the folder that these and the data files in them are relative
to.
Out: {task: {metric: value}}.
A task is data alone: no code (`!function`), no `include`, no data set that is not on this disk, no
metric or way of generating that is loaded from a file. Its templates run in Jinja's sandbox.
Keeping the digests of what a task reads is left to the caller, who asks `files`.
"""

import importlib.util
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2.exceptions import SecurityError

from btx_core.files import path_inside
from btx_core.problems import WrongUsage
from btx_core.progress import Progress

if TYPE_CHECKING:
    from jinja2 import Environment
    from lm_eval.models.huggingface import HFLM

# Readers of local files; any other name would be looked for on the network.
READERS = ("json", "csv", "parquet", "text")
# The keys that a task may set in these tables. Of the others some load code: a dataset's script, a
# way of generating; some leave the workspace.
ALLOWED = {
    "dataset_kwargs": frozenset(
        [
            "column_names",
            "columns",
            "data_files",
            "delimiter",
            "encoding",
            "field",
            "header",
            "names",
            "quotechar",
            "sample_by",
            "sep",
        ]
    ),
    "generation_kwargs": frozenset(
        [
            "do_sample",
            "max_gen_toks",
            "max_length",
            "max_new_tokens",
            "min_new_tokens",
            "num_beams",
            "repetition_penalty",
            "temperature",
            "top_k",
            "top_p",
            "until",
            "use_cache",
        ]
    ),
}
# In a template these make much of little: `"a" * 10**10`.
BOUNDED_OPERATORS = ("*", "**", "%")
# Of the choice of few-shot examples and of sampled answers.
RANDOM_SEED = 0
# Any: a task's keys and values, as the harness defines them.
Settings = dict[str, Any]
# Figures by metric; None where one is not finite, since JSON has no infinity.
Figures = dict[str, float | None]


def check_installed() -> None:
    """Check that the lm-evaluation-harness can be imported.

    Raises:
        WrongUsage: with the command that installs it.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise WrongUsage(
            "tasks of the lm-evaluation-harness",
            found="no lm_eval",
            expected="the packages of extra harness",
            next="pip install 'btx-registry[harness]'",
        )


def files(task: str, root: Path) -> list[str]:
    """Return the files that a task reads.

    Args:
        task: a task file, relative to root.
        root: of the workspace.

    Returns:
        The task file and the data files that it names, relative to root.

    Raises:
        WrongUsage: naming the file that is missing or cannot be read.
    """
    return [task, *_data_files(task, _settings(task, root), root)]


def run(
    folder: Path,
    tasks: Sequence[str],
    root: Path,
    *,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> dict[str, Figures]:
    """Run tasks on a checkpoint.

    Args:
        folder: a dense or mixed checkpoint.
        tasks: task files, relative to root.
        root: of the workspace.
        batch_tokens: tokens in one forward pass.
        progress: called before each task.

    Returns:
        The figures by the tasks' names.

    Raises:
        WrongUsage: naming the file of a task that the harness cannot run.
    """
    check_installed()
    results: dict[str, Figures] = {}
    model = None
    with _quiet_and_offline(), tempfile.TemporaryDirectory() as cache:
        for number, path in enumerate(tasks):
            settings = _settings(path, root)
            name = settings["task"]
            if name in results:
                raise WrongUsage(
                    path,
                    found=f"task {name} again",
                    expected="a name of its own",
                    next="rename one of the two",
                )
            _require_known_metrics(path, settings)
            if progress:
                progress(number, len(tasks), name)
            model = model or _model(folder, batch_tokens)
            try:
                results[name] = _measure(model, settings, _absolute(settings, root), cache)
            except (OSError, MemoryError, RuntimeError):
                # A fault of the machine or the model.
                raise
            # The harness has no error of its own: its YAML, templates and metrics raise anything.
            except Exception as error:
                raise _broken(path, error) from error
    return results


def _settings(path: str, root: Path) -> Settings:
    """Read a task file and check that it is data alone."""
    file = path_inside(root, path, path)
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUsage(
            path,
            found=error.strerror,
            expected="a task file",
            next="correct the path: it is relative to the workspace",
        ) from error
    # A number of very many digits is a ValueError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _broken(path, error) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("task"), str):
        raise WrongUsage(
            path,
            found="no `task: NAME`",
            expected="one task of the lm-evaluation-harness",
            next="fix the file",
        )
    if "include" in settings:
        raise WrongUsage(
            path,
            found="include",
            expected="the whole task in one file",
            next="copy the included keys here",
        )
    if settings.get("dataset_path") not in READERS:
        raise WrongUsage(
            path,
            found=f"dataset_path: {settings.get('dataset_path')}",
            expected=f"dataset_path: {' | '.join(READERS)}, with local data_files",
            next="keep the data beside the task",
        )
    _data_files(path, settings, root)
    _require_plain_data(path, settings)
    return settings


def _require_plain_data(path: str, settings: Settings) -> None:
    """Refuse the keys with which a task would have code or files loaded that it does not hold."""
    for table, allowed in ALLOWED.items():
        given = settings.get(table) or {}
        for key in given if isinstance(given, dict) else [given]:
            if key not in allowed:
                raise WrongUsage(
                    path,
                    found=f"{table}: {key!r:.80}",
                    expected=f"{table} of {', '.join(sorted(allowed))}",
                    next="remove the key",
                )
    metrics = settings.get("metric_list") or []
    for entry in metrics if isinstance(metrics, list) else [metrics]:
        if not isinstance(entry, dict) or entry.get("hf_evaluate"):
            raise WrongUsage(
                path,
                found=f"{entry!r:.80}",
                expected="metrics of the harness itself: {metric: NAME}",
                next="name one of its metrics, without hf_evaluate",
            )


def _require_known_metrics(path: str, settings: Settings) -> None:
    """Refuse a metric that the harness would look for in a file or on the network."""
    # Importing the metrics registers them.
    import lm_eval.api.metrics  # noqa: F401
    from lm_eval.api.registry import metric_registry

    for entry in settings.get("metric_list") or []:
        if entry.get("metric") not in metric_registry:
            raise WrongUsage(
                path,
                found=f"metric {entry.get('metric')!r:.80}",
                expected="a metric of the harness itself, such as acc",
                next="fix the file",
            )


def _data_files(path: str, settings: Settings, root: Path) -> list[str]:
    """Return the data files that a task names, each checked to be on this disk."""
    names = _named_files(settings.get("dataset_kwargs"))
    if not names:
        raise WrongUsage(
            path,
            found="no data_files",
            expected="dataset_kwargs: {data_files: FILE, [FILE, ...] or {SPLIT: FILE}}",
            next="name the local files",
        )
    for name in names:
        if not path_inside(root, name, f"{path}, data file").is_file():
            raise WrongUsage(
                f"{path}, data file {name}",
                found="no file",
                expected="one on this disk, relative to the workspace",
                next="correct the path",
            )
    return list(dict.fromkeys(names))


def _named_files(arguments: object) -> list[str]:
    """Return the file names in a task's dataset_kwargs; none where anything else is there."""
    if not isinstance(arguments, dict) or "data_dir" in arguments:
        return []
    named = arguments.get("data_files")
    entries: list[object] = []
    for group in named.values() if isinstance(named, dict) else [named]:
        entries += group if isinstance(group, list) else [group]
    names = [entry for entry in entries if isinstance(entry, str)]
    return names if len(names) == len(entries) else []


def _absolute(settings: Settings, root: Path) -> Settings:
    """Return a task's dataset_kwargs with every data file's absolute path."""

    # Any: one name, a list of them, or either by split.
    def absolute(named: Any) -> Any:
        if isinstance(named, dict):
            return {split: absolute(group) for split, group in named.items()}
        names = [named] if isinstance(named, str) else named
        return [str(root.absolute() / name) for name in names]

    arguments: Settings = settings["dataset_kwargs"]
    return arguments | {"data_files": absolute(arguments["data_files"])}


def _model(folder: Path, batch_tokens: int) -> "HFLM":
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from btx_core.machine import device_of, load

    loaded = load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = HFLM(pretrained=loaded, tokenizer=tokenizer, device=str(device_of(loaded)))
    model.batch_size_per_gpu = max(1, batch_tokens // model.max_length)
    return model


def _measure(model: "HFLM", settings: Settings, dataset_kwargs: Settings, cache: str) -> Figures:
    import torch
    from lm_eval import utils
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    # The harness renders every template of a task by it.
    utils.env = _sandbox(utils.env)
    arguments = dataset_kwargs | {"cache_dir": cache}
    manager = TaskManager(include_defaults=False)
    loaded = manager.load([settings | {"dataset_kwargs": arguments}])
    (task,) = loaded["tasks"].values()
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=RANDOM_SEED)
    torch.manual_seed(RANDOM_SEED)
    results = evaluate(model, loaded, bootstrap_iters=0, log_samples=False)["results"]
    (measured,) = results.values()
    return _figures(measured)


def _sandbox(environment: "Environment") -> "Environment":
    """Return the harness's environment for templates, in which none reaches code or the machine."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # Any: operands of whatever type a template names.
    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(BOUNDED_OPERATORS)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if not all(isinstance(side, int | float) and abs(side) < 1e9 for side in (left, right)):
                raise SecurityError(f"{operator} on other operands than moderate numbers")
            return super().call_binop(context, operator, left, right)

    sandbox = Sandbox(undefined=environment.undefined, keep_trailing_newline=True)
    sandbox.filters["regex_replace"] = environment.filters["regex_replace"]
    return sandbox


# Any: beside figures the harness returns names and settings.
def _figures(measured: Mapping[str, Any]) -> Figures:
    """Return what is a number of the harness's results, NumPy's numbers included."""
    figures: Figures = {}
    for key, value in measured.items():
        if isinstance(value, Real):
            figures[key.removesuffix(",none")] = float(value) if math.isfinite(value) else None
    return figures


def _broken(path: str, error: Exception) -> WrongUsage:
    text = " ".join(str(error).split())[:300]
    return WrongUsage(
        path,
        found=f"{type(error).__name__}: {text}",
        expected="a task that the harness can run",
        next="fix the file",
    )


@contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """Keep the harness from the network, from its progress bars and from its warnings."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        os.environ[name] = "1"
    # transformers may have imported it before, with the variables as they were.
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    from tqdm import tqdm

    # It warns of every default.
    log = logging.getLogger("lm_eval")
    level, start = log.level, tqdm.__init__

    # Any: whatever tqdm takes is handed on.
    def unseen(bar: Any, *arguments: Any, **settings: Any) -> None:
        start(bar, *arguments, **{**settings, "disable": True})

    log.setLevel(logging.ERROR)
    # TQDM_DISABLE comes too late where tqdm is imported, and the harness overrules it.
    tqdm.__init__ = unseen
    try:
        yield
    finally:
        tqdm.__init__ = start
        log.setLevel(level)
