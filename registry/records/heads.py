"""Heads of the audit log that are kept outside of it."""

from typing import Any

from registry.records.base import Record


class Head(Record):
    """What the head of the log was at one time, signed or not.

    Attributes:
        head: the digest of the newest event.
        seq: its number; None where only the digest was noted.
        at: the time of the statement.
        actor: who made it.
        algorithm: of the signature.
        key: the signer's public key, in base64; it is never trusted.
        signature: in base64, over the statement's canonical JSON.
    """

    head: str
    seq: int | None = None
    at: str | None = None
    actor: str | None = None
    algorithm: str | None = None
    key: str | None = None
    signature: str | None = None

    def statement(self) -> dict[str, Any]:
        """Return what a signature is over."""
        return {"seq": self.seq, "head": self.head, "at": self.at}
