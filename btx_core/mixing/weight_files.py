"""How the files of a composed model are called.

In:  an expert's name.
Out: its file's name, and back. What the files hold is left to `plan.py`. Plain Python, so that jobs
     can ask without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping

SHARED = "model-shared.safetensors"
ROUTER = "model-router.safetensors"
# All experts in one file, where the mixture holds them in one tensor.
FUSED_EXPERTS = "model-experts.safetensors"
PROVENANCE = "provenance.json"
# The name of the expert that is made of the seed's own feed-forward blocks.
SEED_EXPERT = "seed"
EXPERT_PREFIX = "model-expert-"
SUFFIX = ".safetensors"


def expert_file(name: str) -> str:
    """Return the name of the file that holds one expert, and nothing else."""
    return f"{EXPERT_PREFIX}{name}{SUFFIX}"


def expert_name(file: str) -> str | None:
    """Return the name of the expert that a file holds, None where it is no expert's file."""
    if not file.startswith(EXPERT_PREFIX) or not file.endswith(SUFFIX):
        return None
    return file.removeprefix(EXPERT_PREFIX).removesuffix(SUFFIX)


def index_of(file_of: Mapping[str, str]) -> dict[str, object]:
    """Return the index of a checkpoint in several files.

    Args:
        file_of: tensor -> the file that holds it.
    """
    # Loaders want the key "metadata".
    return {"metadata": {}, "weight_map": dict(sorted(file_of.items()))}
