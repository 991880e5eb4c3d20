"""Canonical JSON is RFC 8785's, and tensor digests are those of the tensors' bytes."""

import hashlib
import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digest import canonical_json, digest, sha256_bytes, sha256_file, tensor_digests
from registry.errors import Damaged, Invalid

# RFC 8785, appendix B: the double's bits, and its text.
RFC_NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), RFC_NUMBERS)
def test_numbers_print_as_the_rfc_lists_them(bits: str, text: str) -> None:
    assert canonical_json(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


def test_keys_sort_by_utf16_units_and_controls_are_escaped_as_in_the_rfc() -> None:
    value = {
        "\u20ac": "Euro",
        "\r": "CR",
        "\ufb33": "Dalet",
        "1": "One",
        "\U0001f600": "Smile",
        "\u0080": "Control",
        "\u00f6": "O",
    }
    keys = list(json.loads(canonical_json(value)))
    assert keys == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert (
        canonical_json('\u20ac$\u000f\u000aA\'B"\\"/') == '"€$\\u000f\\nA\'B\\"\\\\\\"/"'.encode()
    )


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_reading_canonical_json_back_and_writing_it_again_gives_the_same_bytes(
    value: object,
) -> None:
    try:
        written = canonical_json(value)
    except Invalid:
        assert any("\ud800" <= letter <= "\udfff" for letter in repr(value)) or "\\ud" in repr(
            value
        )
        return
    read = json.loads(written)
    assert json.loads(json.dumps(read), parse_int=float) == json.loads(
        json.dumps(value), parse_int=float
    )
    assert canonical_json(read) == written


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 10**400, {1: "key"}, b"bytes", {"a": {1, 2}}, "\ud800"]
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(Invalid):
        canonical_json(value)


def test_equal_values_have_equal_digests_whatever_their_order() -> None:
    assert (
        digest({"a": 1, "b": [1.0, None]})
        == digest({"b": [1, None], "a": 1.0})
        != digest({"a": 1, "b": [1]})
    )


def safetensors_file(path: Path, tensors: dict[str, bytes]) -> Path:
    header, start = {}, 0
    for name, content in tensors.items():
        header[name] = {
            "dtype": "U8",
            "shape": [len(content)],
            "data_offsets": [start, start + len(content)],
        }
        start += len(content)
    text = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))
    return path


def test_each_tensor_has_the_digest_of_its_own_bytes(tmp_path: Path) -> None:
    path = safetensors_file(
        tmp_path / "a.safetensors", {"one": b"abc", "two": b"", "three": bytes(range(256)) * 9000}
    )
    found = tensor_digests(path)
    assert {name: one.sha256 for name, one in found.items()} == {
        "one": sha256_bytes(b"abc"),
        "two": sha256_bytes(b""),
        "three": sha256_bytes(bytes(range(256)) * 9000),
    }
    assert found["one"].dtype == "U8"
    assert found["one"].shape == (3,)
    assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (5).to_bytes(8, "little") + b"[1,2]",
        (2).to_bytes(8, "little") + b"{",
        b"\x3e" + bytes(7) + b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}    ab',
        b"\x3e" + bytes(7) + b'{"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 2]}}    ab',
        b"\x3e" + bytes(7) + b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 2]}}    ab',
        (62).to_bytes(8, "little")
        + b'{"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9999]}}'[:62],
    ],
)
def test_a_file_whose_header_does_not_describe_it_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(Damaged):
        tensor_digests(path)
