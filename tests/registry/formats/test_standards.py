"""What we write, judged by the standards' own schemas and shapes.

They are read from the folder that BTX_STANDARDS names: CONTRIBUTING.md says what lies in it.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyshacl
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from rdflib import Graph
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from registry.formats import collect, public, render

STANDARDS = Path(os.environ.get("BTX_STANDARDS", ""))
pytestmark = pytest.mark.skipif(
    "BTX_STANDARDS" not in os.environ, reason="BTX_STANDARDS names no folder with the standards"
)
REFS = ("data/law@1", "build/1")  # a build's holds experts, seed and snapshot too


def written(governed: Any, form: str) -> Iterator[str]:
    """Every kind of version in a format, inside and outside the company."""
    governed.story()
    for ref in REFS:
        dossier = collect(governed.as_("ann"), ref)
        yield render(dossier, form)
        yield render(public(dossier), form)


@dataclass(frozen=True)
class Spdx:
    """What SPDX publishes of one version of its specification."""

    schema: dict[str, Any]
    context: dict[str, Any]
    shapes: Graph


@pytest.fixture(scope="module")
def spdx() -> Spdx:
    folder = STANDARDS / "spdx"
    return Spdx(
        schema=json.loads((folder / "schema.json").read_text()),
        context=json.loads((folder / "spdx-context.jsonld").read_text())["@context"],
        shapes=Graph().parse(folder / "spdx-model.ttl"),
    )


def spdx_problems(text: str, spdx: Spdx) -> list[str]:
    """Return what SPDX's JSON Schema and its SHACL shapes find."""
    document = json.loads(text)
    found = [error.message for error in Draft202012Validator(spdx.schema).iter_errors(document)]
    # The context lies here: nothing is asked of the network.
    document["@context"] = spdx.context
    graph = Graph().parse(data=json.dumps(document), format="json-ld")
    shapes = spdx.shapes
    conforms, _, report = pyshacl.validate(graph, shacl_graph=shapes, ont_graph=shapes)
    return found if conforms else [*found, report]


def test_spdx_conforms_to_its_schema_and_its_shapes(governed: Any, spdx: Spdx) -> None:
    texts = list(written(governed, "spdx"))
    for text in texts:
        assert spdx_problems(text, spdx) == []
    # The alarm: what a shape asks for is taken out.
    document = json.loads(texts[0])
    for element in document["@graph"]:
        element.pop("specVersion", None)
    assert spdx_problems(json.dumps(document), spdx)


@pytest.fixture(scope="module")
def openlineage() -> Registry[Any]:
    """The spec and its facets, by the addresses that events name."""
    registry: Registry[Any] = Registry()
    for path in sorted((STANDARDS / "openlineage" / "spec").rglob("*.json")):
        schema = json.loads(path.read_text())
        if "$id" in schema:
            resource = Resource.from_contents(schema, default_specification=DRAFT202012)
            registry = registry.with_resource(schema["$id"], resource)
    return registry


def lineage_problems(event: dict[str, Any], registry: Registry[Any]) -> list[str]:
    """Return what the spec finds in an event, and each facet's own schema in the facet."""
    problems = _against({"$ref": event["schemaURL"]}, event, registry)
    holders = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    for holder in holders:
        for kind in ("facets", "inputFacets", "outputFacets"):
            for facet in holder.get(kind, {}).values():
                if facet["_schemaURL"].startswith("https://openlineage.io/spec/"):
                    problems += _against({"$ref": facet["_schemaURL"]}, facet, registry)
    return problems


def _against(schema: dict[str, Any], value: Any, registry: Registry[Any]) -> list[str]:
    validator = Draft202012Validator(
        schema, registry=registry, format_checker=FormatChecker(["date-time", "uri", "uuid"])
    )
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def test_openlineage_conforms_to_its_spec_and_each_run_starts_and_completes(
    governed: Any, openlineage: Registry[Any]
) -> None:
    for text in written(governed, "openlineage"):
        events = [json.loads(line) for line in text.splitlines()]
        for event in events:
            assert lineage_problems(event, openlineage) == []
        runs: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for event in events:
            runs[event["run"]["runId"]].append((event["eventTime"], event["eventType"]))
        for states in runs.values():
            assert [state for _, state in states] == ["START", "COMPLETE"]
            times = [time for time, _ in states]
            assert times == sorted(times)
    # The alarm: a facet without what its schema asks for, a run whose id is no UUID.
    broken = json.loads(text.splitlines()[-1])
    broken["run"]["runId"] = "first"
    assert lineage_problems(broken, openlineage)
