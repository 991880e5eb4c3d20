"""Compare what a verdict was given by with what the log and the rows said when it was given.

In:  a verdict's event, the evidence that is kept with it.
Out: the first place where the evidence says something else.
Judging a verdict again agrees with whatever its writer put into the evidence. So what governance
knows itself (who asks, approvals, waivers, own facts), and what is registered of the data and
members that the evidence names, is read again, as it was before that event.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

# Any: evidence as it is kept, of this or an older version of the program.
from typing import Any

from registry.catalogue.catalog import Catalog
from registry.errors import Invalid, NotFound
from registry.governance import adoption, approving, people, stating
from registry.governance.policies import moment
from registry.records.base import JsonObject
from registry.records.events import Judged
from registry.records.evidence import DataLine
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    DataStatement,
    ExpertFacts,
    Facts,
    SeedFacts,
)
from registry.records.own_facts import OwnFact, plain
from registry.records.version import Event, Version

# A verdict is given a moment before it is logged.
LONGEST_TO_LOG = timedelta(hours=1)
# What is stated of a data version and told to gates.
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
            lambda: self._members(event, evidence),
            lambda: self._data(event, evidence),
            lambda: self._own(event, evidence, version),
        )
        return next((found for look in looks for found in look()), None)

    @cached_property
    def _start(self) -> int | None:
        return adoption.first(self.catalog)

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
                yield _said(f"{name} {claimed!r} of who asked", value)

    def _build(
        self, event: Event, evidence: JsonObject, version: Version[Facts] | None
    ) -> Iterator[str]:
        if evidence.get("kind") != "build":
            return
        registrar = version.actor if version else event.actor
        if evidence.get("registrar") != registrar:
            yield _said(f"registrar {evidence.get('registrar')!r}", registrar)
        if version is not None and isinstance(version.facts, BuildFacts):
            line = version.facts.line
            if evidence.get("line", line) != line:
                yield _said(f"product line {evidence['line']!r}", line)
        yield from self._approvals(event, version, evidence.get("approvals", ()))
        released = self.catalog.events(event.subject, "released")
        if evidence.get("status") == "released" and not any(
            one.seq < event.seq for one in released
        ):
            yield "judged as released, which it was not by then"

    def _approvals(
        self, event: Event, version: Version[Facts] | None, claimed: Iterable[Mapping[str, Any]]
    ) -> Iterator[str]:
        lines = approving.approvals(self.catalog, version, event.seq) if version else ()
        stood = {(line.actor, line.at) for line in lines}
        for one in claimed:
            if (one.get("actor"), one.get("at")) not in stood:
                yield f"judged on an approval by {one.get('actor')} that did not stand by then"

    def _members(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        seed = self._version(evidence.get("seed"))
        if seed is not None and isinstance(seed.facts, SeedFacts) and "seed_license" in evidence:
            yield from _differences(str(seed.ref), evidence, {"seed_license": seed.facts.license})
        for line in evidence.get("members", ()):
            member = self._version(line.get("ref"))
            if member is None or not isinstance(member.facts, ExpertFacts):
                continue
            actual = {
                "mode": member.facts.mode,
                "registered_at": member.registered_at,
                "registrar": member.actor,
                "licenses": list(member.facts.licenses),
            }
            yield from _differences(str(member.ref), line, actual)
            yield from self._approvals(event, member, line.get("approvals", ()))

    def _data(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        for line in _data_lines(evidence):
            version = self._version(line.get("ref"))
            if version is None or not isinstance(version.facts, DataFacts):
                continue
            actual = {name: getattr(version.facts, name) for name in OF_DATA}
            yield from _differences(str(version.ref), line, actual)

    def _own(
        self, event: Event, evidence: JsonObject, version: Version[Facts] | None
    ) -> Iterator[str]:
        then = self._statements.before(event.seq)
        organisation = evidence.get("organisation", {})
        yield from _own_differences("organisation", organisation, then.of_organisation())
        if version is not None:
            yield from _own_differences(event.subject, evidence.get("own", {}), then.of(version))
        lines = [*_data_lines(evidence), *evidence.get("members", ())]
        if "seed_own" in evidence:
            lines.append({"ref": evidence.get("seed"), "own": evidence["seed_own"]})
        for line in lines:
            ref = str(line.get("ref"))
            yield from _own_differences(ref, line.get("own", {}), then.of_ref(ref))

    def _version(self, ref: object) -> Version[Facts] | None:
        try:
            return self.catalog.get(ref) if isinstance(ref, str) else None
        except (NotFound, Invalid):
            return None


def _time(event: Event) -> Iterator[str]:
    judged, logged = event.read(Judged).at, event.at
    try:
        apart = abs(moment(logged) - moment(judged))
    except Invalid:
        yield f"judged as of {judged!r}, which is no time"
        return
    if apart > LONGEST_TO_LOG:
        yield f"judged as of {judged[:10]}, and logged on {logged[:10]}"


def _data_lines(evidence: JsonObject) -> list[Mapping[str, Any]]:
    lines = [*evidence.get("data", ()), *evidence.get("seed_data", ())]
    for member in evidence.get("members", ()):
        lines += member.get("data", ())
    return lines


def _differences(
    ref: str, claimed: Mapping[str, Any], actual: Mapping[str, object]
) -> Iterator[str]:
    """Yield what is said of a version and is not so; what older evidence does not name is so."""
    for name, value in actual.items():
        if name in claimed and claimed[name] != value:
            yield _said(f"{name} {claimed[name]!r} of {ref}", value)


def _own_differences(
    ref: str, claimed: Mapping[str, Any], facts: Mapping[str, OwnFact]
) -> Iterator[str]:
    actual = plain(stating.own_values(facts))
    stated = {name: value for name, value in claimed.items() if value is not None}
    for name in sorted(stated.keys() | actual.keys()):
        if stated.get(name) != actual.get(name):
            yield _said(f"own fact {name} {stated.get(name)!r} of {ref}", actual.get(name))


def _said(claim: str, actual: object) -> str:
    return f"judged on {claim:.120} where it was {actual!r:.80}"
