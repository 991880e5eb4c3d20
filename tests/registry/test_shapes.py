"""What a policy may name and of which type it is: shapes, their stored form, and syntax trees."""

import json
from typing import Any

import pytest
from cel_expr_python import cel

from registry.digest import canonical_json, digest
from registry.errors import Invalid
from registry.governance.cel.expressions import check_names, compile_expression
from registry.governance.cel.shapes import (
    Anything,
    ListOf,
    MappingOf,
    Number,
    Record,
    Shape,
    Text,
    Truth,
    from_json,
    mismatch,
    to_json,
)
from registry.governance.cel.tree import (
    Call,
    ListLiteral,
    Literal,
    Loop,
    Name,
    Presence,
    Select,
    decode,
)
from registry.governance.policies import evidence_shapes, to_document

EVERY_FORM = {
    "name": "text",
    "bytes": "number",
    "finite": "truth",
    "licenses": ["text"],
    "by_domain": {"*": {"loss": "number"}},
    "other": {"*": "any"},
}
EVERY_SHAPE = Record(
    {
        "name": Text(),
        "bytes": Number(),
        "finite": Truth(),
        "licenses": ListOf(Text()),
        "by_domain": MappingOf(Record({"loss": Number()})),
        "other": MappingOf(Anything()),
    }
)


def test_a_shape_is_read_and_written_in_the_form_that_verdicts_keep() -> None:
    assert from_json(EVERY_FORM) == EVERY_SHAPE
    assert to_json(EVERY_SHAPE) == EVERY_FORM
    for form in evidence_shapes().values():
        assert canonical_json(to_json(from_json(form))) == canonical_json(form)


def test_the_shapes_that_a_verdict_keeps_are_those_of_the_evidence() -> None:
    kept = json.loads(canonical_json(to_document([])))["shapes"]
    assert digest(kept) == digest(evidence_shapes())
    assert {kind: from_json(form) for kind, form in kept.items()}.keys() == {
        "data",
        "seed",
        "expert",
        "build",
    }


@pytest.mark.parametrize("form", ["txt", "", [], ["text", "text"], {"*": "any", "a": "text"}, 1])
def test_a_shape_in_another_form_is_refused(form: Any) -> None:
    with pytest.raises(Invalid, match="shape of a fact"):
        from_json({"fact": form})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": 1}, "evidence.name is 1, not a text"),
        ({"bytes": "1"}, 'evidence.bytes is "1", not a number'),
        ({"bytes": True}, "evidence.bytes is true, not a number"),
        ({"finite": 1}, "evidence.finite is 1, not true or false"),
        ({"licenses": "MIT"}, 'evidence.licenses is "MIT", not a list'),
        ({"licenses": ["MIT", 1]}, "evidence.licenses[1] is 1, not a text"),
        ({"by_domain": []}, "evidence.by_domain is [], not a mapping"),
        ({"by_domain": {"law": 1}}, "evidence.by_domain.law is 1, not a mapping"),
        ({"by_domain": {"law": {"loss": []}}}, "evidence.by_domain.law.loss is [], not a number"),
    ],
)
def test_the_first_value_of_another_type_is_named(change: dict[str, Any], problem: str) -> None:
    evidence = {
        "name": "a",
        "bytes": 1.5,
        "finite": True,
        "licenses": ["MIT", None],
        "by_domain": {"law": {"loss": 1, "more": "x"}},
        "other": {"x": [1]},
        "not described": 1,
    }
    assert mismatch(evidence, EVERY_SHAPE) is None
    assert mismatch(dict.fromkeys(evidence), EVERY_SHAPE) is None
    assert mismatch(evidence | change, EVERY_SHAPE) == problem


@pytest.mark.parametrize(
    ("sound", "misspelt", "fact"),
    [
        ("evidence.name == 'a'", "evidence.nam == 'a'", "nam"),
        ("evidence['name'] == 'a'", "evidence['nam'] == 'a'", "nam"),
        ("evidence.by_domain.law.loss < 1.0", "evidence.by_domain.law.los < 1.0", "los"),
        (
            "evidence.by_domain[evidence.name].loss < 1.0",
            "evidence.by_domain['a'].los < 1.0",
            "los",
        ),
        ("evidence.other.law.x == 1", "evidence.othr.law.x == 1", "othr"),
        (
            "[evidence.by_domain.law].filter(d, d.loss > 1.0).size() == 0",
            "[evidence.by_domain.law].filter(d, d.loss > 1.0).all(d, d.los > 1.0)",
            "los",
        ),
        (
            "(evidence.finite ? null : evidence.by_domain).law.loss == 1.0",
            "(evidence.finite ? null : evidence.by_domain).law.los == 1.0",
            "los",
        ),
        ("evidence.name.size() == 1", "evidence.name.size == 1", "size"),
        ("evidence.licenses[0] == 'MIT'", "evidence.licenses.first == 'MIT'", "first"),
    ],
)
def test_a_fact_that_no_evidence_holds_is_named(sound: str, misspelt: str, fact: str) -> None:
    variables: dict[str, Shape] = {"evidence": EVERY_SHAPE}
    check_names(compile_expression(sound), variables)
    with pytest.raises(Invalid, match=f"'{fact}'"):
        check_names(compile_expression(misspelt), variables)


@pytest.mark.parametrize("text", ["evidence[evidence.name] == 1", "'name' in evidence"])
def test_facts_with_fixed_names_are_named_and_not_searched(text: str) -> None:
    with pytest.raises(Invalid, match="fixed names"):
        check_names(compile_expression(text), {"evidence": EVERY_SHAPE})


def test_a_tree_holds_what_the_expression_says() -> None:
    tree = compile_expression("evidence.a.all(x, x in ['b', 1])").tree
    assert isinstance(tree.root, Loop)
    assert (tree.root.variable, tree.root.elements) == ("x", Select(Name("evidence"), "a"))
    accumulator, condition = tree.root.step.children()
    assert accumulator == Name(tree.root.accumulator)
    assert condition == Call("@in", (Name("x"), ListLiteral((Literal("b"), Literal(None)))))


def test_the_bytes_of_a_tree_that_were_cut_or_changed_are_an_error_and_nothing_worse() -> None:
    text = "evidence.a.map(x, {'k': x + 'b'}).exists(y, has(y.k) && y.k.size() > 1)"
    environment = cel.NewEnv(variables={"evidence": cel.Type.DYN})
    whole = environment.compile(text).serialize()
    assert _count(decode(text, whole).root, Presence) == 1
    refused = 0
    for position in range(len(whole)):
        flipped = whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :]
        for damaged in (whole[:position], flipped):
            try:
                decode(text, damaged)
            except Invalid:
                refused += 1
    assert refused > 100


def _count(node: Any, kind: type) -> int:
    return isinstance(node, kind) + sum(_count(child, kind) for child in node.children())
