"""`btx explain`: the shares of a text add up, name data and licences, and follow the router.

What the router says is read by brute force.
"""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from pipelines.jobs.explain import explain, write_page
from pipelines.jobs.withdraw import withdraw
from pipelines.workspace.workspace import Workspace
from registry.errors import Conflict, Invalid

TEXT = "def area(r):\n    return 3 * r  # 12 + 30 = 42, é"
Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def workspace(story) -> Workspace:
    return Workspace.find(story.root)


def test_shares_add_up_to_one_and_agree_with_router_logits(workspace: Workspace) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answer = explain(workspace, "build/1", TEXT)
    folder = workspace.root / "builds/1"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.eos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder)(
            input_ids=torch.tensor([ids]), output_router_logits=True
        ).router_logits
    total = torch.zeros(3, dtype=torch.float64)
    for scores_TE in logits:
        top = scores_TE[1:].double().topk(2)
        total += (
            torch.zeros(len(ids) - 1, 3, dtype=torch.float64)
            .scatter(-1, top.indices, top.values.softmax(-1))
            .sum(0)
        )
    expected = (total / total.sum()).tolist()
    assert [source.ref for source in answer.sources] == [
        "seed/base@1",
        "expert/code@1",
        "expert/math@1",
    ]
    assert [source.share for source in answer.sources] == pytest.approx(expected, abs=1e-6)
    assert sum(source.share for source in answer.sources) == pytest.approx(1, abs=1e-6)
    assert "".join(token.text for token in answer.tokens) == TEXT
    assert len(answer.tokens) == len(ids) - 1


def test_each_layer_of_a_token_adds_up_and_experts_are_the_mean_over_layers(
    workspace: Workspace,
) -> None:
    for token in explain(workspace, "build/1", TEXT).tokens:
        assert all(sum(layer) == pytest.approx(1, abs=1e-5) for layer in token.layers)
        means = [sum(column) / len(column) for column in zip(*token.layers, strict=True)]
        assert [item.weight for item in token.experts] == pytest.approx(means, abs=1e-5)


def test_sources_name_their_data_and_licences(workspace: Workspace) -> None:
    sources = {source.ref: source for source in explain(workspace, "build/1", "x").sources}
    math = sources["expert/math@1"]
    assert (math.data, math.licenses) == (("data/math@1",), ("CC0-1.0",))
    assert sources["seed/base@1"].data == ("data/prose@1",)


@pytest.mark.parametrize(
    ("ref", "text", "found"),
    [
        ("expert/math", "x", "expected a build"),
        ("build/1", "", "no token"),
        ("build/1", "x" * 20_001, "20001"),
    ],
)
def test_what_cannot_be_explained_is_said(
    workspace: Workspace, ref: str, text: str, found: str
) -> None:
    with pytest.raises(Invalid, match=found):
        explain(workspace, ref, text)


def test_the_page_carries_every_token_escaped_and_needs_nothing_beside_itself(
    workspace: Workspace, tmp_path: Path
) -> None:
    answer = explain(workspace, "build/1", "<script>alert(1)</script>")
    write_page(answer, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;" in page
    assert all(mark not in page for mark in ("http://", "https://", " src=", "<link"))
    with pytest.raises(Conflict):
        write_page(answer, tmp_path / "page.html")


def test_the_command_prints_one_json_document(story, btx: Run) -> None:
    done = btx(story.root, "explain", "build/1", "--text", "1 + 1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() >= {"tokens", "sources"}


@pytest.mark.slow
def test_without_colour_the_command_names_the_strongest_expert_of_each_token(
    workspace: Workspace, btx: Run
) -> None:
    done = btx(workspace.root, "explain", "build/1", "--text", "1 + 1")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.split()]
    for token in explain(workspace, "build/1", "1 + 1").tokens:
        strongest = max(token.experts, key=lambda expert: expert.weight).ref
        assert any(
            row[-3:-2] == [strongest] and token.text.strip() in row[0] for row in rows if row
        )


@pytest.mark.slow
def test_a_build_that_may_not_be_used_says_so_beside_its_explanation(
    own_story: Workspace, btx: Run
) -> None:
    sound = btx(own_story.root, "explain", "build/1", "--text", "1 + 1")
    assert "tainted" not in sound.stdout
    withdraw(own_story, "data/code@1", "the holder withdrew consent")
    done = btx(own_story.root, "explain", "build/1", "--text", "1 + 1")
    assert "build/1 is tainted" in done.stdout
