"""Two tokenizers are one where they give every text the same ids, in whatever files they lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.token_meaning import (
    PROBE,
    different_tokens,
    read_tokenizer,
    require_tokenizer,
)
from btx_core.problems import BtxError

Json = dict[str, Any]
TEXTS = [*PROBE, "the law is a sum of sums", "a table, the tables; more and more and more"] * 3


def trained(**settings: Any) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXTS, trainer)
    return raw


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "seed"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained(),
        eos_token="<|end|>",
        pad_token="<|pad|>",
        bos_token="<|end|>",
        unk_token="<|end|>",
    )
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return folder


def edited(change: Callable[[Json], Any], name: str = "tokenizer.json") -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return apply


def swapped(content: Json, first: str, second: str) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def merges_as_text(content: Json) -> None:
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]


def in_two_files(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokenizer.json").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "GPT2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


SAME: dict[str, Callable[[Path], None]] = {
    "as it is": lambda folder: None,
    "merges as older libraries write them": edited(merges_as_text),
    "settings at their defaults left out": edited(
        lambda found: [found["model"].pop(key, None) for key in ("ignore_merges", "dropout")]
    ),
    "truncation and padding left on": edited(
        lambda found: found.update(
            truncation={
                "direction": "Right",
                "max_length": 8,
                "strategy": "LongestFirst",
                "stride": 0,
            },
        )
    ),
    "another template and padding side": edited(
        lambda found: found.update(chat_template="{{ messages }}", padding_side="left"),
        "tokenizer_config.json",
    ),
    "its vocabulary in another order": edited(
        lambda found: found["model"].update(
            vocab=dict(sorted(found["model"]["vocab"].items(), reverse=True))
        )
    ),
    "no tokenizer of its own": no_tokenizer,
    "vocab.json and merges.txt": in_two_files,
}
OTHER: dict[str, Callable[[Path], None]] = {
    "two ids swapped": edited(lambda found: swapped(found, "a", "e")),
    "two merges swapped": edited(
        lambda found: found["model"]["merges"].insert(0, found["model"]["merges"].pop(9))
    ),
    "a merge less": edited(lambda found: found["model"]["merges"].pop()),
    "another token added": edited(
        lambda found: found["added_tokens"].append(
            found["added_tokens"][0] | {"id": 420, "content": "<|call|>"}
        )
    ),
    "lower case": edited(lambda found: found.update(normalizer={"type": "Lowercase"})),
    "composed letters": edited(lambda found: found.update(normalizer={"type": "NFKC"})),
    "accents stripped": edited(
        lambda found: found.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}],
            }
        )
    ),
    "a space before every text": edited(
        lambda found: found["pre_tokenizer"].update(add_prefix_space=True)
    ),
    "digits by themselves": edited(
        lambda found: found.update(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    found["pre_tokenizer"],
                ],
            }
        )
    ),
    "two ids swapped in vocab.json": lambda folder: (
        in_two_files(folder),
        edited(lambda found: found.update({"a": found["e"], "e": found["a"]}), "vocab.json")(
            folder
        ),
    )[0],
}


@pytest.mark.parametrize("form", SAME)
def test_another_form_of_one_tokenizer_is_the_same(form: str, seed: Path, tmp_path: Path) -> None:
    shutil.copytree(seed, tmp_path / "member")
    SAME[form](tmp_path / "member")
    assert different_tokens(seed, tmp_path / "member") is None
    if form != "no tokenizer of its own":
        assert different_tokens(tmp_path / "member", seed) is None


@pytest.mark.parametrize("fault", OTHER)
def test_another_tokenizer_is_told(fault: str, seed: Path, tmp_path: Path) -> None:
    shutil.copytree(seed, tmp_path / "member")
    OTHER[fault](tmp_path / "member")
    difference = different_tokens(seed, tmp_path / "member")
    assert difference
    assert difference.found != difference.expected


def test_a_tokenizer_where_the_seed_has_none_is_a_difference(seed: Path, tmp_path: Path) -> None:
    assert different_tokens(tmp_path, seed)


# Sentencepiece


def sentencepiece(folder: Path, texts: list[str]) -> Path:
    import sentencepiece as spm

    folder.mkdir(parents=True)
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 4),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=9,
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    return folder


def test_a_sentencepiece_model_is_read_and_compared(tmp_path: Path) -> None:
    one = sentencepiece(tmp_path / "one", TEXTS)
    two = sentencepiece(tmp_path / "two", TEXTS[:5])
    assert read_tokenizer(one)("the law")["input_ids"]
    assert different_tokens(one, one) is None
    assert different_tokens(one, two)
    saved = tmp_path / "saved anew"
    read_tokenizer(one).save_pretrained(saved)
    shutil.copy(one / "config.json", saved)
    (saved / "tokenizer.model").unlink(missing_ok=True)
    assert (saved / "tokenizer.json").exists()
    assert different_tokens(one, saved) is None
    assert different_tokens(saved, two)


# At the door


@pytest.mark.parametrize(
    ("fault", "rows"),
    [
        (lambda folder: None, 300),
        (no_tokenizer, 999),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model": {}}'), 999),
        (
            edited(
                lambda found: [found.pop("eos_token"), found.pop("bos_token")],
                "tokenizer_config.json",
            ),
            999,
        ),
        (lambda folder: (folder / "chat_template.jinja").write_text("{% for x in %}"), 999),
        (
            edited(
                lambda found: found.update(
                    chat_template=[{"name": "tool_use", "template": "{{ messages"}]
                ),
                "tokenizer_config.json",
            ),
            999,
        ),
    ],
    ids=[
        "ids beyond the rows",
        "none at all",
        "one that nobody reads",
        "no end of text",
        "a template that is none",
        "a named template that is none",
    ],
)
def test_a_tokenizer_that_cannot_train_is_refused(
    fault: Callable[[Path], Any], rows: int, seed: Path, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny("seed"), tmp_path / "model")
    for path in seed.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "model")
    opened = Checkpoint.open(tmp_path / "model")
    require_tokenizer(opened, 999)
    fault(tmp_path / "model")
    with pytest.raises(BtxError) as caught:
        require_tokenizer(opened, rows)
    assert caught.value.next


def test_a_chat_template_with_the_tags_of_transformers_is_taken(
    seed: Path, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny("seed"), tmp_path / "model")
    for path in seed.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(
        "{%- for message in messages -%}{% if loop.index > 99 %}{% break %}{% endif %}"
        "{%- generation -%}{{ message.content | tojson }}{%- endgeneration -%}{% endfor %}"
    )
    require_tokenizer(Checkpoint.open(tmp_path / "model"), 999)


def test_an_added_token_that_is_part_of_a_word_is_compared_by_its_id(
    seed: Path, tmp_path: Path
) -> None:
    raw = Tokenizer.from_file(str(seed / "tokenizer.json"))
    raw.add_tokens([AddedToken("law", normalized=False)])
    raw.normalizer = normalizers.Sequence([])
    shutil.copytree(seed, tmp_path / "member")
    raw.save(str(tmp_path / "member/tokenizer.json"))
    assert different_tokens(seed, tmp_path / "member")
