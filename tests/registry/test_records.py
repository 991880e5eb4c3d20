"""What a row says.

It comes out again as it was, is brought into today's shape, or is called damaged.
"""

import json
import math
import os
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from btx_core.files import stays_inside
from registry.digest import canonical_json
from registry.errors import Damaged, Invalid
from registry.records.addresses import Address
from registry.records.base import Record
from registry.records.events import BODIES, AnyBody, read_body
from registry.records.evidence import (
    EVIDENCE,
    BuildEvidence,
    DataEvidence,
    ExpertEvidence,
    ResultLine,
    shapes,
)
from registry.records.facts import (
    FACTS,
    Architecture,
    BuildFacts,
    BuildRecipe,
    ExpertFacts,
    ExportFacts,
    RoutedShare,
    Routing,
    SeedFacts,
    TrainingReport,
)
from registry.records.kinds import Kind, Status, status_of
from registry.records.references import Reference
from registry.records.results import Result, Specialist
from registry.records.version import Event, Version

EXAMPLES = settings(
    max_examples=int(os.environ.get("BTX_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
RECORDS = {
    **{f"facts of {kind}": record for kind, record in FACTS.items()},
    **{f"evidence on {kind}": record for kind, record in EVIDENCE.items()},
    **{f"event {kind}": record for kind, record in BODIES.items()},
    "event of an unknown kind": AnyBody,
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
# Of the two types of field whose text is checked.
ADDRESSES = st.from_regex(r"[0-9a-f]{32}(\.dir)?", fullmatch=True)
PATHS = st.lists(TEXT.filter(stays_inside), min_size=1, max_size=3).map("/".join)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
# Keys that no record has; the first ones are what a careless reader would look at.
UNKNOWN = st.sampled_from(["kind of", "stored", "to_json", "model_dump", "later", "ä", ""])


@cache
def objects_of(record: type[Record]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw JSON objects of a record: each field there or not, and keys that it does not know."""
    fields = record.model_fields.items()
    known = {
        field.alias or name: PATHS if field.metadata else values_of(field.annotation)
        for name, field in fields
    }
    required = {
        field.alias or name: known[field.alias or name]
        for name, field in fields
        if field.is_required()
    }
    optional = {name: values for name, values in known.items() if name not in required}
    return st.builds(
        lambda own, more: {**more, **own},
        st.fixed_dictionaries(required, optional=optional),
        st.dictionaries(UNKNOWN, JSON, max_size=2),
    )


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Draw the JSON of one field."""
    simple = {
        NoneType: st.none(),
        str: TEXT,
        bool: st.booleans(),
        int: st.integers(-(2**53), 2**53),
        float: NUMBERS,
        Any: JSON,
    }
    if annotation in simple:
        return simple[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return objects_of(annotation)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return st.sampled_from([str(word) for word in annotation])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation == Address:
        return ADDRESSES
    if origin is Annotated:
        return PATHS
    if origin in (Union, UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*map(values_of, arguments)).map(list)
    if origin is tuple:
        return st.lists(values_of(arguments[0]), max_size=2)
    assert issubclass(origin, Mapping), annotation
    return st.dictionaries(TEXT, values_of(arguments[1]), max_size=2)


def within(part: Any, whole: Any) -> bool:
    """Tell whether everything that `part` holds is in `whole` too, at every level."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(within, part, whole))
    return bool(canonical_json(part) == canonical_json(whole))


@pytest.mark.parametrize("name", RECORDS)
@EXAMPLES
@given(data=st.data())
def test_a_record_comes_out_again_as_it_was_with_the_keys_that_nobody_knows(
    name: str, data: st.DataObject
) -> None:
    record = RECORDS[name]
    value = data.draw(objects_of(record))
    first = record.from_json(value, "test").to_json()
    text = canonical_json(first)
    again = record.from_text(text, "test")
    assert canonical_json(again.to_json()) == text
    assert again.to_json() == record.from_json(json.loads(text), "test").to_json()
    assert within(value, first)


OLDER = st.sampled_from(
    [
        *("evaluation", "results", "domains", "data", "members", "recipe", "mix", "cost", "train"),
        *("routing", "shares", "tuned_on", "ref", "report", "resolved", "seed_expert", "top_k"),
        *("domain", "name", "documents", "outcome", "gate", "act", "envelope", "status", "kind"),
    ]
)
WHATEVER = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "data/a@1", "soft", "evaluated"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(OLDER, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", RECORDS)
@EXAMPLES
@given(value=WHATEVER | st.dictionaries(OLDER, WHATEVER, max_size=6))
def test_whatever_json_a_row_holds_is_read_or_called_damaged(name: str, value: Any) -> None:
    record = RECORDS[name]
    for read in (
        lambda: record.from_json(value, "row 7"),
        lambda: record.from_text(json.dumps(value), "row 7"),
    ):
        try:
            found = read()
        except Damaged as error:
            subject = error.subject
        else:
            subject = "row 7" if isinstance(found.to_json(), dict) else ""
        assert subject.startswith("row 7")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"a":1}}', "{'a': 1}", "\x00"])
def test_text_that_is_no_json_object_is_damaged(text: str) -> None:
    for record in RECORDS.values():
        with pytest.raises(Damaged, match="row 7"):
            record.from_text(text, "row 7")


def test_a_field_of_another_type_is_named() -> None:
    with pytest.raises(Damaged, match=r"expert/a@1, facts, results\.0\.data") as caught:
        ExpertFacts.from_json({"results": [{"domain": "a"}]}, "expert/a@1, facts")
    assert "Field required" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, [{"deep": math.nan}], object(), b"\xff", lambda: 0],
    ids=["nan", "infinity", "nan inside", "object", "bytes", "function"],
)
def test_what_is_no_json_is_refused_and_never_kept_as_unknown(value: object) -> None:
    facts = SeedFacts(**{"more": value})
    with pytest.raises(Invalid):
        canonical_json(facts.to_json())
    evidence = DataEvidence(kind="data", name="a", more=value)
    with pytest.raises(Invalid):
        canonical_json(evidence.to_json())


def test_a_circle_in_a_kept_key_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Invalid, match="plain JSON"):
        SeedFacts(**{"more": loop}).to_json()


# Rows and documents of older releases, each beside what it says in today's shape.


def test_older_figures_of_an_expert_are_given_to_the_newest_data_version_of_each_domain() -> None:
    row = {
        "data": ["data/law@1", "data/law@2", "data/math@1"],
        "domain": "law",
        "evaluation": {
            "bits_per_byte": 0.5,
            "seed_bits_per_byte": 0.9,
            "domains": {
                "law": {"bits_per_byte": 0.5, "seed_bits_per_byte": 0.9, "tokens": 20},
                "math": {"bits_per_byte": 0.7, "accuracy": 0.25, "answers": 4},
                "odd": {"bits_per_byte": 0.8},
                "note": "no figures",
            },
        },
    }
    facts = ExpertFacts.from_json(row, "test")
    assert facts.results == (
        Result(
            data="data/law@2", domain="law", bits_per_byte=0.5, seed_bits_per_byte=0.9, tokens=20
        ),
        Result(data="data/math@1", domain="math", bits_per_byte=0.7, accuracy=0.25, answers=4),
        Result(data="data/odd", domain="odd", bits_per_byte=0.8),
    )
    assert "evaluation" not in facts.to_json()


@pytest.mark.parametrize("rest", [{}, {"domains": {}}, {"domains": None}])
@pytest.mark.parametrize(
    ("own", "data", "domain"),
    [
        ({"data": ["data/law@1"]}, "data/law@1", "law"),
        ({"data": ["data/law@1"], "domain": "law"}, "data/law@1", "law"),
        ({"data": ["data/law@1"], "domain": "legal"}, "data/legal", "legal"),
        ({"domain": "legal"}, "data/legal", "legal"),
        ({"name": "law"}, "data/law", "law"),
    ],
)
def test_an_older_flat_evaluation_of_an_expert_is_one_result(
    own: dict[str, Any], data: str, domain: str, rest: dict[str, Any]
) -> None:
    row = {**own, "evaluation": {"bits_per_byte": 0.5, "seed_bits_per_byte": 0.9, **rest}}
    expected = Result(data=data, domain=domain, bits_per_byte=0.5, seed_bits_per_byte=0.9)
    assert ExpertFacts.from_json(row, "test").results == (expected,)
    assert ExpertFacts.from_json({**own, "evaluation": rest or None}, "test").results == ()


def test_an_older_build_says_the_same_in_todays_shape() -> None:
    row = {
        "status": "evaluated",
        "seed": "seed/base@1",
        "members": [{"ref": "expert/law@1", "slot": 1}, {"ref": "expert/math@2", "slot": 2}],
        "tuned_on": ["data/law@1", "data/law@3", "data/math@1", "data/prose@1"],
        "evaluation": {
            "law": {
                "bits_per_byte": 0.6,
                "seed_bits_per_byte": 1.0,
                "specialist_bits_per_byte": 0.5,
                "specialist_accuracy": 0.75,
                "new_to_seed": True,
                "tokens": 7,
            },
            "prose": {"bits_per_byte": 0.9},
        },
        "previous": {"law": {"bits_per_byte": 0.7}},
        "routing": {
            "shares": {"law": [[0.25, 0.75]], "prose": [[0.5, 0.5]]},
            "dead": [],
            "dominant": ["math"],
        },
        "recipe": {
            "mix": {"top_k": 1},
            "tune": {"mode": "router"},
            "resolved": {
                "mix": {"top_k": 1, "routing": "switch", "seed_expert": False},
                "tune": {"mode": "router", "steps": 5},
                "evaluate": {"max_tokens": 100},
            },
        },
        "cost": {"active_parameters": 18, "total_parameters": 27, "tokens_per_s": 100},
    }
    # Two versions of law were tuned on: the members tell which was measured (Catalog.results).
    facts = BuildFacts.from_json(row, "test")
    assert facts.results == (
        Result(
            data="data/law",
            domain="law",
            bits_per_byte=0.6,
            seed_bits_per_byte=1.0,
            specialists=(Specialist(bits_per_byte=0.5, accuracy=0.75),),
            new_to_seed=True,
            tokens=7,
        ),
        Result(data="data/prose@1", domain="prose", bits_per_byte=0.9),
    )
    assert facts.routing == Routing(
        shares=(
            RoutedShare(data="data/law", domain="law", layers=((0.25, 0.75),)),
            RoutedShare(data="data/prose@1", domain="prose", layers=((0.5, 0.5),)),
        ),
        dominant=("math",),
    )
    assert facts.recipe == BuildRecipe(
        mix={"top_k": 1, "routing": "switch", "seed_expert": False},
        tune={"mode": "router", "steps": 5},
        evaluate={"max_tokens": 100},
    )
    assert facts.given_recipe == BuildRecipe(mix={"top_k": 1}, tune={"mode": "router"})
    assert facts.architecture == Architecture(
        top_k=1, routing="switch", seed_expert=False, active_parameters=18, total_parameters=27
    )
    assert not {"evaluation", "previous"} & facts.to_json().keys()
    assert BuildFacts.from_json(facts.to_json(), "test") == facts


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ({}, (2, "top-k", True)),
        ({"top_k": 3, "seed_expert": False}, (3, "top-k", False)),
        ({"routing": "soft"}, (4, "soft", True)),
        ({"routing": "soft", "seed_expert": False}, (3, "soft", False)),
        ({"routing": "switch", "top_k": 2}, (1, "switch", True)),
        ({"routing": "sample"}, (1, "sample", True)),
    ],
)
def test_an_older_mix_says_how_many_experts_work_on_each_token(
    mix: dict[str, Any], expected: tuple[int, str, bool]
) -> None:
    members = [{"ref": f"expert/e{slot}@1", "slot": slot} for slot in (1, 2, 3)]
    row = {"recipe": {"mix": mix}, "members": members}
    architecture = BuildFacts.from_json(row, "test").architecture
    assert architecture is not None
    found = (architecture.top_k, architecture.routing, architecture.seed_expert)
    assert found == expected


def test_a_build_of_todays_shape_is_read_as_it_is() -> None:
    row = {
        "architecture": {"top_k": 1, "routing": "top-k", "seed_expert": False},
        "recipe": {"mix": {"top_k": 1}},
        "results": [{"data": "data/law@1", "domain": "law"}],
    }
    assert BuildFacts.from_json(row, "test").to_json() == row


def test_an_older_training_report_stands_beside_its_recipe() -> None:
    report = {"tokens": 5, "flops": 1e21, "wall_s": 2.5, "curve": [[1, 3.5]]}
    row = {"train": {"report": report, "recipe": {"steps": 1}, "tokens": 6}}
    flat = TrainingReport(tokens=6, flops=1e21, wall_s=2.5, curve=[[1, 3.5]], recipe={"steps": 1})
    for record in (SeedFacts, ExpertFacts):
        assert record.from_json(row, "test").train == flat


def test_older_evidence_on_an_expert_has_its_figures_as_results() -> None:
    lines = [{"ref": "data/law@1"}, {"ref": "data/law@2"}, {"ref": "data/math@1"}]
    figures = {"bits_per_byte": 0.5, "seed_bits_per_byte": 0.9}
    flat = {"kind": "expert", "name": "law", "data": lines, "evaluation": figures}
    assert ExpertEvidence.from_json(flat, "test").results == (
        ResultLine(data="data/law@2", domain="law", **figures),
    )
    domains = {"law": figures, "math": {"bits_per_byte": 0.7, "accuracy": 0.5}}
    nested = {**flat, "evaluation": {**figures, "domains": domains}}
    assert ExpertEvidence.from_json(nested, "test").results == (
        ResultLine(data="data/law@2", domain="law", **figures),
        ResultLine(data="data/math@1", domain="math", bits_per_byte=0.7, accuracy=0.5),
    )
    alone = {"kind": "expert", "name": "law", "evaluation": figures}
    assert ExpertEvidence.from_json(alone, "test").results[0].data == "data/law"
    unknown = {"kind": "expert", "name": "law", "evaluation": None}
    assert ExpertEvidence.from_json(unknown, "test").results == ()


def test_older_evidence_on_a_build_takes_its_data_versions_from_the_members() -> None:
    members = [
        {"ref": "expert/law@1", "data": [{"ref": "data/law@2"}]},
        {"ref": "expert/law@2", "data": [{"ref": "data/law@3"}]},
    ]
    evaluation = {"law": {"bits_per_byte": 0.6, "specialist_bits_per_byte": 0.5}}
    older = {"kind": "build", "members": members, "evaluation": evaluation}
    assert BuildEvidence.from_json(older, "test").results == (
        ResultLine(
            data="data/law@3", domain="law", bits_per_byte=0.6, specialist_bits_per_byte=0.5
        ),
    )


def test_an_exports_verdict_is_a_word_whatever_older_rows_hold() -> None:
    assert ExportFacts.from_json({"verdict": "allowed"}, "test").verdict == "allowed"
    assert ExportFacts.from_json({"verdict": 7}, "test").verdict == "7"
    assert ExportFacts.from_json({"verdict": None}, "test").verdict is None


# What policies may name.


def test_policies_written_before_still_find_every_fact_they_name() -> None:
    """The description of evidence as it was when results were not yet a list."""
    older = yaml.safe_load((Path(__file__).parent / "golden" / "evidence-0001.yaml").read_text())
    assert set(older) == {"data", "seed", "expert", "build"}
    assert list(_missing(older, shapes())) == []


def _missing(older: Any, today: Any, path: str = "") -> Any:
    """Yield the path of every shape that is not described as it was."""
    if older == "any" or older == today:
        return
    if isinstance(older, list) and isinstance(today, list):
        yield from _missing(older[0], today[0], f"{path}[]")
    elif isinstance(older, dict) and isinstance(today, dict):
        for key, shape in older.items():
            if key in today:
                yield from _missing(shape, today[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is gone"
    else:
        yield f"{path} was {older} and is {today}"


# Statuses.


@pytest.mark.parametrize(
    ("erased", "withdrawn", "retired", "tainted", "released"),
    list(product([False, True], repeat=5)),
)
@pytest.mark.parametrize("progress", [None, "mixed", "evaluated"])
@pytest.mark.parametrize("recorded", [None, "registered", "tuned"])
def test_a_status_is_the_first_that_applies(
    erased: bool,
    withdrawn: bool,
    retired: bool,
    tainted: bool,
    released: bool,
    progress: str | None,
    recorded: str | None,
) -> None:
    said = {
        Status.RELEASED: released,
        Status.TAINTED: tainted,
        Status.RETIRED: retired,
        Status.WITHDRAWN: withdrawn,
        Status.ERASED: erased,
    }
    found = status_of(
        [status for status, holds in said.items() if holds], progress=progress, recorded=recorded
    )
    words = [
        "erased" if erased else None,
        "withdrawn" if withdrawn else None,
        "tainted" if tainted else None,
        "retired" if retired else None,
        "released" if released else None,
        progress,
        recorded,
        "registered",
    ]
    assert found == next(word for word in words if word is not None)
    assert isinstance(found, Status)


@pytest.mark.parametrize("key", ["progress", "recorded"])
@pytest.mark.parametrize("word", ["half done", "released", "withdrawn", "refused"])
def test_a_status_that_nobody_knows_or_that_rests_on_an_event_is_an_error(
    key: str, word: str
) -> None:
    known: dict[str, Any] = {"progress": None, "recorded": None, key: word}
    with pytest.raises(ValueError, match=word):
        status_of([], **known)
    assert status_of([Status.WITHDRAWN], **known) == "withdrawn"


# Versions and events.


def test_an_event_of_a_kind_that_nobody_knows_is_read_with_all_its_keys() -> None:
    body = read_body("invented", '{"a":[1],"documents":["d"]}', "event 1")
    assert isinstance(body, AnyBody)
    assert body.to_json() == {"a": [1], "documents": ["d"]}
    assert read_body("invented", {"a": 1}, "event 1").to_json() == {"a": 1}


def test_a_body_is_read_when_somebody_asks_for_it() -> None:
    damaged = Event(1, "", "ann", "verdict", "data/a@1", "[]", "", "")
    with pytest.raises(Damaged, match="event 1"):
        _ = damaged.body
    broken: Version[ExpertFacts] = Version(Reference(Kind.EXPERT, "a", 1), "", "", "ann", "[]")
    with pytest.raises(Damaged, match="expert/a@1"):
        _ = broken.facts


def test_evidence_has_every_key_and_governances_own_only_once_they_are_set() -> None:
    told = DataEvidence(kind="data", ref="data/a@1", name="a", more=1)
    keys = set(DataEvidence.model_fields) - {"waivers", "actor"} | {"more"}
    assert told.to_json().keys() == keys
    assert told.model_copy(update={"waivers": ()}).to_json().keys() == keys | {"waivers"}
