"""Jobs: list what is registered, show one version. Rows in, plain dicts with PRODUCT's keys out."""

from collections.abc import Mapping
from typing import Any

from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Version
from registry.errors import Invalid

KINDS = {
    "seeds": "seed",
    "data": "data",
    "experts": "expert",
    "builds": "build",
    "exports": "export",
}
_KEYS = {
    "seed": ("model_type", "parameters", "license"),
    "data": ("license", "source", "holder", "pii", "bytes"),
    "expert": ("seed", "mode", "data", "licenses"),
    "build": ("snapshot", "seed"),
    "export": ("folder", "target"),
}


def listed(workspace: Workspace, kind: str, filters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a version, oldest first. Raises Invalid for a word that is no kind."""
    if kind not in KINDS:
        raise Invalid(
            kind,
            found="no kind of thing",
            expected=" | ".join(KINDS),
            next=f"btx list {next(iter(KINDS))}",
        )
    versions = workspace.catalog.list(KINDS[kind], files=False, **filters)
    statuses = workspace.catalog.statuses(versions)
    return [_row(version, statuses[version.ref]) for version in versions]


def _row(version: Version, status: str) -> dict[str, Any]:
    ref = version.ref
    row: dict[str, Any] = {"ref": str(ref), "name": ref.name, "version": ref.version}
    row |= {key: version.facts.get(key) for key in _KEYS[ref.kind]}
    if ref.kind == "build":
        row["members"] = [member["ref"] for member in version.facts["members"]]
    return row | {
        "status": status,
        "digest": version.digest,
        "registered_at": version.registered_at,
    }


def shown(workspace: Workspace, reference: str) -> dict[str, Any]:
    """Everything recorded of one version, with its status of now, its files and its gates."""
    catalog = workspace.catalog
    version = catalog.get(reference)
    verdicts = [event.body for event in catalog.events(version.ref, kind="verdict")]
    head = {
        "ref": str(version.ref),
        "status": catalog.status(version.ref),
        "digest": version.digest,
    }
    recorded = {"registered_at": version.registered_at, "actor": version.actor}
    facts = {key: value for key, value in version.facts.items() if key not in ("status", "tensors")}
    return (
        head
        | recorded
        | facts
        | {"files": [vars(file) for file in version.files], "gates": verdicts}
    )
