"""The facts that a gate is asked about, one plain dict per kind of candidate; every key is always there, null when unknown.

In:  catalogue versions, facts measured by the jobs.  Out: JSON-able dicts. Judging them is the policies' work.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from registry.catalogue.catalog import Catalog, Version

Facts = dict[str, Any]


def of_data(ref: str, facts: Mapping[str, Any], files: int) -> Facts:
    named = ("license", "source", "holder", "purpose", "pii", "retain_until", "bytes")
    return {
        "kind": "data",
        "ref": ref,
        "name": facts["domain"],
        "files": files,
        **{key: facts.get(key) for key in named},
    }


def of_seed(ref: str, name: str, facts: Mapping[str, Any]) -> Facts:
    return {
        "kind": "seed",
        "ref": ref,
        "name": name,
        "license": facts.get("license"),
        "finite": facts.get("finite"),
        "model_type": facts.get("model_type"),
    }


def data_line(catalog: Catalog, version: Version) -> Facts:
    facts = version.facts
    return {
        "ref": str(version.ref),
        "license": facts.get("license"),
        "pii": facts.get("pii"),
        "retain_until": facts.get("retain_until"),
        "status": catalog.status(version.ref),
    }


def of_expert(catalog: Catalog, ref: str, name: str, facts: Mapping[str, Any]) -> Facts:
    evaluation = facts.get("evaluation")
    return {
        "kind": "expert",
        "ref": ref,
        "name": name,
        "mode": facts["mode"],
        "seed": facts["seed"],
        "data": [data_line(catalog, catalog.get(data)) for data in facts["data"]],
        "weights": facts["preflight"],
        "evaluation": evaluation,
        "contamination": facts.get("contamination"),
        "cost": facts.get("train"),
    }


def of_build(
    catalog: Catalog,
    ref: str | None,
    seed: str,
    members: Sequence[Version],
    build: Mapping[str, Any] | None = None,
) -> Facts:
    """For gates build (no build yet) and release (with the recorded build's facts)."""
    build = build or {}
    lines = [
        {
            "ref": str(member.ref),
            "status": catalog.status(member.ref),
            "licenses": member.facts["licenses"],
            "data": [data_line(catalog, catalog.get(data)) for data in member.facts["data"]],
        }
        for member in members
    ]
    base = catalog.get(seed)
    routing = build.get("routing")
    cost = build.get("cost") or {}
    return {
        "kind": "build",
        "ref": ref,
        "seed": seed,
        "seed_license": base.facts.get("license"),
        "seed_data": [
            data_line(catalog, catalog.get(data)) for data in base.facts.get("data") or ()
        ],
        "members": lines,
        "licenses": _each(
            [
                base.facts.get("license"),
                *(license for line in lines for license in line["licenses"]),
            ]
        ),
        "evaluation": build.get("evaluation"),
        "previous": build.get("previous"),
        "routing": {"dead": routing["dead"], "dominant": routing["dominant"]} if routing else None,
        "active_parameters": cost.get("active_parameters"),
        "total_parameters": cost.get("total_parameters"),
        "tokens_per_s": cost.get("tokens_per_s"),
        "registrar": build.get("registrar"),
        "approvals": build.get("approvals", []),
        "removal": build.get("removal"),
    }


def _each(licenses: Iterable[str | None]) -> list[str]:
    """Every licence that applies: what AND joins, one by one; a choice (OR) stays whole, as counsel agreed to it."""
    stated = [license for license in licenses if license]
    return sorted(
        {
            part.strip("() ")
            for license in stated
            for part in (license.split(" AND ") if " OR " not in license else [license])
        }
    )
