"""Where each tensor of a mixture comes from, as provenance.json records it.

In:  the plan's outputs, and the digests of what was written and of what it was made from.
Out: records with a JSON form. Comparing them with registered digests is left to the registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from btx_core.mixing.plan import Part, Plan, Shard, Source
from btx_core.mixing.recipe import Member, MixRecipe

FORMAT = "btx-provenance-1"


@dataclass(frozen=True)
class OutputDigests:
    """SHA-256 of one tensor of the mixture and of what was taken from each of its sources.

    Attributes:
        own: of the tensor's bytes.
        sources: of the bytes taken from each source, in the plan's order.
    """

    own: str
    sources: tuple[str, ...] = ()

    def to_json(self) -> list[str]:
        """Return the form in a file's header: its own digest first."""
        return [self.own, *self.sources]


@dataclass(frozen=True)
class SourceRecord:
    """What was taken from one source.

    Attributes:
        member: whose tensor it is.
        tensor: its name in the member's folder.
        sha256: of the bytes taken.
        part: which rows and columns of it, and what happened to the values.
    """

    member: str
    tensor: str
    sha256: str
    part: Part

    def to_json(self) -> dict[str, object]:
        """Return the form in provenance.json: rows, columns and op only where there are some."""
        record: dict[str, object] = {
            "member": self.member,
            "tensor": self.tensor,
            "sha256": self.sha256,
        }
        if self.part.rows:
            record["rows"] = list(self.part.rows)
        if self.part.columns:
            record["columns"] = list(self.part.columns)
        if self.part.operation.label:
            record["op"] = self.part.operation.label
        return record


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of the mixture.

    Attributes:
        file: the file that holds it.
        rule: how it was made; see `plan.Output`.
        sha256: of its bytes.
        sources: what it was made from.
    """

    file: str
    rule: str
    sha256: str
    sources: tuple[SourceRecord, ...]

    def to_json(self) -> dict[str, object]:
        """Return the form in provenance.json."""
        return {
            "file": self.file,
            "rule": self.rule,
            "sha256": self.sha256,
            "sources": [source.to_json() for source in self.sources],
        }


def tensor_records(shard: Shard, digests: Mapping[str, OutputDigests]) -> dict[str, TensorRecord]:
    """Return a file's records, by tensor name.

    Args:
        shard: the file's plan.
        digests: of its tensors, by name.
    """
    records = {}
    for output in shard.outputs:
        taken = [(part, source) for part in output.parts for source in part.sources]
        sources = tuple(
            _source_record(part, source, sha256)
            for (part, source), sha256 in zip(taken, digests[output.name].sources, strict=True)
        )
        own = digests[output.name].own
        records[output.name] = TensorRecord(shard.file, output.rule, own, sources)
    return records


def _source_record(part: Part, source: Source, sha256: str) -> SourceRecord:
    return SourceRecord(source.member, source.tensor.name, sha256, part)


def provenance(
    plan: Plan,
    members: Sequence[Member],
    recipe: MixRecipe,
    tensors: Mapping[str, TensorRecord],
) -> dict[str, object]:
    """Return what provenance.json says of a mixture.

    Args:
        plan: what was carried out.
        members: its experts.
        recipe: its recipe.
        tensors: its tensors' records, by name.
    """
    by_slot = sorted(members, key=lambda member: member.slot)
    return {
        "format": FORMAT,
        "family": plan.family.name,
        "recipe": asdict(recipe),
        "rows": list(plan.experts),
        "members": [{"name": member.name, "slot": member.slot} for member in by_slot],
        "tensors": {name: tensors[name].to_json() for name in sorted(tensors)},
    }
