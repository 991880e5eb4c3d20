"""First router weights: additive statistics, closed forms that find each expert's own states."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from btx_core.batches import Corpus
from btx_core.machine import load
from btx_core.training.router_start import (
    RIDGE,
    Statistics,
    first_weights,
    joining_weight,
    statistics,
)


def of(states_LTD: torch.Tensor) -> Statistics:
    states = states_LTD.double()
    return Statistics(states.shape[1], states.sum(1), states.mT @ states)


def clouds(seed: int = 0) -> list[torch.Tensor]:
    """Three overlapping clouds of states, two layers, width 8."""
    torch.manual_seed(seed)
    return [
        torch.randn(2, 400, 8) + 1.5 * torch.nn.functional.one_hot(torch.tensor(index), 8)
        for index in range(3)
    ]


@pytest.mark.parametrize("start", ["fitted", "centroid"])
def test_rows_choose_the_expert_whose_state_it_is(start: str) -> None:
    states = clouds()
    weights_LED = first_weights(
        [(index, of(cloud)) for index, cloud in enumerate(states)], 3, start
    ).float()
    right = [
        float(((cloud[layer] @ weights_LED[layer].T).argmax(-1) == index).float().mean())
        for index, cloud in enumerate(states)
        for layer in (0, 1)
    ]
    assert min(right) > 0.6  # chance: 0.33


def test_a_place_without_text_gets_a_row_of_zeros() -> None:
    weights_LED = first_weights([(1, of(clouds()[0])), (3, of(clouds()[1]))], 4, "fitted")
    assert weights_LED.shape == (2, 4, 8)
    assert not weights_LED[:, [0, 2]].any()
    assert weights_LED[:, [1, 3]].any()


def test_fitted_rows_are_the_ridge_solution() -> None:
    states = clouds()
    weights_LED = first_weights(
        [(index, of(cloud)) for index, cloud in enumerate(states)], 3, "fitted"
    )
    stacked = torch.cat([cloud[0] for cloud in states]).double() / 400**0.5
    wanted = (
        torch.cat(
            [4.0 * torch.nn.functional.one_hot(torch.full((400,), index), 3) for index in range(3)]
        ).double()
        / 400**0.5
    )
    size = (stacked.T @ stacked).diagonal().mean()
    by_hand = torch.linalg.lstsq(
        torch.cat([stacked, (1e-3 * size) ** 0.5 * torch.eye(8)]),
        torch.cat([wanted, torch.zeros(8, 3)]).double(),
    ).solution.T
    assert torch.allclose(weights_LED[0], by_hand, atol=1e-8)


OF_A_REAL_SIZE = """
import torch
from btx_core.training.router_start import RIDGE, Statistics, first_weights
torch.set_num_threads(2)
torch.manual_seed(0)
states = torch.randn(4, 1200, 576, dtype=torch.float64)
sums = Statistics(1200, states.sum(1), states.mT @ states)
weights = first_weights([(0, sums)], 1, "fitted")
second = states.mT @ states / 1200
ridge = RIDGE * second.diagonal(dim1=1, dim2=2).mean(-1)[:, None] * weights[:, 0]
found = (second @ weights[:, 0, :, None])[..., 0] + ridge
assert torch.allclose(found, 4 * sums.total_LD / 1200, atol=1e-9)
print("fitted")
"""


def test_fitting_at_a_real_models_width_ends_with_several_threads() -> None:
    """The linear algebra behind torch differs by threads and size; one general solver hangs."""
    code = [sys.executable, "-c", OF_A_REAL_SIZE]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "fitted\n", done.stderr


def test_statistics_of_two_texts_add_up(tiny_seed: Path, tiny_corpora: Path) -> None:
    """So an expert's statistics are made once, and those of a new one join them."""
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_seed), load(tiny_seed, torch.float32)
    first, second = (Corpus.of([tiny_corpora / name], tokenizer) for name in ("math", "code"))
    of_first = statistics(model, first, 32, sequences=4)
    of_second = statistics(model, second, 32, sequences=4)
    both, again = of_first + of_second, of_second + of_first
    assert both.tokens == again.tokens == 2 * 4 * 32
    assert both.total_LD.shape == (2, 32)
    assert both.outer_LDD.shape == (2, 32, 32)
    assert torch.equal(both.outer_LDD, again.outer_LDD)


def test_a_joining_row_takes_its_own_states_from_rows_that_stay() -> None:
    *old, new = (cloud[0] for cloud in clouds())
    others, staying_ED = (
        torch.cat(old),
        first_weights([(0, of(clouds()[0])), (1, of(clouds()[1]))], 2, "fitted")[0],
    )
    weight = joining_weight(new, others, staying_ED)

    def share(states: torch.Tensor) -> torch.Tensor:
        return (states.double() @ torch.stack([*staying_ED, weight]).T).softmax(-1)[:, 2]

    assert float((share(new) > 0.5).double().mean()) > 0.75  # the clouds overlap
    assert float((share(others) < 0.5).double().mean()) > 0.75
    slope = 0.5 * (
        (share(others)[:, None] * others).mean(0) - ((1 - share(new))[:, None] * new).mean(0)
    )
    ridge = RIDGE * torch.cat([new, others]).square().mean() * weight
    assert torch.allclose(slope, -ridge, atol=1e-5), "the cost is at its least"
