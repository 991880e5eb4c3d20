"""The processes of one node that compute a stage together.

`pipelines.stages.node OPTIONS -- STAGE [BRANCH]` is `python -m torch.distributed.run`
that ends with its command and says in one line what failed.
In:  a stage, its resources, where its nodes find each other.  Out: the command for a node and its
environment; the exit status.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.stages.lifeline import end_with_command
from pipelines.stages.task import Task
from pipelines.workspace.diagnostics import show_diagnostics
from pipelines.workspace.interruption import INTERRUPTED
from pipelines.workspace.placement import Resources

START, WORKER = "pipelines.stages.start", "pipelines.stages.worker"
# Seconds until all nodes must have joined.
JOINED_WITHIN_S = 1800


@dataclass(frozen=True)
class Rendezvous:
    """Where the nodes of one stage find each other.

    Attributes:
        address: HOST:PORT; the node of this host answers there.
        job: what the nodes have in common and no other job has.
    """

    address: str
    job: str


def command(task: Task, resources: Resources, rendezvous: Rendezvous | None = None) -> list[str]:
    """Return the command that computes a stage on one node.

    Args:
        task: the stage.
        resources: of the stage.
        rendezvous: where its nodes find each other, if there are several.
    """
    if resources.processes == 1:
        return [sys.executable, "-m", START, WORKER, *task.arguments]
    options = ["--standalone"]
    if rendezvous:
        options = ["--nnodes", str(resources.nodes), "--rdzv-backend", "c10d"]
        options += ["--rdzv-endpoint", rendezvous.address, "--rdzv-id", rendezvous.job]
        options += ["--rdzv-conf", f"join_timeout={JOINED_WITHIN_S}"]
    options += ["--nproc-per-node", str(resources.processes_per_node)]
    return [sys.executable, "-m", START, "pipelines.stages.node", *options, "--", *task.arguments]


def environment(resources: Resources, devices: Sequence[str]) -> dict[str, str]:
    """Return the variables that tell the processes of a node what to compute on.

    Args:
        resources: of the stage.
        devices: the GPUs that the node's processes see; without any they compute on the CPU.
    """
    variables = {
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
        "BTX_EXPERT_PARALLEL": str(resources.expert_parallel),
        "BTX_RECOMPUTE": str(int(resources.recompute)),
    }
    if not devices:
        variables["OMP_NUM_THREADS"] = str(resources.threads)
        variables["ACCELERATE_USE_CPU"] = "true"
    return variables


def main() -> int:
    """Compute a stage with the processes of this node. Returns the exit status."""
    end_with_command()
    show_diagnostics()
    # Imported here: it takes a second.
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # torch.distributed.run says the same at length.
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    at = sys.argv.index("--")
    try:
        run.main([*sys.argv[1:at], "-m", START, WORKER, *sys.argv[at + 1 :]])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"process {rank}: {failure.message}", file=sys.stderr)
        return 1
    except (SignalException, KeyboardInterrupt):
        return INTERRUPTED
    return 0
