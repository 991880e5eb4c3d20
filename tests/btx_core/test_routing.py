"""How routers choose while they train: capacity by hand, draws by their probability, gradients for the router, nothing left behind."""

from pathlib import Path

import pytest
import torch

from btx_core.checkpoints.dense import load
from btx_core.measuring.evaluation import gates
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.problems import Unsupported
from btx_core.training.routing import Choice, Routing, drawn, in_training, within_capacity


def choice(logits_TE: torch.Tensor) -> Choice:
    weights, places = logits_TE.softmax(-1).max(-1, keepdim=True)
    return logits_TE, weights, places


def test_whoever_comes_after_an_expert_is_full_passes_it_by() -> None:
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 0.0]])
    weights = within_capacity(choice(logits), 1.0)[1][:, 0]  # 5 tokens, 2 experts: room for 3 each
    assert weights.bool().tolist() == [True, True, True, True, False]
    assert within_capacity(choice(logits), 2.0)[1].bool().all()
    assert torch.equal(within_capacity(choice(logits), 2.0)[1], choice(logits)[1])


def test_experts_are_drawn_by_their_probability() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(20_000, 1)
    for temperature in (1.0, 0.5):
        _, weights, places = drawn(choice(logits), temperature)
        shares = torch.bincount(places[:, 0]) / len(places)
        assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.02)
        assert float(weights.min()) > 1 / 3
        assert float(weights.max()) <= 1


def test_a_colder_draw_weighs_nearer_to_one() -> None:
    means = []
    for temperature in (1.0, 0.5):
        torch.manual_seed(0)
        means.append(float(drawn(choice(torch.zeros(1000, 4)), temperature)[1].mean()))
    assert means[0] < means[1] < 1


@pytest.fixture(scope="module")
def mixtures(tiny_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("routing")
    for routing in ("top-k", "switch", "sample"):
        mix(
            tiny_seed,
            [Member(name, slot, tiny_seed) for slot, name in enumerate("abc", 1)],
            MixRecipe(routing=routing),
            root / routing,
        )
    return {routing: root / routing for routing in ("top-k", "switch", "sample")}


@pytest.mark.parametrize("routing", ["switch", "sample"])
def test_the_language_model_loss_reaches_the_router(
    mixtures: dict[str, Path], routing: Routing
) -> None:
    model, ids = load(mixtures[routing], torch.float32), torch.arange(40)[None]
    stock = model(input_ids=ids).logits
    with in_training(gates(model), routing, capacity=1.0, temperature=0.7):
        found = model(input_ids=ids).logits
    found.logsumexp(-1).sum().backward()
    assert all(gate.weight.grad.abs().max() > 0 for gate in gates(model).values())
    assert not torch.allclose(found, stock)
    assert torch.equal(model(input_ids=ids).logits, stock), (
        "outside the block it is the stock model again"
    )


def test_a_renormalised_top_1_gives_the_router_no_gradient(mixtures: dict[str, Path]) -> None:
    """Why switch and sample are there: the weight of one kept expert is 1, whatever its logit."""
    model = load(mixtures["sample"], torch.float32)
    model(input_ids=torch.arange(40)[None]).logits.logsumexp(-1).sum().backward()
    assert all(
        gate.weight.grad is None or float(gate.weight.grad.abs().max()) < 1e-5
        for gate in gates(model).values()
    )


def test_a_router_that_keeps_its_choice_to_itself_is_refused_by_name() -> None:
    silent = torch.nn.Linear(4, 2)
    with (
        in_training({"gate": silent}, "switch", capacity=1.5, temperature=1.0),
        pytest.raises(Unsupported, match="routing switch"),
    ):
        silent(torch.zeros(3, 4))
