"""Collect the evidence that a gate is asked about.

In:  versions of the catalogue, and facts that a job has measured.  Out: evidence records.
Judging them is the policies' work.
"""

from collections.abc import Iterable, Mapping, Sequence

from registry.catalogue.catalog import Catalog
from registry.governance.build_licence import inherited, licences_in
from registry.licences import alternatives, is_same
from registry.records import division
from registry.records.evidence import (
    BuildEvidence,
    BuildFigures,
    DataEvidence,
    DataLine,
    DocumentLicense,
    ExpertEvidence,
    MemberLine,
    Outliers,
    PreviousFigures,
    ResultLine,
    SeedEvidence,
    SeenBefore,
    result_lines,
    worst,
)
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, SeedFacts
from registry.records.own_facts import plain
from registry.records.references import parse
from registry.records.results import comparable, labels
from registry.records.version import FileFact, Version, content_digest


def of_data(
    ref: str, facts: DataFacts, files: Sequence[FileFact], seen: Sequence[SeenBefore] = ()
) -> DataEvidence:
    """Return the evidence on a corpus of these files, of which some was seen before."""
    return DataEvidence(
        kind="data",
        ref=ref,
        content=content_digest(files),
        name=facts.domain or parse(ref).name,
        files=len(files),
        seen_before=tuple(_beside(one, facts) for one in seen),
        bytes=facts.bytes,
        license_alternatives=alternatives(facts.applying_license) if facts.license else (),
        document_licenses=tuple(
            DocumentLicense(license=one, alternatives=alternatives(one))
            for one in facts.document_licenses
        ),
        own=plain(facts.own),
        **facts.stated(),
    )


def _beside(seen: SeenBefore, facts: DataFacts) -> SeenBefore:
    """Return what was seen before, with how its licence compares with the candidate's."""
    return seen.model_copy(update={"same_license": is_same(seen.license, facts.license)})


def of_seed(
    ref: str, facts: SeedFacts, files: Sequence[FileFact], seen: Sequence[SeenBefore] = ()
) -> SeedEvidence:
    """Return the evidence on a seed of these files, of which some was seen before."""
    return SeedEvidence(
        kind="seed",
        ref=ref,
        content=content_digest(files),
        name=parse(ref).name,
        license=facts.license,
        finite=facts.finite,
        model_type=facts.model_type,
        own=plain(facts.own),
        seen_before=tuple(seen),
    )


def of_expert(
    catalog: Catalog,
    ref: str,
    facts: ExpertFacts,
    files: Sequence[FileFact],
    seen: Sequence[SeenBefore] = (),
) -> ExpertEvidence:
    """Return the evidence on an expert: every data version that it was trained on is in it."""
    results = tuple(_dated(catalog, line) for line in result_lines(facts.results))
    spent = facts.train
    return ExpertEvidence(
        kind="expert",
        ref=ref,
        content=content_digest(files),
        name=parse(ref).name,
        mode=str(facts.mode) if facts.mode else None,
        seed=facts.seed,
        data=data_lines(catalog, facts.data),
        weights=facts.preflight,
        results=results,
        general=result_lines(facts.general),
        evaluation=worst(results),
        contamination=facts.contamination,
        own=plain(facts.own),
        seen_before=tuple(seen),
        cost=spent.spent if spent else None,
    )


def of_candidate(
    catalog: Catalog,
    ref: str,
    seed: str,
    members: Sequence[Version[ExpertFacts]],
    content: str | None = None,
    tuned_on: Iterable[str] = (),
) -> BuildEvidence:
    """Return the evidence on a build that is still to be made: its seed, members and their data.

    Args:
        catalog: where seed and members are registered.
        ref: the build.
        seed: its seed.
        members: its members.
        content: the digest of seed, members and recipe.
        tuned_on: data that it was tuned on, or that the build was which it grows from.
    """
    base = catalog.get(seed, SeedFacts)
    more = inherited(base, members, tuned_on)
    return BuildEvidence(
        kind="build",
        ref=ref,
        content=content,
        seed=seed,
        seed_license=base.facts.license,
        seed_data=data_lines(catalog, [*base.facts.data, *more]),
        members=tuple(_member(catalog, member) for member in members),
        licenses=licences_in(catalog, base, members, more),
    )


def of_build(
    catalog: Catalog, build: Version[BuildFacts], before: Version[BuildFacts] | None
) -> BuildEvidence:
    """Return the evidence on a recorded build, its members and their data as they are today.

    Args:
        catalog: where it is recorded.
        build: what asks to be released or exported.
        before: the last release of its product line, which it is compared with.
    """
    facts = build.facts
    members = [catalog.get(member.ref, ExpertFacts) for member in facts.members]
    seed = facts.seed or "seed"
    candidate = of_candidate(catalog, str(build.ref), seed, members, tuned_on=facts.tuned_on)
    own = catalog.results(build)
    earlier = catalog.results(before) if before else ()
    known = comparable(earlier, own)
    results = result_lines(own, known)
    named = labels(results)
    routing = facts.routing
    dated = tuple(_dated(catalog, line) for line in results)
    measured = {
        "content": build.digest,
        "line": facts.line,
        "registered_at": build.registered_at or None,
        "results": dated or None,
        "compared_with": str(before.ref) if before else None,
        "no_longer_measured": tuple(sorted({one.data for one in earlier} - known.keys())),
        "evaluation": {named[line.data]: _older(line) for line in results} or None,
        "previous": _previous(results, named) if before else None,
        "routing": Outliers(dead=routing.dead, dominant=routing.dominant) if routing else None,
        "division": division.line(facts),
        "active_parameters": facts.cost.active_parameters,
        "total_parameters": facts.cost.total_parameters,
        "tokens_per_s": facts.cost.tokens_per_s,
        "registrar": facts.registrar,
        "status": str(catalog.status(build.ref)),
        "released_at": _released_at(catalog, build),
        "draft": False,
    }
    return candidate.model_copy(update=measured)


def _dated(catalog: Catalog, line: ResultLine) -> ResultLine:
    """Return the figures with the date at which the data that they were measured on came in."""
    data = catalog.find(line.data)
    return line.model_copy(update={"data_registered_at": data.registered_at}) if data else line


def _released_at(catalog: Catalog, build: Version[BuildFacts]) -> str | None:
    events = catalog.events(build.ref, "released")
    return events[-1].at if events else None


def data_lines(catalog: Catalog, refs: Iterable[str]) -> tuple[DataLine, ...]:
    """Return what is known of these data versions now."""
    lines = []
    for ref in refs:
        version = catalog.get(ref, DataFacts)
        facts = version.facts
        lines.append(
            DataLine(
                ref=str(version.ref),
                license=facts.license,
                holder=facts.holder,
                source=facts.source,
                purpose=facts.purpose,
                language=facts.language,
                pii=facts.pii,
                retain_until=facts.retain_until,
                use=facts.use,
                registered_at=version.registered_at,
                status=str(catalog.status(version.ref)),
            )
        )
    return tuple(lines)


def _member(catalog: Catalog, member: Version[ExpertFacts]) -> MemberLine:
    return MemberLine(
        ref=str(member.ref),
        status=str(catalog.status(member.ref)),
        mode=str(member.facts.mode) if member.facts.mode else None,
        registered_at=member.registered_at,
        registrar=member.actor,
        licenses=member.facts.licenses,
        data=data_lines(catalog, member.facts.data),
    )


def _older(line: ResultLine) -> BuildFigures:
    return BuildFigures(
        bits_per_byte=line.bits_per_byte,
        seed_bits_per_byte=line.seed_bits_per_byte,
        specialist_bits_per_byte=line.specialist_bits_per_byte,
        accuracy=line.accuracy,
        new_to_seed=line.new_to_seed,
    )


def _previous(
    results: Sequence[ResultLine], named: Mapping[str, str]
) -> dict[str, PreviousFigures]:
    return {
        named[line.data]: PreviousFigures(bits_per_byte=line.previous_bits_per_byte)
        for line in results
        if line.previous_bits_per_byte is not None
    }
