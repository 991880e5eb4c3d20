"""Turn an exception into the problem that a person can understand and act on.

In:  any exception.  Out: the problem, or its message; None where no user can have caused it.
"""

import errno

from btx_core.problems import BtxError
from registry.errors import Invalid, Unavailable

# What the extra `train` installs, by the names that are imported.
TRAIN = ("torch", "transformers", "safetensors", "sentencepiece", "accelerate", "peft", "gguf")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def known_error(error: BaseException) -> BtxError | None:
    """Return the problem that an error is, if a user can cause it; None for any other."""
    if isinstance(error, BtxError):
        return error
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in TRAIN:
        return Unavailable(
            "weights",
            found=f"{error.name} is not installed",
            expected="what computes with weights",
            next="pip install 'btx-registry[train]'",
        )
    if any(base.__module__ == "dvc.exceptions" for base in type(error).__mro__):
        return Invalid(
            "DVC",
            found=f"{type(error).__name__}: {error}"[:300],
            expected="a workspace that DVC can read",
            next="fix what DVC names",
        )
    if isinstance(error, UnicodeDecodeError):
        return Invalid(
            "a text file",
            found=f"byte {error.object[error.start]:#04x} at {error.start}",
            expected="UTF-8",
            next="git status names the files that were changed here; restore them",
        )
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return Unavailable(
            "home",
            found="an account without a home",
            expected="a folder for keys and what is trusted",
            next="export HOME=FOLDER",
        )
    text = getattr(error, "strerror", None) or next(iter(str(error).strip().splitlines()), "")
    path = str(getattr(error, "filename2", None) or getattr(error, "filename", None) or "")
    if getattr(error, "errno", None) in FULL or "No space left" in text or "disk is full" in text:
        advice = "make room and run the command again; what was registered before is whole"
        return Unavailable(path or "disk", found=text, expected="room to write", next=advice)
    if isinstance(error, OSError) and path:
        return Unavailable(
            path,
            found=text,
            expected="a path that can be used",
            next="fix it and run the command again",
        )
    return None


def error_text(error: BaseException) -> str | None:
    """Return the message of an error that a user can cause; None for any other."""
    problem = known_error(error)
    return None if problem is None else str(problem)
