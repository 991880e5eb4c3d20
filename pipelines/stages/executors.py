"""Where branches are trained: processes on this machine, workers of a Ray cluster, or jobs of Slurm. One interface.

In:  a workspace's root and names of branches.yaml.  Out: work/branches/NAME for each; what failed is named, what ended stays.
Only a name travels to a worker: orders, data and weights are in the workspace, which every machine sees under the same path.
A branch's bytes depend on its order alone (the order fixes the thread count), so it does not matter where or beside what it ran.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.stages import stages
from pipelines.stages.dvc_runs import Interrupted, StageFailed
from pipelines.workspace.progress import WATCHED, Note, bars, note_of

logger = logging.getLogger(__name__)

Log = Callable[[str, str, Mapping[str, Any]], None]
POLL_S, LOGGED_EVERY_S = 0.1, 60.0
RETRIES = 3  # of a branch whose worker died


@dataclass(frozen=True)
class Needs:
    """What one branch is given."""

    cpus: int = 1
    gpus: int = 0
    processes: int = 1  # that share one branch: local only
    options: Mapping[str, Any] = field(
        default_factory=dict
    )  # the executor's own: [ray] or [slurm] of btx.toml


class Watch:
    """Every branch's progress: bars on a terminal; started, running (once a minute), ended, failed, interrupted in the log."""

    def __init__(self, root: Path, names: Sequence[str], log: Log) -> None:
        self._notes = {name: note_of(root, name) for name in names}
        self._log, self._began, self._logged = log, dict[str, float](), dict[str, float]()
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
            self._say(name, "interrupted")

    def started(self, name: str) -> None:
        self._began[name] = self._logged[name] = time.monotonic()
        logger.info("branch %s started", name)
        self._log(name, "started", {})

    def ended(self, name: str, error: str | None) -> None:
        if error is not None:
            logger.warning("branch %s failed: %s", name, error)
            self.errors[name] = error
        self._say(name, "ended" if error is None else "failed")

    def look(self) -> None:
        for name in self._began:
            note = Note.read(self._notes[name])
            if note:
                self._show(name, note)
            if note and time.monotonic() - self._logged[name] > LOGGED_EVERY_S:
                self._logged[name] = time.monotonic()
                self._log(name, "running", {"done": note.done, "total": note.total})

    def _say(self, name: str, state: str) -> None:
        seconds = round(time.monotonic() - self._began.pop(name), 2)
        logger.info("branch %s %s after %.2f s", name, state, seconds)
        self._log(name, state, {"seconds": seconds})


Executor = Callable[[Path, Sequence[str], Needs, Watch], None]


def execute(executor: str, root: Path, names: Sequence[str], needs: Needs, log: Log) -> None:
    """Train the branches. Raises StageFailed, naming every one that did not end well, Interrupted on Ctrl-C."""
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
    """As many branches at once as the cores allow, or the GPUs where a branch needs some; a process each."""
    waiting, free = list(names), places(needs)
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
                    watch.ended(
                        name, f"exit status {process.returncode}" if process.returncode else None
                    )
            watch.look()
            time.sleep(POLL_S)
    finally:
        stop([process for process, _ in running.values()])


def places(needs: Needs) -> list[str | None]:
    """One entry for each branch that may run at once: the GPUs that it sees, or None where it needs none."""
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
    """CUDA_VISIBLE_DEVICES, else what nvidia-smi lists."""
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
    """In a process group of its own: a Ctrl-C reaches it through `stop` alone, once. It inherits the write lock."""
    seen = (
        {"CUDA_VISIBLE_DEVICES": devices}
        if devices
        else {"ACCELERATE_USE_CPU": "true"}
        if needs.processes > 1
        else {}
    )
    environment = os.environ | {WATCHED: "1", "OMP_NUM_THREADS": str(needs.cpus)} | seen
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
    """What stands before the module where several processes train one branch together: what `accelerate launch` starts them with."""
    if needs.processes == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(needs.processes)]


def stop(processes: Sequence["subprocess.Popen[str]"], patience_s: float = 20.0) -> None:
    """Interrupt what still runs, with all that it started, and wait until it is gone."""
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
    """One branch's training, in the worker's own process, so that nothing outlives a worker that is killed."""

    root: str
    name: str

    def __call__(self) -> str | None:
        os.environ[WATCHED] = "1"
        os.chdir(self.root)
        return stages.run("train", self.name)

    def checkpoint(self) -> Any:
        """Slurm stops the job early: it is queued again, and training goes on from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def on_ray(root: Path, names: Sequence[str], needs: Needs, watch: Watch) -> None:
    """A task a branch. The cluster: [ray] address, else RAY_ADDRESS, else one on this machine. A dead worker's branch is tried again."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # an extra

    address = needs.options.get("address") or os.environ.get("RAY_ADDRESS")
    started = (
        {"address": address}
        if address
        else {"num_cpus": os.cpu_count(), "include_dashboard": False}
    )
    ray.init(**started, log_to_driver=False, logging_level=logging.ERROR)
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
        ray.shutdown()  # what still runs ends with its driver


def _trained(root: str, name: str) -> str | None:
    return Branch(root, name)()


def on_slurm(root: Path, names: Sequence[str], needs: Needs, watch: Watch) -> None:
    """A job a branch, through submitit; [slurm] holds its parameters, such as slurm_partition and timeout_min."""
    from submitit import AutoExecutor  # an extra

    queue = AutoExecutor(
        folder=root / "work" / "slurm"
    )  # without Slurm on this machine: processes here
    asked = {"timeout_min": 24 * 60, **needs.options}
    queue.update_parameters(
        cpus_per_task=needs.cpus, **({"gpus_per_node": needs.gpus} if needs.gpus else {}), **asked
    )
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
    """The error's text, or None. A worker that died too often, or failed otherwise, is an error of its branch alone."""
    try:
        error: str | None = result(*task)
        return error
    except Exception as failure:
        return f"{type(failure).__name__}: {str(failure).strip().splitlines()[-1]}"


EXECUTORS: dict[str, Executor] = {"local": local, "ray": on_ray, "slurm": on_slurm}
