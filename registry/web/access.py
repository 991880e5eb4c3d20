"""Who asks, and what that person may do: tokens, roles, sessions.

In:  a secret as a header or a login carries it.  Out: a Person, or nothing.
A token is 256 random bits. Only its SHA-256 is kept, with a name, roles and an end. Roles let a
person ask; what counts as an approval is for `people` to say. Sessions live in the server's
memory: a restart ends them, and a revoked token ends its sessions at once.
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
from typing import TextIO

from pydantic import TypeAdapter

from registry.errors import Damaged, Invalid, NotFound
from registry.governance import keys, people

ROLES = ("viewer", *people.ROLES)
LONGEST_DAYS = 366
SESSION = timedelta(hours=12)
MOST_SESSIONS = 20  # of one token: who logs in again and again ends sessions of their own

Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Token:
    """Everything about a token but its secret.

    Attributes:
        id: to name it when it is revoked.
        sha256: of the secret.
        name: the person.
        roles: what that person may do.
        issued: when, in UTC.
        expires: when it ends.
        revoked: when it was ended before that.
    """

    id: str
    sha256: str
    name: str
    roles: tuple[str, ...]
    issued: str
    expires: str
    revoked: str | None = None

    def valid(self, at: datetime) -> bool:
        """Tell whether the token opens anything at this moment."""
        return self.revoked is None and at < datetime.fromisoformat(self.expires)


@dataclass(frozen=True)
class Person:
    """Who asks.

    Attributes:
        name: the person.
        roles: those of the token.
        token: its id.
        csrf: what a form of this session must carry; None for a request with the token itself.
    """

    name: str
    roles: tuple[str, ...]
    token: str
    csrf: str | None = None

    def may(self, role: str) -> bool:
        """Tell whether the person has the role; everybody may look."""
        return role == "viewer" or role in self.roles


@dataclass(frozen=True)
class _Written:
    """The tokens of the file, and what tells this state of it from another."""

    modified_ns: int
    inode: int
    tokens: dict[str, Token]


class Tokens:
    """The tokens of one workspace, and those of this process, which are never written.

    Args:
        path: the file of tokens, which its owner alone can read.
        clock: gives the time.
    """

    def __init__(self, path: Path, clock: Clock = now) -> None:
        self.path = path
        self._clock = clock
        self._own: dict[str, Token] = {}
        self._last: _Written | None = None

    def issue(
        self, name: str, roles: Sequence[str], days: float = 30, *, keep: bool = True
    ) -> tuple[str, Token]:
        """Make a token.

        Args:
            name: the person.
            roles: some of ROLES; none means viewer.
            days: until it ends.
            keep: write it down; else it ends with this process.

        Returns:
            The secret, which is kept nowhere, and the token.

        Raises:
            Invalid: for an unknown role, or more days than LONGEST_DAYS.
        """
        people.check_roles(roles, ROLES, fix="btx token add --help")
        if not 0 < days <= LONGEST_DAYS:
            raise Invalid(
                "token",
                found=f"{days} days",
                expected=f"more than 0, at most {LONGEST_DAYS}",
                next="--days 30",
            )
        secret, at = secrets.token_urlsafe(32), self._clock()
        token = Token(
            id=secrets.token_hex(4),
            sha256=_sha256(secret),
            name=keys.named(name),
            roles=tuple(dict.fromkeys(roles)) or ("viewer",),
            issued=_text(at),
            expires=_text(at + timedelta(days=days)),
        )
        if keep:
            with self._editing() as tokens:
                tokens.append(token)
        else:
            self._own[token.sha256] = token
        return secret, token

    @contextmanager
    def keeping(self, token: Token) -> Iterator[None]:
        """Write a token down once the block has logged it; where the block fails, nothing is."""
        with self._editing() as tokens:
            yield
            tokens.append(token)

    def revoke(self, token_id: str) -> Token:
        """End a token at once. Raises NotFound."""
        with self._editing() as tokens:
            for position, token in enumerate(tokens):
                if token.id == token_id:
                    ended = replace(token, revoked=token.revoked or _text(self._clock()))
                    tokens[position] = ended
                    return ended
        raise NotFound(
            f"token {token_id}",
            found="nothing",
            expected="the id of a token",
            next="btx token list",
        )

    def all(self) -> list[Token]:
        """Return the tokens that are written down."""
        return list(self._written().values())

    def find(self, secret: str) -> Token | None:
        """Return the token of a secret, if it is valid now."""
        return self.find_digest(_sha256(secret))

    def find_digest(self, sha256: str) -> Token | None:
        """Return the token of a secret with this digest, if it is valid now."""
        token = self._own.get(sha256) or self._written().get(sha256)
        return token if token and token.valid(self._clock()) else None

    def _written(self) -> dict[str, Token]:
        """Return the tokens as the file is now: another process may have revoked one."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return {}
        last = self._last
        if last is None or (last.modified_ns, last.inode) != (stat.st_mtime_ns, stat.st_ino):
            tokens = {token.sha256: token for token in _tokens_in(self.path)}
            last = self._last = _Written(stat.st_mtime_ns, stat.st_ino, tokens)
        return last.tokens

    @contextmanager
    def _editing(self) -> Iterator[list[Token]]:
        """Hold the lock of the file, and write what became of its tokens."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _private(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = _tokens_in(self.path) if self.path.exists() else []
            yield tokens
            # Not files.replace_text: the file must never exist with other permissions.
            temporary = self.path.with_suffix(".new")
            with _private(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
                json.dump([asdict(token) for token in tokens], file, indent=1)
            temporary.replace(self.path)


def _private(path: Path, flags: int) -> TextIO:
    """Open a file that its owner alone can read."""
    return os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")


@dataclass(frozen=True)
class _Session:
    """A browser that is logged in; `token` is the digest of its token's secret."""

    token: str
    csrf: str
    ends: datetime


class Sessions:
    """The browsers that are logged in. A cookie's value is random; its SHA-256 alone is kept.

    Args:
        tokens: who may log in.
        clock: gives the time.
    """

    def __init__(self, tokens: Tokens, clock: Clock = now) -> None:
        self._tokens = tokens
        self._clock = clock
        self._open: dict[str, _Session] = {}

    def begin(self, secret: str) -> str | None:
        """Log in. Returns the cookie's value, or None where the secret opens nothing."""
        token = self._tokens.find(secret)
        if token is None:
            return None
        self._forget_old(token.sha256)
        cookie = secrets.token_urlsafe(32)
        self._open[_sha256(cookie)] = _Session(
            token.sha256, secrets.token_urlsafe(32), self._clock() + SESSION
        )
        return cookie

    def end(self, cookie: str) -> None:
        """Log out."""
        self._open.pop(_sha256(cookie), None)

    def person(self, *, bearer: str | None, cookie: str | None) -> Person | None:
        """Return who asks, or None for a stranger.

        A header that names a token counts by itself: a cookie does not rescue a wrong one.

        Args:
            bearer: the token in the Authorization header, if there is one.
            cookie: the value of the session's cookie, if there is one.
        """
        if bearer is not None:
            token = self._tokens.find(bearer)
            return Person(token.name, token.roles, token.id) if token else None
        session = self._open.get(_sha256(cookie)) if cookie else None
        if session is None or self._clock() >= session.ends:
            return None
        token = self._tokens.find_digest(session.token)
        return Person(token.name, token.roles, token.id, session.csrf) if token else None

    def _forget_old(self, token: str) -> None:
        """Forget the sessions that have ended, and the oldest of too many of one token."""
        at = self._clock()
        for key in [key for key, session in self._open.items() if session.ends < at]:
            self._open.pop(key, None)
        own = [key for key, session in self._open.items() if session.token == token]
        for key in own[: max(0, len(own) + 1 - MOST_SESSIONS)]:
            self._open.pop(key, None)


_TOKENS = TypeAdapter(list[Token])


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _tokens_in(path: Path) -> list[Token]:
    """Read the tokens of a file. Raises Damaged for what is none of ours."""
    try:
        tokens = _TOKENS.validate_json(path.read_bytes())
        for token in tokens:
            replace(token, revoked=None).valid(now())
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(
            str(path),
            found=f"{error}"[:160],
            expected="tokens that this program wrote",
            next="remove the file, and make the tokens anew: btx token add",
        ) from None
    return tokens


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
