"""Digests: SHA-256 of bytes, files, canonical JSON and single tensors.

In:  bytes, a path, or a JSON value.  Out: lower-case hexadecimal.
Canonical JSON is RFC 8785, so that anyone can compute the same digests with another tool.
Tensors are hashed from the safetensors header's byte ranges: no tensor library is needed.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, NamedTuple

from registry.errors import Damaged, Invalid

BLOCK_BYTES = 1 << 20
LARGEST_HEADER_BYTES = 100 << 20  # safetensors' own limit


class TensorDigest(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    sha256: str


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of the value's canonical JSON."""
    return sha256_bytes(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """RFC 8785: keys in UTF-16 order, numbers as ECMAScript prints them, nothing between tokens.

    Raises Invalid for what has no such form: NaN, a key that is no text, a lone surrogate.
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
    """Name -> (dtype, shape, sha256 of its bytes) for every tensor of a safetensors file."""
    with path.open("rb") as file:
        header, start = _safetensors_header(file.read(8), file, path)
        return {
            name: TensorDigest(
                entry["dtype"],
                tuple(entry["shape"]),
                _range_digest(file, start, entry["data_offsets"]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }


def _write(value: Any, out: list[str]) -> None:
    """Append the value's text in parts: every verdict keeps two documents, so this is written for speed."""
    if isinstance(value, str):
        out.append(encode_basestring(value))
    elif value is None or isinstance(value, bool):
        out.append("null" if value is None else "true" if value else "false")
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


def _write_object(value: Mapping[Any, Any], out: list[str]) -> None:
    for key in value:
        if not isinstance(key, str):
            raise Invalid("JSON key", found=repr(key), expected="text")
    # Code points sort as UTF-16 does where all of them are ASCII.
    keys = (
        sorted(value)
        if all(map(str.isascii, value))
        else sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    )
    mark = "{"
    for key in keys:
        out.append(f"{mark}{encode_basestring(key)}:")
        _write(value[key], out)
        mark = ","
    out.append("}" if keys else "{}")


def _number(value: int | float) -> str:
    """As ECMAScript's Number::toString prints it; a whole number beyond 2**53 is the double nearest to it, as RFC 8785 reads JSON."""
    if isinstance(value, int) and abs(value) < 1 << 53:
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
    sign = "-" if number < 0 else ""
    mantissa, _, exponent = f"{abs(number)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = (
        len(whole)
        + int(exponent or 0)
        - (len(whole + fraction) - len(digits) if whole == "0" else 0)
    )
    return sign + _place_point(digits.rstrip("0"), point)


def _place_point(digits: str, point: int) -> str:
    """Digits d1 d2 ... stand for 0.d1d2... times ten to the `point`."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{tail}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def _safetensors_header(length: bytes, file: Any, path: Path) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(length, "little")
    total = path.stat().st_size
    if len(length) < 8 or size > min(LARGEST_HEADER_BYTES, total - 8):
        raise Damaged(str(path), found=f"{total} bytes", expected="a safetensors file")
    try:
        header = json.loads(file.read(size))
        ends = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        fits = all(0 <= start <= end <= total - 8 - size for start, end in ends)
    except (ValueError, TypeError, KeyError, AttributeError):
        fits = False
    if not fits:
        raise Damaged(
            str(path),
            found="a header that does not describe its bytes",
            expected="a safetensors file",
        )
    return header, 8 + size


def _range_digest(file: Any, start: int, offsets: Sequence[int]) -> str:
    file.seek(start + offsets[0])
    left, state = offsets[1] - offsets[0], hashlib.sha256()
    while left:
        block = file.read(min(BLOCK_BYTES, left))
        if not block:
            raise Damaged(file.name, found="an early end", expected=f"{left} more bytes")
        state.update(block)
        left -= len(block)
    return state.hexdigest()
