"""Text: what is held out, what is refused, and what fixes a batch: data, random seed and step."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from btx_core.texts import Corpus, Mixture, Unreadable, split


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_heldout_folder_is_never_trained_on(tmp_path: Path) -> None:
    found = split(write(tmp_path, a="train me", heldout__b="measure me"))
    assert [document.text for document in found.train] == ["train me"]
    assert [document.text for document in found.heldout] == ["measure me"]


def test_without_that_folder_one_file_in_twenty_is_held_out_and_stays_so(tmp_path: Path) -> None:
    found = split(write(tmp_path, **{f"f{number}": f"text {number}" for number in range(40)}))
    assert len(found.heldout) == 2
    assert not {document.text for document in found.train} & {
        document.text for document in found.heldout
    }
    assert split(tmp_path) == found


def test_a_single_file_gives_its_last_twentieth(tmp_path: Path) -> None:
    found = split(write(tmp_path, a="".join(f"line {number}\n" for number in range(40))))
    assert found.heldout[0].text == "line 38\nline 39\n"
    assert found.train[0].text.endswith("line 37\n")


def test_questions_carry_their_answers(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"prompt": f"{n} + 1?", "answer": str(n + 1)}) for n in range(40))
    (tmp_path / "q.jsonl").write_text(lines)
    document = split(tmp_path).heldout[0]
    assert (document.text, document.prompt, document.answer) == ("38 + 1? 39", "38 + 1?", "39")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\xff\xfe\x00", "no UTF-8"),
        ("a.jsonl", b'{"txt": "x"}\n', '"text"'),
        ("a.jsonl", b"not json\n", "fix the line"),
        ("a.txt", b"", "one of each"),
    ],
)
def test_what_is_no_text_is_refused_by_file_and_line(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=says):
        split(tmp_path)


@pytest.fixture(scope="module")
def corpora(tiny_seed: Path, tiny_corpora: Path) -> dict[str, Corpus]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    return {name: Corpus.of([tiny_corpora / name], tokenizer) for name in ("prose", "math")}


def test_an_epoch_holds_every_token_once(corpora: dict[str, Corpus]) -> None:
    math, sequence = corpora["math"], 64
    count = (math.tokens - 1) // sequence
    seen = np.concatenate([math.sequence(number, sequence)[:-1] for number in range(count)])
    whole = np.concatenate(math.documents)
    missing = np.bincount(whole, minlength=512) - np.bincount(seen, minlength=512)
    assert (missing >= 0).all()
    assert missing.sum() == math.tokens - count * sequence  # the tail that fills no sequence


@given(step=st.integers(0, 3000), count=st.integers(1, 8))
def test_a_batch_depends_on_its_step_alone(
    corpora: dict[str, Corpus], step: int, count: int
) -> None:
    mixture = Mixture(corpora, {"prose": 0.4, "math": 0.6})
    fresh = Mixture(
        {name: Corpus(one.documents, one.digest, one.random_seed) for name, one in corpora.items()},
        mixture.shares,
    )
    ids, names = mixture.batch(step, count, 32)
    again, names_again = fresh.batch(step, count, 32)
    assert names == names_again
    assert np.array_equal(ids, again)
    assert ids.shape == (count, 33)


def test_shares_hold_in_any_stretch_of_steps(corpora: dict[str, Corpus]) -> None:
    mixture = Mixture(corpora, {"prose": 0.4, "math": 0.6})
    for first in (0, 17, 500):
        names = [
            name for step in range(first, first + 25) for name in mixture.batch(step, 4, 32)[1]
        ]
        assert names.count("prose") == pytest.approx(40, abs=3)
