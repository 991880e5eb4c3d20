"""Run one stage in the current folder, as `python -m pipelines.stages STAGE [BRANCH]` asks for it.

DVC starts stages like this. Mixing runs here; every other stage runs where `[machine]` says, which
by default is here too. With `--join` before the stage this machine is one of its further nodes.
"""

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from btx_core.problems import BtxError
from pipelines.stages import gpus, local_processes, node
from pipelines.stages.executors import EXECUTOR, Clusters, check, execute
from pipelines.stages.lifeline import end_with_command
from pipelines.stages.task import Task
from pipelines.stages.worker import run_stage
from pipelines.workspace.diagnostics import show_diagnostics
from pipelines.workspace.interruption import INTERRUPTED
from pipelines.workspace.orders import read_branches, read_build
from pipelines.workspace.placement import EXECUTOR_NAMES, Resources
from pipelines.workspace.settings_file import SETTINGS, Settings, read_settings
from pipelines.workspace.terminal import visible

JOIN = "--join"


def main() -> int:
    """Run the stage that the arguments name. Returns the exit status."""
    try:
        end_with_command()
        show_diagnostics()
        text = _run(sys.argv[1:])
    except BtxError as error:
        print(visible(str(error)), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    if text:
        print(visible(text), file=sys.stderr)
    return 1 if text else 0


def _run(arguments: list[str]) -> str | None:
    """Run a stage where it belongs; returns the message of an error that a user can fix."""
    joins = arguments[0] == JOIN
    task = Task.of(arguments[1:] if joins else arguments)
    if task is None:
        return run_stage(arguments)
    settings = read_settings(Path(SETTINGS))
    resources = _resources(task, settings)
    check(resources, Clusters.of(settings))
    if joins:
        return local_processes.join(Path(), task, resources)
    if resources.executor == "local" and resources.processes == 1:
        return _run_here(task, resources)
    execute(Path().resolve(), [task], resources, Clusters.of(settings))
    return None


def _resources(task: Task, settings: Settings) -> Resources:
    """Return what a stage is given. How many processes compute it, its order says."""
    executor = next((name for name in EXECUTOR_NAMES if name == os.environ.get(EXECUTOR)), None)
    resources = settings.resources(task.stage, executor)
    if task.stage == "train":
        processes = read_branches(Path())[task.branch].processes or 1
    elif task.stage == "tune":
        processes = read_build(Path()).processes
    else:
        return resources
    return replace(resources, processes=processes)


def _run_here(task: Task, resources: Resources) -> str | None:
    """Run a stage in this process, on GPUs that no other stage of this machine holds."""
    resources = local_processes.resolved(resources)
    with ExitStack() as stack:
        claim = gpus.wait_for(resources.gpus_per_node, task.label)
        stack.callback(claim.let_go)
        os.environ |= node.environment(resources, claim.devices)
        return run_stage(task.arguments)
