"""Attestations: in-toto statements in DSSE envelopes, signed with Ed25519, checkable with outside tools alone.

In:  plain facts (digests, lineage, recipes) and a private key.  Out: envelopes as JSON; the checked payload of an envelope.
Who may sign what is people.py's; which facts go in is the caller's.
Forms: github.com/secure-systems-lab/dsse protocol.md, in-toto.io/Statement/v1, slsa.dev/provenance/v1.
"""

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from registry.digest import canonical_json, sha256_bytes
from registry.errors import Conflict, Damaged, Invalid

IN_TOTO = "application/vnd.in-toto+json"


def public_pem(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """SHA-256 of the public key's DER form."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return sha256_bytes(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def sign(
    payload: Mapping[str, Any], key: Ed25519PrivateKey, payload_type: str = IN_TOTO
) -> dict[str, Any]:
    """A DSSE envelope over the payload's canonical JSON."""
    body = canonical_json(payload)
    signature = key.sign(pre_authentication(payload_type, body))
    return {
        "payload": base64.b64encode(body).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id(key), "sig": base64.b64encode(signature).decode()}],
    }


def opened(
    envelope: Mapping[str, Any], key: Ed25519PublicKey, payload_type: str = IN_TOTO
) -> dict[str, Any]:
    """The payload, once its signature by this key holds. Raises Damaged."""
    try:
        body = base64.b64decode(envelope["payload"], validate=True)
        signatures = [
            base64.b64decode(item["sig"], validate=True)
            for item in envelope["signatures"]
            if item["keyid"] == key_id(key)
        ]
        found_type = envelope["payloadType"]
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(
            "envelope", found=f"{type(error).__name__}: {error}", expected="a DSSE envelope"
        ) from None
    if found_type != payload_type:
        raise Damaged("envelope", found=f"payload type {found_type!r}", expected=payload_type)
    if not any(
        _holds(signature, pre_authentication(payload_type, body), key) for signature in signatures
    ):
        raise Damaged(
            "envelope", found="no valid signature of this key", expected=f"one by key {key_id(key)}"
        )
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise Damaged("envelope", found=str(error), expected="a JSON payload") from None
    if not isinstance(payload, dict):
        raise Damaged("envelope", found=type(payload).__name__, expected="a JSON object")
    return payload


def _holds(signature: bytes, message: bytes, key: Ed25519PublicKey) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def pre_authentication(payload_type: str, body: bytes) -> bytes:
    """DSSE's pre-authentication encoding: type and body, each with its length, so that neither can pass for the other."""
    return b"DSSEv1 %d %s %d %s" % (
        len(payload_type.encode()),
        payload_type.encode(),
        len(body),
        body,
    )


# OpenSSF model signing of a folder: github.com/sigstore/model-transparency. Its keys are ECDSA P-256, made beside the Ed25519 ones.

SIGNATURE = "model.sig"


def new_folder_key(path: Path) -> str:
    """Make a P-256 key for signing folders, readable by its owner alone; returns the public key in PEM form. Raises Conflict."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except FileExistsError:
        raise Conflict(
            f"key file {path}",
            found="a file",
            expected="none",
            next="use that key, or name another file",
        ) from None
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def folder_public_key(path: Path) -> str:
    """The public half, in PEM form, of a key that signs folders. Raises Invalid for a file that holds no such key."""
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
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def sign_folder(folder: Path, key_file: Path) -> Path:
    """Sign every file of the folder into `model.sig` in it.

    `model_signing verify key FOLDER --signature FOLDER/model.sig --public_key KEY.pub --no-ignore-git-paths
    --ignore-paths FOLDER/model.sig` checks it. Raises Invalid without the optional package, or for a key it cannot use.
    """
    try:
        from model_signing import hashing, signing  # an optional extra, and slow to load
    except ImportError as error:
        advice = "pip install 'btx-registry[sign]'"
        raise Invalid(
            "model signing", found=str(error), expected="the package model-signing", next=advice
        ) from None
    signature = folder / SIGNATURE
    signature.unlink(missing_ok=True)
    ignored = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
    try:
        signing.Config().use_elliptic_key_signer(private_key=key_file).set_hashing_config(
            ignored
        ).sign(folder, signature)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise Invalid(
            f"key {key_file}",
            found=str(error)[:200],
            expected="a P-256 key in PEM form and a readable folder",
        ) from None
    return signature
