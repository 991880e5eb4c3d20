"""Run a model over packed documents as stock transformers runs it over each document by itself.

In:  a causal language model and token ids (B, S), where the end token begins each document.
Out: the same ids through the model, no document seeing another: positions begin anew with each, so
that transformers builds the mask of every kind of layer (full, sliding window, chunked) as it does
for one document; variable-length flash attention is told where documents begin; a layer that hands
a state from token to token (a convolution, linear attention) is given one document a row.
Which loss is computed of the result is left to `btx_core.training.losses`.
Shapes: B sequences of S tokens, N documents of at most L tokens, D model width.
"""

import re
from typing import Any, NamedTuple, cast

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import create_causal_mask

from btx_core.problems import Unsupported

# Kinds of layers that look at no other token but through a mask.
MASKED = frozenset(("full_attention", "sliding_attention", "chunked_attention"))
# Kinds of layers that hand a state from token to token, and the name of their module in a layer.
RECURRENT = {"conv": "conv", "linear_attention": "linear_attn"}
RECURRENT_MODULE = re.compile(rf"\.layers\.\d+\.({'|'.join(RECURRENT.values())}|mamba)$")
# Model types that build their masks without the positions, and take masks by kind of layer.
TAKES_MASKS = frozenset({"granitemoehybrid"})


class DocumentRows(NamedTuple):
    """Where packed tokens stand when each document has a row of its own.

    Attributes:
        token_NL: for each place of each row, the number of its packed token, 0 to B × S - 1; a
            place after a document's end repeats its last token.
        place_BS: for each packed token, the number of its place, 0 to N × L - 1.
    """

    token_NL: torch.Tensor
    place_BS: torch.Tensor


def run_packed(
    model: torch.nn.Module,
    ids: torch.Tensor,
    end: int,
    *,
    begins: torch.Tensor | None = None,
    logits_to_keep: int = 0,
) -> Any:  # a transformers ModelOutput, whose class differs between families
    """Run a model over packed documents without a cache.

    Args:
        model: a causal language model of transformers, perhaps wrapped for several processes.
        ids: token ids (B, S).
        end: the id of the end token.
        begins: (B, S) whether a document begins with a token; None: with each end token.
        logits_to_keep: of how many last tokens logits are computed; 0: of all.

    Returns:
        What the model returns.

    Raises:
        Unsupported: where a kind of layer of the model is not known to keep documents apart.
    """
    # Several processes wrap a model; LoRA's wrapper hands the config on.
    inner = getattr(model, "module", model)
    separate_recurrent_layers(inner)
    arguments = packed(ids, end, cast(PreTrainedConfig, inner.config), begins)
    if logits_to_keep:
        arguments["logits_to_keep"] = logits_to_keep
    return model(input_ids=ids, use_cache=False, **arguments)


def packed(
    ids: torch.Tensor, end: int, config: PreTrainedConfig, begins: torch.Tensor | None = None
) -> dict[str, Any]:  # arguments of a model's forward pass
    """Return the arguments that keep packed documents apart.

    Without flash attention transformers derives the masks, or flex attention's block masks, from
    the positions alone; where a batch holds no document's beginning it needs no mask.

    Args:
        ids: token ids (B, S); a document begins with the end token before it.
        end: the id of the end token.
        config: the model's.
        begins: as in `run_packed`.

    Returns:
        Named arguments beside `input_ids`.

    Raises:
        Unsupported: as `run_packed`.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    unknown = kinds - MASKED - RECURRENT.keys()
    if unknown:
        raise Unsupported(
            f"model type {config.model_type}",
            found=f"layers of kind {', '.join(sorted(unknown))}",
            expected="layers that can keep packed documents apart",
            next="train a seed of another family",
        )
    begins_BS = ids == end if begins is None else begins.clone()
    begins_BS[:, 0] = True
    numbers_S = torch.arange(ids.shape[1], device=ids.device)
    begun_BS = torch.where(begins_BS, numbers_S, 0).cummax(1).values
    arguments: dict[str, Any] = {"position_ids": numbers_S - begun_BS}
    if config.model_type in TAKES_MASKS:
        arguments["attention_mask"] = _masks_by_kind(arguments["position_ids"], config)
    if str(config._attn_implementation).startswith("flash_attention"):
        arguments |= _flash_arguments(begins_BS)
    if kinds & RECURRENT.keys():
        arguments["document_rows"] = document_rows(begins_BS)
    return arguments


def _masks_by_kind(
    positions_BS: torch.Tensor, config: PreTrainedConfig
) -> dict[str, Any]:  # masks of whatever form the attention takes
    """Return the mask of each kind of layer; a layer that hands a state on has none."""
    states_BSD = torch.empty((*positions_BS.shape, 1), device=positions_BS.device)
    mask = create_causal_mask(
        config=config,
        inputs_embeds=states_BSD,
        attention_mask=None,
        past_key_values=None,
        position_ids=positions_BS,
    )
    return {"full_attention": mask, "linear_attention": None}


def document_rows(begins_BS: torch.Tensor) -> DocumentRows:
    """Give each document a row of its own.

    Args:
        begins_BS: whether a document begins at a token; true at the first of each sequence.

    Returns:
        Where the tokens stand.
    """
    starts_N, lengths_N = _extents(begins_BS)
    longest = int(lengths_N.max())
    steps_L = torch.arange(longest, device=begins_BS.device)
    token_NL = starts_N[:, None] + torch.minimum(steps_L, lengths_N[:, None] - 1)
    row_T = begins_BS.flatten().cumsum(0) - 1
    tokens_T = torch.arange(begins_BS.numel(), device=begins_BS.device)
    place_T = row_T * longest + tokens_T - starts_N[row_T]
    return DocumentRows(token_NL, place_T.view(begins_BS.shape))


def separate_recurrent_layers(model: torch.nn.Module) -> None:
    """Let the layers of a model that hand a state on see one document a row, once and for all.

    They do so wherever `document_rows` reaches them, also where a layer is computed again for its
    gradient; without it they run as they did.

    Args:
        model: of any family.
    """
    for name, module in model.named_modules():
        if RECURRENT_MODULE.search(name) and not getattr(module, "separates_documents", False):
            rows = _OneDocumentARow()
            module.register_forward_pre_hook(rows.spread, with_kwargs=True)
            module.register_forward_hook(rows.gather)
            module.separates_documents = True


class _OneDocumentARow:
    """A pair of hooks around one layer."""

    def __init__(self) -> None:
        self._running: list[DocumentRows | None] = []

    # Any: the arguments of a layer differ from family to family.
    def spread(
        self, _: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give the layer hidden states (N, L, D) in place of (B, S, D)."""
        rows = named.pop("document_rows", None)
        self._running.append(rows)
        if rows is not None:
            hidden_BSD = named["hidden_states"]
            named["hidden_states"] = hidden_BSD.flatten(0, 1)[rows.token_NL]
        return arguments, named

    def gather(
        self, _: torch.nn.Module, __: object, output_NLD: torch.Tensor
    ) -> torch.Tensor | None:
        """Return the layer's output (N, L, D) as (B, S, D)."""
        rows = self._running.pop()
        return None if rows is None else output_NLD.flatten(0, 1)[rows.place_BS]


def _flash_arguments(begins_BS: torch.Tensor) -> dict[str, Any]:
    """Return where documents begin in all sequences end to end, as flash attention takes it."""
    starts_N, lengths_N = _extents(begins_BS)
    total = starts_N.new_tensor([begins_BS.numel()])
    edges = torch.cat([starts_N, total]).int()
    longest = int(lengths_N.max())
    return {
        "cu_seq_lens_q": edges,
        "cu_seq_lens_k": edges,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _extents(begins_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first token and the length of each of the N documents, sequences end to end."""
    starts_N = begins_BS.flatten().nonzero()[:, 0]
    total = starts_N.new_tensor([begins_BS.numel()])
    return starts_N, torch.diff(starts_N, append=total)
