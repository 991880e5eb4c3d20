"""Killed at any moment, a registry is whole: all that was acknowledged is there, an audit is clean, the same work again completes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import Surroundings, audit
from registry.catalogue.store import Store

KILLS = int(os.environ.get("BTX_KILLS", "6"))  # a campaign: 200

WORK = """
import os, sys, signal
from pathlib import Path
from registry.catalogue.catalog import Catalog, FileFact
import registry.catalogue.models
root, start, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
from registry.catalogue.store import Store
catalog, store = Catalog(f"sqlite:///{root}/registry.db", actor="ada"), Store(root / "store")
for number in range(start, start + rounds):
    source = root / "incoming"
    source.unlink(missing_ok=True)
    source.write_bytes(number.to_bytes(4, "big") * 20_000)
    with store.holding():
        file = FileFact("weights", 80_000, store.put(source))
        data = catalog.register("data", "d", {"number": number}, version=number)
        expert = catalog.register("expert", "e", {"number": number}, files=[file], parents=[(data.ref, "trained_on")], version=number)
    snapshot = catalog.register("snapshot", "s", {"number": number}, parents=[(expert.ref, "member")], version=number)
    build = catalog.register("build", "", {"number": number}, files=[file], parents=[(snapshot.ref, "composed_from")], version=number)
    catalog.event("released", build.ref, {}, documents=[{"number": number}])
    catalog.withdraw(data.ref, "test")
    os.write(1, b"%d\\n" % number)
"""


def run(root: Path, start: int, rounds: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(root), str(start), str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_kill_at_any_moment_leaves_a_whole_registry(tmp_path: Path) -> None:
    chance = random.Random(1)
    done = 0
    interrupted = 0
    for _ in range(KILLS):
        process = run(tmp_path, done + 1, 1000)
        assert process.stdout
        done = int(process.stdout.readline())  # progress is proven before the kill
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        assert process.wait() == -signal.SIGKILL, process.stderr.read() if process.stderr else b""
        process.communicate()
        done = int(rest.split()[-1]) if rest.split() else done
        interrupted += check(tmp_path, done)
        finish(tmp_path, done + 1)
        done += 1
    print(f"{KILLS} kills, {interrupted} in the middle of a round, {done} rounds, none lost")


def check(root: Path, done: int) -> bool:
    """All that was acknowledged is there and clean; returns whether a round was left half done."""
    catalog, store = Catalog(f"sqlite:///{root}/registry.db", actor="ada"), Store(root / "store")
    for kind in ("data", "expert", "snapshot", "build"):
        assert [version.ref.version for version in catalog.list(kind)][:done] == list(
            range(1, done + 1)
        )
    for kind in ("data", "expert", "snapshot", "build"):
        newest = catalog.list(kind)[-1]
        findings = audit(catalog, newest.ref, Surroundings(store=store)).findings
        assert {finding.check for finding in findings} <= {"standing"}, findings
    half = catalog.next_version("data", "d") > done + 1
    catalog.close()
    return half


def finish(root: Path, number: int) -> None:
    """The same work again: what is there already is returned, and the rest is done."""
    process = run(root, number, 1)
    out, error = process.communicate()
    assert out.split() == [b"%d" % number], error
    catalog = Catalog(f"sqlite:///{root}/registry.db", actor="ada")
    assert catalog.status(f"build/{number}") == "tainted"
    assert not list((root / "store" / "tmp").glob("*/*"))
    catalog.close()
