"""Say what differs between two registered versions of one kind."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.records.answers.figures import figures_of
from registry.records.answers.shown import Change, DiffAnswer, FileChanges
from registry.records.facts import BuildFacts, ExpertFacts, Facts
from registry.records.results import Result, by_data, labels, same_text
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
    left_results, right_results = (_results(workspace.catalog, each) for each in (one, other))
    named = labels([*left_results, *right_results])
    facts = [
        _flat({**_compared(one.facts), **_figures(left_results, right_results, named)}),
        _flat({**_compared(other.facts), **_figures(right_results, left_results, named)}),
    ]
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
        notes=tuple(_unlike(left_results, right_results)),
    )


def _results(catalog: Catalog, version: Version[Facts]) -> Sequence[Result]:
    facts = version.facts
    if isinstance(facts, BuildFacts):
        return catalog.results(version.of(BuildFacts))
    return facts.results if isinstance(facts, ExpertFacts) else ()


def _compared(facts: Facts) -> dict[str, Any]:
    """Return the facts that are compared, as JSON, without the figures."""
    recorded = facts.to_json()
    if isinstance(facts, BuildFacts):
        return {name: recorded[name] for name in BUILD if name in recorded}
    return {name: value for name, value in recorded.items() if name not in NOT_COMPARED}


def _figures(
    own: Sequence[Result], beside: Sequence[Result], named: Mapping[str, str]
) -> dict[str, Any]:
    """Return the figures of one side by data version, as far as the other side's compare with them.

    Args:
        own: the results of this side.
        beside: those of the other side.
        named: the label of each data version of both sides.
    """
    others = by_data(beside)
    figures = {}
    for result in own:
        other = others.get(result.data)
        whole = figures_of(result).to_json()
        if other is not None and not same_text(result, other):
            # Another amount of text: how much it was is all that can be said beside the other's.
            whole = {"tokens": result.tokens}
        figures[named[result.data]] = whole
    return {"evaluation": figures} if figures else {}


def _unlike(left: Sequence[Result], right: Sequence[Result]) -> list[str]:
    """Name the figures that cannot be compared, because they are of different held-out text."""
    before, after = by_data(left), by_data(right)
    notes = []
    for data in before.keys() & after.keys():
        if not same_text(before[data], after[data]):
            amounts = f"{before[data].tokens} and {after[data].tokens} tokens"
            notes.append(f"{data}: measured on {amounts} of its held-out text")
    for domain in {result.domain for result in left} & {result.domain for result in right}:
        texts_before = [result.data for result in left if result.domain == domain]
        texts_after = [result.data for result in right if result.domain == domain]
        if set(texts_before) != set(texts_after):
            texts = f"{', '.join(texts_before)} before and on {', '.join(texts_after)} after"
            notes.append(f"{domain}: measured on {texts}; figures of different texts are apart")
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
