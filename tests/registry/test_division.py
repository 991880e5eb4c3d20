"""What a build's facts say of how the work is divided among its experts."""

from typing import Any

from registry.records.division import (
    answered,
    could_be_one,
    could_be_several,
    sentences,
    unserved,
)
from registry.records.facts import BuildFacts

MEMBERS = [
    {"ref": "expert/law-a@1", "slot": 1, "digest": "a"},
    {"ref": "expert/law-b@1", "slot": 2, "digest": "b"},
]


def result(data: str, expert: str | None = None, **more: Any) -> dict[str, Any]:
    specialists = [{"ref": expert, "bits_per_byte": 1.0}] if expert else []
    domain = data.split("/")[1].split("@")[0]
    return {"data": data, "domain": domain, "specialists": specialists, **more}


def build(distance: float = 0.01, **more: Any) -> BuildFacts:
    pair = {"left": "data/a@1", "right": "data/b@1", "distance": distance, "by_chance": 0.01}
    facts = {
        "seed": "seed/base@1",
        "members": MEMBERS,
        "architecture": {"top_k": 2, "routing": "top-k", "seed_expert": True},
        "texts_apart": [pair],
        "results": [result("data/a@1", "expert/law-a@1"), result("data/b@1", "expert/law-b@1")],
        "routing": {
            "shares": [
                {"data": "data/a@1", "domain": "a", "layers": [[0.2, 0.8, 0], [0.4, 0.6, 0]]},
            ]
        },
    }
    return BuildFacts.from_json({**facts, **more}, "a build")


def test_texts_that_nothing_tells_apart_could_be_one_experts() -> None:
    assert could_be_one(build(distance=0.2)) == []
    assert [(pair.left, pair.right) for pair in could_be_one(build())] == [("data/a@1", "data/b@1")]
    assert any("a@1 and b@1 could be one" in text for text in sentences(build()))


def test_two_texts_of_one_expert_are_one_already() -> None:
    one = [result("data/a@1", "expert/law-a@1"), result("data/b@1", "expert/law-a@1")]
    assert could_be_one(build(results=one)) == []


def test_a_text_whose_parts_teach_each_other_little_could_be_two_experts() -> None:
    parts = [{"passages": 90, "words": ["lease"]}, {"passages": 60, "words": ["def"]}]
    alike = {"data": "data/a@1", "taught": 0.5, "parts": parts}
    other = {"data": "data/b@1", "taught": 0.04, "parts": parts}
    facts = build(distance=0.2, texts_parted=[alike, other])
    assert [one.data for one in could_be_several(facts)] == ["data/b@1"]
    (line,) = sentences(facts)
    assert line.startswith("b@1 could be two experts'")
    assert "teaches 4.00 %" in line
    assert "90 passages (lease); 60 passages (def)" in line


def test_a_text_that_no_member_was_trained_on_and_the_build_knows_no_better_is_named() -> None:
    better = {"block_bits": [1.0, 1.1, 0.9], "seed_block_bits": [2.0, 2.1, 1.9]}
    alike = {"block_bits": [2.0, 2.0, 2.0], "seed_block_bits": [2.0, 2.1, 1.9]}
    results = [
        result("data/served@1", **better),
        result("data/alone@1", **alike),
        result("data/unknown@1", new_to_seed=None, **alike),
        result("data/general@1", new_to_seed=False, **alike),
        result("data/own@1", "expert/law-a@1", **alike),
    ]
    assert unserved(build(results=results)) == ["data/alone@1", "data/unknown@1"]


def test_who_answers_is_the_mean_over_layers_and_unknown_where_experts_are_cut() -> None:
    (one,) = answered(build())
    assert one.data == "data/a@1"
    assert {ref: round(share, 6) for ref, share in one.shares.items()} == {
        "seed/base@1": 0.3,
        "expert/law-a@1": 0.7,
        "expert/law-b@1": 0.0,
    }
    cut = {"shares": [{"data": "data/a@1", "domain": "a", "layers": [[0.25] * 6]}]}
    assert answered(build(routing=cut)) == []
