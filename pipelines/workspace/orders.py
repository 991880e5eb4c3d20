"""What DVC's stages are told: `branches.yaml` for trainings, `snapshot.json` for a rebuild.

In:  typed orders.  Out: the two files, and the orders again.
These files are all that a stage may know; every folder in them is named with its digest.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from registry.errors import Damaged
from registry.records.base import JsonObject, Record, read_object
from registry.records.facts import BuildRecipe, FolderPath, TextReading
from registry.records.kinds import HeldOutRule

BRANCHES = "branches.yaml"
SNAPSHOT = "snapshot.json"


class FolderOrder(Record):
    """A registered version's folder.

    Attributes:
        ref: the version.
        path: its folder, relative to the workspace.
        digest: of its paths and their SHA-256.
        tensors: SHA-256 of every tensor, where the stage needs them.
        held_out: of a data version, by which rule it is divided; None: the oldest one.
        reading: of a data version, how its files are read; None: the oldest way.
    """

    ref: str
    path: FolderPath
    digest: str
    tensors: Mapping[str, str] | None = None
    held_out: HeldOutRule | None = None
    reading: TextReading | None = None


class MemberOrder(FolderOrder):
    """An expert that is mixed in.

    Attributes:
        name: its name, as the weight files know it.
        slot: where it stands.
        data: what it was trained on.
        shard: a file that an earlier build wrote of it, relative to the workspace.
    """

    name: str
    slot: int
    data: tuple[str, ...]
    shard: FolderPath | None = None


class GrownFrom(FolderOrder):
    """The build that tuning goes on from.

    Attributes:
        kept: which router rows are kept: (row now, row there).
    """

    kept: tuple[tuple[int, int], ...]


class BranchOrder(Record):
    """One training.

    Attributes:
        recipe: the settings as written.
        chosen: what they left open; None in an order of before, when a default was meant.
    """

    seed: FolderOrder
    data: FolderOrder
    general: tuple[FolderOrder, ...]
    recipe: JsonObject
    threads: int
    processes: int | None = None
    chosen: Mapping[str, int | float] | None = None


class BuildOrder(Record):
    """One rebuild.

    Attributes:
        ref: the snapshot.
        domains: data version to its folder, for everything that the members were trained on.
        general: what the seed was trained on.
        evaluation: data versions that are only measured on.
        previous: a folder with what the last mix of this seed wrote and no member can change.
        grown_from: the build that tuning goes on from.
        recipe: every key of every step, resolved.
        threads: of a stage; the order of float additions follows it.
        processes: that tune together; the order of float additions follows it.
    """

    ref: str
    seed: FolderOrder
    members: tuple[MemberOrder, ...]
    domains: Mapping[str, FolderOrder]
    general: tuple[FolderOrder, ...]
    evaluation: tuple[FolderOrder, ...] = ()
    previous: FolderPath | None
    grown_from: GrownFrom | None
    recipe: BuildRecipe
    threads: int
    processes: int = 1


def read_build(root: Path) -> BuildOrder:
    """Return the rebuild that the workspace is told to run."""
    path = root / SNAPSHOT
    return BuildOrder.from_json(read_object(path.read_bytes(), str(path)), str(path))


def build_text(order: BuildOrder) -> str:
    """Return the text of `snapshot.json`."""
    return json.dumps(order.to_json(), indent=1) + "\n"


def read_branches(root: Path) -> dict[str, BranchOrder]:
    """Return every training that the workspace was told to run, by expert."""
    path = root / BRANCHES
    try:
        branches = yaml.safe_load(path.read_text(encoding="utf-8"))["branches"]
        orders = {
            name: BranchOrder.from_json(order, f"{path}, {name}")
            for name, order in branches.items()
        }
    except (
        yaml.YAMLError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        RecursionError,
    ) as error:
        raise Damaged(
            str(path),
            found=f"{type(error).__name__}: {error}"[:160],
            expected="branches: {EXPERT: order, ...}, as btx train writes it",
            next="restore the file from git, or write `branches: {}` and train again",
        ) from None
    return orders


def branches_text(orders: Mapping[str, BranchOrder]) -> str:
    """Return the text of `branches.yaml`."""
    branches = {name: order.to_json() for name, order in orders.items()}
    return yaml.safe_dump({"branches": branches}, sort_keys=True)
