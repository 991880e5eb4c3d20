"""An adversary at random: whatever is done in whatever order, nothing leaves without being named.

A small model says what must hold of every release: its corpus was licensed, or waived for this very
content by somebody else; it was not withdrawn; somebody else approved it. Where one of these is not
so, the release was refused, the build is marked, or an audit names it.
"""

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import collect_evidence
from registry.errors import NotFound, Refused
from registry.governance import adoption, gaps, gate, people
from registry.governance.policies import Policy, load, to_document
from registry.records.events import Act, Acted, Judged, Released, Withdrawn
from registry.records.evidence import Evidence
from registry.records.facts import BuildFacts
from registry.records.kinds import UNUSABLE, Gate, Kind, Outcome

POLICIES = Path(__file__).parents[2] / "policies"
FREE, NC = "CC0-1.0", "CC-BY-NC-4.0"
PEOPLE = ("ann", "ben", "ida", "mal")
ACTS = 14


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
    approved: set[str] = field(default_factory=set)
    built_from: dict[str, str] = field(default_factory=dict)

    def act(self) -> None:
        """Do one act, by somebody, honestly or not."""
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
            files = [self.governed.file_of(f"{name} {license_id}")]
            version = self.governed.as_("ann").register(name, facts, files=files)
            if (license_id == NC and not passed) or (
                license_id == NC and not self.is_waived(str(version.ref), about.content)
            ):
                self.bad.add(str(version.ref))

    def is_waived(self, ref: str, content: str | None) -> bool:
        held = people.waivers(self.governed.as_("ann"), ref, "ann")
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
            people.waive(catalog, granted, signer, until=until, why="w")
            assert by == "ben", "only ben may waive"

    def signer(self, name: str) -> people.Signer:
        return people.signer(name, self.governed.keys / f"{name}.pem")

    def build(self) -> None:
        """Train on a corpus and build; what the gates refuse is registered all the same."""
        data = self.governed.as_("ann").versions(self.governed.data_facts().__class__)
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
            act = Act(
                act="approved", subject=ref, digest=build.digest, actor="ben", at=people.now()
            )
            self.governed.as_("ben").event(Acted(act=act), ref)
            return
        try:
            people.approve(self.governed.as_(by), ref, self.signer(by))
        except Refused:
            assert by != "ben"
        else:
            assert by == "ben"
            self.approved.add(ref)

    def retract(self) -> None:
        """Take an approval back."""
        events = people.standing_acts(self.governed.as_("ann"), "approved")
        if events:
            event = self.chance.choice(events)
            people.retract(self.governed.as_("ben"), event, self.signer("ben"), "again")
            self.approved.discard(event.subject)

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
        body = Released(verdict="allowed")
        self.key("ann")
        envelope = people.vouched(catalog, "released", ref, build.digest)
        catalog.event(body.model_copy(update={"envelope": envelope}), ref)

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
        envelope = people.vouched(catalog, "verdict", ref, refused.evidence)
        body = body.model_copy(update={"envelope": envelope})
        catalog.event(body, ref, kind="verdict", documents=[to_document(kept), evidence])

    def withdraw(self) -> None:
        """Withdraw a corpus, by a person with a role, or by an event that nobody signed."""
        data = self.governed.as_("ann").versions(self.governed.data_facts().__class__)
        if not data:
            return
        ref, by = str(self.chance.choice(list(data)).ref), self.chance.choice(PEOPLE)
        if self.chance.random() < 0.2:
            self.dishonest.append("wrote a withdrawal")
            self.governed.as_(by).event(Withdrawn(why="w"), ref)
            return
        self.key(by)
        try:
            people.withdraw(self.governed.as_(by), ref, "consent ended")
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
        pem = people.public_pem(self.signer("mal"))
        act = Act(
            act="actor",
            subject="actor/mal",
            roles=("approver", "auditor"),
            public_key=pem,
            at=people.now(),
        )
        self.governed.as_("mal").event(Acted(act=act), "actor/mal", kind="actor")

    def check(self) -> None:
        """Every release is as the model says, or somebody is told."""
        catalog = self.governed.as_("ann")
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

    def was_approved(self, ref: str) -> bool:
        """Whether ben's signed approval stood before the last release."""
        catalog = self.governed.as_("ann")
        last = catalog.events(ref, "released")[-1].seq
        roll = people.Roll.read(catalog)
        return any(
            event.seq < last and roll.act_of(event) for event in catalog.events(ref, "approved")
        )


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
    ida = people.signer("ida", governed.keys / "ida.pem")
    adoption.adopt(governed.as_("ida"), sets[0], ida)
    governed.person("ann", "registrar", by="ida")
    governed.person("ben", "approver", by="ida")
    people.new_key("mal", governed.keys / "mal.pem")
    key("ann")
    governed.seed()
    world = World(governed, random.Random(number), key, *sets)
    for _ in range(ACTS):
        world.act()
    world.check()
    return world


LONG_RUN = [pytest.param(number, marks=pytest.mark.slow) for number in range(6, 2000)]


@pytest.mark.parametrize("number", [*range(6), *LONG_RUN])
def test_nothing_leaves_unlicensed_unapproved_or_withdrawn_without_being_named(
    governed: Any, number: int, sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(governed, number, sets, monkeypatch)
