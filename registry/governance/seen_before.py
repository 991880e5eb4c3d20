"""What of a candidate is in the registry already: files, tensors and text, known by digest.

In:  the catalogue; the candidate's files, tensors and a sample of its text.
Out: the versions that hold a part of it, with their status, licence and holder.
Whether a candidate may hold what stands elsewhere is left to the policies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from registry.catalogue.catalog import Catalog
from registry.catalogue.common_files import LEAST_SHARE, common_share, sizes
from registry.catalogue.lineage import Impact
from registry.errors import NotFound
from registry.records.answers.withdrawing import Reached
from registry.records.events import Erased
from registry.records.evidence import SeenBefore
from registry.records.facts import DataFacts, ExpertFacts, Facts, SeedFacts, Sketch
from registry.records.kinds import UNUSABLE, Status
from registry.records.references import Reference
from registry.records.version import FileFact, Version
from registry.units import percent

# A share of fewer windows is left out: chance and boilerplate.
FEWEST_WINDOWS = 16
WEIGHTS = ".safetensors"


def of_data(
    catalog: Catalog, files: Sequence[FileFact], sketch: Sketch | None
) -> tuple[SeenBefore, ...]:
    """Return the data versions that hold files or text of a corpus, or part of which it holds.

    Of a version that lost documents the erased part alone is compared: the rest may come again.

    Args:
        catalog: the registry.
        files: of the corpus.
        sketch: of its text.
    """
    own = sizes(files)
    erased = catalog.tombstones()
    shares = {(ref, "files"): share for ref, share in shared_files(catalog, files).items()}
    versions = {version.ref: version for version in catalog.versions(DataFacts, files=False)}
    for ref in versions:
        for gone in erased.get(str(ref), ()):
            for by, share in _erased(catalog, own, sketch, gone):
                shares[ref, by] = max(share, shares.get((ref, by), 0.0))
    if sketch is not None:
        for version in versions.values():
            if str(version.ref) in erased:
                continue
            theirs_sampled = sketch_of(catalog, version.facts)
            share = common(sketch, theirs_sampled) if theirs_sampled is not None else 0.0
            # A file that both hold says nothing of text that stands there in other files.
            if share > shares.get((version.ref, "files"), 0.0):
                shares[version.ref, "text"] = share
    return _lines(catalog, versions, shares)


def shared_files(catalog: Catalog, files: Sequence[FileFact]) -> dict[Reference, float]:
    """Return the share of every version that holds some of these files; none that lost text."""
    own, erased = sizes(files), catalog.tombstones()
    return {
        ref: common_share(own, sizes(theirs))
        for ref, theirs in catalog.holders(own).items()
        if str(ref) not in erased
    }


def of_weights(
    catalog: Catalog,
    tensors: Mapping[str, str],
    similarity: Mapping[str, float] | None = None,
) -> tuple[SeenBefore, ...]:
    """Return the seeds and experts that hold tensors of a checkpoint.

    Tensors of a seed in use are not counted: every branch of it has them.

    Args:
        catalog: the registry.
        tensors: the checkpoint's, name to digest.
        similarity: experts that were compared with it, by reference; 1.0 is equal weights.
    """
    return _Weights.read(catalog).seen(tensors, similarity)


@dataclass(frozen=True)
class _Weights:
    """The tensors of every seed and expert, read once for many checkpoints.

    Attributes:
        catalog: where they are registered.
        versions: the seeds and experts.
        common_to_all: digests of the tensors of seeds in use.
        held: the digests of each version beside these.
    """

    catalog: Catalog
    versions: Mapping[Reference, Version[Facts]]
    common_to_all: frozenset[str]
    held: Mapping[Reference, Mapping[str, int]]

    @classmethod
    def read(cls, catalog: Catalog) -> "_Weights":
        seeds = {version.ref: version for version in catalog.versions(SeedFacts, files=False)}
        experts = {version.ref: version for version in catalog.versions(ExpertFacts, files=False)}
        versions: dict[Reference, Version[Facts]] = {**seeds, **experts}
        statuses = catalog.statuses(versions.values())
        tensors = {ref: set(version.facts.tensors.values()) for ref, version in seeds.items()}
        in_use = [tensors[ref] for ref in seeds if statuses[ref] not in UNUSABLE]
        tensors |= {ref: set(version.facts.tensors.values()) for ref, version in experts.items()}
        common_to_all = frozenset[str]().union(*in_use)
        held = {ref: dict.fromkeys(own - common_to_all, 1) for ref, own in tensors.items()}
        return cls(catalog, versions, common_to_all, held)

    def seen(
        self, tensors: Mapping[str, str], similarity: Mapping[str, float] | None = None
    ) -> tuple[SeenBefore, ...]:
        own = dict.fromkeys(set(tensors.values()) - self.common_to_all, 1)
        shares: dict[tuple[Reference, str], float] = {}
        for ref, theirs in self.held.items():
            shares[ref, "tensors"] = common_share(own, theirs)
            cosine = (similarity or {}).get(str(ref), 0.0)
            if cosine > shares[ref, "tensors"]:
                shares[ref, "weights"] = cosine
        return _lines(self.catalog, self.versions, shares)


def twins(catalog: Catalog, impact: Impact) -> tuple[Reached, ...]:
    """Return the versions in use that hold what a withdrawal takes: files, text or tensors.

    What its lineage names is left out: the withdrawal reaches that anyway.

    Args:
        catalog: the registry.
        impact: of the withdrawal.
    """
    named = {str(ref) for ref in (impact.subject, *impact.experts, *impact.others)}
    weights = _Weights.read(catalog)
    found: dict[str, SeenBefore] = {}
    for ref in (impact.subject, *impact.experts):
        for line in _of_version(weights, catalog.get(ref)):
            known = found.get(line.ref)
            if line.ref in named or line.status in UNUSABLE:
                continue
            if known is None or known.share < line.share:
                found[line.ref] = line
    return tuple(
        Reached(ref=ref, why=f"holds the same {one.by}, {percent(one.share)}: withdraw it too")
        for ref, one in sorted(found.items())
    )


def _of_version(weights: _Weights, version: Version[Facts]) -> tuple[SeenBefore, ...]:
    facts = version.facts
    if isinstance(facts, DataFacts):
        catalog = weights.catalog
        return of_data(catalog, version.files, sketch_of(catalog, facts))
    return weights.seen(facts.tensors) if isinstance(facts, SeedFacts | ExpertFacts) else ()


def _erased(
    catalog: Catalog, own: Mapping[str, int], sketch: Sketch | None, gone: Erased
) -> Iterator[tuple[str, float]]:
    """Yield how much a corpus and what was erased of a version have in common."""
    share = common_share(own, {file.sha256: file.bytes for file in gone.part.files})
    if share:
        yield "files", share
    sample = _kept(catalog, gone.sketch)
    alike = common(sketch, sample) if sketch is not None and sample is not None else 0.0
    if alike > share:
        yield "text", alike


def sketch_of(catalog: Catalog, facts: DataFacts) -> Sketch | None:
    """Return the sample of a data version's text, where one was taken and is kept."""
    return _kept(catalog, facts.sketch)


def _kept(catalog: Catalog, sketch: str | None) -> Sketch | None:
    if sketch is None:
        return None
    try:
        return Sketch.from_json(catalog.document(sketch), "sketch")
    except NotFound:
        # The audit names the document that is lost.
        return None


def common(first: Sketch, second: Sketch) -> float:
    """Return the share of one text's windows that stand in the other, whichever is larger."""
    bits = max(first.bits, second.bits)
    ours, theirs = first.thinned(bits), second.thinned(bits)
    both = len(ours & theirs)
    if both < min(FEWEST_WINDOWS, len(ours) or 1, len(theirs) or 1):
        return 0.0
    return both / min(len(ours), len(theirs))


def _lines(
    catalog: Catalog,
    versions: Mapping[Reference, Version[Facts]],
    shares: Mapping[tuple[Reference, str], float],
) -> tuple[SeenBefore, ...]:
    lines = []
    wanted = [key for key, share in shares.items() if share >= LEAST_SHARE and key[0] in versions]
    statuses = catalog.statuses(versions[ref] for ref in _each(ref for ref, _ in wanted))
    for ref, by in sorted(wanted):
        if statuses[ref] == Status.RETIRED:
            # A mistake in the register, not in the bytes.
            continue
        facts = versions[ref].facts
        stated = facts if isinstance(facts, DataFacts) else None
        lines.append(
            SeenBefore(
                ref=str(ref),
                by=by,
                share=round(shares[ref, by], 4),
                status=str(statuses[ref]),
                license=stated.license if stated else None,
                holder=stated.holder if stated else None,
            )
        )
    return tuple(lines)


def _each(refs: Iterable[Reference]) -> list[Reference]:
    return list(dict.fromkeys(refs))
