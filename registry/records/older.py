"""Bring what older rows say into the shape that the records have today.

In:  the parsed JSON of facts, evidence or a report, of any age.  Out: the same facts in today's
shape; what has today's shape already is returned as it is. Rows themselves are never rewritten:
digests are computed over their own text.

Rows written before results were a list hold `evaluation`: of a build a mapping from a data
version's bare name to figures, of an expert the figures of its first data version with the mapping
under `domains`. Such a mapping cannot tell two versions of one data name apart, because only the
newest of them was measured; so the newest is the one that its figures are given to.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from registry.records.references import parse

# The values that a mix had where a row does not say: as they were when such rows were written.
_MIX = {"top_k": 2, "routing": "top-k", "seed_expert": True}


def flat_training(value: Any) -> Any:
    """Return a training report whose figures stand beside its recipe, not under `report`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("report"), Mapping):
        return value
    return {**value["report"], **{key: part for key, part in value.items() if key != "report"}}


def expert(value: Any) -> Any:
    """Return an expert's facts with its results as a list."""
    if not isinstance(value, Mapping) or "evaluation" not in value or "results" in value:
        return value
    facts = dict(value)
    evaluation = facts.pop("evaluation") or {}
    data = _references(facts.get("data"))
    domains = evaluation.get("domains")
    if not domains:
        figures = {key: part for key, part in evaluation.items() if key != "domains"}
        domain = facts.get("domain") or (parse(data[0]).name if data else facts.get("name"))
        domains = {str(domain): figures} if figures else {}
    facts["results"] = _results(domains, data)
    return facts


def evidence(value: Any) -> Any:
    """Return the evidence on an expert or a build with results as a list.

    Which data version a figure of a build belongs to is not in such evidence; so its members'
    data tells.
    """
    if not isinstance(value, Mapping) or "evaluation" not in value or "results" in value:
        return value
    evaluation = value["evaluation"]
    if not isinstance(evaluation, Mapping):
        return value
    domains = evaluation
    data = _references(value.get("data"))
    if "members" in value:
        for member in value["members"] or ():
            data += _references(member.get("data"))
    else:
        domains = evaluation.get("domains") or {}
        if not domains:
            name = parse(data[0]).name if data else str(value.get("name"))
            domains = {name: evaluation}
    lines = [
        {**figures, "data": _newest(domain, data), "domain": domain}
        for domain, figures in domains.items()
        if isinstance(figures, Mapping)
    ]
    return {**value, "results": lines}


def build(value: Any) -> Any:
    """Return a build's facts with results, routing, recipe and architecture in today's shape."""
    if not isinstance(value, Mapping) or "architecture" in value:
        return value
    facts = dict(value)
    data = _references(facts.get("tuned_on"))
    if "results" not in facts:
        facts["results"] = _results(facts.pop("evaluation", None) or {}, data)
    facts.pop("previous", None)
    routing = facts.get("routing")
    if isinstance(routing, Mapping) and isinstance(routing.get("shares"), Mapping):
        facts["routing"] = {**routing, "shares": _shares(routing["shares"], data)}
    recipe = facts.get("recipe")
    given = recipe if isinstance(recipe, Mapping) else {}
    resolved = given.get("resolved")
    if isinstance(resolved, Mapping):
        as_written = {key: part for key, part in given.items() if key != "resolved"}
        facts["given_recipe"] = as_written
        facts["recipe"] = {**as_written, **resolved}
    facts["architecture"] = _architecture(facts)
    return facts


def _architecture(facts: Mapping[str, Any]) -> dict[str, Any]:
    recipe = facts.get("recipe") or {}
    mix = {**_MIX, **(recipe.get("mix") or {})}
    cost = facts.get("cost") or {}
    experts = len(facts.get("members") or ()) + int(bool(mix["seed_expert"]))
    at_work = {"top-k": mix["top_k"], "soft": experts}.get(mix["routing"], 1)
    return {
        "top_k": at_work,
        "routing": mix["routing"],
        "seed_expert": mix["seed_expert"],
        "active_parameters": cost.get("active_parameters"),
        "total_parameters": cost.get("total_parameters"),
    }


def _results(domains: Mapping[str, Any], data: Sequence[str]) -> list[dict[str, Any]]:
    results = []
    for domain, figures in domains.items():
        if not isinstance(figures, Mapping):
            continue
        result = {key: part for key, part in figures.items() if not key.startswith("specialist_")}
        specialist = {
            key.removeprefix("specialist_"): part
            for key, part in figures.items()
            if key.startswith("specialist_")
        }
        if specialist:
            result["specialists"] = [specialist]
        results.append({**result, "data": _newest(domain, data), "domain": domain})
    return results


def _shares(shares: Mapping[str, Any], data: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"data": _newest(domain, data), "domain": domain, "layers": layers}
        for domain, layers in shares.items()
    ]


def _newest(domain: str, data: Iterable[str]) -> str:
    """Return the newest of these data versions that has this name; else the name alone."""
    same = [parse(ref) for ref in data if parse(ref).name == domain]
    newest = max(same, key=lambda ref: ref.version or 0, default=None)
    return str(newest) if newest else f"data/{domain}"


def _references(value: Any) -> list[str]:
    """Return the references in a list of references, or of lines that have one each."""
    lines = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    refs = [line.get("ref") if isinstance(line, Mapping) else line for line in lines]
    return [ref for ref in refs if isinstance(ref, str)]
