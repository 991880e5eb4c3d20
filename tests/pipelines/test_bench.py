"""The comparison: rows share one setup, an interrupted run goes on, and the figures add up."""

import json
import sys
from pathlib import Path

import pytest

from btx_core.training.recipes import TrainRecipe, TuneRecipe
from pipelines.story.bench import Row, Scale, bench, markdown, picture
from pipelines.story.small_seed import PretrainConfig

TINY = Scale(
    size=PretrainConfig(vocabulary=384, hidden=32, feed_forward=64, layers=2, heads=2),
    seed=TrainRecipe(mode="full", steps=20, sequence=64),
    expert=TrainRecipe(steps=10, sequence=64),
    beside=TrainRecipe(steps=10, sequence=64, replay=0.5, beside=0.7),
    tune=TuneRecipe(steps=4, sequence=64),
    router=TuneRecipe(mode="router", steps=4, sequence=64),
    text_bytes=60_000,
    heldout_tokens=500,
)


@pytest.mark.slow
def test_every_row_is_measured_once_and_a_second_run_reads_it_back(tmp_path: Path) -> None:
    printed: list[str] = []
    rows = bench(tmp_path, [0], TINY, printed.append)
    assert len(printed) == len(rows) == len({row.name for row in rows}) >= 20
    assert all(
        row.bits_per_byte.keys() == {"prose", "code", "math"}
        and min(row.bits_per_byte.values()) > 0
        for row in rows
    )
    by_name = {row.name: row for row in rows}
    matched = by_name["dense, same tokens"].tokens
    assert by_name["BTX"].tokens == matched
    assert by_name["dense, same compute"].flops == pytest.approx(by_name["BTX"].flops, rel=0.02)
    stored = (tmp_path / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join(stored[:-1]) + "\n")
    again = bench(tmp_path, [0], TINY, printed.append)
    assert len(printed) == len(rows) + 1
    assert [vars(row) for row in again] == [vars(row) for row in rows], (
        "the row that was measured again differs"
    )
    assert [json.loads(text)["name"] for text in stored] == [row.name for row in rows]


def test_what_draws_the_picture_is_asked_for_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="matplotlib"):
        bench(tmp_path, [0], TINY, print)
    assert list(tmp_path.iterdir()) == []


def test_the_table_gives_mean_and_half_range_over_random_seeds(tmp_path: Path) -> None:
    def row(name: str, number: int, prose: float, code: float) -> Row:
        return Row(name, number, {"prose": prose, "code": code}, 10, 100.0)

    rows = [
        row("seed", 0, 2.0, 4.0),
        row("specialists, anchored", 0, 2.0, 3.0),
        row("BTX", 0, 1.9, 3.1),
        row("seed", 1, 2.2, 4.2),
        row("specialists, anchored", 1, 2.2, 3.2),
        row("BTX", 1, 2.2, 3.2),
    ]
    table = markdown(rows).splitlines()
    btx_line = next(text for text in table if text.startswith("| BTX"))
    cells = [cell.strip() for cell in btx_line.strip("|").split("|")]
    assert cells[1:4] == ["2.050 ± 0.150", "3.150 ± 0.050", "2.600 ± 0.100"]
    assert cells[4] == "95 % (least 90 %)"
    assert cells[5] == "-2.5 % (worst +0.0 %)"
    picture(rows, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
