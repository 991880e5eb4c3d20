"""Who asks, and what that person may do: tokens, roles, sessions.

In:  a secret as a header or a login carries it.  Out: a Person, or nothing.
A token is 256 random bits; only its SHA-256 is kept, with name, roles and an end. Roles let a person ask; what counts as an approval is
people.py's to say. Sessions live in the server's memory: a restart ends them, and a revoked token ends its sessions at once.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from registry.errors import Invalid, NotFound
from registry.governance import people

ROLES = ("viewer", *people.ROLES)
LONGEST_DAYS = 366
SESSION = timedelta(hours=12)
MOST_SESSIONS = 1000

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Token:
    """Everything but the secret. id: to name it when it is revoked."""

    id: str
    sha256: str
    name: str
    roles: tuple[str, ...]
    issued: str
    expires: str
    revoked: str | None = None

    def holds(self, at: datetime) -> bool:
        return self.revoked is None and at < datetime.fromisoformat(self.expires)


@dataclass(frozen=True)
class Person:
    """Who asks. csrf: what a form of this session must carry; None for a request with the token itself."""

    name: str
    roles: tuple[str, ...]
    token: str
    csrf: str | None = None

    def may(self, role: str) -> bool:
        return role == "viewer" or role in self.roles


class Tokens:
    """The tokens of one workspace, in one file that its owner alone can read; and those of this process, never written."""

    def __init__(self, path: Path, clock: Clock = lambda: datetime.now(UTC)) -> None:
        self.path, self._clock = path, clock
        self._own: dict[str, Token] = {}
        self._read: tuple[tuple[int, int], dict[str, Token]] = ((0, 0), {})

    def issue(
        self, name: str, roles: Sequence[str], days: float = 30, *, keep: bool = True
    ) -> tuple[str, Token]:
        """A new secret, told once, and its token. keep: write it down, else it ends with this process. Raises Invalid."""
        if unknown := [role for role in roles if role not in ROLES]:
            raise Invalid(
                f"role {unknown[0]}",
                found=unknown[0],
                expected=f"one of {', '.join(ROLES)}",
                next="btx token add --help",
            )
        if not 0 < days <= LONGEST_DAYS:
            raise Invalid(
                "token",
                found=f"{days} days",
                expected=f"more than 0, at most {LONGEST_DAYS}",
                next="--days 30",
            )
        secret, at = secrets.token_urlsafe(32), self._clock()
        held = tuple(dict.fromkeys(roles)) or ("viewer",)
        token = Token(
            secrets.token_hex(4),
            _sha256(secret),
            people.named(name),
            held,
            _text(at),
            _text(at + timedelta(days=days)),
        )
        if keep:
            with self._editing() as tokens:
                tokens.append(token)
        else:
            self._own[token.sha256] = token
        return secret, token

    def revoke(self, id_: str) -> Token:
        """From now on it opens nothing. Raises NotFound."""
        with self._editing() as tokens:
            for place, token in enumerate(tokens):
                if token.id == id_:
                    tokens[place] = replace(token, revoked=token.revoked or _text(self._clock()))
                    return tokens[place]
        raise NotFound(
            f"token {id_}", found="nothing", expected="the id of a token", next="btx token list"
        )

    def all(self) -> list[Token]:
        return list(self._kept().values())

    def find(self, secret: str) -> Token | None:
        """The token of this secret, if it holds now."""
        return self.held(_sha256(secret))

    def held(self, sha256: str) -> Token | None:
        token = self._own.get(sha256) or self._kept().get(sha256)
        return token if token and token.holds(self._clock()) else None

    def _kept(self) -> dict[str, Token]:
        """As the file is now: another process may have revoked one."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return {}
        stamp = (found.st_mtime_ns, found.st_ino)
        if self._read[0] != stamp:
            self._read = (stamp, {token.sha256: token for token in _parsed(self.path.read_text())})
        return self._read[1]

    @contextmanager
    def _editing(self) -> Iterator[list[Token]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(
            os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+"
        ) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = _parsed(self.path.read_text()) if self.path.exists() else []
            yield tokens
            aside = self.path.with_suffix(".new")
            with os.fdopen(
                os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as file:
                json.dump([asdict(token) for token in tokens], file, indent=1)
            aside.replace(self.path)


@dataclass(frozen=True)
class _Session:
    token: str  # its SHA-256
    csrf: str
    ends: datetime


class Sessions:
    """Logged-in browsers. The cookie's value is random and kept as its SHA-256 alone."""

    def __init__(self, tokens: Tokens, clock: Clock = lambda: datetime.now(UTC)) -> None:
        self._tokens, self._clock = tokens, clock
        self._open: dict[str, _Session] = {}

    def begin(self, secret: str) -> str | None:
        """The cookie's value, when the secret opens anything."""
        token = self._tokens.find(secret)
        if token is None:
            return None
        for key in [
            key for key, session in self._open.items() if session.ends < self._clock()
        ] or list(self._open)[: -MOST_SESSIONS + 1]:
            self._open.pop(key, None)
        cookie = secrets.token_urlsafe(32)
        self._open[_sha256(cookie)] = _Session(
            token.sha256, secrets.token_urlsafe(32), self._clock() + SESSION
        )
        return cookie

    def end(self, cookie: str) -> None:
        self._open.pop(_sha256(cookie), None)

    def person(self, *, bearer: str | None, cookie: str | None) -> Person | None:
        """A header that names a token counts alone: a wrong one is not rescued by a cookie."""
        if bearer is not None:
            token = self._tokens.find(bearer)
            return Person(token.name, token.roles, token.id) if token else None
        session = self._open.get(_sha256(cookie)) if cookie else None
        token = (
            self._tokens.held(session.token) if session and self._clock() < session.ends else None
        )
        return (
            Person(token.name, token.roles, token.id, session.csrf) if session and token else None
        )


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _parsed(text: str) -> list[Token]:
    return [Token(**{**item, "roles": tuple(item["roles"])}) for item in json.loads(text)]


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
