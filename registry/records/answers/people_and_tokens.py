"""Who may act: people on the list of actors, their keys, and tokens."""

from registry.records.answers.answer import Answer


class ActorAnswer(Answer):
    """A person was put on the list of people."""

    actor: str
    roles: tuple[str, ...]
    key: str | None = None  # the file of a key that was made


class ActorRow(Answer):
    """A person who is on the list of actors, or was; without a role, taken off it."""

    actor: str
    roles: tuple[str, ...] = ()
    key_id: str
    since: str
    changed: str
    list: str  # open | closed
    public_key: str


class KeyAnswer(Answer):
    """A key pair was made on this machine."""

    actor: str
    key: str
    public_key: str
    key_id: str


class TokenAnswer(Answer):
    """A token was made. The secret is shown this once."""

    id: str
    name: str
    roles: tuple[str, ...]
    expires: str
    token: str


class TokenRow(Answer):
    """A token in a list, without its secret."""

    id: str
    name: str
    roles: tuple[str, ...]
    issued: str
    expires: str
    revoked: str | None = None


class RevokedAnswer(Answer):
    """A token was ended."""

    id: str
    revoked: str | None
