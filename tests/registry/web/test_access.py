"""Tokens: hashed, ending, revocable, of one role or several; sessions end with them."""

import hashlib
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.errors import Damaged, Invalid, NotFound
from registry.web.access import Sessions, Tokens

WRITTEN = {
    "id": "1f0c9a3e",
    "sha256": "a" * 64,
    "name": "dora",
    "roles": ["viewer"],
    "issued": "2026-02-01T00:00:00+00:00",
    "expires": "2026-04-01T00:00:00+00:00",
    "revoked": None,
}


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    return Tokens(tmp_path / "tokens.json", clock)


def test_only_the_digest_of_a_secret_is_written_where_its_owner_alone_can_read(
    tokens: Tokens,
) -> None:
    secret, token = tokens.issue("dora", ["approver"])
    assert secret not in tokens.path.read_text()
    assert (
        json.loads(tokens.path.read_text())[0]["sha256"]
        == hashlib.sha256(secret.encode()).hexdigest()
        == token.sha256
    )
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600


def test_a_token_opens_until_its_end_and_not_after(tokens: Tokens, clock: Clock) -> None:
    secret, _ = tokens.issue("dora", ["approver"], days=2)
    clock.now += timedelta(days=2, seconds=-1)
    assert tokens.find(secret)
    clock.now += timedelta(seconds=1)
    assert tokens.find(secret) is None


def test_a_token_revoked_by_another_process_ends_with_its_sessions_at_once(
    tokens: Tokens, clock: Clock
) -> None:
    secret, token = tokens.issue("dora", ["approver"])
    sessions = Sessions(tokens, clock)
    cookie = sessions.begin(secret)
    assert cookie
    assert sessions.person(bearer=None, cookie=cookie)
    Tokens(tokens.path, clock).revoke(token.id)
    assert sessions.person(bearer=None, cookie=cookie) is None
    assert sessions.begin(secret) is None


def test_a_session_ends_by_itself_and_by_leaving(tokens: Tokens, clock: Clock) -> None:
    secret, _ = tokens.issue("dora", ["approver"])
    sessions = Sessions(tokens, clock)
    first, second = str(sessions.begin(secret)), str(sessions.begin(secret))
    sessions.end(first)
    assert sessions.person(bearer=None, cookie=first) is None
    assert sessions.person(bearer=None, cookie=second)
    clock.now += timedelta(hours=12)
    assert sessions.person(bearer=None, cookie=second) is None


def test_a_wrong_header_is_not_rescued_by_a_good_cookie(tokens: Tokens, clock: Clock) -> None:
    secret, _ = tokens.issue("dora", ["approver"])
    sessions = Sessions(tokens, clock)
    cookie = sessions.begin(secret)
    assert sessions.person(bearer="wrong", cookie=cookie) is None


def test_the_token_of_a_start_is_written_nowhere(tokens: Tokens) -> None:
    secret, _ = tokens.issue("ann", ["viewer"], keep=False)
    assert tokens.find(secret)
    assert not tokens.path.exists()
    assert Tokens(tokens.path).find(secret) is None


def test_words_that_make_no_token_are_refused(tokens: Tokens) -> None:
    with pytest.raises(Invalid, match="role root"):
        tokens.issue("dora", ["root"])
    with pytest.raises(Invalid, match="days"):
        tokens.issue("dora", ["viewer"], days=400)
    with pytest.raises(Invalid, match="actor"):
        tokens.issue("../dora", ["viewer"])
    with pytest.raises(NotFound):
        tokens.revoke("00000000")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"\xff",
        b"{}",
        b'[{"id": 1}]',
        json.dumps([{**WRITTEN, "expires": "soon"}]).encode(),
        json.dumps([{**WRITTEN, "expires": "2027-01-01"}]).encode(),
    ],
)
def test_a_file_that_holds_no_tokens_of_ours_is_damaged(tokens: Tokens, content: bytes) -> None:
    tokens.path.parent.mkdir(parents=True, exist_ok=True)
    tokens.path.write_bytes(content)
    for look in (tokens.all, lambda: tokens.find("x"), lambda: tokens.issue("dora", ["viewer"])):
        with pytest.raises(Damaged, match="tokens"):
            look()
