"""Write a config so that transformers 4 and 5 read the same model in it.

In:  a config as transformers 5 writes it.
Out: the same with the keys that transformers 4 reads: where one major release reads a key, the
     other ignores it. Which releases have a mixture's class at all is left to `mixture_layouts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

# A config's values are whatever its class defines.
from typing import Any


def with_both_spellings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with its rotation, dtype and renamed settings in both spellings.

    Args:
        config: the config of one model, as transformers 5 writes it.
    """
    both = dict(config) | _renamed(config)
    if "dtype" in both:
        both["torch_dtype"] = both["dtype"]
    rope = both.get("rope_parameters") or {}
    if not rope or any(isinstance(value, Mapping) for value in rope.values()):
        return both
    scaling = dict(rope)
    if "rope_theta" in scaling:
        both["rope_theta"] = scaling.pop("rope_theta")
    if "partial_rotary_factor" in scaling:
        both["partial_rotary_factor"] = scaling.pop("partial_rotary_factor")
    if scaling.get("rope_type", "default") == "default":
        # Read by transformers 5 too, if it is there.
        both.pop("rope_scaling", None)
    else:
        # Whole, since transformers 5 prefers it to `rope_parameters`.
        both["rope_scaling"] = dict(rope)
    return both


def _renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that have another name in an earlier release, under that name."""
    # Here, since it takes torch along.
    from transformers import AutoConfig

    config_class = type(AutoConfig.for_model(str(config["model_type"])))
    return {
        alias: config[name]
        for alias, name in config_class.attribute_map.items()
        if name in config and alias not in config
    }
