"""Compare what evidence says of the parts of a candidate with the rows, and the log of that time.

In:  a verdict's event and its evidence.
Out: where it calls something in use that was not, gives another verdict of a gate, other waivers or
other licences than there were, or leaves out registered text that a corpus holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

# Any: evidence as it is kept, of this or an older version of the program.
from typing import Any

from registry.catalogue.catalog import Catalog
from registry.catalogue.common_files import LEAST_SHARE
from registry.errors import Invalid, NotFound
from registry.governance import gate, seen_before
from registry.governance.as_of import AsOf
from registry.governance.build_licence import inherited, licences_in
from registry.licences import is_same
from registry.records.base import JsonObject
from registry.records.events import Withdrawn
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts, SeedFacts
from registry.records.kinds import UNUSABLE, Kind
from registry.records.references import Reference, parse
from registry.records.version import Event, FileFact, Version


@dataclass(frozen=True)
class PartClaims:
    """What is known of parts, now and at earlier times.

    Attributes:
        catalog: the rows.
        then: the log.
    """

    catalog: Catalog
    then: AsOf

    def contradictions(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        """Yield where a verdict's evidence says something else of parts than log and rows."""
        yield from self._in_use(event, evidence)
        yield from self._gates(event, evidence)
        yield from self._waivers(event, evidence)
        yield from self._licences(event, evidence)
        yield from self._seen(event, evidence)

    def lapsed(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        """Yield what evidence rested on and did not hold any more before an event."""
        yield from self._in_use(event, evidence)
        gone = _claimed(evidence) - self._relied_on(event, evidence)
        yield from (_about(one, "did not hold") for one in sorted(gone, key=str))

    def _in_use(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        """Look for what is told to be in use, and was withdrawn or made from what was."""
        seen = evidence.get("seen_before", ())
        for line in (*data_lines(evidence), *evidence.get("members", ()), *seen):
            ref, status = str(line.get("ref")), line.get("status")
            out_of_use = self.then.was_out_of_use(ref, event.seq)
            if status is not None and status not in UNUSABLE and out_of_use:
                yield f"judged on {ref} as {status}, which was out of use by then"

    def _gates(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        lines = [*data_lines(evidence), *evidence.get("members", ())]
        if "seed_gate" in evidence:
            lines.append({"ref": evidence.get("seed"), "gate": evidence["seed_gate"]})
        for line in lines:
            if line.get("ref") is not None and "gate" in line:
                ref = str(line["ref"])
                actual = self.then.gate_said(ref, event.seq)
                yield from differences(ref, line, {"gate": actual})

    def _waivers(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        """Compare the waivers that let the candidate and its parts in."""
        if "waivers" in evidence:
            claimed, actual = _claimed(evidence), self._relied_on(event, evidence)
            for one in sorted(claimed ^ actual, key=str):
                yield _about(one, "did not hold" if one in claimed else "was left out")

    def _relied_on(self, event: Event, evidence: JsonObject) -> set[tuple[object, ...]]:
        lines = [*data_lines(evidence), *evidence.get("members", ())]
        refs = [event.subject, evidence.get("seed"), *(line.get("ref") for line in lines)]
        named = dict.fromkeys(ref for ref in refs if isinstance(ref, str))
        found = gate.relied_on(self.catalog, named, event.seq)
        return {_waiver(line.to_json()) for line in found}

    def _licences(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        seed = version_of(self.catalog, evidence.get("seed"))
        if evidence.get("kind") != "build" or seed is None or not isinstance(seed.facts, SeedFacts):
            return
        members = members_of(self.catalog, evidence)
        more = inherited_by(self.catalog, event.subject, evidence)
        actual = list(licences_in(self.catalog, seed.of(SeedFacts), members, more))
        yield from differences("all that it is made from", evidence, {"licenses": actual})

    def _seen(self, event: Event, evidence: JsonObject) -> Iterator[str]:
        """Look for registered text or weights in a candidate that its evidence does not name."""
        version = version_of(self.catalog, event.subject)
        if version is None or "seen_before" not in evidence:
            return
        told: dict[str, list[JsonObject]] = {}
        for line in evidence["seen_before"]:
            told.setdefault(line["ref"], []).append(line)
        if isinstance(version.facts, ExpertFacts | SeedFacts):
            for ref, share in self._weights(event, version.facts.tensors):
                if str(ref) not in told:
                    yield f"judged without {ref}, of whose tensors it holds {share:.0%}"
        if not isinstance(version.facts, DataFacts):
            return
        for ref, share in self._shares(event, version.files, version.facts):
            other = self.catalog.get(ref, DataFacts).facts
            claimed = told.get(str(ref), [])
            if max((line["share"] for line in claimed), default=0.0) < share:
                yield f"judged without {ref}, of which it holds {share:.0%}"
                continue
            actual = {
                "license": other.license,
                "holder": other.holder,
                "same_license": is_same(other.license, version.facts.license),
            }
            for line in claimed:
                yield from differences(str(ref), line, actual)

    def _weights(
        self, event: Event, tensors: Mapping[str, str]
    ) -> Iterator[tuple[Reference, float]]:
        """Yield the experts out of use by then that hold the same tensors, with the share.

        Those of seeds are in every branch. With what is in use it is not compared: in everything
        that would take as many comparisons as there are pairs of experts.
        """
        gone = [
            version
            for ref in self.then.out_of_use(event.seq)
            if ref != event.subject
            and parse(ref).kind == Kind.EXPERT
            and self.then.was_seen(ref, event.seq)
            and (version := version_of(self.catalog, ref))
        ]
        experts = [one for one in gone if isinstance(one.facts, ExpertFacts)]
        if not experts:
            return
        seeds = self.catalog.versions(SeedFacts, files=False)
        common = {digest for seed in seeds for digest in seed.facts.tensors.values()}
        own = set(tensors.values()) - common
        for expert in experts:
            theirs = set(expert.of(ExpertFacts).facts.tensors.values()) - common
            both, smaller = len(own & theirs), min(len(own), len(theirs))
            if smaller and both / smaller >= LEAST_SHARE:
                yield expert.ref, both / smaller

    def _shares(
        self, event: Event, files: Sequence[FileFact], facts: DataFacts
    ) -> Iterator[tuple[Reference, float]]:
        """Yield what was registered by then and holds the same files, with the share.

        Text that is nearly the same is looked for in what was withdrawn by then: in everything it
        would take as many comparisons as there are pairs of corpora.
        """
        shares = seen_before.shared_files(self.catalog, files)
        sketch = seen_before.sketch_of(self.catalog, facts)
        withdrawn = self.catalog.events(kind=Withdrawn.logged_as) if sketch else ()
        for one in withdrawn:
            other = version_of(self.catalog, one.subject)
            if other is not None and isinstance(other.facts, DataFacts) and one.seq < event.seq:
                theirs = seen_before.sketch_of(self.catalog, other.facts)
                if sketch and theirs and shares.get(other.ref, 0.0) < LEAST_SHARE:
                    shares[other.ref] = seen_before.common(sketch, theirs)
        for ref, share in shares.items():
            by_then = self.then.was_seen(str(ref), event.seq)
            if ref.kind == Kind.DATA and share >= LEAST_SHARE and by_then:
                yield ref, round(share, 4)


def version_of(catalog: Catalog, ref: object) -> Version[Facts] | None:
    """Return what evidence names; None for what is not registered, and for no reference."""
    try:
        return catalog.get(ref) if isinstance(ref, str) else None
    except (NotFound, Invalid):
        return None


def members_of(catalog: Catalog, evidence: JsonObject) -> list[Version[ExpertFacts]]:
    """Return the experts that a build's evidence names."""
    return [catalog.get(line["ref"], ExpertFacts) for line in evidence.get("members", ())]


def inherited_by(catalog: Catalog, ref: str, evidence: JsonObject) -> list[str]:
    """Return what a build was tuned on before it grew; nothing for what is not registered."""
    build, seed = version_of(catalog, ref), version_of(catalog, evidence.get("seed"))
    if build is None or not isinstance(build.facts, BuildFacts):
        return []
    if seed is None or not isinstance(seed.facts, SeedFacts):
        return []
    return inherited(seed.of(SeedFacts), members_of(catalog, evidence), build.facts.tuned_on)


def data_lines(evidence: JsonObject) -> list[Mapping[str, Any]]:
    """Return what evidence says of each data version, wherever in it that stands."""
    lines = [*evidence.get("data", ()), *evidence.get("seed_data", ())]
    for member in evidence.get("members", ()):
        lines += member.get("data", ())
    return lines


def differences(
    ref: str, claimed: Mapping[str, Any], actual: Mapping[str, object]
) -> Iterator[str]:
    """Yield what is said of a version and is not so; what older evidence does not name is so."""
    for name, value in actual.items():
        if name in claimed and claimed[name] != value:
            yield said(f"{name} {claimed[name]!r} of {ref}", value)


def said(claim: str, actual: object) -> str:
    """Return the sentence on a claim that is not so."""
    return f"judged on {claim:.120} where it was {actual!r:.80}"


def _claimed(evidence: JsonObject) -> set[tuple[object, ...]]:
    return {_waiver(line) for line in evidence.get("waivers", ())}


def _about(waiver: tuple[object, ...], state: str) -> str:
    rule, subject, until, _ = waiver
    return f"judged on a waiver of {rule} for {subject} until {until} that {state}"


def _waiver(line: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(line.get(name) for name in ("rule", "subject", "until", "actor"))
