"""What every request passes before any page sees it, and the headers that every answer carries.

In:  a request.  Out: the same request to the next application, or a refusal: another host, another
site's form, too large, too often.
Who may do what is for `access` and the pages themselves to say.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.records.answers.failure import ErrorAnswer

SAFE = ("GET", "HEAD", "OPTIONS")
# What a stranger needs to come in. It costs nothing, so no allowance is taken: who shares an
# address with somebody noisy still comes in. Wrong tokens have an allowance of their own.
DOOR = ("/login", "/static/", "/health")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no-referrer a browser would hide the origin of our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
MOST_BUCKETS = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much and how often one person may ask; strangers share one allowance per address.

    Attributes:
        reads: requests a second that only read.
        writes: requests a second that do something.
        strangers: requests a second without a valid token, from one address.
        wrong_tokens: wrong tokens a second, from one address; who has a right one always comes in.
        burst_s: seconds for which what was not used is kept.
        body_bytes: the largest body.
        body_s: seconds to wait for the next part of a body.
    """

    reads: float = 50.0
    writes: float = 5.0
    strangers: float = 10.0
    wrong_tokens: float = 2.0
    burst_s: float = 4.0
    body_bytes: int = 1 << 17
    body_s: float = 20.0


@dataclass(frozen=True)
class _Bucket:
    """How many requests are left, and the second at which that was so."""

    level: float
    at_s: float


class Buckets:
    """Token buckets by key; one that is full again is forgotten.

    Args:
        clock: gives a time in seconds that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def wait_s(self, key: str, rate: float, burst_s: float) -> float:
        """Take one request from a bucket.

        Args:
            key: whose bucket.
            rate: how many requests a second it gains.
            burst_s: how many seconds' worth it holds.

        Returns:
            0 when there was one to take; else the seconds until there is.
        """
        now, full = self._clock(), max(1.0, rate * burst_s)
        bucket = self._buckets.get(key, _Bucket(full, now))
        level = min(full, bucket.level + (now - bucket.at_s) * rate)
        taken = level >= 1
        self._buckets[key] = _Bucket(level - taken, now)
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets = {
                name: kept for name, kept in self._buckets.items() if now - kept.at_s < burst_s
            }
        return 0.0 if taken else (1 - level) / rate


@dataclass(frozen=True)
class Refusal:
    """Why a request goes no further: the HTTP status, the answer, and further headers."""

    status: int
    answer: ErrorAnswer
    headers: Mapping[str, str] = field(default_factory=dict)


class RequestChecks:
    """Middleware that lets through only requests that are meant for this server.

    Args:
        app: the next application.
        hosts: the values of the Host header that mean this server.
        identify: returns the key of who asks, from a request's headers; None for a stranger.
        limits: how much and how often one person may ask.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        identify: Callable[[Headers], str | None],
        limits: Limits,
    ) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.identify = identify
        self.limits = limits
        self.buckets = Buckets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal:
            await _refuse(scope, send, refusal)
            return
        body = _BoundedBody(receive, self.limits)
        silent = scope["method"] == "HEAD"

        async def send_marked(message: Message) -> None:
            if silent and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(_with_headers(message))

        # What may be read may be asked for without its body: monitors do.
        asked = {**scope, "method": "GET"} if silent else scope
        await self.app(asked, body.receive, send_marked)

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        return (
            self._other_host(headers)
            or self._other_site(scope, headers)
            or self._too_large(headers)
            or self._too_often(scope, headers)
        )

    def _other_host(self, headers: Headers) -> Refusal | None:
        named = headers.getlist("host")
        if len(named) == 1 and named[0].lower() in self.hosts:
            return None
        answer = ErrorAnswer(
            kind="Invalid",
            subject="host",
            found=headers.get("host", "none")[:80],
            expected=" or ".join(sorted(self.hosts)),
            next="use that address",
        )
        return Refusal(400, answer)

    def _other_site(self, scope: Scope, headers: Headers) -> Refusal | None:
        """Refuse a write that a page of another site sent: its form, or its script."""
        if scope["method"] in SAFE:
            return None
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "same-origin")
        own_origin = origin is None or origin.partition("://")[2].lower() in self.hosts
        if site in ("same-origin", "none") and own_origin:
            return None
        answer = ErrorAnswer(
            kind="Refused",
            subject="origin",
            found=(origin or site)[:80],
            expected="a form of these pages",
            next="open the page itself",
        )
        return Refusal(403, answer)

    def _too_large(self, headers: Headers) -> Refusal | None:
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) <= self.limits.body_bytes:
            return None
        answer = ErrorAnswer(
            kind="Invalid",
            subject="body",
            found=f"{length[:20]} bytes",
            expected=f"at most {self.limits.body_bytes} bytes",
            next="send less at once",
        )
        return Refusal(413, answer, {"connection": "close"})

    def _too_often(self, scope: Scope, headers: Headers) -> Refusal | None:
        key = self.identify(headers)
        if key is None and scope["path"].startswith(DOOR):
            return None
        if key is None:
            client = scope.get("client") or ("nobody",)
            key, kind, rate = client[0], "strangers", self.limits.strangers
        elif scope["method"] in SAFE:
            kind, rate = "reads", self.limits.reads
        else:
            kind, rate = "writes", self.limits.writes
        wait_s = self.buckets.wait_s(f"{kind} {key}", rate, self.limits.burst_s)
        if not wait_s:
            return None
        answer = ErrorAnswer(
            kind="Unavailable",
            subject="requests",
            found="more",
            expected=f"at most {rate:g} a second",
            next=f"wait {wait_s:.1f} s",
        )
        return Refusal(429, answer, {"retry-after": str(int(wait_s) + 1)})


class _BoundedBody:
    """A request's body, at most so large, each part within a time."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._limits = limits
        self._bytes = 0
        self._whole = False

    async def receive(self) -> Message:
        """Return the next message; once the body is whole, whenever it comes."""
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._limits.body_s)
        except TimeoutError:
            raise HTTPException(408, "no more of the body") from None
        self._whole = not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limits.body_bytes:
            raise HTTPException(413, "a longer body")
        return message


def _with_headers(message: Message) -> Message:
    """Add the headers that every answer carries, where it has none of that name."""
    if message["type"] != "http.response.start":
        return message
    given = message.get("headers", ())
    names = {name.lower() for name, _ in given}
    added = []
    for name, value in HEADERS.items():
        if name.encode() not in names:
            added.append((name.encode(), value.encode()))
    return {**message, "headers": [*given, *added]}


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    body = json.dumps(refusal.answer.to_json()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **refusal.headers,
    }
    start = {
        "type": "http.response.start",
        "status": refusal.status,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await send(_with_headers(start))
    sent = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": sent})
