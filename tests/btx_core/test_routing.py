"""Routers while they train: capacity and draws by hand, gradients, no hook left behind."""

from pathlib import Path

import pytest
import torch

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.problems import Unsupported
from btx_core.routed import RoutedModel, Router
from btx_core.training.routing import (
    RouterOutput,
    Routing,
    RoutingInTraining,
    drawn,
    routing_in_training,
    within_capacity,
)


def choice(logits_TE: torch.Tensor) -> RouterOutput:
    weights, index = logits_TE.softmax(-1).max(-1, keepdim=True)
    return logits_TE, weights, index


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
        _, weights, index = drawn(choice(logits), temperature)
        shares = torch.bincount(index[:, 0]) / len(index)
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
    model, ids = RoutedModel.load(mixtures[routing], torch.float32), torch.arange(40)[None]
    stock = model.network(input_ids=ids).logits
    with routing_in_training(model.routers, lambda: RoutingInTraining(routing, 1.0, 0.7)):
        assert torch.equal(model.network(input_ids=ids).logits, stock), "nothing trains yet"
        model.network.train()
        found = model.network(input_ids=ids).logits
    model.network.eval()
    found.logsumexp(-1).sum().backward()
    assert len(model.routers) == 2
    assert all(gradient(router) > 0 for router in model.routers)
    assert not torch.allclose(found, stock)
    assert torch.equal(model.network(input_ids=ids).logits, stock), (
        "outside the block it is the stock model again"
    )


def test_a_renormalised_top_1_gives_the_router_no_gradient(mixtures: dict[str, Path]) -> None:
    """Why switch and sample are there: the weight of one kept expert is 1, whatever its logit."""
    model = RoutedModel.load(mixtures["sample"], torch.float32)
    model.network(input_ids=torch.arange(40)[None]).logits.logsumexp(-1).sum().backward()
    assert all(gradient(router) < 1e-5 for router in model.routers)


def gradient(router: Router) -> float:
    """The largest entry of the gradient of a router's weights; 0 where there is none."""
    found = router.weight.grad
    return 0.0 if found is None else float(found.abs().max())


def test_a_router_that_keeps_its_choice_to_itself_is_refused_by_name() -> None:
    silent = torch.nn.Linear(4, 2)
    with (
        routing_in_training(
            [Router("gate", 0, silent)], lambda: RoutingInTraining("switch", 1.5, 1.0)
        ),
        pytest.raises(Unsupported, match="routing switch"),
    ):
        silent(torch.zeros(3, 4))
