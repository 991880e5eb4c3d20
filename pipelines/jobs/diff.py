"""Say what differs between two registered versions of one kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid
from registry.records.answers import Change, DiffAnswer, FileChanges, evaluation_of
from registry.records.facts import BuildFacts, ExpertFacts, Facts
from registry.records.results import Result, by_data, same_text
from registry.records.version import Version

BUILD = ("seed", "members", "tuned_on", "recipe", "tasks", "cost")
NOT_COMPARED = ("dvc", "content", "snapshot", "folder", "tensors", "results", "given_recipe")


def diff(workspace: Workspace, left: str, right: str) -> DiffAnswer:
    """Compare two versions: for builds members, data, recipe, figures and bytes.

    Figures are compared on the same held-out text alone: those of another data version, or of
    another amount of text, are named in the notes.

    Raises:
        Invalid: for versions of two kinds.
    """
    one, other = workspace.catalog.get(left), workspace.catalog.get(right)
    if one.ref.kind != other.ref.kind:
        raise Invalid(
            f"{left} {right}",
            found=f"{one.ref.kind} and {other.ref.kind}",
            expected="one kind",
            next="btx diff build/1 build/2",
        )
    facts = [_flat(_compared(version.facts)) for version in (one, other)]
    results = [_results(version.facts) for version in (one, other)]
    notes = _unlike(results[0], results[1])
    changes = []
    for name in sorted(facts[0].keys() | facts[1].keys()):
        before, after = facts[0].get(name), facts[1].get(name)
        if before != after:
            changes.append(Change(what=name, left=before, right=after))
    return DiffAnswer(
        left=str(one.ref),
        right=str(other.ref),
        changes=tuple(changes),
        files=_files(one, other),
        notes=tuple(notes),
    )


def _results(facts: Facts) -> Sequence[Result]:
    return facts.results if isinstance(facts, BuildFacts | ExpertFacts) else ()


def _compared(facts: Facts) -> dict[str, Any]:
    """Return the facts that are compared, as JSON; figures by data version."""
    recorded = facts.to_json()
    if isinstance(facts, BuildFacts):
        chosen = {name: recorded[name] for name in BUILD if name in recorded}
    else:
        chosen = {name: value for name, value in recorded.items() if name not in NOT_COMPARED}
    results = _results(facts)
    if results:
        chosen["evaluation"] = evaluation_of(results)
    return chosen


def _unlike(left: Sequence[Result], right: Sequence[Result]) -> list[str]:
    """Name the figures that cannot be compared, because they are of different held-out text."""
    before, after = by_data(left), by_data(right)
    notes = []
    for data in before.keys() & after.keys():
        if not same_text(before[data], after[data]):
            amounts = f"{before[data].tokens} and {after[data].tokens} tokens"
            notes.append(f"{data}: measured on {amounts} of its held-out text")
    domains = {result.domain for result in left} & {result.domain for result in right}
    for domain in domains:
        only_before = [one.data for one in left if one.domain == domain and one.data not in after]
        only_after = [one.data for one in right if one.domain == domain and one.data not in before]
        if only_before and only_after:
            texts = f"{', '.join(only_before)} and on {', '.join(only_after)}"
            notes.append(f"{domain}: measured on {texts}, which are different texts")
    return sorted(notes)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested facts as one level, such as `evaluation.math.bits_per_byte`.

    Facts in a list are named by their reference.
    """
    if isinstance(value, Mapping):
        parts = {str(key): inner for key, inner in value.items()}
    elif isinstance(value, list) and value and all(_has_ref(item) for item in value):
        parts = {item["ref"]: {k: v for k, v in item.items() if k != "ref"} for item in value}
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for name, inner in parts.items():
        flat |= _flat(inner, f"{path}.{name}" if path else name)
    return flat


def _has_ref(item: Any) -> bool:
    return isinstance(item, Mapping) and "ref" in item


def _files(one: Version[Facts], other: Version[Facts]) -> FileChanges:
    left = {file.path: file.sha256 for file in one.files}
    right = {file.path: file.sha256 for file in other.files}
    both = left.keys() & right.keys()
    return FileChanges(
        same=tuple(sorted(path for path in both if left[path] == right[path])),
        changed=tuple(sorted(path for path in both if left[path] != right[path])),
        only_left=tuple(sorted(left.keys() - right.keys())),
        only_right=tuple(sorted(right.keys() - left.keys())),
    )
