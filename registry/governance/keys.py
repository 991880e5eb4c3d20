"""A person's private key: made, kept and found on that person's own machine.

In:  a name, a file, the environment.
Out: the key; its public half, which an auditor puts on the list of people.
"""

import getpass
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    load_pem_public_key,
)

from registry.errors import Invalid, NotFound
from registry.governance import attestations

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


@dataclass(frozen=True)
class Signer:
    """A person with the private key at hand."""

    name: str
    key: Ed25519PrivateKey


def key_file(name: str) -> Path:
    """Return the file of a person's private key.

    It is BTX_KEY_FILE, or else ~/.config/btx/keys/NAME.pem: outside every workspace, so that no
    commit can carry it.
    """
    return _key_file("BTX_KEY_FILE", f"{named(name)}.pem")


def model_key(name: str) -> Path:
    """Return the file of the key that signs exported folders; its public half ends in .pub.

    It is BTX_MODEL_KEY_FILE, or else ~/.config/btx/keys/NAME.model.pem.
    """
    return _key_file("BTX_MODEL_KEY_FILE", f"{named(name)}.model.pem")


def _key_file(variable: str, name: str) -> Path:
    chosen = os.environ.get(variable)
    return Path(chosen) if chosen else Path.home() / ".config" / "btx" / "keys" / name


def new_key(name: str, path: Path | None = None) -> Signer:
    """Make a private key in a file that its owner alone may read.

    It is encrypted when BTX_KEY_PASSPHRASE is set.

    Args:
        name: the person.
        path: the file; `key_file` unless it is given.

    Raises:
        Conflict: when the file exists.
    """
    path, key = path or key_file(name), Ed25519PrivateKey.generate()
    passphrase = os.environ.get("BTX_KEY_PASSPHRASE")
    cipher = BestAvailableEncryption(passphrase.encode()) if passphrase else None
    attestations.write_new_key(key, path, cipher)
    person = Signer(named(name), key)
    path.with_suffix(".pub").write_text(public_pem(person), encoding="utf-8")
    return person


def signer(name: str, path: Path | None = None) -> Signer:
    """Return a person with the private key: BTX_KEY (PEM text), or else the key file.

    Raises:
        NotFound: where there is neither.
        Invalid: for what is no Ed25519 key.
    """
    text, path = os.environ.get("BTX_KEY"), path or key_file(name)
    if text is None and not path.is_file():
        raise NotFound(
            f"key of {name}",
            found=f"no file {path}",
            expected="a private key",
            next="btx key new, or set BTX_KEY_FILE to where your key is",
        )
    pem = text.encode() if text is not None else path.read_bytes()
    passphrase = _passphrase(pem)
    try:
        key = load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"key of {name}",
            found=str(error)[:120],
            expected="an Ed25519 private key in PEM form",
            next="set BTX_KEY_PASSPHRASE if it is encrypted",
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise Invalid(
            f"key of {name}",
            found=type(key).__name__,
            expected="an Ed25519 private key",
            next=f"btx actor add {name} --role approver",
        )
    return Signer(named(name), key)


def _passphrase(pem: bytes) -> str | None:
    """Return the passphrase of a key: BTX_KEY_PASSPHRASE, or what a person types."""
    given = os.environ.get("BTX_KEY_PASSPHRASE")
    if given is None and b"ENCRYPTED" in pem and sys.stdin.isatty():
        return getpass.getpass("passphrase of your key: ")
    return given


def key_id(person: Signer) -> str:
    """Return what names a person's key: the digest of its public half."""
    return attestations.key_id(person.key)


def public_pem(person: Signer) -> str:
    """Return the public half of a person's key, in PEM form."""
    return attestations.public_pem(person.key)


def named(name: str) -> str:
    """Return the name of a person. Raises Invalid for what is none."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"actor {name!r}",
            found=name,
            expected="letters, digits and . _ @ + -, at most 64",
            next="choose another name",
        )
    return name


def public_key(pem: str) -> Ed25519PublicKey:
    """Return a public key. Raises Invalid for what is none."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError) as error:
        raise Invalid(
            "public key", found=str(error)[:120], expected="an Ed25519 public key in PEM form"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise Invalid(
            "public key", found=type(key).__name__, expected="an Ed25519 public key in PEM form"
        )
    return key
