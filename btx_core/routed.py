"""A loaded mixture of experts as one object: its routers, what they see and choose, what trains.

In:  a stock transformers model; a dense one counts as a mixture without routers.
Out: its routers in layer order, recordings of what passes through them, and counts of parameters.
This is the only module that knows where in a model a router sits. How routers choose while they
train is left to `btx_core.training.routing`, what they start with to
`btx_core.training.router_start`.
Shapes: T tokens, E experts, K experts that one token takes, D model width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.nn.functional import linear, logsigmoid
from transformers import PreTrainedModel

from btx_core.checkpoints.mixture_layouts import LAYOUTS
from btx_core.machine import Machine, here, load, whole

# What a tuning may change: the routers, these and all that is shared, or every parameter.
Trainable = Literal["router", "shared", "all"]
Reduce = Callable[[str, torch.Tensor], torch.Tensor]
EXPERTS = ".experts"
# What HunYuan's routers call the linear map inside them; every other router is the map itself.
LINEAR_MAP = "wg"


@dataclass(frozen=True, eq=False)
class Router:
    """One layer's router: a linear map from hidden states to one logit per expert.

    Attributes:
        name: within the model, the name of the module whose `weight` (E, D) is the linear map.
        layer: its position among the layers that have a router.
        module: the stock module that chooses; it has a `top_k`.
        sigmoid: whether it scores each expert by itself, by a sigmoid instead of a softmax.
    """

    name: str
    layer: int
    module: torch.nn.Module
    sigmoid: bool = False

    @property
    def weight(self) -> torch.nn.Parameter:
        """The router's weights, (E, D)."""
        return cast(torch.nn.Parameter, getattr(self.module, LINEAR_MAP, self.module).weight)

    @property
    def top_k(self) -> int:
        """How many experts a token takes."""
        return cast(int, self.module.top_k)

    @property
    def experts(self) -> int:
        """How many experts the router chooses from."""
        return self.weight.shape[0]

    def logits(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states, (T, E), float32."""
        weight_ED = whole(self.weight)
        # Some routers stay float32 in a model of bfloat16, and compute in it.
        dtype = torch.promote_types(hidden_TD.dtype, weight_ED.dtype)
        return linear(hidden_TD.to(dtype), weight_ED.to(dtype)).float()

    def routing_weights(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Return what the routed block multiplies each expert's output with.

        Args:
            hidden_TD: hidden states (T, D), as they enter the router.

        Returns:
            Weights (T, E), float32: a softmax over the K largest logits, zero elsewhere. A router
            that does not renormalise (Switch) weighs the K by the softmax over all experts. One
            that scores by a sigmoid divides the K largest scores by their sum; what it adds to
            them for its choice is zero in every mixture that `btx_core.mixing` makes.
        """
        return self.weights_of(self.logits(hidden_TD))

    def weights_of(self, logits_TE: torch.Tensor) -> torch.Tensor:
        """Return what `routing_weights` does, of logits (T, E) that are known."""
        scores_TE = logits_TE.sigmoid() if self.sigmoid else logits_TE
        largest_TK, index_TK = scores_TE.topk(self.top_k, -1)
        if self.sigmoid:
            weights_TK = largest_TK / largest_TK.sum(-1, keepdim=True)
        elif getattr(self.module, "norm_topk_prob", True):
            weights_TK = largest_TK.softmax(-1)
        else:
            weights_TK = logits_TE.softmax(-1).gather(-1, index_TK)
        return torch.zeros_like(logits_TE).scatter(-1, index_TK, weights_TK)

    def shares_of(self, logits_TE: torch.Tensor) -> torch.Tensor:
        """Return what `weights_of` would, did each token take every expert: (T, E), rows sum to 1.

        They are a softmax over the logits, or sigmoids divided by their sum.
        """
        # The logarithm of a sigmoid does not vanish where the sigmoid does.
        scores_TE = logsigmoid(logits_TE) if self.sigmoid else logits_TE
        return scores_TE.softmax(-1)


@dataclass(frozen=True, eq=False)
class ExpertChoice:
    """What one layer's experts were given in a forward pass.

    Attributes:
        index_TK: the experts that each token takes.
        weights_TK: what their outputs are multiplied with.
        experts: how many there are to choose from.
    """

    index_TK: torch.Tensor
    weights_TK: torch.Tensor
    experts: int


@dataclass(frozen=True, eq=False)
class Recording:
    """What passed through a mixture in its last forward pass, layers in the order they ran in.

    Attributes:
        inputs: by router name, the hidden states (T, D) that entered it, perhaps reduced.
        logits: by router name, the logits (T, E) that it computed.
        choices: by the name of a layer's experts, what they were given.
    """

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    logits: dict[str, torch.Tensor] = field(default_factory=dict)
    choices: dict[str, ExpertChoice] = field(default_factory=dict)


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters a model has, and how many of them one token meets."""

    total: int
    active: int


@dataclass(frozen=True, eq=False)
class RoutedModel:
    """A loaded mixture and its routers.

    Attributes:
        network: the stock transformers model.
        machine: where it is.
    """

    network: PreTrainedModel
    machine: Machine = field(default_factory=here)

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: torch.dtype | None = None,
        *,
        machine: Machine | None = None,
        compute: torch.dtype | None = None,
        trainable: Trainable = "all",
    ) -> "RoutedModel":
        """Load a mixture as `btx_core.machine.load` does.

        Args:
            folder: a dense or mixed checkpoint.
            dtype: of the parameters that train; None: as they are stored.
            machine: where it is to be; this process's own unless given.
            compute: the dtype that is computed in; None: the same.
            trainable: what may train, as `freeze` has it.
        """
        machine = here() if machine is None else machine
        network = load(
            folder,
            dtype,
            machine=machine,
            trains=lambda network: trainable_names(network, trainable),
            compute=compute,
        )
        return cls(network, machine)

    @cached_property
    def routers(self) -> tuple[Router, ...]:
        """The routers in layer order; none in a dense model."""
        return routers_of(self.network)

    @contextmanager
    def recording(
        self,
        *,
        inputs: bool = False,
        logits: bool = False,
        choices: bool = False,
        reduce: Reduce | None = None,
    ) -> Iterator[Recording]:
        """Record what passes through the routers in the forward passes inside the block.

        Args:
            inputs: record what enters each router.
            logits: record what each router computed, with its gradient.
            choices: record what each layer's experts are given, whatever the router computed.
            reduce: called with a router's name and its input (T, D); what it returns is recorded
                instead, so that no more than one layer's input is held.

        Yields:
            The recording; every forward pass replaces what the one before it left.
        """
        recording = Recording()
        with ExitStack() as stack:
            if inputs:
                modules = {router.name: router.module for router in self.routers}
                stack.enter_context(recorded_inputs(modules, recording.inputs, reduce))
            if logits:
                stack.enter_context(_recorded_logits(self.routers, recording.logits))
            if choices:
                stack.enter_context(_recorded_choices(self.network, recording.choices))
            yield recording

    def freeze(self, trainable: Trainable) -> None:
        """Let exactly the parameters require a gradient that a tuning may change.

        Args:
            trainable: "router": the routers; "shared": these and all outside the experts; "all".
        """
        names = trainable_names(self.network, trainable)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in names)


def trainable_names(network: torch.nn.Module, trainable: Trainable) -> set[str]:
    """Return the names of the parameters that a tuning may change.

    Args:
        network: a mixture.
        trainable: "router": the routers; "shared": these and all outside the experts; "all".
    """
    routers = {router.name for router in routers_of(network)}
    names = set()
    for name, _ in network.named_parameters():
        of_router = name.removesuffix(".weight") in routers
        shared = trainable == "shared" and not is_expert_parameter(name)
        if of_router or shared or trainable == "all":
            names.add(name)
    return names


def routers_of(network: torch.nn.Module) -> tuple[Router, ...]:
    """Find the routers of a model: every module with a `top_k` and a linear map.

    Args:
        network: dense or mixed, and perhaps wrapped.

    Returns:
        The routers in layer order; none in a dense model.
    """
    # A module of no stock model has no config.
    layout = LAYOUTS.get(getattr(getattr(network, "config", None), "model_type", ""))
    sigmoid = layout is not None and layout.sigmoid
    routers: list[Router] = []
    for name, module in network.named_modules():
        linear_map = getattr(module, LINEAR_MAP, module)
        of_map = name if linear_map is module else f"{name}.{LINEAR_MAP}"
        weight = getattr(linear_map, "weight", None)
        if hasattr(module, "top_k") and getattr(weight, "ndim", 0) == 2:
            routers.append(Router(of_map, len(routers), module, sigmoid))
    return tuple(routers)


def parameter_counts(network: torch.nn.Module) -> ParameterCounts:
    """Count all parameters, and those that one token meets: K of E experts in every layer.

    Args:
        network: dense or mixed, and perhaps wrapped.

    Returns:
        The two counts, equal for a dense model.
    """
    total = sum(parameter.numel() for parameter in network.parameters())
    active = total
    of_layers = [module for name, module in network.named_modules() if name.endswith(EXPERTS)]
    for router, experts in zip(routers_of(network), of_layers, strict=True):
        size = sum(parameter.numel() for parameter in experts.parameters())
        active -= size - size * router.top_k // router.experts
    return ParameterCounts(total, active)


def is_expert_parameter(name: str) -> bool:
    """Tell whether a parameter of this name belongs to the experts of a mixture."""
    return f"{EXPERTS}." in name


@contextmanager
def experts_computing_in(network: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let the experts of a mixture compute in a dtype inside the block, their parameters as before.

    Autocast does not reach them: their grouped product takes the dtype of its weights.

    Args:
        network: a mixture that one process holds whole; a dense model is left as it is.
        dtype: what their parameters are converted to in every forward pass, with a gradient.
    """
    masters: dict[torch.nn.Module, dict[str, torch.nn.Parameter]] = {}

    def convert(module: torch.nn.Module, _: object) -> None:
        masters[module] = dict(module.named_parameters(recurse=False))
        for name, parameter in masters[module].items():
            del module._parameters[name]
            setattr(module, name, parameter.to(dtype))

    def restore(module: torch.nn.Module, _: object, __: object) -> None:
        for name, parameter in masters.pop(module, {}).items():
            delattr(module, name)
            module.register_parameter(name, parameter)

    handles = []
    for name, module in network.named_modules():
        if name.endswith(EXPERTS):
            handles.append(module.register_forward_pre_hook(convert))
            handles.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_inputs(
    modules: Mapping[str, torch.nn.Module],
    inputs: dict[str, torch.Tensor],
    reduce: Reduce | None = None,
) -> Iterator[None]:
    """Record the first argument of modules in the forward passes inside the block.

    Args:
        modules: routers, or the feed-forward blocks of a dense model, by name.
        inputs: filled by module name, in the order in which the modules run, with the argument as
            (T, D), or with what `reduce` makes of it.
        reduce: called with the module's name and the argument as (T, D).
    """

    def listen(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            hidden_TD = arguments[0].reshape(-1, arguments[0].shape[-1])
            inputs[name] = hidden_TD if reduce is None else reduce(name, hidden_TD)

        return hook

    handles = [module.register_forward_pre_hook(listen(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _recorded_logits(
    routers: Sequence[Router], recorded: dict[str, torch.Tensor]
) -> Iterator[None]:
    """Record the logits of routers: what they return, or the first thing that they return."""

    # Any: a stock router returns its logits, or a tuple that they lead.
    def listen(name: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def hook(module: torch.nn.Module, _: Any, output: Any) -> None:
            logits_TE = output[0] if isinstance(output, tuple) else output
            recorded[name] = logits_TE.reshape(-1, logits_TE.shape[-1]).float()

        return hook

    handles = [router.module.register_forward_hook(listen(router.name)) for router in routers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _recorded_choices(network: torch.nn.Module, choices: dict[str, ExpertChoice]) -> Iterator[None]:
    """Record the index and weight that every family hands to the experts of a layer."""

    # Any: the arguments after the hidden states differ in order and name from family to family.
    def listen(name: str) -> Callable[[torch.nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(
            module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
        ) -> None:
            given = (*arguments, *named.values())
            # The hidden states come first.
            _, *tensors = (value for value in given if isinstance(value, torch.Tensor))
            index = next(tensor for tensor in tensors if not tensor.is_floating_point())
            weight = next(tensor for tensor in tensors if tensor.is_floating_point())
            choices[name] = ExpertChoice(
                index.reshape(-1, index.shape[-1]),
                weight.reshape(-1, weight.shape[-1]),
                cast(int, module.num_experts),
            )

        return hook

    handles = [
        module.register_forward_pre_hook(listen(name), with_kwargs=True)
        for name, module in network.named_modules()
        if name.endswith(EXPERTS)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
