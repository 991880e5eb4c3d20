"""Attestations: in-toto statements in DSSE envelopes, signed with Ed25519, and signed folders.

In:  plain facts (digests, lineage, recipes) and a private key; or a folder and a key file.
Out: envelopes as JSON, and their payload once the signature is checked; a signature beside the
files.
All of them can be checked with outside tools alone. Who may sign what is left to `people`; which
facts go in is left to the caller.
Forms: github.com/secure-systems-lab/dsse protocol.md, in-toto.io/Statement/v1,
slsa.dev/provenance/v1; for folders github.com/sigstore/model-transparency.
"""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from btx_core.files import any_json
from registry.digest import canonical_json, sha256_bytes
from registry.errors import Conflict, Damaged, Invalid

IN_TOTO = "application/vnd.in-toto+json"


def public_pem(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return the public half of a key in PEM form."""
    encoded = _public_half(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


def write_new_key(
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    path: Path,
    cipher: KeySerializationEncryption | None = None,
) -> None:
    """Write a private key, in PEM form, to a new file that its owner alone can read.

    Args:
        key: the key.
        path: the file to be made.
        cipher: what encrypts it; None leaves it readable.

    Raises:
        Conflict: if there is a file already.
    """
    encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher or NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(encoded)
    except FileExistsError:
        raise Conflict(
            f"key file {path}",
            found="a file",
            expected="none",
            next="use that key, or name another file",
        ) from None


def key_id(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return the SHA-256 of the public half's DER form, which envelopes name the key by."""
    encoded = _public_half(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256_bytes(encoded)


# Any: an envelope is JSON, which callers store and send on as it is.
def sign(
    payload: Mapping[str, Any], key: Ed25519PrivateKey, payload_type: str = IN_TOTO
) -> dict[str, Any]:
    """Sign a payload.

    Args:
        payload: plain JSON; its canonical form is what is signed.
        key: the signer's key.
        payload_type: the media type that says how the payload is to be read.

    Returns:
        A DSSE envelope.
    """
    body = canonical_json(payload)
    signature = key.sign(pre_authentication(payload_type, body))
    return {
        "payload": base64.b64encode(body).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id(key), "sig": base64.b64encode(signature).decode()}],
    }


# Any: an envelope comes from outside, and its form is checked here.
def opened(
    envelope: Mapping[str, Any], key: Ed25519PublicKey, payload_type: str = IN_TOTO
) -> dict[str, Any]:
    """Return the payload of an envelope after checking its signature.

    Args:
        envelope: a DSSE envelope.
        key: the key that has to have signed it; signatures by other keys are passed over.
        payload_type: the type that the payload has to have.

    Raises:
        Damaged: for another form, another type, or no valid signature by the key.
    """
    decoded = _decoded(envelope, key)
    if decoded.payload_type != payload_type:
        raise Damaged(
            "envelope", found=f"payload type {decoded.payload_type!r}", expected=payload_type
        )
    signed = pre_authentication(payload_type, decoded.body)
    if not any(_is_valid(signature, signed, key) for signature in decoded.signatures):
        raise Damaged(
            "envelope", found="no valid signature of this key", expected=f"one by key {key_id(key)}"
        )
    try:
        payload = any_json(decoded.body)
    except ValueError as error:
        raise Damaged("envelope", found=str(error), expected="a JSON payload") from None
    if not isinstance(payload, dict):
        raise Damaged("envelope", found=type(payload).__name__, expected="a JSON object")
    return payload


def pre_authentication(payload_type: str, body: bytes) -> bytes:
    """Return the bytes that a signature is over: DSSE's pre-authentication encoding.

    Type and body each stand there with their length, so that neither can pass for the other.

    Args:
        payload_type: the payload's media type.
        body: the payload.
    """
    media_type = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(media_type), media_type, len(body), body)


def _public_half(key: Ed25519PrivateKey | Ed25519PublicKey) -> Ed25519PublicKey:
    return key.public_key() if isinstance(key, Ed25519PrivateKey) else key


@dataclass(frozen=True)
class _Decoded:
    """An envelope's parts, none of them checked yet; of its signatures those by one key."""

    body: bytes
    payload_type: object
    signatures: tuple[bytes, ...]


def _decoded(envelope: Mapping[str, Any], key: Ed25519PublicKey) -> _Decoded:
    wanted_id = key_id(key)
    try:
        body = base64.b64decode(envelope["payload"], validate=True)
        signatures = tuple(
            base64.b64decode(signature["sig"], validate=True)
            for signature in envelope["signatures"]
            if signature["keyid"] == wanted_id
        )
        return _Decoded(body, envelope["payloadType"], signatures)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(
            "envelope", found=f"{type(error).__name__}: {error}", expected="a DSSE envelope"
        ) from None


def _is_valid(signature: bytes, message: bytes, key: Ed25519PublicKey) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


# OpenSSF model signing of a folder. Its keys are ECDSA P-256, and are made beside the Ed25519 ones.

SIGNATURE = "model.sig"


def new_folder_key(path: Path) -> str:
    """Make a P-256 key for signing folders.

    Args:
        path: where the private key is written, readable by its owner only.

    Returns:
        The public key in PEM form.

    Raises:
        Conflict: if there is a file already.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    write_new_key(key, path)
    return _folder_public_pem(key)


def folder_public_key(path: Path) -> str:
    """Return the public half, in PEM form, of a key that signs folders.

    Args:
        path: the file of the private key.

    Raises:
        Invalid: for a file that holds no such key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"key {path}", found=str(error)[:120], expected="a P-256 key in PEM form, not encrypted"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid(
            f"key {path}",
            found=type(key).__name__,
            expected="a P-256 key in PEM form",
            next="name another in BTX_MODEL_KEY_FILE",
        )
    return _folder_public_pem(key)


def sign_folder(folder: Path, key_file: Path) -> Path:
    """Sign every file of a folder.

    The signature is checked by `model_signing verify key FOLDER --signature FOLDER/model.sig
    --public_key KEY.pub --no-ignore-git-paths --ignore-paths FOLDER/model.sig`.

    Args:
        folder: the folder.
        key_file: the P-256 private key in PEM form.

    Returns:
        The path of the signature, which is written into the folder.

    Raises:
        Invalid: without the optional package, or for a key or a folder that it cannot read.
    """
    try:
        # An optional dependency, and slow to import.
        from model_signing import hashing, signing
    except ImportError as error:
        raise Invalid(
            "model signing",
            found=str(error),
            expected="the package model-signing",
            next="pip install 'btx-registry[sign]'",
        ) from None
    signature = folder / SIGNATURE
    signature.unlink(missing_ok=True)
    files = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key_file)
        signer.set_hashing_config(files).sign(folder, signature)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Invalid(
            f"key {key_file}",
            found=str(error)[:200],
            expected="a P-256 key in PEM form and a readable folder",
        ) from None
    return signature


def _folder_public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    encoded = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()
