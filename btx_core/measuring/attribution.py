"""Which experts computed each token: the gate weights that a mixture really multiplied its experts with.

In:  a built folder, text.  Out: the text's tokens, and per token, layer and member the gate weight.
The weights are taken where the experts receive them, so every family's own routing holds: top-k, sigmoid, scaling.
Whose data a member was trained on is the caller's to know.
Shapes: T tokens, L layers with a router, E experts in router row order, M members (the seed and the experts that were mixed).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer

from btx_core.checkpoints.dense import load
from btx_core.checkpoints.strict_json import read_json
from btx_core.mixing.weight_files import PROVENANCE
from btx_core.problems import Unsupported
from btx_core.texts import end_token

LONGEST = 2048  # tokens of one window, where the model takes as many


@dataclass(frozen=True)
class Attribution:
    """tokens: joined, they are the text. weights_TLM: of one token and layer they add up to one."""

    tokens: tuple[str, ...]
    members: tuple[str, ...]
    weights_TLM: NDArray[np.float64]

    def weights_TM(self) -> NDArray[np.float64]:
        """Mean over the layers."""
        return np.asarray(self.weights_TLM.mean(1))

    def shares_M(self) -> NDArray[np.float64]:
        """Mean over layers and tokens: each member's share in the text."""
        return np.asarray(self.weights_TLM.mean((0, 1)))


@dataclass(frozen=True)
class Reader:
    """A build opened to be asked more than once."""

    model: Any
    tokenizer: Any
    members: tuple[str, ...]
    rows_EM: NDArray[np.float64]  # how each expert, by router row, is made of the members

    @classmethod
    def open(cls, folder: Path) -> "Reader":
        recorded = read_json(folder / PROVENANCE)
        members, rows_EM = made_of(
            recorded["rows"], [item["name"] for item in recorded["members"]], recorded["recipe"]
        )
        return cls(load(folder).eval(), AutoTokenizer.from_pretrained(folder), members, rows_EM)

    def read(self, text: str) -> Attribution:
        """Each window starts after an end-of-text token, as every document did in training; that token is not counted."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, end = encoded["input_ids"], end_token(self.tokenizer)
        window = min(LONGEST, getattr(self.model.config, "max_position_embeddings", LONGEST)) - 1
        parts = [
            gate_weights(self.model, [end, *ids[start : start + window]])[1:]
            for start in range(0, len(ids), window)
        ]
        weights_TLE = np.concatenate(parts) if parts else np.zeros((0, 1, len(self.rows_EM)))
        return Attribution(
            spelled(text, encoded["offset_mapping"]), self.members, weights_TLE @ self.rows_EM
        )


def made_of(
    rows: Sequence[str], experts: Sequence[str], recipe: Mapping[str, Any]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The members in slot order, and rows_EM. A split expert is wholly its member's; a blended one is every member's in equal parts."""
    members = (*(["seed"] if recipe["seed_expert"] else []), *experts)
    if recipe["blend"]:
        return members, np.full((len(rows), len(members)), 1 / len(members))
    names = [row.rsplit(".", 1)[0] if recipe["split"] > 1 else row for row in rows]
    return members, np.array([[float(name == member) for member in members] for name in names])


@torch.inference_mode()
def gate_weights(model: Any, ids: Sequence[int]) -> NDArray[np.float64]:
    """(T, L, E): what each layer's block multiplied each expert's output with, as shares of one; zero for those not taken."""
    with listening(model) as heard:
        model(input_ids=torch.tensor([list(ids)]), use_cache=False, logits_to_keep=1)
    if not heard:
        found = getattr(model.config, "model_type", "a model")
        raise Unsupported(
            found,
            found="no expert was asked",
            expected="a mixture of experts",
            next="name a build, not a dense checkpoint",
        )
    experts = max(count for _, _, count in heard)
    layers = [
        torch.zeros(len(ids), experts, dtype=torch.float64).scatter(-1, index, weight.double())
        for index, weight, _ in heard
    ]
    weights_TLE = torch.stack(layers, 1)
    return np.asarray(
        (weights_TLE / weights_TLE.sum(-1, keepdim=True)).numpy()
    )  # Switch's one weight is below one


@contextmanager
def listening(model: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor, int]]]:
    """Collects (index, weight) (T, K) and E of each layer, in the order in which the layers run."""
    heard: list[tuple[torch.Tensor, torch.Tensor, int]] = []

    def hook(experts: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = [
            value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor)
        ][1:]  # hidden states come first
        index = next(value for value in given if not value.is_floating_point())
        weight = next(value for value in given if value.is_floating_point())
        heard.append(
            (
                index.reshape(-1, index.shape[-1]),
                weight.reshape(-1, weight.shape[-1]),
                experts.num_experts,
            )
        )

    blocks = [module for name, module in model.named_modules() if name.endswith(".experts")]
    handles = [block.register_forward_pre_hook(hook, with_kwargs=True) for block in blocks]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def spelled(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Each token's piece of the text; what no token covers goes to the token after it, the rest to the last one."""
    ends = list(accumulate((end for _, end in offsets), max))
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return (*pieces[:-1], pieces[-1] + text[ends[-1] :]) if pieces else ()
