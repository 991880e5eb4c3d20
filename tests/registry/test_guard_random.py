"""An adversary at random: whatever is done in whatever order, nothing leaves without being named.

A small model says what must hold of every release: its corpus was licensed, or waived for this very
content by somebody else; its time was not over; it was not withdrawn, and its bytes are whole;
somebody else approved the build. Where one of these is not so, the release was refused, the build
is marked, or an audit names it. The adversary has the commands, the database, the files, the
policies, the clock, and may sign with keys that are not theirs, or log what others signed again.
"""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest

from btx_core.problems import BtxError
from pipelines.jobs import collect_evidence
from registry.catalogue import checks
from registry.catalogue.catalog import Catalog
from registry.catalogue.store import Store
from registry.errors import NotFound, Refused
from registry.governance import acts, adoption, approving, contesting, gaps, gate, keys, people
from registry.governance.policies import Policy, to_document
from registry.governance.policy_files import load
from registry.records.events import Act, Acted, Judged, Noted, Released, Withdrawn
from registry.records.evidence import Evidence
from registry.records.facts import BuildFacts, DataFacts
from registry.records.kinds import UNUSABLE, Gate, Kind, Outcome

POLICIES = Path(__file__).parents[2] / "policies"
FREE, NC = "CC0-1.0", "CC-BY-NC-4.0"
PEOPLE = ("ann", "ben", "ida", "mal")
ACTS = 18


@dataclass
class World:
    """A governed registry, what the adversary did in it, and what is true of its corpora."""

    governed: Any
    chance: random.Random
    key: Callable[[str], None]
    shipped: list[Policy]
    loosened: list[Policy]
    dishonest: list[str] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)  # corpora that nobody may use
    damaged: set[str] = field(default_factory=set)  # corpora whose bytes are others
    edited: str = ""  # the version whose row was edited; nothing is done after that
    # Approvals by build: the number of the event, and of the one that took it back.
    approved: dict[str, dict[int, float]] = field(default_factory=dict)
    built_from: dict[str, str] = field(default_factory=dict)

    def act(self) -> None:
        """Do one act, by somebody, honestly or not."""
        if not self.edited:
            getattr(self, self.chance.choice(KINDS))()

    def decide(self, gate_name: Gate, about: Evidence, *, loosened: bool = False) -> bool:
        """Ask a gate as ann, who holds her key, by the policies that lie there."""
        self.key("ann")
        question = self.governed.question(gate_name, about)
        policies = self.loosened if loosened else self.shipped
        asked = gate.Question(**{**vars(question), "policies": policies})
        return gate.decide(self.governed.as_("ann"), asked).outcome != "refused"

    def register(self) -> None:
        """Register a corpus; one that is refused may be forced in past the gate."""
        name = self.chance.choice(("law", "novels"))
        license_id = self.chance.choice((FREE, NC))
        loosened, forced = self.chance.random() < 0.3, self.chance.random() < 0.3
        about = self.governed.data_candidate(name, f"{name} {license_id}", license=license_id)
        passed = self.decide(Gate.REGISTER, about, loosened=loosened)
        if not passed and forced:
            self.dishonest.append("forced a corpus in")
        if passed or forced:
            facts = self.governed.data_facts(domain=name, license=license_id)
            version = self.lay_down(name, f"{name} {license_id}", facts)
            if (license_id == NC and not passed) or (
                license_id == NC and not self.is_waived(str(version.ref), about.content)
            ):
                self.bad.add(str(version.ref))

    def lay_down(self, name: str, text: str, facts: Any) -> Any:
        """Register a corpus, with its file in a folder; the same again is the version it was."""
        files = [self.governed.file_of(text)]
        version = self.governed.as_("ann").register(name, facts, files=files)
        folder = self.folder(version.ref)
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / files[0].path).write_text(text)
        return version

    def folder(self, ref: Any) -> Path:
        return Path(self.governed.keys.parent / "data" / ref.name / str(ref.version))

    def back_date(self) -> None:
        """Register a corpus whose time is over, as of a day on which it was not."""
        about = self.governed.data_candidate("law", "law FREE", retain_until="2020-12-31")
        assert not self.decide(Gate.REGISTER, about)
        question = self.governed.question(Gate.REGISTER, about, datetime(2020, 6, 1, tzinfo=UTC))
        gate.decide(self.governed.as_("ann"), question)
        facts = self.governed.data_facts(domain="law", retain_until="2020-12-31")
        self.bad.add(str(self.lay_down("law", "law FREE", facts).ref))
        self.dishonest.append("asked as of another day")

    def turn_clock_back(self) -> None:
        """Log something at a time before the newest event."""
        past = datetime(2020, 1, 1, tzinfo=UTC)
        catalog = Catalog(self.governed.url, actor="mal", clock=lambda: past)
        with pytest.raises(BtxError, match="event"):
            catalog.event(Noted(text="n"), "seed/base@1")
        catalog.close()

    def damage(self) -> None:
        """Change a byte of a corpus."""
        data = list(self.governed.as_("ann").versions(DataFacts))
        if data:
            version = self.chance.choice(data)
            path = self.folder(version.ref) / version.files[0].path
            path.write_bytes(b"\0" + path.read_bytes()[1:])
            self.damaged.add(str(version.ref))

    def edit_row(self) -> None:
        """Write another licence into a row, past the triggers."""
        data = list(self.governed.as_("ann").versions(DataFacts))
        if not data or self.chance.random() < 0.7:
            return
        version = self.chance.choice(data)
        with sqlite3.connect(self.governed.url.removeprefix("sqlite:///")) as connection:
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for (name,) in connection.execute(triggers).fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            change = "UPDATE version SET facts = replace(facts, ?, ?) WHERE name = ? AND number = ?"
            ref, stated = version.ref, str(version.facts.license)
            connection.execute(change, (stated, "MIT", ref.name, ref.version))
        self.edited = str(version.ref)

    def replay(self) -> None:
        """Log again what somebody signed, under the name of who signed it."""
        signed = [
            event
            for event in self.governed.as_("ann").events()
            if event.kind in ("approved", "waived", "retracted", "actor")
            and people.stated(event) is not None
            and event.read(Acted).envelope is not None
        ]
        if signed:
            event = self.chance.choice(signed)
            body = event.read(Acted)
            catalog = self.governed.as_(event.actor)
            catalog.event(body, event.subject, kind=event.kind)
            self.dishonest.append(f"logged event {event.seq} again")

    def lie(self) -> None:
        """Release by a verdict on evidence that names an approval which nobody gave."""
        if not self.built_from:
            return
        ref, catalog = self.chance.choice(list(self.built_from)), self.governed.as_("ann")
        about = collect_evidence.of_build(catalog, catalog.get(ref, BuildFacts), None)
        completed = gate._completed
        approval = {"actor": "ben", "at": acts.now(), "roles": ["approver"]}
        gate._completed = lambda *args: (
            {**completed(*args)[0], "approvals": [approval]},
            completed(*args)[1],
        )
        try:
            passed = self.decide(Gate.RELEASE, about)
        finally:
            gate._completed = completed
        if passed:
            self.dishonest.append("judged by an approval that nobody gave")
            self.log_release(ref)

    def sign_with_own_key(self) -> None:
        """Approve in another's name with a key of one's own."""
        if self.built_from:
            ref = self.chance.choice(list(self.built_from))
            as_ben = keys.Signer("ben", self.signer("mal").key)
            with pytest.raises(Refused):
                approving.approve(self.governed.as_("ben"), ref, as_ben)

    def is_waived(self, ref: str, content: str | None) -> bool:
        held = approving.waivers(self.governed.as_("ann"), ref, "ann")
        return any(one.content == content and one.actor == "ben" for one in held)

    def waive(self) -> None:
        """Waive the licence rule for the corpus that was refused last, by whoever dares."""
        name, by = self.chance.choice(("law", "novels")), self.chance.choice(PEOPLE)
        catalog = self.governed.as_(by)
        ref = f"data/{name}@{self.governed.as_('ann').next_version(Kind.DATA, name)}"
        signer = self.signer(by)
        until = (self.governed.at + timedelta(days=10)).date().isoformat()
        with suppress(NotFound, Refused):
            granted = gate.grant(catalog, "licence/allowed", ref)
            approving.waive(catalog, granted, signer, until=until, why="w")
            assert by == "ben", "only ben may waive"

    def signer(self, name: str) -> keys.Signer:
        return keys.signer(name, self.governed.keys / f"{name}.pem")

    def build(self) -> None:
        """Train on a corpus and build; what the gates refuse is registered all the same."""
        data = self.governed.as_("ann").versions(DataFacts)
        if not data:
            return
        chosen = self.chance.choice(list(data))
        self.key("ann")
        try:
            expert = self.governed.expert(chosen, f"e{len(self.built_from)}")
            build = self.governed.build(expert)
        except Refused:
            # The catalogue itself takes nothing that is made from what was withdrawn.
            return
        self.built_from[str(build.ref)] = str(chosen.ref)
        catalog = self.governed.as_("ann")
        if str(chosen.ref) in self.bad:
            self.dishonest.append("built from what was refused")
        if any(
            gate.verdicts(catalog, str(one.ref))[-1].kind == "refused" for one in (expert, build)
        ):
            self.dishonest.append("registered what its own gate refused")

    def approve(self) -> None:
        """Approve a build, by somebody who may or may not; or write an approval unsigned."""
        if not self.built_from:
            return
        ref, by = self.chance.choice(list(self.built_from)), self.chance.choice(PEOPLE)
        if self.chance.random() < 0.3:
            self.dishonest.append("wrote an approval in ben's name")
            build = self.governed.as_("ann").get(ref)
            act = Act(act="approved", subject=ref, digest=build.digest, actor="ben", at=acts.now())
            self.governed.as_("ben").event(Acted(act=act), ref)
            return
        try:
            event = approving.approve(self.governed.as_(by), ref, self.signer(by))
        except Refused:
            assert by != "ben"
        else:
            assert by == "ben"
            self.approved.setdefault(ref, {})[event.seq] = inf

    def retract(self) -> None:
        """Take an approval back."""
        events = approving.standing_acts(self.governed.as_("ann"), "approved")
        if events:
            event = self.chance.choice(events)
            taken_back = approving.retract(
                self.governed.as_("ben"), event, self.signer("ben"), "again"
            )
            self.approved[event.subject][event.seq] = taken_back.seq

    def release(self) -> None:
        """Release a build, by the gate or past it, or by a verdict that is forged."""
        if not self.built_from:
            return
        ref = self.chance.choice(list(self.built_from))
        catalog = self.governed.as_("ann")
        build = catalog.get(ref, BuildFacts)
        about = collect_evidence.of_build(catalog, build, None)
        passed = self.decide(Gate.RELEASE, about, loosened=self.chance.random() < 0.3)
        way = self.chance.choice(("honest", "honest", "forced", "forged"))
        if not passed and way == "honest":
            return
        if not passed:
            self.dishonest.append(f"released past the gate, {way}")
        if not passed and way == "forged":
            self.forge_verdict(ref)
        self.log_release(ref)

    def log_release(self, ref: str) -> None:
        catalog = self.governed.as_("ann")
        self.key("ann")
        envelope = acts.vouched(catalog, "released", ref, catalog.get(ref).digest)
        catalog.event(Released(verdict="allowed", envelope=envelope), ref)

    def forge_verdict(self, ref: str) -> None:
        """Write a verdict that allows: the refusal's own words, policies that say less, signed."""
        catalog = self.governed.as_("ann")
        refused = gate.verdicts(catalog, ref, "release")[-1].read(Judged)
        kept = self.chance.choice((self.shipped[:3], self.shipped, self.loosened))
        evidence = catalog.document(refused.evidence)
        rules = dict.fromkeys(refused.rules, "allowed")
        body = refused.model_copy(
            update={"outcome": Outcome.ALLOWED, "rules": rules, "reasons": ()}
        )
        self.key("ann")
        envelope = acts.vouched(catalog, "verdict", ref, refused.evidence)
        body = body.model_copy(update={"envelope": envelope})
        catalog.event(body, ref, kind="verdict", documents=[to_document(kept), evidence])

    def withdraw(self) -> None:
        """Withdraw a corpus, by a person with a role, or by an event that nobody signed."""
        data = self.governed.as_("ann").versions(DataFacts)
        if not data:
            return
        ref, by = str(self.chance.choice(list(data)).ref), self.chance.choice(PEOPLE)
        if self.chance.random() < 0.2:
            self.dishonest.append("wrote a withdrawal")
            self.governed.as_(by).event(Withdrawn(why="w"), ref)
            return
        self.key(by)
        try:
            contesting.withdraw(self.governed.as_(by), ref, "consent ended")
        except Refused:
            assert by == "mal"

    def adopt(self) -> None:
        """Adopt the loosened policies: refused to all but the auditor, who does not."""
        by = self.chance.choice(("ann", "ben", "mal"))
        with pytest.raises(Refused):
            adoption.adopt(self.governed.as_(by), self.loosened, self.signer(by))

    def join(self) -> None:
        """Join the list of actors by an event that nobody signed."""
        self.dishonest.append("joined the list")
        pem = keys.public_pem(self.signer("mal"))
        act = Act(
            act="actor",
            subject="actor/mal",
            roles=("approver", "auditor"),
            public_key=pem,
            at=acts.now(),
        )
        self.governed.as_("mal").event(Acted(act=act), "actor/mal", kind="actor")

    def check(self) -> None:
        """Every release is as the model says, or somebody is told."""
        catalog = self.governed.as_("ann")
        if self.edited:
            with catalog.database.read() as rows:
                named = [one.subject for one in checks.row_findings(rows)[1]]
            assert any(subject.startswith(self.edited) for subject in named)
            return
        self.check_bytes()
        unsigned = gaps.unsigned(catalog)[1]
        if not self.dishonest:
            assert unsigned == []
        for ref, data in self.built_from.items():
            found = gaps.ungated(catalog, ref)
            released = bool(catalog.events(ref, "released"))
            if not self.dishonest and str(catalog.status(ref)) not in UNUSABLE:
                assert found == [], (ref, found)
            if not released:
                continue
            told = bool(found) or catalog.status(ref) in UNUSABLE
            wrong = data in self.bad or not self.was_approved(ref)
            assert told or not wrong, (ref, data, self.dishonest)

    def check_bytes(self) -> None:
        """Every corpus whose bytes are others is named, and no other one is."""
        catalog = self.governed.as_("ann")
        folders = {one.ref: self.folder(one.ref) for one in catalog.versions(DataFacts)}
        store = Store(self.governed.keys.parent / "store")
        context = checks.AuditContext(store=store, folders=folders, stored=frozenset())
        found = checks.audit(catalog, None, context).findings
        named = {one.subject.split(",")[0] for one in found if one.check == "files"}
        assert named == self.damaged

    def was_approved(self, ref: str) -> bool:
        """Whether an approval that ben gave stood at the last release."""
        last = self.governed.as_("ann").events(ref, "released")[-1].seq
        given = self.approved.get(ref, {})
        return any(number < last < taken_back for number, taken_back in given.items())


KINDS = (
    "register",
    "register",
    "waive",
    "build",
    "build",
    "approve",
    "approve",
    "release",
    "release",
    "retract",
    "withdraw",
    "adopt",
    "join",
    "back_date",
    "turn_clock_back",
    "damage",
    "edit_row",
    "replay",
    "lie",
    "sign_with_own_key",
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Policy], list[Policy]]:
    """The shipped policies, and the same with a licence more and no second person."""
    folder = tmp_path_factory.mktemp("sets") / "policies"
    shutil.copytree(POLICIES, folder)
    licence = folder / "licence.yaml"
    licence.write_text(licence.read_text().replace("    - 0BSD\n", f"    - 0BSD\n    - {NC}\n"))
    (folder / "release.yaml").unlink()
    return load(POLICIES), load(folder)


def run(governed: Any, number: int, sets: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    """Play one sequence of random acts, and check what is left."""

    def key(name: str) -> None:
        monkeypatch.setenv("BTX_KEY_FILE", str(governed.keys / f"{name}.pem"))

    governed.person("ida", "auditor")
    ida = keys.signer("ida", governed.keys / "ida.pem")
    adoption.adopt(governed.as_("ida"), sets[0], ida)
    governed.person("ann", "registrar", by="ida")
    governed.person("ben", "approver", by="ida")
    keys.new_key("mal", governed.keys / "mal.pem")
    key("ann")
    governed.seed()
    world = World(governed, random.Random(number), key, *sets)
    for _ in range(ACTS):
        world.act()
    world.check()
    return world


# BTX_SEQUENCES: how many the slow suite plays; 2000 take some hours.
SEQUENCES = int(os.environ.get("BTX_SEQUENCES", "100"))
LONG_RUN = [pytest.param(number, marks=pytest.mark.slow) for number in range(6, SEQUENCES)]


@pytest.mark.parametrize("number", [*range(6), *LONG_RUN])
def test_nothing_leaves_unlicensed_unapproved_or_withdrawn_without_being_named(
    governed: Any, number: int, sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(governed, number, sets, monkeypatch)
