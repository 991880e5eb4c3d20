"""Held-out text that stands in the training text is measured, and nothing else is."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from btx_core.measuring.overlap import PIECE, WINDOW, contamination

WORDS = [
    "court",
    "shall",
    "hear",
    "party",
    "before",
    "decides",
    "gives",
    "reasons",
    "for",
    "every",
    "order",
]


def texts(count: int, words: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [
        " ".join(f"{chance.choice(WORDS)}{chance.randrange(99)}" for _ in range(words))
        for _ in range(count)
    ]


def corpus(folder: Path, train: list[str], heldout: list[str]) -> Path:
    (folder / "heldout").mkdir(parents=True)
    for place, lines in ((folder, train), (folder / "heldout", heldout)):
        (place / "text.jsonl").write_text(
            "".join(json.dumps({"text": line}) + "\n" for line in lines)
        )
    return folder


def test_separate_texts_share_nothing_and_copied_ones_everything(tmp_path: Path) -> None:
    train, held = texts(40, 60, 1), texts(10, 60, 2)
    assert contamination([corpus(tmp_path / "apart", train, held)]) == 0
    assert contamination([corpus(tmp_path / "copied", [*train, *held], held)]) == 1


def test_the_share_is_that_of_the_copied_documents_bytes(tmp_path: Path) -> None:
    train, held = texts(40, 60, 1), [*texts(3, 60, 2), *texts(1, 180, 3)]
    found = contamination([corpus(tmp_path / "c", [*train, held[3]], held)])
    assert found == pytest.approx(len(held[3]) / sum(map(len, held)), abs=1e-5)


def test_case_spacing_surroundings_and_a_changed_word_hide_nothing(tmp_path: Path) -> None:
    (held,) = texts(1, 200, 2)
    words = held.upper().split()
    words[100] = "other"
    hidden = "before " * 30 + "\n\n".join(words) + " after" * 30
    assert contamination([corpus(tmp_path / "c", [*texts(5, 60, 1), hidden], [held])]) == 1


def test_a_phrase_that_recurs_is_no_copy(tmp_path: Path) -> None:
    phrase = " ".join(texts(1, 12, 9))
    assert len(phrase) > WINDOW
    train, held = texts(20, 60, 1), texts(5, 60, 2)
    assert (
        contamination(
            [
                corpus(
                    tmp_path / "c",
                    [f"{one} {phrase}" for one in train],
                    [f"{one} {phrase}" for one in held],
                )
            ]
        )
        == 0
    )


def test_short_questions_count_only_when_equal(tmp_path: Path) -> None:
    train = ["What is 2 + 3? 5", "What is 4 + 4? 8"]
    assert (
        contamination([corpus(tmp_path / "c", train, ["What is 2 + 3? 5", "What is 2 + 4? 6"])])
        == 0.5
    )


def test_one_data_version_may_hold_anothers_heldout_text(tmp_path: Path) -> None:
    held = texts(4, 60, 2)
    one, other = (
        corpus(tmp_path / "one", texts(9, 60, 1), held),
        corpus(tmp_path / "other", [*texts(9, 60, 4), *held], texts(4, 60, 5)),
    )
    assert contamination([one]) == contamination([other]) == 0
    assert contamination([one, other]) == pytest.approx(0.5, abs=0.01)


Turns = list[tuple[str, str]]
Written = Callable[[Path, str, Turns], Path]


def written_rows(folder: Path, rows: list[dict[str, object]]) -> Path:
    """One row in ten is held out."""
    for place, remainder in ((folder / "heldout", [0]), (folder, range(1, 10))):
        place.mkdir(parents=True, exist_ok=True)
        some = [row for number, row in enumerate(rows) if number % 10 in remainder]
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def conversations(folder: Path, system: str, turns: Turns) -> Path:
    rows: list[dict[str, object]] = []
    for asked, answered in turns:
        said = {"system": system, "user": asked, "assistant": answered}
        rows.append({"messages": [{"role": r, "content": c} for r, c in said.items() if c]})
    return written_rows(folder, rows)


def instructions(folder: Path, system: str, turns: Turns) -> Path:
    return written_rows(
        folder,
        [{"system": system, "instruction": asked, "output": answered} for asked, answered in turns],
    )


@pytest.mark.parametrize("written", [conversations, instructions])
def test_a_system_message_that_all_share_makes_no_answer_known(
    written: Written, tmp_path: Path
) -> None:
    (system,) = texts(1, 300, 7)
    turns = list(zip(texts(100, 12, 1), texts(100, 12, 2), strict=True))
    assert contamination([written(tmp_path / "without", "", turns)]) == 0
    assert contamination([written(tmp_path / "with", system, turns)]) == 0


@pytest.mark.parametrize("written", [conversations, instructions])
def test_an_answer_that_was_learnt_counts_whatever_was_asked(
    written: Written, tmp_path: Path
) -> None:
    asked, answers = texts(100, 60, 1), texts(5, 12, 2)
    turns = [(question, answers[number % 5]) for number, question in enumerate(asked)]
    assert contamination([written(tmp_path / "repeated", "", turns)]) == 1
    # Nor is an answer known because it was asked about.
    others = list(zip(asked, texts(100, 12, 3), strict=True))
    asked_about = [(f"{asked[number]} {others[0][1]}", "no") for number in range(1, 10)]
    turns = [others[0], *asked_about]
    assert contamination([written(tmp_path / "asked", "", turns)]) == 0
    # Short ones, such as a label, are no copies.
    turns = [(question, "A short answer.") for question in asked]
    assert contamination([written(tmp_path / "short", "", turns)]) == 0


def test_a_copy_across_the_seam_of_two_pieces_is_found(tmp_path: Path) -> None:
    (held,) = texts(1, 300, 2)
    before = "x " * ((PIECE - len(held) // 2) // 2)
    assert contamination([corpus(tmp_path / "c", [before + held], [held])]) == 1
