"""Conversations: rendered by the seed's template, learnt where the assistant speaks."""

import json
from collections.abc import Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from btx_core.batches import Corpus, Mixture, target_weights
from btx_core.columns import Unreadable
from btx_core.measuring.evaluation import Tally
from btx_core.measuring.samples import Limits, batches, sample
from btx_core.routed import RoutedModel
from btx_core.texts import TextFolder, refuse_unusable
from btx_core.tokens import TokenisedDocuments, Tokens, end_token
from btx_core.training.heldout import HeldOutLooks
from btx_core.training.losses import next_token_loss
from btx_core.training.objectives import Batch, NextToken
from btx_core.training.packing import run_packed
from btx_core.training.recipes import TrainRecipe

PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant>{% generation %}"
    "{{ m['content'] }}{{ eos_token }}{% endgeneration %}\n{% else %}<{{ m['role'] }}>"
    "{{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Thoughts of earlier turns are left out.
FORGETS = (
    "{% for m in messages %}<{{ m['role'] }}>{% if loop.last %}(thinks){% endif %}"
    "{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
Turns = Sequence[tuple[str, str]]
CONVERSATIONS: list[Turns] = [
    [("system", "Be short."), ("user", "What is 2 + 2?"), ("assistant", "4, as ever.")],
    [
        ("user", "Grüß Gott"),
        ("assistant", "東京 🙂 é"),
        ("user", "And now?"),
        ("assistant", ""),
        ("assistant", "Two in turn."),
    ],
    [("assistant", "I begin."), ("user", "Yes"), ("assistant", "No")],
]


def messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


@pytest.fixture
def tokenizer(tiny_seed: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_seed)


def corpus(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    for name in ("a.jsonl", "heldout/b.jsonl"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def learnt_of(documents: TokenisedDocuments) -> list[tuple[list[int], list[bool]]]:
    """The ids of every document, without its end token, and which are learnt."""
    parts, start = [], 0
    for end in documents.ends.tolist():
        ids = documents.ids[start : end - 1].tolist()
        parts.append((ids, documents.learnt(start, end - 1).tolist()))
        start = end
    return parts


def test_what_the_template_marks_is_learnt_as_transformers_says(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.chat_template = MARKED
    rows = [{"messages": messages(turns)} for turns in CONVERSATIONS]
    tokens = Tokens.of(corpus(tmp_path, rows), tokenizer)
    for side in (tokens.train, tokens.heldout):
        for (ids, learnt), turns in zip(learnt_of(side), CONVERSATIONS, strict=True):
            theirs = tokenizer.apply_chat_template(
                messages(turns), return_dict=True, return_assistant_tokens_mask=True
            )
            assert ids == theirs["input_ids"]
            assert learnt == [bool(one) for one in theirs["assistant_masks"]]


def test_without_marks_a_message_is_what_the_template_writes_more(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.chat_template = PLAIN
    rows = [{"messages": messages(turns)} for turns in CONVERSATIONS[:2]]
    tokens = Tokens.of(corpus(tmp_path, rows), tokenizer)
    end = end_token(tokenizer)
    for (ids, learnt), turns in zip(learnt_of(tokens.train), CONVERSATIONS[:2], strict=True):
        expected: list[int] = []
        counts: list[bool] = []
        for role, content in turns:
            said = role == "assistant"
            for text, is_learnt in ((f"<{role}>", False), (content, said)):
                part = tokenizer(text, add_special_tokens=False)["input_ids"]
                expected, counts = expected + part, counts + [is_learnt] * len(part)
            after = tokenizer("\n", add_special_tokens=False)["input_ids"]
            expected, counts = [*expected, end, *after], [*counts, *[said] * (1 + len(after))]
        assert tokenizer.decode(ids) == tokenizer.decode(expected)
        told = [id for id, is_learnt in zip(ids, learnt, strict=True) if is_learnt]
        assert tokenizer.decode(told) == tokenizer.decode(
            [id for id, is_learnt in zip(expected, counts, strict=True) if is_learnt]
        )


def test_bytes_are_those_of_what_the_assistant_says(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.chat_template = MARKED
    rows = [{"messages": messages(turns)} for turns in CONVERSATIONS]
    heldout = Tokens.of(corpus(tmp_path, rows), tokenizer).heldout
    said = "".join(text for turns in CONVERSATIONS for role, text in turns if role == "assistant")
    assert int(heldout.text_bytes.sum()) == len(said.encode())


@pytest.mark.parametrize(
    ("template", "says"), [(None, "no chat template"), (FORGETS, "message 2 in another way")]
)
def test_what_no_template_can_write_is_refused_by_its_line(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, template: str | None, says: str
) -> None:
    tokenizer.chat_template = template
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    with pytest.raises(Unreadable, match=says) as refusal:
        Tokens.of(corpus(tmp_path, [{"messages": messages(turns)}] * 2), tokenizer)
    assert "jsonl:1" in refusal.value.subject


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}])
def test_an_assistant_that_only_calls_tools_gives_something_to_learn(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, content: dict[str, Any]
) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    calls = {"role": "assistant", **content, "tool_calls": [call]}
    silent = {"role": "assistant", "content": " ", "tool_calls": []}
    asked = {"role": "user", "content": "Will it rain?"}
    folder = corpus(tmp_path / "calls", [{"messages": [asked, calls]}] * 2)
    refuse_unusable(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] or '' }}"
        "{% for c in m['tool_calls'] or [] %}{{ c['function'] | tojson }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    ids, learnt = learnt_of(Tokens.of(folder, tokenizer).heldout)[0]
    told = tokenizer.decode([id for id, is_learnt in zip(ids, learnt, strict=True) if is_learnt])
    assert told == '{"name": "weather", "arguments": {"city": "Bern"}}'
    with pytest.raises(Unreadable, match="blank"):
        refuse_unusable(corpus(tmp_path / "silent", [{"messages": [asked, silent]}] * 2))


def test_calls_that_the_template_leaves_out_are_no_text_to_learn(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    asked = {"role": "user", "content": "Will it rain?"}
    calls = {"role": "assistant", "content": "", "tool_calls": [call]}
    folder = corpus(tmp_path, [{"messages": [asked, calls]}] * 9)
    refuse_unusable(folder)
    for template in (PLAIN, MARKED):
        tokenizer.chat_template = template
        with pytest.raises(Unreadable, match="call 1 in message 2 of the assistant") as refusal:
            Tokens.of(folder, tokenizer)
        assert refusal.value.subject.endswith("jsonl:1")


def test_answers_that_the_template_marks_nowhere_are_no_text_to_learn(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folder = corpus(tmp_path, [{"messages": messages(CONVERSATIONS[0])}] * 9)
    tokenizer.chat_template = f"{PLAIN}{{% generation %}}{{% endgeneration %}}"
    with pytest.raises(Unreadable, match="9 conversations for train, of whose answers"):
        Tokens.of(folder, tokenizer)


# Templates that write a message otherwise than it came, and all of it.
CHANGES = {
    "strips": PLAIN.replace("m['content']", "m['content'] | trim"),
    "writes JSON": PLAIN.replace("m['content']", "m['content'] | tojson"),
    "forgets thoughts": PLAIN.replace("m['content']", "m['content'].split('</think>')[-1]"),
    "puts the system message into the first turn": (
        "{% for m in messages %}{% if m['role'] != 'system' %}<{{ m['role'] }}>"
        "{% if loop.index == 2 %}{{ messages[0]['content'] }}{% endif %}{{ m['content'] }}\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
    "looks into what is said": (
        "{% for m in messages %}{% if m['content'] not in ['Be short.', 'Go on', 'Yes'] %}"
        "{% if m['role'] != 'assistant' %}{{ raise_exception('no') }}{% endif %}{% endif %}"
        "<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
}


@pytest.mark.parametrize("template", CHANGES.values(), ids=CHANGES)
def test_a_template_may_change_what_it_writes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, template: str
) -> None:
    said = '<think>Hm. Sure?</think>  "Yes", I\'d say '
    turns = [("system", "Be short."), ("user", "Go on"), ("assistant", said), ("user", "Yes")]
    turns += [("assistant", "No")]
    tokenizer.chat_template = template
    assert Tokens.of(corpus(tmp_path, [{"messages": messages(turns)}] * 2), tokenizer)


CALLS = [{"name": name, "arguments": {"city": "Bern"}} for name in ("weather", "tide")]
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Will it rain?"},
    {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "Yes."},
]
WRITES_CALLS = PLAIN.replace(
    "{{ eos_token }}",
    "{% for c in m['tool_calls'] or [] %}{{ c | tojson }}{% endfor %}{{ eos_token }}",
)


@pytest.mark.parametrize(
    ("template", "left_out"),
    [
        (
            WRITES_CALLS.replace("m['tool_calls'] or []", "(m['tool_calls'] or [])[:1]"),
            "call 2 in message 3 of the assistant",
        ),
        (PLAIN, "call 1 in message 3 of the assistant"),
        (
            WRITES_CALLS.replace("m['content']", "'' if m['tool_calls'] else m['content']"),
            "message 3 of the assistant",
        ),
        (
            WRITES_CALLS.replace("in messages", "in messages if m['role'] != 'system'"),
            "message 1 of the system",
        ),
        (
            WRITES_CALLS.replace("in messages", "in messages if m['role'] != 'tool'"),
            "message 4 of the tool",
        ),
        (WRITES_CALLS, ""),
        (WRITES_CALLS.replace("c | tojson", "c['name']"), ""),
        (WRITES_CALLS.replace("c | tojson", "c['arguments'] | tojson"), ""),
    ],
)
def test_a_message_or_call_that_the_template_leaves_out_is_refused_by_its_row(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, template: str, left_out: str
) -> None:
    whole = {"messages": messages(CONVERSATIONS[0])}
    folder = corpus(tmp_path, [whole, {"messages": TALK}])
    tokenizer.chat_template = template
    if not left_out:
        assert Tokens.of(folder, tokenizer)
        return
    with pytest.raises(Unreadable, match=f"found {left_out}, which") as refusal:
        Tokens.of(folder, tokenizer)
    assert refusal.value.subject.endswith("jsonl:1" if "system" in left_out else "jsonl:2")


TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "tide", "description": "How high the sea is."}},
]
LISTS_TOOLS = "{% for t in tools or [] %}<tool>{{ t | tojson }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "left_out"),
    [
        (WRITES_CALLS, "tool 1 in the column tools"),
        (MARKED + LISTS_TOOLS.replace("tools or []", "(tools or [])[:1]"), "tool 2 in the column"),
        (LISTS_TOOLS + WRITES_CALLS, ""),
        (LISTS_TOOLS.replace("t | tojson", "t['function']['name']") + WRITES_CALLS, ""),
        (LISTS_TOOLS.replace("t |", "t['function']['description'] or '' |") + WRITES_CALLS, ""),
    ],
)
def test_a_tool_that_the_template_leaves_out_is_refused_by_its_row(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, template: str, left_out: str
) -> None:
    talk = messages(CONVERSATIONS[0])
    tokenizer.chat_template = template
    assert Tokens.of(corpus(tmp_path / "without", [{"messages": talk}]), tokenizer)
    for number, tools in enumerate((TOOLS, json.dumps(TOOLS))):
        rows = [{"messages": talk}, {"messages": talk, "tools": tools}]
        folder = corpus(tmp_path / str(number), rows)
        if not left_out:
            assert Tokens.of(folder, tokenizer)
            continue
        with pytest.raises(Unreadable, match=f"found {left_out}") as refusal:
            Tokens.of(folder, tokenizer)
        assert refusal.value.subject.endswith("jsonl:2")
        assert "write the tools into a message instead" in refusal.value.next


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_what_the_last_message_thinks_is_written_or_refused_by_its_row(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, key: str
) -> None:
    plain, thinks = messages(CONVERSATIONS[0]), {key: "Two and two."}
    early = [plain[1], {**plain[2], **thinks}, plain[1], plain[2]]
    rows = [{"messages": plain}, {"messages": early}]
    folder = corpus(tmp_path, [*rows, {"messages": [*plain[:2], {**plain[2], **thinks}]}])
    said, thought = "{{ m['content'] }}{{ eos_token }}{% end", f"{{{{ m['{key}'] }}}}"
    last_thought = f"{{% if loop.last %}}{thought}{{% endif %}}"
    tokenizer.chat_template = MARKED.replace(said, f"{last_thought}{said}")
    assert Tokens.of(folder, tokenizer)
    tokenizer.chat_template = MARKED
    with pytest.raises(Unreadable, match=f"found {key} of message 3 of the assistant") as refusal:
        Tokens.of(folder, tokenizer)
    assert refusal.value.subject.endswith("jsonl:3")


CALLS_BY = {
    "an object to JSON": "{{ c['arguments'] | tojson }}",
    "JSON as it is": "{{ c['arguments'] }}",
    "JSON joined to text": "{{ '' + c['arguments'] }}",
    "either": "{{ c['arguments'] if c['arguments'] is string else c['arguments'] | tojson }}",
    "the call to JSON": "{{ c | tojson }}",
    "argument by argument": "{% for k, v in c['arguments'].items() %}{{ k }}={{ v }}{% endfor %}",
}


@pytest.mark.parametrize("written", CALLS_BY.values(), ids=CALLS_BY)
@pytest.mark.parametrize("nested", [True, False])
def test_arguments_of_a_call_are_one_text_as_an_object_and_as_json(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, written: str, *, nested: bool
) -> None:
    tokenizer.chat_template = WRITES_CALLS.replace("{{ c | tojson }}", written)
    if nested:
        each = "for c in m['tool_calls'] or []"
        tokenizer.chat_template = tokenizer.chat_template.replace(
            f"{{% {each} %}}", f"{{% {each} %}}{{% set c = c['function'] %}}"
        )
    told, named = [], []
    for name, arguments in {"object": {"city": "Zürich"}, "JSON": '{"city": "Zürich"}'}.items():
        call = {"name": "weather", "arguments": arguments}
        calls = [{"type": "function", "function": call} if nested else call]
        talk = [*TALK[:2], {"role": "assistant", "content": "I look.", "tool_calls": calls}]
        tokens = Tokens.of(corpus(tmp_path / name, [{"messages": talk}]), tokenizer)
        ids, _ = learnt_of(tokens.train)[0]
        told.append(tokenizer.decode(ids))
        named.append(tokens.tokenizer)
    assert told[0] == told[1]
    assert ('{"city": "Zürich"}' in told[0]) is ("items()" not in written)
    either = "is string" in written
    assert (named[0] == named[1]) is either, "what is written otherwise than once is named so"


def test_another_template_makes_other_tokens_of_the_same_folder(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [{"messages": messages(turns)} for turns in CONVERSATIONS[:1]]
    folder = TextFolder(corpus(tmp_path / "c", rows), tokens=tmp_path / "tokens")
    known = set()
    for template in (PLAIN, MARKED, PLAIN):
        tokenizer.chat_template = template
        tokens = Tokens.of(folder, tokenizer)
        known.add((tokens.tokenizer, sample(tokens, Limits(1000)).digest))
    assert len(known) == 2


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_what_is_said_in_parts_is_written_as_its_text(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, template: str
) -> None:
    tokenizer.chat_template = template
    written = []
    for in_parts in (False, True):
        rows = [{"messages": messages(turns)} for turns in CONVERSATIONS[:2]]
        if in_parts:
            for message in (one for row in rows for one in row["messages"]):
                parts = [{"type": "text", "text": message["content"]}]
                message["content"] = parts  # type: ignore[assignment]
        folder = corpus(tmp_path / str(in_parts), rows)
        written.append(learnt_of(Tokens.of(folder, tokenizer).train))
    assert written[0] == written[1]


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_a_template_that_asks_for_the_day_writes_the_same_tokens_on_every_day(
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    template: str,
) -> None:
    tokenizer.chat_template = f"{{{{ strftime_now('%d %b %Y') }}}}\n{template}"
    folder = corpus(tmp_path, [{"messages": messages(turns)} for turns in CONVERSATIONS[:2]])
    written = []
    for day in (1, 2):

        class Clock(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> "Clock":
                return cls(2026, 1, day)  # noqa: B023

        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        written.append(Tokens.of(folder, tokenizer).train.ids.tolist())
    assert written[0] == written[1]
    assert tokenizer.decode(written[0]).startswith("26 Jul 2024\n")


def by_hand(model: PreTrainedModel, tokens: Tokens) -> tuple[float, int]:
    """Nats of the learnt tokens, each document by itself, and how many they are."""
    total, count, start = 0.0, 0, 0
    for end in tokens.heldout.ends.tolist():
        ids = torch.tensor([[tokens.end, *tokens.heldout.ids[start:end].tolist()]])
        learnt = torch.from_numpy(tokens.heldout.learnt(start, end))
        logits = model(input_ids=ids[:, :-1]).logits[0]
        total += float(cross_entropy(logits[learnt], ids[0, 1:][learnt], reduction="sum"))
        count += int(learnt.sum())
        start = end
    return total, count


@torch.no_grad()
def test_training_looks_and_evaluation_count_what_is_learnt_and_see_the_whole_conversation(
    tokenizer: PreTrainedTokenizerBase, tiny_seed: Path, tmp_path: Path
) -> None:
    """In these conversations the end token also ends every turn."""
    tokenizer.chat_template = MARKED
    rows: list[dict[str, Any]] = [{"messages": messages(turns)} for turns in CONVERSATIONS]
    rows.append({"instruction": "Add", "input": "2 and 2", "output": "It is four."})
    folder = corpus(tmp_path, rows)
    tokens = Tokens.of(folder, tokenizer)
    routed = RoutedModel.load(tiny_seed, torch.float32)
    model = routed.network.eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        # So that what stands before a token matters.
        parameter.add_(0.2 * torch.randn_like(parameter))
    nats, count = by_hand(model, tokens)
    heldout = sample(tokens, Limits(10_000, sequence=512))
    tally = Tally(heldout)
    for batch in batches(heldout, 4096):
        tally.add(routed, batch)
    assert tally.tokens == count
    assert sum(tally.block_nats) == pytest.approx(nats, rel=1e-4)
    # The same text, as one sequence of packed documents.
    packed = TokenisedDocuments(
        tokens.heldout.ids, tokens.heldout.ends, unlearnt=tokens.heldout.unlearnt
    )
    length = len(packed.ids)
    ids = torch.tensor([[tokens.end, *packed.ids.tolist()]])
    begins = torch.tensor([[True, *packed.ends_document(0, length).tolist()]])
    weights = torch.from_numpy(target_weights(packed.learnt(0, length)[None], ["a"]))
    loss = float(next_token_loss(model, ids, tokens.end, begins, weights))
    assert loss == pytest.approx(nats / count, rel=1e-4)
    cut = float(next_token_loss(model, ids, tokens.end, None, weights))
    assert abs(cut - loss) > 1e-3, "the alarm: turns that do not see each other"
    recipe = TrainRecipe(steps=400, batch=8, sequence=length)
    looks = HeldOutLooks.of([Corpus.of([folder], tokenizer)], tokens.end, recipe)
    assert looks.look(model, 0) == pytest.approx(nats / count, rel=1e-4)


def test_a_step_s_loss_does_not_depend_on_its_parts(
    tokenizer: PreTrainedTokenizerBase, tiny_seed: Path, tmp_path: Path
) -> None:
    """A mean over all that is learnt, though each part holds another number of such tokens."""
    tokenizer.chat_template = MARKED
    rows = [{"messages": messages(turns)} for turns in CONVERSATIONS for _ in range(5)]
    found = Corpus.of([corpus(tmp_path, rows)], tokenizer)
    batch = Mixture({"a": found}, {"a": 1.0}).batch(0, 6, 24)
    assert batch.begins is not None
    assert batch.weights is not None
    assert len({int((row > 0).sum()) for row in batch.weights}) > 1, "they differ"
    for row, begins in zip(batch.ids, batch.begins, strict=True):
        assert (row[begins] == found.end).all()
    assert int((batch.ids == found.end).sum()) > int(batch.begins.sum()), "some only end a turn"
    model = RoutedModel.load(tiny_seed, torch.float32).network
    objective, device = NextToken(found.end), torch.device("cpu")
    numbers = np.arange(6)
    whole = float(objective(model, Batch.on(device, batch), 0.0))
    parts = [
        float(objective(model, Batch.on(device, batch.of(part)), 0.0)) * len(part) / 6
        for part in np.array_split(numbers, 3)
    ]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    # The gradient is that of the same loss, written out.
    objective(model, Batch.on(device, batch), 0.0).backward()
    head = model.get_output_embeddings().weight
    gradient, head.grad = head.grad, None
    assert gradient is not None
    ids, begins = torch.from_numpy(batch.ids), torch.from_numpy(batch.begins)
    logits = run_packed(model, ids[:, :-1], found.end, begins=begins[:, :-1]).logits
    nats = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    learnt = torch.from_numpy(batch.weights).flatten() > 0
    nats[learnt].mean().backward()
    assert torch.allclose(gradient, head.grad, atol=1e-6)


def test_text_that_is_learnt_whole_has_the_token_files_that_it_had(
    tokenizer: PreTrainedTokenizerBase, tiny_corpora: Path, tmp_path: Path
) -> None:
    folder = TextFolder(tiny_corpora / "math", tokens=tmp_path)
    tokens = Tokens.of(folder, tokenizer)
    assert not tokens.train.is_partly_learnt
    assert not list(tmp_path.glob("*/*.unlearnt"))
    mixture = Mixture({"a": Corpus.of([folder], tokenizer)}, {"a": 1.0})
    assert mixture.batch(0, 2, 16)[2:] == (None, None)
