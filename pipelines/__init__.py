"""The only place where the registry's facts and the weights meet: jobs, stages, command line.

`from pipelines import Workspace` is the Python interface; it is described in `pipelines.interface`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from btx_core.problems import BtxError
    from pipelines.interface import Workspace
    from registry.errors import Refused

__all__ = ["BtxError", "Refused", "Workspace"]


def __getattr__(name: str) -> object:
    """Import a public name when it is used: a stage or `--help` must not pay for the others."""
    if name == "Workspace":
        from pipelines.interface import Workspace

        return Workspace
    if name in ("BtxError", "Refused"):
        from registry import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
