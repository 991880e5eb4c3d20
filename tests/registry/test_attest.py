"""Signatures that outside tools check, and refuse when one byte is another."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from registry.errors import Conflict, Damaged, Invalid
from registry.governance import attestations

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
CLAIM = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "data/x@1", "digest": {"sha256": "a" * 64}}],
    "n": 1.5,
}


def outside(envelope: dict[str, Any], key: Ed25519PrivateKey = KEY) -> None:
    """securesystemslib's own check. Raises VerificationError."""
    public = key.public_key()
    Envelope.from_dict(json.loads(json.dumps(envelope))).verify(
        [SSlibKey.from_crypto(public, keyid=attestations.key_id(public))], 1
    )


def test_an_envelope_is_accepted_by_securesystemslib_and_opens_to_its_claim() -> None:
    envelope = attestations.sign(CLAIM, KEY)
    outside(envelope)
    assert attestations.opened(envelope, KEY.public_key()) == CLAIM


def test_any_flipped_byte_of_payload_or_signature_is_refused_by_us_and_by_them() -> None:
    envelope = attestations.sign(CLAIM, KEY)
    body, signature = (
        base64.b64decode(envelope["payload"]),
        base64.b64decode(envelope["signatures"][0]["sig"]),
    )
    for position in range(len(body)):
        damaged = {**envelope, "payload": base64.b64encode(_flip(body, position)).decode()}
        with pytest.raises(VerificationError):
            outside(damaged)
        with pytest.raises(Damaged):
            attestations.opened(damaged, KEY.public_key())
    for position in range(len(signature)):
        other = {
            "keyid": attestations.key_id(KEY),
            "sig": base64.b64encode(_flip(signature, position)).decode(),
        }
        with pytest.raises(VerificationError):
            outside({**envelope, "signatures": [other]})
        with pytest.raises(Damaged):
            attestations.opened({**envelope, "signatures": [other]}, KEY.public_key())


@pytest.mark.parametrize(
    "damage",
    [
        {"payloadType": "text/plain"},
        {"signatures": []},
        {"signatures": None},
        {"payload": "!"},
        {"payload": None},
        {"signatures": [{"sig": "AA=="}]},
    ],
)
def test_an_envelope_of_another_shape_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(Damaged):
        attestations.opened(attestations.sign(CLAIM, KEY) | damage, KEY.public_key())


def test_another_persons_key_opens_nothing() -> None:
    with pytest.raises(Damaged):
        attestations.opened(attestations.sign(CLAIM, KEY), OTHER.public_key())
    forged = attestations.sign(CLAIM, OTHER)
    forged["signatures"][0]["keyid"] = attestations.key_id(KEY)
    with pytest.raises(Damaged):
        attestations.opened(forged, KEY.public_key())


def test_a_signature_over_one_type_does_not_pass_for_another() -> None:
    envelope = attestations.sign(CLAIM, KEY, "application/vnd.btx.act+json")
    with pytest.raises(Damaged):
        attestations.opened({**envelope, "payloadType": attestations.IN_TOTO}, KEY.public_key())


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """A signed folder and the file of its public key."""
    folder, public = tmp_path / "model", tmp_path / "key.pub"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / ".gitattributes").write_text("x")
    public.write_text(attestations.new_folder_key(tmp_path / "key.pem"))
    attestations.sign_folder(folder, tmp_path / "key.pem")
    return folder, public


def model_signing(folder: Path, public: Path) -> int:
    """The outside tool alone, in a process of its own."""
    signature = str(folder / attestations.SIGNATURE)
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        str(folder),
        "--signature",
        signature,
        "--public_key",
        str(public),
    ]
    done = subprocess.run(
        [*command, "--no-ignore-git-paths", "--ignore-paths", signature],
        capture_output=True,
        text=True,
    )
    return done.returncode


def test_model_signing_accepts_a_signed_folder_and_refuses_a_flipped_added_or_missing_byte(
    signed: tuple[Path, Path],
) -> None:
    folder, public = signed
    assert model_signing(folder, public) == 0
    weights = folder / "deep" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(_flip(whole, 100))
    assert model_signing(folder, public) != 0
    weights.write_bytes(whole)
    (folder / "added.py").write_text("x")
    assert model_signing(folder, public) != 0
    (folder / "added.py").unlink()
    (folder / ".gitattributes").unlink()
    assert model_signing(folder, public) != 0


def test_a_flipped_byte_in_the_signature_file_is_refused(signed: tuple[Path, Path]) -> None:
    folder, public = signed
    signature = folder / attestations.SIGNATURE
    bundle = json.loads(signature.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(_flip(payload, len(payload) // 2)).decode()
    signature.write_text(json.dumps(bundle))
    assert model_signing(folder, public) != 0


def test_a_folder_key_is_never_overwritten_and_a_key_of_another_kind_is_refused(
    tmp_path: Path,
) -> None:
    attestations.new_folder_key(tmp_path / "k.pem")
    with pytest.raises(Conflict):
        attestations.new_folder_key(tmp_path / "k.pem")
    (tmp_path / "bad.pem").write_text("no key")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_text("a")
    with pytest.raises(Invalid):
        attestations.sign_folder(tmp_path / "m", tmp_path / "bad.pem")


def _flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]
