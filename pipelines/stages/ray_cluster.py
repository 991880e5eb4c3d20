"""The executor `ray`: stages as actors of a Ray cluster, one for each process.

In:  tasks, their resources, where the cluster is.  Out: what the stages write. The processes of a
task are placed together, node by node. Where one of them dies, all are started again and go on from
the run state.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.stages import node
from pipelines.stages.lifeline import Lease, leased
from pipelines.stages.monitor import TaskMonitor
from pipelines.stages.task import Task
from pipelines.stages.worker import run_stage
from pipelines.workspace.bars import WATCHED, note_of
from pipelines.workspace.environment import child_environment
from pipelines.workspace.placement import Resources
from registry.errors import Invalid

logger = logging.getLogger(__name__)

POLL_S = 0.1
# How often a task is tried again one of whose processes died.
RETRIES = 3
# When one process failed, the others get so long to say why: they may fail because it died.
GRACE_S = 5.0


class Process:
    """One process of a task, in an actor of its own."""

    def address(self) -> tuple[str, int, list[str]]:
        """Return this node's address, a free port on it, and the GPUs that this actor was given."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            port: int = free.getsockname()[1]
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return host, port, [str(gpu) for gpu in ray.get_gpu_ids()]

    def run(self, root: str, task: Task, variables: Mapping[str, str], lease: Lease) -> str | None:
        """Compute the stage, from the root of its workspace.

        Returns:
            The message of an error that a user can fix; None when the stage has ended well.
        """
        lease.end_with()
        os.environ.update(variables)
        os.chdir(root)
        return run_stage(task.arguments)


@dataclass
class Attempt:
    """One try of a task.

    Attributes:
        task: what is computed.
        group: where Ray keeps a place for each process.
        placed: resolves when all places are there.
        number: from 0.
        actors: the processes, by rank; none until all places are there.
        results: what each of them returns.
    """

    task: Task
    group: Any  # Ray's own types, which are an extra
    placed: Any
    number: int = 0
    actors: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)


def check(resources: Resources) -> None:
    """Refuse what no cluster of Ray does.

    Raises:
        Invalid: naming the setting.
    """
    for key in ("minutes", "rendezvous"):
        value = getattr(resources, key)
        if value is not None:
            raise Invalid(
                f"btx.toml, [machine] {key}",
                found=f"{value}, with the executor ray",
                expected="none",
                next="remove it, or choose another executor",
            )


def run(
    root: Path,
    tasks: Sequence[Task],
    resources: Resources,
    address: str | None,
    monitor: TaskMonitor,
) -> None:
    """Run each task as actors of the cluster.

    Args:
        root: the workspace.
        tasks: what is computed.
        resources: of each task.
        address: of the cluster; RAY_ADDRESS, or else one on this machine, unless it is given.
        monitor: follows the tasks.
    """
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", **child_environment()}
    # Imported here: an extra.
    import ray

    address = address or os.environ.get("RAY_ADDRESS")
    alone = {"num_cpus": os.cpu_count(), "include_dashboard": False}
    cluster = {"address": address} if address else alone
    ray.init(**cluster, log_to_driver=False, logging_level=logging.ERROR)
    logger.info("the cluster of Ray is %s", address or "on this machine")
    try:
        with ExitStack() as leases:
            held = {task: leases.enter_context(leased(note_of(root, task.run))) for task in tasks}
            RayRun(root, resources, monitor, held).run()
    finally:
        # What still runs ends with its driver.
        ray.shutdown()


@dataclass
class RayRun:
    """The tasks of one command on a cluster that is connected.

    Attributes:
        root: the workspace.
        resources: of each task.
        monitor: follows the tasks.
        leases: by task.
    """

    root: Path
    resources: Resources
    monitor: TaskMonitor
    leases: Mapping[Task, Lease]

    def run(self) -> None:
        """Run every task to its end.

        Raises:
            Invalid: where no node of the cluster is large enough.
        """
        self._check_nodes()
        attempts = [self._place(task, 0) for task in self.leases]
        while attempts:
            attempts = [left for one in attempts if (left := self._step(one))]
            self.monitor.look()
            time.sleep(POLL_S)

    @property
    def _bundle(self) -> dict[str, float]:
        """What a task takes of each node."""
        bundle = {"CPU": float(self.resources.threads * self.resources.processes_per_node)}
        if self.resources.gpus:
            bundle["GPU"] = float(self.resources.gpus_per_node)
        if self.resources.memory_gb:
            bundle["memory"] = self.resources.memory_gb * 1e9
        return bundle

    def _check_nodes(self) -> None:
        import ray

        names = {"CPU": "threads, processes", "GPU": "gpus", "memory": "memory_gb"}
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        alive = [one["Resources"] for one in nodes if one["Alive"]]
        for kind, needed in self._bundle.items():
            sizes = sorted((one.get(kind, 0.0) for one in alive), reverse=True)
            enough = [size for size in sizes if size >= needed]
            if len(enough) < self.resources.nodes:
                raise Invalid(
                    f"btx.toml, [machine] {names[kind]}",
                    found=f"a cluster whose nodes have {', '.join(f'{one:g}' for one in sizes)}",
                    expected=f"{self.resources.nodes} nodes with {needed:g} {kind} or more",
                    next="ask for less, or add nodes to the cluster",
                )

    def _place(self, task: Task, number: int) -> Attempt:
        """Ask for a place for every process of a task."""
        from ray.util import placement_group

        bundles = [self._bundle] * self.resources.nodes
        group = placement_group(bundles, strategy="STRICT_SPREAD")
        return Attempt(task, group, group.ready(), number)

    def _step(self, attempt: Attempt) -> Attempt | None:
        """Bring a task on; None when it has ended."""
        import ray

        if not attempt.actors:
            if ray.wait([attempt.placed], timeout=0)[0]:
                self._start(attempt)
            return attempt
        done, going = ray.wait(attempt.results, num_returns=len(attempt.results), timeout=0)
        failures = _failures(done)
        if going and not failures:
            return attempt
        if going:
            failures += _failures(ray.wait(going, num_returns=len(going), timeout=GRACE_S)[0])
        self._release(attempt)
        if any(one.died for one in failures) and attempt.number < RETRIES:
            logger.warning("%s lost a process and is tried again", attempt.task.label)
            return self._place(attempt.task, attempt.number + 1)
        self.monitor.ended(attempt.task.label, failures[0].text if failures else None)
        return None

    def _start(self, attempt: Attempt) -> None:
        """Start every process of a task in its place."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        resources = self.resources
        per_node = resources.processes_per_node
        for rank in range(resources.processes):
            place = PlacementGroupSchedulingStrategy(
                placement_group=attempt.group, placement_group_bundle_index=rank // per_node
            )
            options = {
                "num_cpus": resources.threads,
                "num_gpus": (resources.gpus or 0) / resources.processes,
                "scheduling_strategy": place,
            }
            attempt.actors.append(ray.remote(Process).options(**options).remote())
        first = not attempt.number
        if first:
            self.monitor.started(attempt.task.label)
        asked = [actor.address.remote() for actor in attempt.actors]
        try:
            places = ray.get(asked)
        except ray.exceptions.RayError:
            # What they say of themselves is looked at as if it were their result.
            attempt.results = asked
            return
        lease = self.leases[attempt.task]
        for rank, actor in enumerate(attempt.actors):
            variables = self._variables(places, rank)
            call = actor.run.remote(str(self.root), attempt.task, variables, lease)
            attempt.results.append(call)

    def _variables(self, places: Sequence[tuple[str, int, list[str]]], rank: int) -> dict[str, str]:
        """Return the variables of one process, as torch.distributed.run would set them."""
        per_node = self.resources.processes_per_node
        at = rank // per_node * per_node
        # Each process of a node sees all GPUs of its task there, in one order.
        devices = sorted({gpu for _, _, gpus in places[at : at + per_node] for gpu in gpus})
        variables = node.environment(self.resources, devices) | {WATCHED: "1"}
        if self.resources.processes == 1:
            return variables
        host, port, _ = places[0]
        return variables | {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.resources.processes),
            "LOCAL_RANK": str(rank % per_node),
            "LOCAL_WORLD_SIZE": str(per_node),
            "GROUP_RANK": str(rank // per_node),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }

    def _release(self, attempt: Attempt) -> None:
        """Kill the processes that a task still has, and let go of their places."""
        import ray
        from ray.util import remove_placement_group

        for actor in attempt.actors:
            ray.kill(actor)
        remove_placement_group(attempt.group)


@dataclass(frozen=True)
class Failure:
    """Why a process of a task ended.

    Attributes:
        text: the message.
        died: whether the process died, rather than that its stage failed.
    """

    text: str
    died: bool = False


def _failures(results: Sequence[Any]) -> list[Failure]:
    """Return why processes failed that have ended; nothing for those that ended well."""
    import ray

    died = (
        ray.exceptions.RayActorError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
    )
    failures = []
    for result in results:
        try:
            error: str | None = ray.get(result)
        except died as failure:
            failures.append(Failure(_text(failure), died=True))
        except Exception as failure:
            failures.append(Failure(_text(failure)))
        else:
            failures += [Failure(error)] if error else []
    return failures


def _text(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure).strip().splitlines()[-1]}"
