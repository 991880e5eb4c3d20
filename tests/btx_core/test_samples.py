"""What a sample says of all held-out text: its interval holds, and another one judges alike.

The simulations score every stretch of a text once and draw a hundred samples of it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from btx_core.machine import load
from btx_core.measuring.evaluation import Tally
from btx_core.measuring.samples import HeldOut, Limits, Window, batches, sample
from btx_core.measuring.scoring import score
from btx_core.routed import RoutedModel
from btx_core.texts import TextFolder
from btx_core.tokens import Tokens
from registry.records.results import ratio_interval

TRIALS = 100
SEQUENCE = 32
# Of about 25,000 tokens.
MAX_TOKENS = 3000

Bits = Mapping[bytes, float]


def key(window: Window) -> bytes:
    return bytes([window.predicted]) + window.ids.tobytes()


def bits(network: PreTrainedModel, heldout: HeldOut) -> Bits:
    """The bits that a model takes for every stretch of a text."""
    found = {}
    for batch in batches(heldout, 8192):
        scores = score(network, batch.inputs, batch.targets).log_probabilities_BS.double()
        nats = -scores.where(batch.predicted, 0.0).sum(1)
        for window, value in zip(batch.windows, nats.tolist(), strict=True):
            found[key(window)] = value / math.log(2)
    return found


def by_block(drawn: HeldOut, of_window: Bits) -> list[float]:
    sums = [0.0] * len(drawn.block_bytes)
    for window in drawn.windows:
        sums[window.block] += of_window[key(window)]
    return sums


@pytest.fixture(scope="module", params=["prose", "code"])
def tokens(request: pytest.FixtureRequest, tiny_seed: Path, tiny_corpora: Path) -> Tokens:
    """All of a corpus as held-out text: prose is many documents, code has some of great length."""
    folder = TextFolder(tiny_corpora / request.param, "all")
    return Tokens.of(folder, AutoTokenizer.from_pretrained(tiny_seed))


@pytest.fixture(scope="module")
def models(tiny_seed: Path) -> list[PreTrainedModel]:
    """The seed, and a copy that is a little worse everywhere: its head is a little too dull."""
    seed, worse = load(tiny_seed, torch.float32), load(tiny_seed, torch.float32)
    worse.model.norm.weight.data *= 0.8
    return [seed, worse]


@pytest.mark.parametrize("documents", [1, 2, 3])
@pytest.mark.parametrize(
    "row", [{"text": "Four and three are {}."}, {"prompt": "3 + {} =", "answer": "seven"}], ids=list
)
def test_a_short_text_too_has_blocks_enough_for_an_interval(
    models: list[PreTrainedModel], tiny_seed: Path, tmp_path: Path, documents: int, row: Any
) -> None:
    rows = [{key: value.format(number) for key, value in row.items()} for number in range(3)]
    lines = [json.dumps(one) + "\n" for one in rows[:documents]]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    folder = TextFolder(tmp_path, "all")
    tokens = Tokens.of(folder, AutoTokenizer.from_pretrained(tiny_seed))
    drawn = sample(tokens, Limits(10**9))
    assert len(drawn.block_bytes) >= 4
    assert min(drawn.block_bytes) > 0
    assert drawn.documents == documents
    # The figure is that of the text in whole windows.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("btx_core.measuring.samples.LEAST_BLOCKS", 1)
        whole = sample(tokens, Limits(10**9))
    assert len(whole.windows) == documents
    assert whole.digest == drawn.digest
    assert whole.text_bytes == drawn.text_bytes
    found = []
    for one in (whole, drawn):
        tally = Tally(one)
        for batch in batches(one, 4096):
            tally.add(RoutedModel(models[0]), batch)
        found.append(tally.result())
    assert found[1].bits_per_byte == pytest.approx(found[0].bits_per_byte, rel=1e-5)
    assert (found[1].tokens, found[1].answers) == (found[0].tokens, found[0].answers)
    assert found[1].accuracy == found[0].accuracy
    assert ratio_interval(found[1].block_bits, found[1].sample.block_bytes)


def test_the_interval_of_a_sample_covers_the_figure_of_all_text(
    tokens: Tokens, models: list[PreTrainedModel]
) -> None:
    whole = sample(tokens, Limits(10**9, SEQUENCE))
    assert whole.tokens_in_all > MAX_TOKENS * 4
    of_window = bits(models[0], whole)
    figure, covered, halves = sum(of_window.values()) / whole.text_bytes, 0, []
    for number in range(TRIALS):
        drawn = sample(tokens, Limits(MAX_TOKENS, SEQUENCE, number=number))
        interval = ratio_interval(by_block(drawn, of_window), drawn.block_bytes)
        assert interval
        covered += interval.low <= figure <= interval.high
        halves.append((interval.high - interval.low) / 2)
    print(f"{covered} of {TRIALS} intervals cover {figure:.3f}, ± {sum(halves) / TRIALS:.3f}")
    assert covered >= 93
    assert max(halves) < 0.15 * figure, "and they are no wider than they need be"


def test_other_samples_give_the_same_verdict(tokens: Tokens, models: list[PreTrainedModel]) -> None:
    """A model that is some hundredths worse is known by its blocks, not by its interval."""
    whole = sample(tokens, Limits(10**9, SEQUENCE))
    seed, worse = (bits(model, whole) for model in models)
    factor = sum(worse.values()) / sum(seed.values())
    verdicts, apart = [], 0
    for number in range(TRIALS):
        drawn = sample(tokens, Limits(MAX_TOKENS, SEQUENCE, number=number))
        own, other = by_block(drawn, worse), by_block(drawn, seed)
        paired = ratio_interval(own, other)
        intervals = [ratio_interval(blocks, drawn.block_bytes) for blocks in (own, other)]
        assert paired
        assert intervals[0]
        assert intervals[1]
        verdicts.append((paired.low > 1, paired.high < 1))
        apart += intervals[0].low > intervals[1].high
    print(f"{factor:.3f} of the seed's bits: {verdicts.count((True, False))} of {TRIALS} say so")
    assert verdicts == [(True, False)] * TRIALS
    assert apart < TRIALS, "the alarm: two intervals do not tell them apart"
