"""Let stock transformers read a checkpoint's files.

In:  files that a person gave.
Out: what transformers makes of them, or one refusal in place of the many kinds of exception that
     it raises. Which models are supported is left to `families.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# A config's values are whatever its class defines.
from typing import Any

from btx_core.problems import BtxError, Unsupported


def stock_config(folder: Path) -> Mapping[str, Any]:
    """Return a checkpoint's config as transformers understands it.

    The raw JSON leaves out defaults, and classes differ in them.

    Raises:
        Unsupported: when transformers cannot read the config.
    """
    # Here, since it takes torch along.
    from transformers import AutoConfig

    with refused_as_unsupported(folder / "config.json", "a config that transformers reads"):
        config: dict[str, Any] = AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        ).to_dict()
    return config


@contextmanager
def refused_as_unsupported(
    subject: object,
    expected: str,
    advice: str = "save the checkpoint anew with save_pretrained",
) -> Iterator[None]:
    """Turn whatever another library raises over a person's file into one refusal.

    Args:
        subject: what the library reads.
        expected: what it should have been.
        advice: what to do instead.

    Raises:
        Unsupported: for any exception of the block that is not a `BtxError` already.
    """
    try:
        yield
    except (BtxError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # A panic in a library written in Rust is no Exception.
    except BaseException as error:
        message = " ".join(str(error).split())
        raise Unsupported(
            subject,
            found=f"{type(error).__name__}: {message}"[:300],
            expected=expected,
            next=advice,
        ) from None
