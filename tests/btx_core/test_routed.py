"""A loaded mixture: its routers, what a recording holds, what may train, no hook left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from btx_core.machine import load
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.routed import RoutedModel, Trainable, parameter_counts

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture
def mixed(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """The seed model and two experts, of which a token takes two."""
    members = [Member("law", 1, tiny("law")), Member("code", 2, tiny("code"))]
    mix(tiny("seed"), members, MixRecipe(router_std=0.5), tmp_path / "mixed")
    return tmp_path / "mixed"


def test_the_routers_are_those_of_the_stock_model_in_layer_order(mixed: Path) -> None:
    model = RoutedModel.load(mixed)
    assert [(router.layer, router.experts, router.top_k) for router in model.routers] == [
        (0, 3, 2),
        (1, 3, 2),
    ]
    for router, layer in zip(model.routers, model.network.model.layers, strict=True):
        assert router.weight is layer.mlp.gate.weight
        assert model.network.get_submodule(router.name) is layer.mlp.gate


def test_a_dense_model_has_no_router_and_every_token_meets_all_of_it(
    tiny: Callable[..., Path],
) -> None:
    model = RoutedModel.load(tiny("seed"))
    counts = parameter_counts(model.network)
    assert model.routers == ()
    assert counts.active == counts.total == sum(p.numel() for p in model.network.parameters())


def test_a_token_meets_the_top_k_of_the_experts(mixed: Path) -> None:
    network = load(mixed)
    of_experts = sum(
        parameter.numel() for name, parameter in network.named_parameters() if ".experts." in name
    )
    counts = parameter_counts(network)
    assert of_experts > 0
    assert counts.total - counts.active == of_experts // 3


def test_a_recording_holds_what_entered_each_router_and_what_it_chose(mixed: Path) -> None:
    model = RoutedModel.load(mixed)
    with torch.no_grad(), model.recording(inputs=True, choices=True) as recording:
        stock = model.network(input_ids=IDS, output_router_logits=True).router_logits
    assert list(recording.inputs) == [router.name for router in model.routers]
    assert len(recording.choices) == len(model.routers)
    for router, logits_TE, choice in zip(
        model.routers, stock, recording.choices.values(), strict=True
    ):
        hidden_TD = recording.inputs[router.name]
        assert hidden_TD.shape == (8, 32)
        assert torch.equal(router.logits(hidden_TD), logits_TE.float())
        largest = logits_TE.topk(2, -1)
        assert choice.experts == 3
        assert torch.equal(choice.index_TK, largest.indices)
        assert torch.allclose(choice.weights_TK, largest.values.softmax(-1), atol=1e-6)
        by_hand = torch.zeros(8, 3).scatter(-1, choice.index_TK, choice.weights_TK)
        assert torch.allclose(router.routing_weights(hidden_TD), by_hand, atol=1e-6)


def test_what_is_not_asked_for_is_not_recorded(mixed: Path) -> None:
    model = RoutedModel.load(mixed)
    with (
        torch.no_grad(),
        model.recording(inputs=True) as inputs,
        model.recording(choices=True) as choices,
    ):
        model.network(input_ids=IDS)
    assert (len(inputs.inputs), len(inputs.choices)) == (2, 0)
    assert (len(choices.inputs), len(choices.choices)) == (0, 2)


def test_an_input_can_be_reduced_as_it_comes(mixed: Path) -> None:
    model = RoutedModel.load(mixed)
    seen = []

    def mean(name: str, hidden_TD: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return hidden_TD.mean(0)

    with torch.no_grad(), model.recording(inputs=True) as whole:
        model.network(input_ids=IDS)
    with torch.no_grad(), model.recording(inputs=True, reduce=mean) as reduced:
        model.network(input_ids=IDS)
    assert seen == [router.name for router in model.routers]
    for name, hidden_TD in whole.inputs.items():
        assert torch.equal(reduced.inputs[name], hidden_TD.mean(0))


def test_a_recording_holds_the_last_forward_pass(mixed: Path) -> None:
    model = RoutedModel.load(mixed)
    with torch.no_grad(), model.recording(inputs=True, choices=True) as recording:
        model.network(input_ids=IDS)
        model.network(input_ids=IDS[:, :3])
    assert {len(hidden) for hidden in recording.inputs.values()} == {3}
    assert {len(choice.index_TK) for choice in recording.choices.values()} == {3}


def test_after_a_recording_no_hook_is_left_even_where_the_forward_pass_failed(mixed: Path) -> None:
    model = RoutedModel.load(mixed)

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) for module in model.network.modules())

    def fail() -> None:
        with model.recording(inputs=True, choices=True):
            assert hooks() == 4
            model.network(input_ids=torch.tensor([[1_000_000]]))

    with pytest.raises(IndexError):
        fail()
    assert hooks() == 0


@pytest.mark.parametrize("trainable", ["router", "shared", "all"])
def test_exactly_what_a_tuning_may_change_requires_a_gradient(
    mixed: Path, trainable: Trainable
) -> None:
    model = RoutedModel.load(mixed)
    names = {name for name, _ in model.network.named_parameters()}
    routers = {name for name in names if name.endswith(".gate.weight")}
    experts = {name for name in names if ".experts." in name}
    assert routers
    assert experts
    model.freeze(trainable)
    found = {name for name, tensor in model.network.named_parameters() if tensor.requires_grad}
    assert found == {"router": routers, "shared": names - experts, "all": names}[trainable]


def test_a_router_that_does_not_renormalise_weighs_by_the_softmax_over_all(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    mix(tiny("seed"), [Member("law", 1, tiny("law"))], MixRecipe(routing="switch"), tmp_path / "m")
    model = RoutedModel.load(tmp_path / "m")
    with torch.no_grad(), model.recording(inputs=True, choices=True) as recording:
        model.network(input_ids=IDS)
    for router, choice in zip(model.routers, recording.choices.values(), strict=True):
        with torch.no_grad():
            weights_TE = router.routing_weights(recording.inputs[router.name])
        taken_TK = weights_TE.gather(-1, choice.index_TK)
        assert router.top_k == 1
        assert torch.allclose(taken_TK, choice.weights_TK, atol=1e-6)
        assert float(taken_TK.max()) < 1
