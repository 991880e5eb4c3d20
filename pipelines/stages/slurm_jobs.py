"""The executor `slurm`: stages as jobs of Slurm, through submitit.

In:  tasks, their resources, `[slurm]` of btx.toml.  Out: what the stages write. Without Slurm on
this machine submitit's jobs are processes here.
"""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.stages import node
from pipelines.stages.gpus import visible_gpus
from pipelines.stages.lifeline import COMMAND, Lease, environment_below, leased
from pipelines.stages.monitor import TaskMonitor
from pipelines.stages.task import Task
from pipelines.stages.worker import run_stage
from pipelines.workspace.bars import WATCHED, note_of
from pipelines.workspace.environment import child_environment
from pipelines.workspace.placement import Resources
from registry.errors import Invalid
from registry.records.base import JsonObject

logger = logging.getLogger(__name__)

POLL_S = 0.1
FIRST_PORT, PORTS = 20_000, 10_000
DAY_MIN = 24 * 60
# Keys of [slurm] that say the same as a key of [machine].
NODES = ("nodes", "slurm_nodes")
TASKS = ("tasks_per_node", "slurm_ntasks_per_node", "slurm_ntasks")
SAME = {
    "gpus": ("gpus_per_node", "slurm_gpus_per_node", "slurm_gpus_per_task", "slurm_gres"),
    "memory_gb": ("mem_gb", "slurm_mem"),
    "minutes": ("timeout_min", "slurm_time"),
}


@dataclass(frozen=True)
class StageJob:
    """A task on one node, called there in a process of submitit's."""

    root: str
    task: Task
    resources: Resources
    lease: Lease

    def __call__(self) -> str | None:
        """Compute the stage on this node, from the root of its workspace.

        Returns:
            The message of an error that a user can fix; None when the stage has ended well.
        """
        # Imported here: an extra.
        from submitit import JobEnvironment

        os.chdir(self.root)
        # The job's own processes end with it, and it ends with the lease.
        os.environ |= {WATCHED: "1", COMMAND: str(os.getpid())}
        self.lease.end_with()
        os.environ |= node.environment(self.resources, visible_gpus() if self._gpus else ())
        if self.resources.processes == 1:
            return run_stage(self.task.arguments)
        job = JobEnvironment()
        port = FIRST_PORT + int(str(job.job_id).split("_")[0]) % PORTS
        rendezvous = node.Rendezvous(f"{job.hostnames[0]}:{port}", str(job.job_id))
        command = node.command(self.task, self.resources, rendezvous)
        status = subprocess.run(command, env=environment_below()).returncode
        return f"exit status {status}; see {job.paths.stderr}" if status else None

    @property
    def _gpus(self) -> bool:
        """Whether the job has GPUs, by [machine] or by [slurm]."""
        return bool(self.resources.gpus) or "SLURM_JOB_GPUS" in os.environ

    def checkpoint(self) -> Any:  # submitit's own type, which is an extra
        """Queue a job again that Slurm stops early; the stage goes on from its run state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def check(resources: Resources, slurm: JsonObject) -> None:
    """Refuse what a job of Slurm cannot have.

    Raises:
        Invalid: naming the setting.
    """
    # A node runs one task, which starts the processes of that node.
    refused = [
        (key, "nodes") for key in NODES if slurm.get(key, resources.nodes) != resources.nodes
    ]
    refused += [(key, "processes") for key in TASKS if slurm.get(key, 1) != 1]
    for setting, keys in SAME.items():
        if getattr(resources, setting) is not None:
            refused += [(key, setting) for key in keys if key in slurm]
    for key, setting in refused:
        raise Invalid(
            f"btx.toml, [slurm] {key}",
            found=str(slurm[key]),
            expected=f"[machine] {setting} alone",
            next=f"remove it, and set [machine] {setting}",
        )
    if resources.rendezvous:
        raise Invalid(
            "btx.toml, [machine] rendezvous",
            found=f"{resources.rendezvous}, with the executor slurm",
            expected="none: the nodes of a job find each other",
            next="remove it",
        )
    if resources.nodes > 1 and not shutil.which("srun"):
        raise Invalid(
            "btx.toml, [machine] nodes",
            found=f"{resources.nodes}, and no Slurm on this machine",
            expected="1: without Slurm the jobs are processes here",
            next="start the command where srun is found",
        )


def parameters(resources: Resources, slurm: JsonObject) -> dict[str, Any]:
    """Return submitit's parameters for one task: a node each runs the processes of that node."""
    asked: dict[str, Any] = {
        "timeout_min": resources.minutes or DAY_MIN,
        "cpus_per_task": resources.threads * resources.processes_per_node,
        "nodes": resources.nodes,
        "tasks_per_node": 1,
    }
    if resources.memory_gb:
        asked["mem_gb"] = resources.memory_gb
    if resources.gpus:
        asked["gpus_per_node"] = resources.gpus_per_node
    return {**asked, **slurm}


def run(
    root: Path, tasks: Sequence[Task], resources: Resources, slurm: JsonObject, monitor: TaskMonitor
) -> None:
    """Run each task as a job."""
    # Imported here: an extra.
    from submitit import AutoExecutor

    os.environ |= child_environment()
    queue = AutoExecutor(folder=root / "work" / "slurm")
    queue.update_parameters(**parameters(resources, slurm))
    running = dict[Task, Any]()
    with ExitStack() as leases:
        try:
            for task in tasks:
                lease = leases.enter_context(leased(note_of(root, task.run)))
                running[task] = queue.submit(StageJob(str(root), task, resources, lease))
                logger.info("%s is job %s", task.label, running[task].job_id)
                monitor.started(task.label)
            while running:
                for task, job in list(running.items()):
                    if job.done():
                        del running[task]
                        monitor.ended(task.label, _outcome(job))
                monitor.look()
                time.sleep(POLL_S)
        finally:
            for job in running.values():
                job.cancel()


def _outcome(job: Any) -> str | None:  # submitit's own type, which is an extra
    """Return the text of a job's error, or None."""
    try:
        errors: list[str | None] = job.results()
    except Exception as failure:
        return f"{type(failure).__name__}: {str(failure).strip().splitlines()[-1]}"
    return next((error for error in errors if error), None)
