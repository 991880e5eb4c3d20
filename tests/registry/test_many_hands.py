"""Four processes on two clones and one server: random acts, and what must hold after each.

BTX_ACTS says how many acts, BTX_ACTS_SEED which ones.
"""

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import archive
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace
from registry.catalogue.audit_log import verify
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import row_findings
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, SeedFacts
from registry.records.version import Version

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[1] / "hands_at_work.py"
ACTS = int(os.environ.get("BTX_ACTS", "60"))
SETTINGS = """
[recipe.tune]
mode = "none"
[recipe.evaluate]
max_tokens = 200
"""
# Of a version that is whole, an audit may say these: where it stands, and who keeps the list.
ALLOWED = ("standing", "actors")
# How often each act is drawn.
DRAWN = {
    "data": 30,
    "expert": 6,
    "build": 4,
    "gone": 5,
    "gc": 8,
    "pull": 8,
    "backup": 6,
    "look": 8,
    "restart": 3,
}
Reply = Mapping[str, Any]


@dataclass
class Hand:
    """One process that works in one clone."""

    name: str
    root: Path
    url: str
    log: Path
    process: "subprocess.Popen[str]" = field(init=False)

    def __post_init__(self) -> None:
        environment = {
            **os.environ,
            "BTX_REGISTRY_URL": self.url,
            "BTX_ACTOR": self.name,
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), str(self.root)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def begin(self, act: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(act) + "\n")
        self.process.stdin.flush()

    def end(self) -> Reply:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended: {self.log.read_text()[-3000:]}"
        reply: Reply = json.loads(line)
        return reply


@dataclass
class World:
    """The clones, and what must hold of them.

    Attributes:
        clones: their roots.
        registry: the registry, as this process reads it.
        texts: of a data name, the texts that were registered, by reference.
        holders: of a reference, the clones that must hold its bytes.
        gone: what was withdrawn.
        head: the newest event when it was last looked at.
        heads: the heads of backups, by folder.
    """

    clones: tuple[Path, Path]
    registry: Catalog
    folder: Path
    draw: random.Random
    contents: dict[str, str] = field(default_factory=dict)
    holders: dict[str, set[Path]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    head: str = ""
    heads: dict[Path, str] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def versions(self) -> list[Version[Any]]:
        kinds = (DataFacts, SeedFacts, ExpertFacts, BuildFacts)
        return [version for kind in kinds for version in self.registry.versions(kind)]

    def act(self, kind: str, hand: Hand, checkpoint: Callable[[], Path]) -> dict[str, Any]:
        """Draw the particulars of an act."""
        draw, here = self.draw, hand.root
        number = draw.randrange(10**9)
        act: dict[str, Any] = {"act": kind}
        held = sorted(ref for ref, holders in self.holders.items() if here in holders)
        in_use = [ref for ref in held if self.registry.status(ref) not in ("withdrawn", "tainted")]
        if kind == "data":
            known = sorted(self.folder.glob("corpus-*"))
            again = draw.random() < 0.15 and known
            path = draw.choice(known) if again else self.folder / f"corpus-{number}"
            path.mkdir(exist_ok=True)
            if not again:
                lines = (f"Sentence {n} of {number} says {draw.random()}.\n" for n in range(40))
                (path / "a.txt").write_text("".join(lines))
            return act | {"name": draw.choice("abc"), "path": str(path)}
        if kind == "expert":
            of = [ref for ref in in_use if ref.startswith("data/math")]
            if not of:
                return {"act": "gc"}
            return act | {
                "name": draw.choice(("math", "x")),
                "path": str(checkpoint()),
                "data": of[0],
            }
        if kind == "build":
            names = sorted({ref[7:].split("@")[0] for ref in held if ref.startswith("expert/")})
            return act | {
                "without": draw.sample(names, draw.randrange(2)) if len(names) > 1 else []
            }
        if kind == "gone":
            mortal = [ref for ref in in_use if ref.startswith(("data/a", "data/b", "expert/x"))]
            return act | {"ref": draw.choice(mortal)} if mortal else {"act": "gc"}
        if kind == "pull":
            return act | {"other": str(next(one for one in self.clones if one != here))}
        if kind == "backup":
            return act | {"path": str(self.folder / f"backup-{number}")}
        if kind == "look":
            return act | {"ref": draw.choice(held)}
        return act

    def note(self, act: Mapping[str, Any], hand: Hand, reply: Reply, restarted: bool) -> None:
        """Take down what an act says that it did."""
        if "error" in reply:
            self.failed[f"{act['act']}: {reply['error']}"] += 1
            self.told.append(f"{act} {reply['text']}")
            # What a server that stops in the middle of a transaction does to it.
            allowed = {
                "data": ("Refused",),
                "expert": ("Refused",),
                "build": ("Conflict", "Refused"),
            }
            # A withdrawal, or another's commit, between the draw and the act.
            kinds = (
                *allowed.get(act["act"], ()),
                *(("Unavailable", "Conflict") if restarted else ()),
            )
            if act["act"] == "pull":
                kinds += ("BtxError",)
            if act["act"] == "build":
                kinds += ("NotFound",)
            assert reply["error"] in kinds, (act, reply)
            return
        done = reply["done"]
        ref = done["ref"] if act["act"] == "build" else done
        if act["act"] in ("data", "expert", "build"):
            version = self.registry.get(ref)
            assert self.contents.setdefault(ref, version.digest) == version.digest
            if act["act"] != "build" or done["status"] != "unchanged":
                # The same text may be another clone's version: it is the same bytes then.
                self.holders.setdefault(ref, {hand.root})
        elif act["act"] == "gone":
            self.gone.add(ref)
        elif act["act"] == "backup":
            self.heads[Path(act["path"])] = done
        elif act["act"] == "look":
            wrong = [one for one in done if one[0] not in ALLOWED and one[2] != "not on this disk"]
            assert wrong == [], (act, wrong)

    def check(self) -> None:
        """Compare rows, log, folders and bytes with the model."""
        versions = self.versions()
        refs = [str(version.ref) for version in versions]
        assert len(set(refs)) == len(refs)
        assert set(self.contents) <= set(refs)
        with self.registry.database.read() as rows:
            assert verify(rows, self.head or None)[1] == []
            assert row_findings(rows)[1] == []
        self.head = self.registry.head()
        for version in versions:
            ref = str(version.ref)
            if ref not in self.contents:
                # Its commit was not answered: the row is there, and so must be the bytes.
                self.contents[ref] = version.digest
                self.holders[ref] = {
                    one for one in self.clones if self.where(version, one).is_dir()
                }
                assert self.holders[ref], f"{ref} has a row and no bytes anywhere"
            assert version.digest == self.contents[ref]
            assert (self.registry.status(ref) == "withdrawn") == (ref in self.gone), ref
        for root in self.clones:
            here = Workspace.find(root)
            for path in [*root.glob("data/*/[0-9]*"), *root.glob("builds/[0-9]*")]:
                if path.is_dir():
                    number = path.name
                    ref = (
                        f"build/{number}"
                        if path.parent.name == "builds"
                        else (f"data/{path.parent.name}@{number}")
                    )
                    assert ref in self.contents, f"{path} has no row"
                    self.holders[ref].add(root)
            assert here.writer() is None

    def where(self, version: Version[Any], root: Path) -> Path:
        return Workspace.find(root).folder(version.ref)

    def check_bytes(self) -> None:
        """Every clone that must hold a version holds its registered bytes."""
        for version in self.versions():
            for root in self.holders[str(version.ref)]:
                folders.verify(self.where(version, root), version.files, f"{version.ref} in {root}")

    def check_backups(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every backup comes back with a head that is still in the log."""
        # Each into a registry of its own.
        monkeypatch.delenv("BTX_REGISTRY_URL")
        for number, (path, head) in enumerate(self.heads.items()):
            with self.registry.database.read() as rows:
                assert verify(rows, head)[1] == []
            target = scratch / f"{number}"
            (target / ".btx").mkdir(parents=True)
            (target / "btx.toml").write_text('[registry]\nurl = "sqlite:///.btx/registry.db"\n')
            assert archive.restore(Workspace.find(target), path).head == head


@pytest.fixture
def clones(
    story: Any, tmp_path: Path, postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> tuple[tuple[Path, Path], str]:
    """Two clones of the story with a common DVC remote, and the URL of their registry."""
    first, second = tmp_path / "a", tmp_path / "b"
    subprocess.run(["cp", "-a", str(story.root), str(first)], check=True)
    archive.dump(Workspace.find(first), tmp_path / "dump")
    monkeypatch.setenv("BTX_REGISTRY_URL", postgresql())
    archive.load(Workspace.find(first), tmp_path / "dump")
    (first / "btx.toml").write_text(SETTINGS)
    dvc = [sys.executable, "-m", "dvc"]
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    remote = str(tmp_path / "remote")
    for command in (
        [*dvc, "remote", "add", "-q", "-d", "common", remote],
        [*dvc, "push", "-q"],
        [*git, "add", "-A"],
        [*git, "commit", "-qm", "first"],
        ["git", "clone", "-q", str(first), str(second)],
    ):
        subprocess.run(command, cwd=first, check=True, capture_output=True)
    subprocess.run([*dvc, "pull", "-q"], cwd=second, check=True, capture_output=True)
    return (first, second), os.environ["BTX_REGISTRY_URL"]


def test_what_must_hold_holds_after_every_act(
    clones: tuple[tuple[Path, Path], str],
    story: Any,
    tmp_path: Path,
    postgresql_server: Any,
    checkpoints: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roots, url = clones
    draw = random.Random(f"hands {os.environ.get('BTX_ACTS_SEED', '1')}")
    (tmp_path / "corpora").mkdir()
    world = World(roots, Catalog(url, actor="model"), tmp_path / "corpora", draw)
    for version in world.versions():
        world.contents[str(version.ref)] = version.digest
        world.holders[str(version.ref)] = set(roots)
    hands = [
        Hand(f"hand{number}", roots[number % 2], url, tmp_path / f"hand{number}.log")
        for number in range(4)
    ]
    done, rounds = Counter[str](), 0
    while sum(done.values()) < ACTS:
        kinds = draw.choices(list(DRAWN), list(DRAWN.values()), k=draw.choice((1, 2, 4, 4)))
        restarting = "restart" in kinds
        acts = [
            (hand, world.act(kind, hand, checkpoints))
            for hand, kind in zip(draw.sample(hands, len(kinds)), kinds, strict=True)
            if kind != "restart"
        ]
        for hand, act in acts:
            hand.begin(act)
        if restarting:
            pause = threading.Event()
            pause.wait(draw.uniform(0, 2))
            postgresql_server.stop()
            pause.wait(draw.uniform(0, 2))
            postgresql_server.start()
            done["restart"] += 1
        for hand, act in acts:
            world.note(act, hand, hand.end(), restarting)
            done[act["act"]] += 1
        world.check()
        rounds += 1
        if rounds % 10 == 0:
            world.check_bytes()
            print(rounds, dict(done), dict(world.failed), flush=True)
    world.check_bytes()
    world.check_backups(tmp_path / "restored", monkeypatch)
    for hand in hands[:2]:
        hand.begin({"act": "look", "ref": ""})
        world.note({"act": "look"}, hand, hand.end(), False)
    for hand in hands:
        assert hand.process.stdin is not None
        hand.process.stdin.close()
        assert hand.process.wait() == 0
    print(
        f"{sum(done.values())} acts in {rounds} rounds: {dict(done)}; failed: {dict(world.failed)}"
    )


@pytest.fixture
def checkpoints(story: Any, tmp_path: Path) -> Callable[[], Path]:
    """Return a function that makes another version of expert math."""
    import shutil

    from safetensors.torch import load_file, save_file

    def make() -> Path:
        number = len(list(tmp_path.glob("checkpoint-*")))
        folder = tmp_path / f"checkpoint-{number}"
        shutil.copytree(story.root / "experts/math/1", folder, copy_function=shutil.copyfile)
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in tensors if "down_proj" in name)
        tensors[name] = tensors[name] * (0.999 - number / 1000)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make
