"""Where branches are trained: processes on this machine, workers of a Ray cluster, jobs of Slurm.

In:  a workspace's root and names in branches.yaml.
Out: work/branches/NAME for each; what failed is named, what ended stays.
Only a name travels to a worker: orders, data and weights are in the workspace, which every machine
sees under the same path. A branch's bytes depend on its order alone (the order fixes the number of
threads), so it does not matter where, or beside what, it ran.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.stages import stages
from pipelines.stages.dvc_runs import Interrupted, Log, StageFailed
from pipelines.workspace.bars import WATCHED, Note, bars, note_of
from pipelines.workspace.environment import child_environment
from pipelines.workspace.workspace import RaySettings
from registry.records.base import JsonObject
from registry.records.events import StageRan

logger = logging.getLogger(__name__)

POLL_S = 0.1
LOGGED_EVERY_S = 60.0
# How often a branch is tried again whose worker died.
RETRIES = 3


@dataclass(frozen=True)
class Needs:
    """What one branch is given.

    Attributes:
        cpus: cores, which is its number of threads.
        gpus: graphics cards.
        processes: that train the branch together; the local executor alone.
        ray: where the cluster of the executor `ray` is.
        slurm: parameters of submitit, from [slurm] in btx.toml.
    """

    cpus: int = 1
    gpus: int = 0
    processes: int = 1
    ray: RaySettings = field(default_factory=RaySettings)
    slurm: JsonObject = field(default_factory=dict)


class Watch:
    """Follows every branch.

    On a terminal that is a bar for each; in the audit log it is an event when a branch starts, once
    a minute while it runs, and when it ends, fails or is interrupted.

    Args:
        root: the workspace.
        names: the branches.
        log: called with a branch's name and what happened.
    """

    def __init__(self, root: Path, names: Sequence[str], log: Log) -> None:
        self._notes = {name: note_of(root, name) for name in names}
        self._log = log
        self._began: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        for path in self._notes.values():
            path.unlink(missing_ok=True)

    def __enter__(self) -> "Watch":
        self._stack = ExitStack()
        self._show = self._stack.enter_context(bars(list(self._notes)))
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.close()
        for name in list(self._began) if kind else ():
            self._end(name, "interrupted")

    def started(self, name: str) -> None:
        """Note that a branch has started."""
        self._began[name] = self._logged[name] = time.monotonic()
        logger.info("branch %s started", name)
        self._log(name, StageRan(state="started"))

    def ended(self, name: str, error: str | None) -> None:
        """Note that a branch has ended, with an error or well."""
        if error is not None:
            logger.warning("branch %s failed: %s", name, error)
            self.errors[name] = error
        self._end(name, "ended" if error is None else "failed")

    def look(self) -> None:
        """Read every running branch's notes, and move its bar."""
        for name in self._began:
            note = Note.read(self._notes[name])
            if note:
                self._show(name, note)
            if note and time.monotonic() - self._logged[name] > LOGGED_EVERY_S:
                self._logged[name] = time.monotonic()
                running = StageRan(state="running", done=note.done, total=note.total)
                self._log(name, running)

    def _end(self, name: str, state: str) -> None:
        seconds = round(time.monotonic() - self._began.pop(name), 2)
        logger.info("branch %s %s after %.2f s", name, state, seconds)
        self._log(name, StageRan(state=state, seconds=seconds))


Executor = Callable[[Path, Sequence[str], Needs, Watch], None]


def execute(executor: str, root: Path, names: Sequence[str], needs: Needs, log: Log) -> None:
    """Train the branches.

    Args:
        executor: one of EXECUTORS.
        root: the workspace.
        names: the branches, as branches.yaml names them.
        needs: what each of them is given.
        log: called with a branch's name and what happened.

    Raises:
        StageFailed: naming every branch that did not end well.
        Interrupted: on Ctrl-C.
    """
    logger.info("executor %s trains %s in %s", executor, ", ".join(names), root)
    logger.debug("each branch needs %s", needs)
    try:
        with Watch(root, names, log) as watch:
            EXECUTORS[executor](root, names, needs, watch)
    except KeyboardInterrupt:
        raise Interrupted(f"training of {', '.join(names)}") from None
    if watch.errors:
        raise StageFailed(
            "training of " + ", ".join(watch.errors),
            found="; ".join(f"{name}: {error}" for name, error in watch.errors.items()),
            expected="trained branches",
            next="fix what is named, then run the command again: what ended well is kept",
        )


def local(root: Path, names: Sequence[str], needs: Needs, watch: Watch) -> None:
    """Train each branch in a process of its own on this machine.

    As many run at once as the cores allow, or the GPUs where a branch needs some.
    """
    waiting, free = list(names), devices_at_once(needs)
    running: dict[str, tuple[subprocess.Popen[str], str | None]] = {}
    try:
        while waiting or running:
            while waiting and free:
                name, devices = waiting.pop(0), free.pop(0)
                running[name] = (_start(root, name, devices, needs), devices)
                watch.started(name)
            for name, (process, devices) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    free.append(devices)
                    status = process.returncode
                    watch.ended(name, f"exit status {status}" if status else None)
            watch.look()
            time.sleep(POLL_S)
    finally:
        stop([process for process, _ in running.values()])


def devices_at_once(needs: Needs) -> list[str | None]:
    """Return an entry for each branch that may run at once.

    An entry is the GPUs that the branch sees, or None where it needs none.

    Raises:
        StageFailed: where this machine has fewer GPUs than one branch needs.
    """
    if not needs.gpus:
        return [None] * max(1, (os.cpu_count() or 1) // (needs.cpus * needs.processes))
    devices = visible_gpus()
    groups = [
        ",".join(devices[i : i + needs.gpus])
        for i in range(0, len(devices) - needs.gpus + 1, needs.gpus)
    ]
    if not groups:
        raise StageFailed(
            "[train] gpus",
            found=f"{len(devices)} GPUs here",
            expected=f"{needs.gpus} a branch",
            next="ask for fewer",
        )
    return list(groups)


def visible_gpus() -> list[str]:
    """Return the GPUs in CUDA_VISIBLE_DEVICES, or else what nvidia-smi lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed.stdout.split()


def _start(root: Path, name: str, devices: str | None, needs: Needs) -> "subprocess.Popen[str]":
    """Start the training of a branch.

    It runs in a process group of its own, so that a Ctrl-C reaches it once, through `stop`. It
    inherits the write lock.
    """
    environment = {**child_environment(), WATCHED: "1", "OMP_NUM_THREADS": str(needs.cpus)}
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices
    elif needs.processes > 1:
        environment["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, *launch(needs), "-m", "pipelines.stages", "train", name]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.DEVNULL,
        close_fds=False,
        process_group=0,
        text=True,
    )
    logger.debug("branch %s is process %d, devices %s", name, process.pid, devices or "none")
    return process


def launch(needs: Needs) -> list[str]:
    """Return the arguments before the module's name.

    Where several processes train one branch together, that is what `accelerate launch` starts
    them with.
    """
    if needs.processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(needs.processes)]


def stop(processes: Sequence["subprocess.Popen[str]"], patience_s: float = 20.0) -> None:
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


@dataclass(frozen=True)
class Branch:
    """A branch's training, called in the worker's own process.

    So nothing outlives a worker that is killed.
    """

    root: str
    name: str

    def __call__(self) -> str | None:
        """Train the branch in this process, from the root of its workspace.

        Returns:
            The message of an error that a user can mend; None when the branch is trained.
        """
        os.environ[WATCHED] = "1"
        os.chdir(self.root)
        return stages.run("train", self.name)

    def checkpoint(self) -> Any:  # submitit's own type, which is an extra
        """Queue a job again that Slurm stops early; training goes on from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def on_ray(root: Path, names: Sequence[str], needs: Needs, watch: Watch) -> None:
    """Train each branch as a task of a Ray cluster.

    The cluster is [ray] address, or else RAY_ADDRESS, or else one on this machine. A branch whose
    worker died is tried again.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Imported here: an extra.
    import ray

    address = needs.ray.address or os.environ.get("RAY_ADDRESS")
    alone = {"num_cpus": os.cpu_count(), "include_dashboard": False}
    cluster = {"address": address} if address else alone
    ray.init(**cluster, log_to_driver=False, logging_level=logging.ERROR)
    logger.info("the cluster of Ray is %s", address or "on this machine")
    try:
        task = ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=RETRIES)(_trained)
        running = {task.remote(str(root), name): name for name in names}
        for name in names:
            watch.started(name)
        while running:
            for done in ray.wait(list(running), timeout=POLL_S)[0]:
                watch.ended(running.pop(done), _outcome(ray.get, done))
            watch.look()
    finally:
        # What still runs ends with its driver.
        ray.shutdown()


def _trained(root: str, name: str) -> str | None:
    return Branch(root, name)()


def on_slurm(root: Path, names: Sequence[str], needs: Needs, watch: Watch) -> None:
    """Train each branch as a job of Slurm, through submitit.

    [slurm] holds submitit's parameters, such as slurm_partition and timeout_min. Without Slurm on
    this machine the jobs are processes here.
    """
    # Imported here: an extra.
    from submitit import AutoExecutor

    queue = AutoExecutor(folder=root / "work" / "slurm")
    asked = {"timeout_min": 24 * 60, "cpus_per_task": needs.cpus, **needs.slurm}
    if needs.gpus:
        asked["gpus_per_node"] = needs.gpus
    queue.update_parameters(**asked)
    running = {name: queue.submit(Branch(str(root), name)) for name in names}
    for name, job in running.items():
        logger.info("branch %s is job %s", name, job.job_id)
        watch.started(name)
    try:
        while running:
            for name, job in list(running.items()):
                if job.done():
                    del running[name]
                    watch.ended(name, _outcome(job.result))
            watch.look()
            time.sleep(POLL_S)
    finally:
        for job in running.values():
            job.cancel()


def _outcome(result: Callable[..., Any], *task: Any) -> str | None:
    """Return the text of a branch's error, or None.

    A worker that died too often, or failed otherwise, is an error of its branch alone.
    """
    try:
        error: str | None = result(*task)
        return error
    except Exception as failure:
        return f"{type(failure).__name__}: {str(failure).strip().splitlines()[-1]}"


EXECUTORS: dict[str, Executor] = {"local": local, "ray": on_ray, "slurm": on_slurm}
