"""Kills runs of several processes at random moments: `python killed_runs.py GROUND OUT KILLS SEED`.

The processes are forked from this one, which has imported what they need, so that a kill costs
seconds. Half of the kills come at a change of a file, in whichever process makes it, and half at
any moment; half end one process, whose partners are then ended as torchrun does it, and half all.
A run is started again, and perhaps killed again, until it ends. Prints a JSON object for each.
"""

import importlib.util
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sharded_runs
import torch
import torch.distributed as dist

HOOK = Path(__file__).parent / "pipelines/kill_hook/sitecustomize.py"
PATIENCE_S = 300


@dataclass(frozen=True)
class Run:
    """A run of `sharded_runs`, and the processes that compute it."""

    name: str
    processes: int = 2
    experts: int = 1


RUNS = (Run("anchored"), Run("shared"), Run("four-all", 4, 2))


@dataclass
class Life:
    """What became of one run: its kills, and what it had done and did again.

    Attributes:
        name: of the run.
        kills: how many it met.
        went_on: how often it was started again with steps behind it.
        lost: the most steps that a start computed again, beyond the one that was under way.
    """

    name: str
    kills: int = 0
    went_on: int = 0
    lost: int = 0
    steps: list[int] = field(default_factory=list)

    def count(self, started: "Start") -> None:
        """Add the steps of one start."""
        steps = [int(line) for line in started.reported.read_text().split()]
        if steps and self.steps:
            self.went_on += steps[0] > 1
            self.lost = max(self.lost, self.steps[-1] - steps[0])
        self.steps += steps


@dataclass(frozen=True)
class Start:
    """Several processes that compute a run, and how they are to be killed.

    Attributes:
        pids: of the processes; the first leads their group.
        counter: a file that grows by a byte with every change of a file.
        reported: a file with a line for every step.
    """

    pids: list[int]
    counter: Path
    reported: Path

    def wait(self, strike: Callable[[], Sequence[int]] = lambda: ()) -> list[int]:
        """Wait for all processes, or for the first that fails; end the others then.

        Args:
            strike: asked all the time which processes are to die now.

        Returns:
            Their statuses.
        """
        statuses: dict[int, int] = {}
        started = time.monotonic()
        while len(statuses) < len(self.pids) and not any(statuses.values()):
            if time.monotonic() - started > PATIENCE_S:
                os.killpg(self.pids[0], signal.SIGKILL)
                raise TimeoutError("they wait for each other")
            for pid in strike():
                os.kill(pid, signal.SIGKILL)
            for pid in set(self.pids) - statuses.keys():
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    statuses[pid] = status
            time.sleep(0.001)
        for pid in set(self.pids) - statuses.keys():
            os.kill(pid, signal.SIGTERM)
            statuses[pid] = os.waitpid(pid, 0)[1]
        return list(statuses.values())


@dataclass
class Strike:
    """Says once, a while after a change of a file, which processes are to die."""

    started: Start
    victims: Sequence[int]
    change: int
    later_s: float
    due: float = 0.0

    def __call__(self) -> Sequence[int]:
        counter = self.started.counter
        if not self.due and counter.exists() and counter.stat().st_size >= self.change:
            self.due = time.monotonic() + self.later_s
        if not self.due or time.monotonic() < self.due:
            return ()
        self.due = float("inf")
        return self.victims


def start(run: Run, ground: Path, out: Path, at: int = 0, whole: bool = False) -> Start:
    """Start the processes of a run, one or all of which die at a change of a file.

    Args:
        run: what they compute.
        ground: what `sharded_runs.prepare` made.
        out: where the result goes.
        at: the number of the change; 0: none.
        whole: whether all die.
    """
    counter, reported = out.with_suffix(".counter"), out.with_suffix(".steps")
    for file in (counter, reported):
        file.unlink(missing_ok=True)
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids: list[int] = []
    for rank in range(run.processes):
        pid = os.fork()
        if pid:
            os.setpgid(pid, pids[0] if pids else pid)
            pids.append(pid)
            continue
        os.setpgid(0, pids[0] if pids else 0)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(run.processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
            "BTX_EXPERT_PARALLEL": str(run.experts),
            "BTX_KILL_FIRST": str(os.getpgid(0) if whole else os.getpid()),
        }
        kill_hook().install({"root": f"{out}/", "counter": str(counter), "at": at, "whole": whole})
        compute(run, ground, out, reported)
    return Start(pids, counter, reported)


def compute(run: Run, ground: Path, out: Path, reported: Path) -> None:
    """Be one of the processes, to the end."""
    status = 1
    try:
        steps = os.open(reported, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sharded_runs.run(
            run.name, ground, out, on_step=lambda step: os.write(steps, b"%d\n" % step)
        )
        dist.barrier()
        status = 0
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
    finally:
        os._exit(status)


# Any: a module.
def kill_hook() -> Any:
    """Return the module that kills at a change of a file."""
    spec = importlib.util.spec_from_file_location("kill_hook", HOOK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_life(run: Run, ground: Path, out: Path, chance: random.Random, changes: int) -> Life:
    """Kill a run until one of its starts ends by itself."""
    life, most = Life(run.name), chance.randint(1, 3)
    while not (out / run.name).exists():
        at_change, whole = chance.random() < 0.5, chance.random() < 0.5
        moment = chance.randint(2, changes)
        if life.kills == most:
            statuses = (started := start(run, ground, out)).wait()
        elif at_change:
            statuses = (started := start(run, ground, out, moment, whole)).wait()
        else:
            started = start(run, ground, out)
            victims = started.pids if whole else [chance.choice(started.pids)]
            statuses = started.wait(Strike(started, victims, moment, chance.random() * 0.02))
        # Those that are left of a run are ended by another signal.
        killed = any(os.WTERMSIG(status) == signal.SIGKILL for status in statuses)
        assert killed or not any(statuses), out.with_suffix(".log").read_text()
        life.kills += killed
        life.count(started)
    return life


def main() -> None:
    ground, out, kills, seed = sys.argv[1:]
    torch.set_num_threads(1)
    for table in (sharded_runs.BRANCHES, sharded_runs.TUNINGS, sharded_runs.FOUR):
        table.update({name: replace(recipe, save_every=1) for name, recipe in table.items()})
    chance, base = random.Random(int(seed)), Path(out)
    base.mkdir(exist_ok=True)
    changes = {}
    for run in RUNS:
        whole = start(run, Path(ground), base / f"whole-{run.name}")
        assert not any(whole.wait()), (base / f"whole-{run.name}.log").read_text()
        changes[run] = whole.counter.stat().st_size
    done = 0
    while done < int(kills):
        run = chance.choice(RUNS)
        folder = base / f"{done:03}-{run.name}"
        life = one_life(run, Path(ground), folder, chance, changes[run])
        done += life.kills
        print(json.dumps({**asdict(life), "folder": str(folder)}), flush=True)


if __name__ == "__main__":
    main()
