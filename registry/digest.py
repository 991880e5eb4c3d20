"""Digests: SHA-256 of bytes, files, canonical JSON and single tensors.

In:  bytes, a path, or a JSON value.
Out: lower-case hexadecimal. Canonical JSON is RFC 8785, so that anyone can compute the same digests
     with another tool. Tensors are hashed from the byte ranges of a safetensors header: no tensor
     library is needed.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from pathlib import Path

# JSON values may be of any shape; what is not JSON is refused when it is written.
from typing import Any, BinaryIO, NamedTuple

from btx_core.checkpoints.headers import TensorInfo, read_header
from btx_core.problems import Unsafe
from registry.errors import Damaged, Invalid

BLOCK_BYTES = 1 << 20
# Whole numbers beyond this are read as the double nearest to them.
LARGEST_EXACT = 1 << 53
# ECMAScript prints numbers without an exponent from 1e-6 up to below 1e21.
MOST_LEADING_ZEROS = 6
MOST_WHOLE_DIGITS = 21


class TensorDigest(NamedTuple):
    """One tensor's dtype (as safetensors names it), shape, and SHA-256 of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


def sha256_bytes(content: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value's canonical form.

    Raises:
        Invalid: for what has no such form; see `canonical_json`.
    """
    return sha256_bytes(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """Return the canonical form of a JSON value (RFC 8785).

    Keys are in UTF-16 order, numbers as ECMAScript prints them, nothing between tokens.

    Args:
        value: text, numbers, lists, mappings, None and truth values.

    Raises:
        Invalid: for what has no such form: NaN, a key that is no text, a lone surrogate.
    """
    parts: list[str] = []
    _write(value, parts)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            "JSON text", found=repr(error.object)[:80], expected="text without lone surrogates"
        ) from None


def tensor_digests(path: Path) -> dict[str, TensorDigest]:
    """Hash every tensor of a safetensors file.

    Args:
        path: the file.

    Returns:
        Digests by tensor name, in the header's order.

    Raises:
        Damaged: when the file cannot be read or its header does not describe it.
    """
    try:
        tensors = read_header(path)
    except Unsafe as error:
        raise Damaged(
            error.subject, found=error.found, expected=error.expected, next=error.next
        ) from None
    with path.open("rb") as file:
        return {name: _tensor_digest(file, tensor) for name, tensor in tensors.items()}


def _tensor_digest(file: BinaryIO, tensor: TensorInfo) -> TensorDigest:
    file.seek(tensor.start)
    state = hashlib.sha256()
    left = tensor.bytes
    while left:
        block = file.read(min(BLOCK_BYTES, left))
        if not block:
            raise Damaged(str(tensor.file), found="an early end", expected=f"{left} more bytes")
        state.update(block)
        left -= len(block)
    return TensorDigest(tensor.dtype, tensor.shape, state.hexdigest())


def _write(value: object, out: list[str]) -> None:
    """Append the value's text in parts.

    Every verdict keeps two documents, so this is written for speed.
    """
    if isinstance(value, str):
        out.append(encode_basestring(value))
    elif value is None:
        out.append("null")
    elif isinstance(value, bool):
        out.append("true" if value else "false")
    elif isinstance(value, int | float):
        out.append(_number(value))
    elif isinstance(value, Mapping):
        _write_object(value, out)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        mark = "["
        for item in value:
            out.append(mark)
            _write(item, out)
            mark = ","
        out.append("]" if value else "[]")
    else:
        raise Invalid(
            "JSON value",
            found=f"{type(value).__name__} {value!r:.60}",
            expected="text, number, list, mapping, null or truth",
        )


def _write_object(value: Mapping[object, object], out: list[str]) -> None:
    keys: list[str] = []
    for key in value:
        if not isinstance(key, str):
            raise Invalid("JSON key", found=repr(key), expected="text")
        keys.append(key)
    # Code points sort as UTF-16 does where all of them are ASCII.
    if all(map(str.isascii, keys)):
        keys.sort()
    else:
        keys.sort(key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    mark = "{"
    for key in keys:
        out.append(f"{mark}{encode_basestring(key)}:")
        _write(value[key], out)
        mark = ","
    out.append("}" if keys else "{}")


def _number(value: int | float) -> str:
    """A number as ECMAScript's Number::toString prints it.

    A whole number beyond 2**53 is the double nearest to it, as RFC 8785 reads JSON.
    """
    if isinstance(value, int) and abs(value) < LARGEST_EXACT:
        return str(int(value))
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Invalid(
            "JSON number",
            found=repr(number),
            expected="a finite number",
            next="write null for what is not known",
        )
    if number == 0:
        return "0"
    digits, point = _digits(abs(number))
    return ("-" if number < 0 else "") + _place_point(digits, point)


def _digits(number: float) -> tuple[str, int]:
    """Digits d1 d2 ... and a point, for 0.d1d2... times ten to the point."""
    mantissa, _, exponent = f"{number!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    leading_zeros = len(whole + fraction) - len(digits) if whole == "0" else 0
    return digits.rstrip("0"), len(whole) + int(exponent or 0) - leading_zeros


def _place_point(digits: str, point: int) -> str:
    """Write 0.d1d2... times ten to the point as ECMAScript does."""
    if len(digits) <= point <= MOST_WHOLE_DIGITS:
        return digits + "0" * (point - len(digits))
    if 0 < point <= MOST_WHOLE_DIGITS:
        return f"{digits[:point]}.{digits[point:]}"
    if -MOST_LEADING_ZEROS < point <= 0:
        return f"0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    sign = "+" if point > 0 else "-"
    return f"{digits[0]}{tail}e{sign}{abs(point - 1)}"
