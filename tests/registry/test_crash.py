"""Killed at any moment, a registry is whole.

All that was acknowledged is there, an audit is clean, and the same work again completes.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, audit
from registry.catalogue.store import Store
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, SnapshotFacts
from registry.records.kinds import Kind

KILLS = int(os.environ.get("BTX_KILLS", "6"))  # a campaign: 200

WORK = """
import os, sys, signal
from pathlib import Path
from registry.catalogue.catalog import Catalog
from registry.records.events import Released
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, SnapshotFacts
from registry.records.version import FileFact
import registry.catalogue.models
root, start, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
from registry.catalogue.store import Store
catalog, store = Catalog(f"sqlite:///{root}/registry.db", actor="ada"), Store(root / "store")
for number in range(start, start + rounds):
    source = root / "incoming"
    source.unlink(missing_ok=True)
    source.write_bytes(number.to_bytes(4, "big") * 20_000)
    def facts(record):
        return record.from_json({"number": number}, "test")
    with store.holding():
        file = FileFact("weights", 80_000, store.put(source))
        data = catalog.register("d", facts(DataFacts), version=number)
        made = [(data.ref, "trained_on")]
        kept = {"files": [file], "parents": made}
        expert = catalog.register("e", facts(ExpertFacts), version=number, **kept)
    made = [(expert.ref, "member")]
    snapshot = catalog.register("s", facts(SnapshotFacts), parents=made, version=number)
    made = [(snapshot.ref, "composed_from")]
    build = catalog.register("", facts(BuildFacts), files=[file], parents=made, version=number)
    catalog.event(Released(), build.ref, documents=[{"number": number}])
    catalog.withdraw(data.ref, "test")
    os.write(1, b"%d\\n" % number)
"""


def run(root: Path, start: int, rounds: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WORK, str(root), str(start), str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
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
    """Check that all that was acknowledged is there; return whether a round was left half done."""
    catalog, store = Catalog(f"sqlite:///{root}/registry.db", actor="ada"), Store(root / "store")
    for kind in (DataFacts, ExpertFacts, SnapshotFacts, BuildFacts):
        versions = catalog.versions(kind)
        assert [one.ref.version for one in versions][:done] == list(range(1, done + 1))
        findings = audit(catalog, versions[-1].ref, AuditContext(store=store)).findings
        assert {finding.check for finding in findings} <= {"standing"}, findings
    half = catalog.next_version(Kind.DATA, "d") > done + 1
    catalog.close()
    return half


def finish(root: Path, number: int) -> None:
    """Do the same work again: what is there already is returned, and the rest is done."""
    process = run(root, number, 1)
    out, error = process.communicate()
    assert out.split() == [b"%d" % number], error
    catalog = Catalog(f"sqlite:///{root}/registry.db", actor="ada")
    assert catalog.status(f"build/{number}") == "tainted"
    assert not list((root / "store" / "tmp").glob("*/*"))
    catalog.close()
