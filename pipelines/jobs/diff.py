"""Job: what differs between two registered versions of one kind: for builds members, data, recipe, evaluation and bytes."""

from collections.abc import Mapping
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Version
from registry.errors import Invalid

COMPARED = {"build": ("seed", "members", "tuned_on", "recipe", "evaluation", "tasks", "cost")}
NOT_COMPARED = ("dvc", "previous", "content", "snapshot", "folder", "tensors")


def diff(workspace: Workspace, left: str, right: str) -> dict[str, Any]:
    """left, right, changes[{what, left, right}], files{same, changed, only_left, only_right}. Raises Invalid for two kinds."""
    one, other = workspace.catalog.get(left), workspace.catalog.get(right)
    if one.ref.kind != other.ref.kind:
        raise Invalid(
            f"{left} {right}",
            found=f"{one.ref.kind} and {other.ref.kind}",
            expected="one kind",
            next="btx diff build/1 build/2",
        )
    facts = [
        _flat({key: version.facts.get(key) for key in _keys(version)}) for version in (one, other)
    ]
    changes = [
        {"what": key, "left": facts[0].get(key), "right": facts[1].get(key)}
        for key in sorted(facts[0].keys() | facts[1].keys())
        if facts[0].get(key) != facts[1].get(key)
    ]
    return {
        "left": str(one.ref),
        "right": str(other.ref),
        "changes": changes,
        "files": _files(one, other),
    }


def _keys(version: Version) -> list[str]:
    return list(
        COMPARED.get(version.ref.kind, [key for key in version.facts if key not in NOT_COMPARED])
    )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested facts as one level, "evaluation.math.bits_per_byte"; lists of facts by their ref."""
    if isinstance(value, Mapping):
        return {
            name: leaf
            for key, inner in value.items()
            for name, leaf in _flat(inner, f"{path}.{key}" if path else str(key)).items()
        }
    if (
        isinstance(value, list)
        and value
        and all(isinstance(item, Mapping) and "ref" in item for item in value)
    ):
        return {
            name: leaf
            for item in value
            for name, leaf in _flat(
                {k: v for k, v in item.items() if k != "ref"}, f"{path}.{item['ref']}"
            ).items()
        }
    return {path: value}


def _files(one: Version, other: Version) -> dict[str, list[str]]:
    left, right = ({file.path: file.sha256 for file in version.files} for version in (one, other))
    both = left.keys() & right.keys()
    return {
        "same": sorted(path for path in both if left[path] == right[path]),
        "changed": sorted(path for path in both if left[path] != right[path]),
        "only_left": sorted(left.keys() - right.keys()),
        "only_right": sorted(right.keys() - left.keys()),
    }
