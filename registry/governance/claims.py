"""Compare what a verdict was given by with what the log and the rows said when it was given.

In:  a verdict's event, the evidence that is kept with it.
Out: the first place where the evidence says something else.
Judging a verdict again agrees with whatever its writer put into the evidence. So what governance
knows itself (who asks, approvals, waivers, own facts), and what is registered of the data and
members that the evidence names, is read again, as it was before that event.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property

# Any: evidence as it is kept, of this or an older version of the program.
from typing import Any

from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.governance import adoption, approving, people, stating
from registry.governance.as_of import AsOf
from registry.governance.claims_on_parts import (
    PartClaims,
    data_lines,
    differences,
    inherited_by,
    said,
    version_of,
)
from registry.governance.policies import Waiver, moment
from registry.records.base import JsonObject
from registry.records.events import Judged, Released
from registry.records.evidence import DataLine, result_lines
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    DataStatement,
    ExpertFacts,
    Facts,
    SeedFacts,
)
from registry.records.kinds import Outcome
from registry.records.own_facts import OwnFact, plain
from registry.records.results import comparable
from registry.records.version import Event, Version

# A verdict is given a moment before it is logged.
LONGEST_TO_LOG = timedelta(hours=1)
# What figures say of the release before.
OF_RELEASE_BEFORE = ("previous_bits_per_byte", "previous_factor_low", "previous_factor_high")
# What is stated of a data version, and shown to gates.
OF_DATA = sorted(DataLine.model_fields.keys() & DataStatement.model_fields.keys())


@dataclass(frozen=True)
class Claims:
    """The log, read once for many verdicts."""

    catalog: Catalog

    def contradiction(self, event: Event, evidence: JsonObject) -> str | None:
        """Say where a verdict rests on something else than the log and the rows; else None.

        Verdicts from before policies were adopted were given by older rules, and are passed over.
        """
        if self._start is None or event.seq < self._start:
            return None
        version = self._registered(event)
        looks: Sequence[Callable[[], Iterable[str]]] = (
            lambda: _time(event),
            lambda: self._asker(event, evidence),
            lambda: self._build(event, evidence, version),
            lambda: self._figures(event, evidence, version),
            lambda: self._members(event, evidence),
            lambda: self._data(event, evidence),
            lambda: PartClaims(self.catalog, self._then).contradictions(event, evidence),
            lambda: self._own(event, evidence, version),
        )
        return next((found for look in looks for found in look()), None)

    def lapsed(self, event: Event, act: Event, evidence: JsonObject) -> str | None:
        """Say what a verdict rested on and did not hold any more when it was acted on; else None.

        Args:
            event: the verdict's.
            act: the release or export.
            evidence: of the verdict.
        """
        if self._start is None or event.seq < self._start:
            return None
        if self._then.was_out_of_use(act.subject, act.seq):
            return f"{act.kind} while it was out of use"
        by_then = replace(event, seq=act.seq)
        version = self._registered(by_then)
        parts = PartClaims(self.catalog, self._then)
        looks: Sequence[Callable[[], Iterable[str]]] = (
            lambda: _kept_back(event, act),
            lambda: self._waived(event, act, evidence),
            lambda: self._approvals(by_then, version, evidence.get("approvals", ())),
            lambda: parts.lapsed(by_then, evidence),
        )
        return next((found for look in looks for found in look()), None)

    def misnamed(self, event: Event, version: Version[Facts]) -> str | None:
        """Say that a version was registered in the name of somebody else than asked its gate.

        A registration carries no signature of its own, and nobody approves what they registered.

        Args:
            event: the verdict that let it in.
            version: what was registered.
        """
        if self._start is None or event.seq < self._start or not self._roll.closed(event.seq):
            return None
        if event.actor == version.actor:
            return None
        return f"registered by {version.actor}, where {event.actor} asked the gate"

    def _waived(self, event: Event, act: Event, evidence: JsonObject) -> Iterator[str]:
        """Look for rules that the verdict waived by what was taken back before the act."""
        body = event.read(Judged)
        acts = approving.standing_acts(self.catalog, "waived", event.subject, act.seq)
        standing = {one.digest for one in acts}
        for rule, outcome in body.rules.items():
            granted = [one for one in body.waivers if one.rule == rule and one.id in standing]
            waivers = [Waiver(**vars(one)) for one in granted]
            if outcome == Outcome.WAIVED and all(one.mismatch(evidence) for one in waivers):
                yield f"judged on a waiver of {rule} for {event.subject} that did not hold"

    @cached_property
    def _start(self) -> int | None:
        return adoption.first(self.catalog)

    @cached_property
    def _then(self) -> AsOf:
        return AsOf(self.catalog)

    @cached_property
    def _roll(self) -> people.Roll:
        return people.Roll.read(self.catalog)

    @cached_property
    def _statements(self) -> stating.Statements:
        return stating.Statements.read(self.catalog)

    def _registered(self, event: Event) -> Version[Facts] | None:
        """Return the subject, where it was registered by then."""
        logged = self.catalog.events(event.subject, "registered")
        if not logged or logged[0].seq > event.seq:
            return None
        return self.catalog.get(event.subject)

    def _asker(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        told = evidence.get("actor")
        if not isinstance(told, Mapping):
            return
        person = self._roll.before(event.seq).get(event.actor)
        actual = {
            "name": event.actor,
            "roll": "closed" if self._roll.closed(event.seq) else "open",
            "roles": sorted(person.roles) if person else [],
        }
        for name, value in actual.items():
            stated = told.get(name)
            claimed = sorted(stated) if isinstance(stated, list) else stated
            if claimed != value:
                yield said(f"{name} {claimed!r} of who asked", value)

    def _build(
        self, event: Event, evidence: JsonObject, version: Version[Facts] | None
    ) -> Iterator[str]:
        if evidence.get("kind") != "build":
            return
        registrar = version.actor if version else event.actor
        if evidence.get("registrar") != registrar:
            yield said(f"registrar {evidence.get('registrar')!r}", registrar)
        if version is not None and isinstance(version.facts, BuildFacts):
            line = version.facts.line
            if evidence.get("line", line) != line:
                yield said(f"product line {evidence['line']!r}", line)
            if evidence.get("registered_at") is not None:
                actual = {"registered_at": version.registered_at}
                yield from differences(event.subject, evidence, actual)
        yield from self._approvals(event, version, evidence.get("approvals", ()))
        own = [one for one in self._then.released(event.seq) if one.subject == event.subject]
        if evidence.get("status") == "released" and not own:
            yield "judged as released, which it was not by then"
        if evidence.get("released_at") is not None:
            last = own[-1].at if own else None
            yield from differences(event.subject, evidence, {"released_at": last})

    def _figures(
        self, event: Event, evidence: JsonObject, version: Version[Facts] | None
    ) -> Iterator[str]:
        """Compare what is told of the release before, and of when the text came in."""
        if version is None or not isinstance(version.facts, BuildFacts):
            return
        build = version.of(BuildFacts)
        own = self.catalog.results(build)
        # Older evidence names no release: it is compared with the last of any product line.
        of_line = "compared_with" in evidence
        before = self._then.last_release(build, event.seq, of_line=of_line)
        earlier = self.catalog.results(before) if before else ()
        same = comparable(earlier, own)
        lines = {line.data: line for line in result_lines(own, same)}
        for told in evidence.get("results") or ():
            line = lines.get(str(told.get("data")))
            if line is not None:
                actual = {name: getattr(line, name) for name in OF_RELEASE_BEFORE}
                yield from differences(line.data, told, actual)
            yield from self._came_in(told)
        gone = sorted({one.data for one in earlier} - same.keys())
        if evidence.get("results") is not None:
            compared_with = str(before.ref) if before else None
            actual = {"compared_with": compared_with, "no_longer_measured": gone}
            yield from differences(event.subject, evidence, actual)

    def _came_in(self, told: Mapping[str, Any]) -> Iterator[str]:
        data = version_of(self.catalog, told.get("data"))
        if data is not None and told.get("data_registered_at") is not None:
            yield from differences(str(data.ref), told, {"data_registered_at": data.registered_at})

    def _approvals(
        self, event: Event, version: Version[Facts] | None, claimed: Iterable[Mapping[str, Any]]
    ) -> Iterator[str]:
        lines = approving.approvals(self.catalog, version, event.seq) if version else ()
        stood = {(line.actor, line.at): list(line.roles) for line in lines}
        for one in claimed:
            roles = stood.get((str(one.get("actor")), str(one.get("at"))))
            if roles is None:
                yield f"judged on an approval by {one.get('actor')} that did not stand by then"
            else:
                yield from differences(f"approver {one['actor']}", one, {"roles": roles})

    def _members(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        seed = version_of(self.catalog, evidence.get("seed"))
        if seed is not None and isinstance(seed.facts, SeedFacts) and "seed_license" in evidence:
            yield from differences(str(seed.ref), evidence, {"seed_license": seed.facts.license})
            behind = [*seed.facts.data, *inherited_by(self.catalog, event.subject, evidence)]
            yield from self._named(str(seed.ref), evidence, "seed_data", behind)
        for line in evidence.get("members", ()):
            member = version_of(self.catalog, line.get("ref"))
            if member is None or not isinstance(member.facts, ExpertFacts):
                continue
            actual = {
                "mode": member.facts.mode,
                "registered_at": member.registered_at,
                "registrar": member.actor,
                "licenses": list(member.facts.licenses),
            }
            yield from differences(str(member.ref), line, actual)
            yield from self._named(str(member.ref), line, "data", member.facts.data)
            yield from self._approvals(event, member, line.get("approvals", ()))

    def _data(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        for line in data_lines(evidence):
            version = version_of(self.catalog, line.get("ref"))
            if version is None or not isinstance(version.facts, DataFacts):
                continue
            actual = {name: getattr(version.facts, name) for name in OF_DATA}
            yield from differences(str(version.ref), line, actual)
            if line.get("registered_at") is not None:
                came_in = {"registered_at": version.registered_at}
                yield from differences(str(version.ref), line, came_in)

    def _named(
        self, ref: str, told: Mapping[str, Any], name: str, data: Sequence[str]
    ) -> Iterator[str]:
        """Compare which data a seed or member is said to be trained on with its row."""
        if name in told:
            claimed = {str(line.get("ref")) for line in told[name]}
            actual = {str(self.catalog.get(one).ref) for one in data}
            if claimed != actual:
                yield said(f"data {sorted(claimed)} of {ref}", sorted(actual))

    def _own(
        self, event: Event, evidence: JsonObject, version: Version[Facts] | None
    ) -> Iterator[str]:
        then = self._statements.before(event.seq)
        organisation = evidence.get("organisation", {})
        yield from _own_differences("organisation", organisation, then.of_organisation())
        if version is not None:
            yield from _own_differences(event.subject, evidence.get("own", {}), then.of(version))
        lines = [*data_lines(evidence), *evidence.get("members", ())]
        if "seed_own" in evidence:
            lines.append({"ref": evidence.get("seed"), "own": evidence["seed_own"]})
        for line in lines:
            ref = str(line.get("ref"))
            yield from _own_differences(ref, line.get("own", {}), then.of_ref(ref))


def _kept_back(event: Event, act: Event) -> Iterator[str]:
    """Look for a verdict that was kept: what had a date may be past it, and policies changed."""
    if act.kind == Released.logged_as and moment(act.at) - moment(event.at) > LONGEST_TO_LOG:
        yield f"released on {act.at[:16]} by a verdict of {event.at[:16]}"


def _time(event: Event) -> Iterator[str]:
    judged, logged = event.read(Judged).at, event.at
    try:
        apart = abs(moment(logged) - moment(judged))
    except Invalid:
        yield f"judged as of {judged!r}, which is no time"
        return
    if apart > LONGEST_TO_LOG:
        yield f"judged as of {judged[:10]}, and logged on {logged[:10]}"


def _own_differences(
    ref: str, claimed: Mapping[str, Any], facts: Mapping[str, OwnFact]
) -> Iterator[str]:
    actual = plain(stating.own_values(facts))
    stated = {name: value for name, value in claimed.items() if value is not None}
    for name in sorted(stated.keys() | actual.keys()):
        if stated.get(name) != actual.get(name):
            yield said(f"own fact {name} {stated.get(name)!r} of {ref}", actual.get(name))
