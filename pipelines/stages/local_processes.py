"""The executor `local`: stages as processes of this machine.

In:  tasks and their resources.  Out: what the stages write. As many tasks run at once as the cores
and the memory allow, or the GPUs that no other stage of this machine holds. Where a stage has
several nodes, this machine is the first, and the others join by a command of their own.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from pipelines.stages import gpus, node
from pipelines.stages.lifeline import environment_below
from pipelines.stages.monitor import TaskMonitor
from pipelines.stages.task import Task
from pipelines.workspace.bars import WATCHED
from pipelines.workspace.placement import Resources
from registry.errors import Invalid

logger = logging.getLogger(__name__)

POLL_S = 0.1
# Seconds until a process that was interrupted and goes on is killed.
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Running:
    """A task that runs: its process, which leads a process group, and the GPUs that it holds."""

    process: "subprocess.Popen[str]"
    claim: gpus.Claim


def resolved(resources: Resources) -> Resources:
    """Return the resources with the number of GPUs that the task takes here."""
    if resources.gpus is not None:
        return resources
    return replace(resources, gpus=resources.processes if gpus.visible_gpus() else 0)


def memory_each(resources: Resources) -> int | None:
    """Return the bytes that each process of a stage has: of its GPU, or its part of this machine's.

    Args:
        resources: resolved.
    """
    if resources.gpus:
        return gpus.memory_of_smallest()
    total: int = psutil.virtual_memory().total
    if resources.memory_gb is not None:
        total = min(total, int(resources.memory_gb * 1e9))
    return total // resources.processes_per_node


def check(resources: Resources) -> None:
    """Refuse what this machine does not have, or this executor cannot do.

    Raises:
        Invalid: naming the setting.
    """
    here = len(gpus.visible_gpus())
    needed = resolved(resources).gpus_per_node
    if needed > here:
        raise Invalid(
            "btx.toml, [machine] gpus" if resources.gpus else "btx.toml, [machine] processes",
            found=f"{here} GPUs here",
            expected=f"{needed}, as many as a stage needs",
            next="ask for fewer, or set gpus = 0 to compute on the CPU",
        )
    memory_gb = psutil.virtual_memory().total / 1e9
    if resources.memory_gb and resources.memory_gb > memory_gb:
        raise Invalid(
            "btx.toml, [machine] memory_gb",
            found=f"{memory_gb:.1f} GB here",
            expected=f"{resources.memory_gb:g}, as much as a stage needs",
            next="ask for less, or use another machine",
        )
    if resources.minutes:
        raise Invalid(
            "btx.toml, [machine] minutes",
            found=f"{resources.minutes}, with the executor local",
            expected="no limit: nothing here would queue the stage again",
            next="remove it, or choose the executor slurm",
        )
    if (resources.nodes > 1) != bool(resources.rendezvous):
        raise Invalid(
            "btx.toml, [machine] rendezvous",
            found=f"{resources.rendezvous or 'none'}, with nodes = {resources.nodes}",
            expected="HOST:PORT of the first node, where there are several",
            next="set or remove it",
        )


def run(root: Path, tasks: Sequence[Task], resources: Resources, monitor: TaskMonitor) -> None:
    """Run each task in processes of its own on this machine."""
    resources = resolved(resources)
    waiting, running = list(tasks), dict[Task, Running]()
    places, told = at_once(resources), False
    if resources.nodes > 1:
        for task in tasks:
            print(_how_to_join(task, resources), file=sys.stderr)
    try:
        while waiting or running:
            while waiting and len(running) < places:
                claim = gpus.claim(resources.gpus_per_node)
                if claim is None:
                    if not running and not told:
                        print(gpus.waiting(waiting[0].label), file=sys.stderr)
                        told = True
                    break
                task = waiting.pop(0)
                running[task] = Running(_start(root, task, resources, claim.devices), claim)
                monitor.started(task.label)
            for task, one in list(running.items()):
                if one.process.poll() is not None:
                    del running[task]
                    one.claim.let_go()
                    status = one.process.returncode
                    monitor.ended(task.label, f"exit status {status}" if status else None)
            monitor.look()
            time.sleep(POLL_S)
    finally:
        stop([one.process for one in running.values()])


def join(root: Path, task: Task, resources: Resources) -> str | None:
    """Compute a stage as one of its further nodes.

    Returns:
        The message of an error; None when the stage has ended well.
    """
    claim = gpus.wait_for(resolved(resources).gpus_per_node, task.label)
    process = _start(root, task, resources, claim.devices)
    try:
        status = process.wait()
    finally:
        stop([process])
        claim.let_go()
    return f"{task.label}: exit status {status}" if status else None


def _how_to_join(task: Task, resources: Resources) -> str:
    """Return the line that says how the other nodes of a stage join."""
    command = " ".join(["python -m pipelines.stages --join", *task.arguments])
    others = resources.nodes - 1
    return f"{task.label} waits for {others} more nodes; on each, in the workspace: {command}"


def at_once(resources: Resources) -> int:
    """Return how many tasks may run at once, GPUs aside: those are taken one by one."""
    if resources.nodes > 1:
        return 1
    places = [sys.maxsize]
    if not resources.gpus:
        places = [(os.cpu_count() or 1) // (resources.threads * resources.processes)]
    if resources.memory_gb:
        places.append(int(psutil.virtual_memory().total / 1e9 / resources.memory_gb))
    return max(1, min(places))


def _start(
    root: Path, task: Task, resources: Resources, devices: Sequence[str]
) -> "subprocess.Popen[str]":
    """Start a task.

    It runs in a process group of its own, so that a Ctrl-C reaches it once, through `stop`. It
    inherits the write lock.
    """
    rendezvous = None
    if resources.rendezvous:
        rendezvous = node.Rendezvous(resources.rendezvous, task.label)
    process = subprocess.Popen(
        node.command(task, resources, rendezvous),
        cwd=root,
        env=environment_below() | node.environment(resources, devices) | {WATCHED: "1"},
        stdout=subprocess.DEVNULL,
        close_fds=False,
        process_group=0,
        text=True,
    )
    logger.debug("%s is process %d, GPUs %s", task.label, process.pid, devices or "none")
    return process


def stop(processes: Sequence["subprocess.Popen[str]"], patience_s: float = PATIENCE_S) -> None:
    """Interrupt what still runs, with all that it started, and wait until it is gone.

    Args:
        processes: leaders of their process groups.
        patience_s: seconds until a process that goes on is killed.
    """
    for process in processes:
        if process.poll() is None:
            logger.info("process %d is interrupted", process.pid)
            os.killpg(process.pid, signal.SIGINT)
    for process in processes:
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            logger.warning("process %d goes on after %.0f s and is killed", process.pid, patience_s)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
