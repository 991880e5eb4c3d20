"""Which experts computed each token: the weights that a mixture really multiplied its experts with.

In:  a built folder, text.  Out: the text's tokens, and per token, layer and member its weight.
The weights are taken where the experts receive them, so every family's own routing holds: top-k,
sigmoid, scaling. Whose data a member was trained on is left to the caller.
Shapes: T tokens, L layers with a router, E experts, M members (the seed model and the experts that
were mixed; a member is several experts where it was split).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from btx_core.checkpoints.strict_json import read_json
from btx_core.machine import device_of
from btx_core.mixing.weight_files import PROVENANCE
from btx_core.problems import Unsupported
from btx_core.routed import RoutedModel
from btx_core.tokens import end_token

# Tokens of one window, where the model takes as many.
LONGEST = 2048


@dataclass(frozen=True)
class Attribution:
    """Which members computed each token of a text.

    Attributes:
        tokens: joined, they are the text.
        members: their names.
        weights_TLM: of one token and layer they add up to one.
    """

    tokens: tuple[str, ...]
    members: tuple[str, ...]
    weights_TLM: NDArray[np.float64]

    def weights_TM(self) -> NDArray[np.float64]:
        """Return the mean over the layers."""
        return np.asarray(self.weights_TLM.mean(1))

    def shares_M(self) -> NDArray[np.float64]:
        """Return each member's share in the text: the mean over layers and tokens."""
        return np.asarray(self.weights_TLM.mean((0, 1)))


@dataclass(frozen=True, eq=False)
class Reader:
    """A build opened to be asked more than once.

    Attributes:
        model: the build.
        tokenizer: the build's.
        members: their names.
        parts_EM: how much of each expert is which member's.
    """

    model: RoutedModel
    tokenizer: PreTrainedTokenizerBase
    members: tuple[str, ...]
    parts_EM: NDArray[np.float64]

    @classmethod
    def open(cls, folder: Path) -> "Reader":
        """Open a build.

        Args:
            folder: a mixed or tuned folder, its provenance.json included.

        Returns:
            The reader.
        """
        recorded = read_json(folder / PROVENANCE)
        experts = [item["name"] for item in recorded["members"]]
        members, parts_EM = made_of(recorded["rows"], experts, recorded["recipe"])
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        return cls(RoutedModel.load(folder), tokenizer, members, parts_EM)

    def read(self, text: str) -> Attribution:
        """Attribute each token of a text.

        Each window starts after an end-of-text token, as every document did in training; that token
        is not counted.

        Args:
            text: any text; an empty one has no token.

        Returns:
            The attribution.
        """
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, end = encoded["input_ids"], end_token(self.tokenizer)
        config = self.model.network.config
        window = min(LONGEST, getattr(config, "max_position_embeddings", LONGEST)) - 1
        windows = [ids[start : start + window] for start in range(0, len(ids), window)]
        parts = [routing_shares(self.model, [end, *part])[1:] for part in windows]
        weights_TLE = np.concatenate(parts) if parts else np.zeros((0, 1, len(self.parts_EM)))
        tokens = token_texts(text, encoded["offset_mapping"])
        return Attribution(tokens, self.members, weights_TLE @ self.parts_EM)


# Any: the recipe as provenance.json holds it.
def made_of(
    expert_names: Sequence[str], member_names: Sequence[str], recipe: Mapping[str, Any]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Tell how much of each expert is which member's.

    Args:
        expert_names: of the E experts, in the order of the routers' weights.
        member_names: of the experts that were mixed, in slot order.
        recipe: of the mixture.

    Returns:
        The M members' names in slot order, and parts (E, M): a split expert is wholly its member's,
        a blended one every member's in equal parts.
    """
    members = tuple(member_names)
    if recipe["seed_expert"]:
        members = ("seed", *members)
    if recipe["blend"]:
        return members, np.full((len(expert_names), len(members)), 1 / len(members))
    parts_EM = np.zeros((len(expert_names), len(members)))
    for number, name in enumerate(expert_names):
        owner = name.rsplit(".", 1)[0] if recipe["split"] > 1 else name
        parts_EM[number] = [float(owner == member) for member in members]
    return members, parts_EM


@torch.inference_mode()
def routing_shares(model: RoutedModel, ids: Sequence[int]) -> NDArray[np.float64]:
    """Return what each layer multiplied each expert's output with.

    Args:
        model: a mixture.
        ids: T token ids.

    Returns:
        Weights (T, L, E) as shares of one; zero for an expert that a token does not take.

    Raises:
        Unsupported: for a dense model.
    """
    read = torch.tensor([list(ids)]).to(device_of(model.network))
    with model.recording(choices=True) as recording:
        model.network(input_ids=read, use_cache=False, logits_to_keep=1)
    choices = recording.choices.values()
    if not choices:
        raise Unsupported(
            getattr(model.network.config, "model_type", "a model"),
            found="no expert was asked",
            expected="a mixture of experts",
            next="name a build, not a dense checkpoint",
        )
    experts = max(choice.experts for choice in choices)
    layers = []
    for choice in choices:
        nothing_TE = choice.weights_TK.new_zeros(len(ids), experts, dtype=torch.float64)
        layers.append(nothing_TE.scatter(-1, choice.index_TK, choice.weights_TK.double()))
    weights_TLE = torch.stack(layers, 1)
    # The one weight that Switch gives is below one.
    shares_TLE = weights_TLE / weights_TLE.sum(-1, keepdim=True)
    return np.asarray(shares_TLE.cpu().numpy())


def token_texts(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return each token's piece of a text.

    Args:
        text: the text.
        offsets: where each token begins and ends in it.

    Returns:
        One piece per token; joined, they are the text. What no token covers goes to the token after
        it, the rest to the last one.
    """
    if not offsets:
        return ()
    ends = list(accumulate((end for _, end in offsets), max))
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    pieces[-1] += text[ends[-1] :]
    return tuple(pieces)
