"""Which settings of two configs make two models compute differently.

In:  two parsed configs of one model type.
Out: the settings that differ in effect. The rotation and the activation are compared by their
     values, so that a spelling, a default or an unused number is no difference; all else by what
     the class reads. Settings that a class does not define are without effect.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.problems import Unsupported

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

# Settings that a class defines and that change no logits.
WITHOUT_EFFECT = frozenset(
    {
        "_name_or_path",
        "architectures",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "problem_type",
        "return_dict",
        "transformers_version",
        "use_cache",
        "bos_token_id",
        "eod_token_id",
        "eos_token_id",
        "pad_token_id",
        "initializer_range",
        "embedding_initializer_range",
        "attention_dropout",
        "embd_pdrop",
        "hidden_dropout",
        "resid_pdrop",
        "residual_dropout",
        "pretraining_tp",
        # What these give is in `layer_types` and the like, which are compared.
        "full_attn_idxs",
        "max_window_layers",
        "no_rope_layer_interval",
        "qk_head_dim",
    }
)
# Where loading sets the embedding of the padding token to zero.
WITH_EFFECT: Mapping[str, frozenset[str]] = {"youtu": frozenset({"pad_token_id"})}
ROTATION = frozenset(
    {
        "max_position_embeddings",
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
    }
)
# Read of any config by the cache of keys and values.
READ_BY_CACHES = frozenset({"attention_chunk_size", "layer_types", "sliding_window"})
ACTIVATION = frozenset({"hidden_act", "hidden_activation"})
WINDOW = frozenset({"sliding_window", "use_sliding_window"})


@dataclass(frozen=True)
class Difference:
    """A setting that two configs give differently, with effect."""

    key: str
    seed: object
    member: object


def different_settings(seed: Mapping[str, Any], member: Mapping[str, Any]) -> list[Difference]:
    """Return the settings by which a member computes other than its seed.

    Args:
        seed: the parsed config.
        member: the parsed config that is compared with it.

    Returns:
        The differences, by key.

    Raises:
        Unsupported: for a rotation that transformers cannot compute.
    """
    if seed["model_type"] != member["model_type"]:
        return [Difference("model_type", seed["model_type"], member["model_type"])]
    inert = WITHOUT_EFFECT - WITH_EFFECT.get(str(seed["model_type"]), frozenset())
    keys = sorted((defined_settings(str(seed["model_type"])) | READ_BY_CACHES) - inert)
    if not _has_windows(seed) and not _has_windows(member):
        keys = [key for key in keys if key not in WINDOW]
    values = [(key, _value(seed, key), _value(member, key)) for key in keys]
    different = [Difference(key, ours, theirs) for key, ours, theirs in values if ours != theirs]
    if any(one.key in ROTATION for one in different) and _rotate_alike(seed, member):
        different = [one for one in different if one.key not in ROTATION]
    different = [
        one
        for one in different
        if one.key not in ACTIVATION or not _activate_alike(one.seed, one.member)
    ]
    return [narrow for one in different for narrow in _narrowed(one)]


def _narrowed(different: Difference) -> list[Difference]:
    """Of a setting that is a table, name the keys that differ, each as KEY.INNER."""
    ours, theirs = different.seed, different.member
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return [different]
    return [
        Difference(f"{different.key}.{key}", ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]


def require_layers_as_cached(subject: object, config: Mapping[str, Any]) -> None:
    """Refuse a window that only the cache of keys and values would have, and no layer.

    Args:
        subject: where the config stands.
        config: the parsed config.

    Raises:
        Unsupported: naming the setting.
    """
    context = config.get("max_position_embeddings")
    # A cache that is told the kinds of layers reads nothing else.
    read = {"layer_types"} if config.get("layer_types") else READ_BY_CACHES
    for key in sorted(read - defined_settings(str(config["model_type"]))):
        value = _value(config, key)
        whole = type(value) is type(context) is int and value >= context
        if value is not None and not (whole and key == "sliding_window"):
            raise Unsupported(
                subject,
                found=f"{key} {value}, which the cache of this class obeys and its layers do not",
                expected="one context for layers and cache",
                next=f"set {key} to null: the model computes the same, and generates in one way",
            )


def defined_settings(model_type: str) -> set[str]:
    """Return the settings that a model type's class defines, and the head's width.

    That is read by classes that do not define it.
    """
    return {*_defaults(model_type), "head_dim"}


def _defaults(model_type: str) -> Mapping[str, Any]:
    # Here, since it takes torch along.
    from transformers import AutoConfig

    defaults: dict[str, Any] = type(AutoConfig.for_model(model_type))().to_dict()
    return defaults


def _value(config: Mapping[str, Any], key: str) -> object:
    """A setting's value as JSON has it; a head's width also where it is not given."""
    value = config.get(key)
    if key == "head_dim" and value is None and config.get("num_attention_heads"):
        value = config["hidden_size"] // config["num_attention_heads"]
    if key == "layer_types" and value and set(value) == {"full_attention"}:
        # What a class without kinds of layers does anyway.
        value = None
    return json.loads(json.dumps(value, default=str))


def _has_windows(config: Mapping[str, Any]) -> bool:
    """Whether a window can have an effect: a class that lists its layers names those with one."""
    kinds = config.get("layer_types")
    return kinds is None or "sliding_attention" in kinds


def _activate_alike(ours: object, theirs: object) -> bool:
    """Whether two names stand for one activation function."""
    import torch
    from transformers.activations import ACT2FN

    if ours not in ACT2FN or theirs not in ACT2FN:
        return False
    points = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    return bool(torch.allclose(ACT2FN[ours](points), ACT2FN[theirs](points), rtol=0, atol=1e-6))


def _rotate_alike(seed: Mapping[str, Any], member: Mapping[str, Any]) -> bool:
    """Whether two configs rotate queries and keys alike, in contexts short and long."""
    import torch

    with refused_as_unsupported(f"model type {seed['model_type']}", "a rotation"):
        configs = [_config(settings) for settings in (seed, member)]
        for length in _telling_lengths(seed, member):
            ours, theirs = (_rotations(config, length) for config in configs)
            alike = len(ours) == len(theirs) and all(
                left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=1e-6)
                for left, right in zip(ours, theirs, strict=True)
            )
            if not alike:
                return False
    return True


def _config(settings: Mapping[str, Any]) -> PreTrainedConfig:
    from transformers import AutoConfig

    return AutoConfig.for_model(**settings)


def _telling_lengths(*configs: Mapping[str, Any]) -> list[int]:
    """Context lengths on both sides of every length at which a rotation may change."""
    lengths = {16}
    for config in configs:
        rope = config.get("rope_parameters") or {}
        nested = [value for value in rope.values() if isinstance(value, dict)]
        for settings in (config, rope, *nested):
            for key in ("max_position_embeddings", "original_max_position_embeddings"):
                if isinstance(settings.get(key), int):
                    lengths |= {settings[key], settings[key] + 1, 2 * settings[key]}
    return sorted(lengths)


def _rotations(config: PreTrainedConfig, length: int) -> list[torch.Tensor]:
    """Cosines and sines at some positions of a context, for each kind of layer that rotates."""
    import torch
    from transformers import AutoModelForCausalLM

    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    module = sys.modules[model_class.__module__]
    names = [name for name in vars(module) if name.endswith("RotaryEmbedding")]
    (name,) = [name for name in names if "Vision" not in name]
    rotary = getattr(module, name)(config)
    positions = torch.tensor([[0, 1, 2, 3, 7, length // 3, length // 2, length - 1]])
    state = torch.zeros(1, 8, 1)
    kinds = sorted(
        key.removesuffix("_inv_freq")
        for key, _ in rotary.named_buffers()
        if key.endswith("_inv_freq") and "original" not in key
    )
    if not kinds:
        return list(rotary(state, positions))
    return [part for kind in kinds for part in rotary(state, positions, kind)]
