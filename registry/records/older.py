"""Bring what older rows say into the shape that the records have today.

In:  the parsed JSON of facts, evidence or a report, of any age.  Out: the same facts in today's
shape; what has today's shape already is returned as it is. Rows themselves are never rewritten:
digests are computed over their own text.

Rows written before results were a list hold `evaluation`: of a build a mapping from a data
version's bare name to figures, of an expert the figures of its first data version with the mapping
under `domains`. Such a mapping holds the figures of one version of each name. Of an expert that was
the last one of this name in its `data`. Of a build it was the newest that a member was trained on,
which its row does not say: where `tuned_on` leaves a choice, the name stays without a number, and
`Catalog.results` asks the members.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from registry.errors import Invalid
from registry.records.references import Reference, parse

# The values of a step where a row does not say: as they were when such rows were written.
_MIX = {"top_k": 2, "routing": "top-k", "seed_expert": True}
_EVALUATE = {"max_tokens": 20_000, "sequence": 256, "batch_tokens": 4096, "tasks": []}


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
    evaluation = _object("evaluation", facts.pop("evaluation"))
    data = _references(facts.get("data"))
    domains = _object("evaluation.domains", evaluation.get("domains"))
    if not domains:
        figures = {key: part for key, part in evaluation.items() if key != "domains"}
        domain = facts.get("domain") or (data[0].name if data else facts.get("name"))
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
        for member in _list(value["members"]):
            data += _references(member.get("data") if isinstance(member, Mapping) else None)
    else:
        domains = _object("evaluation.domains", evaluation.get("domains"))
        if not domains:
            name = data[0].name if data else str(value.get("name"))
            domains = {name: evaluation}
    lines = [
        {**figures, "data": _last(domain, data), "domain": domain}
        for domain, figures in domains.items()
        if isinstance(figures, Mapping)
    ]
    return {**value, "results": lines}


def build(value: Any) -> Any:
    """Return a build's facts with results, routing, recipe and architecture in today's shape."""
    if not isinstance(value, Mapping):
        return value
    if "architecture" in value and "evaluation" not in value:
        return value
    facts = dict(value)
    data = _without_choice(_references(facts.get("tuned_on")))
    if "results" not in facts:
        facts["results"] = _results(_object("evaluation", facts.pop("evaluation", None)), data)
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
        evaluate = {**_EVALUATE, **_object("recipe.evaluate", as_written.get("evaluate"))}
        facts["recipe"] = {**as_written, "evaluate": evaluate, **resolved}
    facts["architecture"] = _architecture(facts)
    tune = _object("recipe.tune", _object("recipe", facts.get("recipe")).get("tune"))
    if isinstance(tune.get("mode"), str):
        facts.setdefault("tuned", tune["mode"])
    return facts


def _architecture(facts: Mapping[str, Any]) -> dict[str, Any]:
    recipe = _object("recipe", facts.get("recipe"))
    mix = {**_MIX, **_object("recipe.mix", recipe.get("mix"))}
    cost = _object("cost", facts.get("cost"))
    experts = len(_list(facts.get("members"))) + int(bool(mix["seed_expert"]))
    at_work = {"top-k": mix["top_k"], "soft": experts}.get(str(mix["routing"]), 1)
    return {
        "top_k": at_work,
        "routing": mix["routing"],
        "seed_expert": mix["seed_expert"],
        "active_parameters": cost.get("active_parameters"),
        "total_parameters": cost.get("total_parameters"),
    }


def _results(domains: Mapping[str, Any], data: Sequence[Reference]) -> list[dict[str, Any]]:
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
        results.append({**result, "data": _last(domain, data), "domain": domain})
    return results


def _shares(shares: Mapping[str, Any], data: Sequence[Reference]) -> list[dict[str, Any]]:
    return [
        {"data": _last(domain, data), "domain": domain, "layers": layers}
        for domain, layers in shares.items()
    ]


def _last(domain: str, data: Iterable[Reference]) -> str:
    """Return the last of these data versions that has this name; else the name alone."""
    same = [ref for ref in data if ref.name == domain]
    return str(same[-1]) if same else f"data/{domain}"


def _without_choice(data: Sequence[Reference]) -> list[Reference]:
    """Return those data versions that are the only ones of their name."""
    names = [ref.name for ref in data]
    return [ref for ref in data if names.count(ref.name) == 1]


def _references(value: Any) -> list[Reference]:
    """Return the references in a list of references, or of lines that have one each.

    What is no reference is left out: it names no version that figures could be given to.
    """
    references = []
    for line in _list(value):
        text = line.get("ref") if isinstance(line, Mapping) else line
        if not isinstance(text, str):
            continue
        try:
            references.append(parse(text))
        except Invalid:
            continue
    return references


def _list(value: Any) -> Sequence[Any]:
    """Return the value where it is a list; anything else is for the record's field to refuse."""
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


def _object(key: str, value: Any) -> Mapping[str, Any]:
    """Return the object under this key, empty where there is none.

    Raises:
        PydanticCustomError: for anything else, which makes the whole row one that is damaged.
    """
    if value is None:
        return {}
    if isinstance(value, BaseModel):
        # A record that is being made, not a row that is being read.
        return value.model_dump()
    if not isinstance(value, Mapping):
        raise PydanticCustomError("not_an_object", "an object under {key}", {"key": key})
    return value
