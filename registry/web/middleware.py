"""What every request passes before any page sees it, and the headers that every answer carries.

In:  a request.  Out: the same request to the next application, or a refusal: wrong host, another site's post, too large, too often.
Who may do what is access.py's and the pages' own.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer a browser hides the origin of our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Per second, one bucket a person; strangers share one per address."""

    reads: float = 50.0
    writes: float = 5.0
    strangers: float = 10.0
    burst_s: float = 4.0  # what was not used is kept for so long
    body_bytes: int = 1 << 17


class Buckets:
    """Token buckets by key; one that is full again is forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._level: dict[str, tuple[float, float]] = {}

    def wait_s(self, key: str, rate: float, burst_s: float) -> float:
        """0 when there is room, which is then taken; else the seconds until there is."""
        now, full = self._clock(), max(1.0, rate * burst_s)
        level, at = self._level.get(key, (full, now))
        level = min(full, level + (now - at) * rate)
        taken = level >= 1
        self._level[key] = (level - taken, now)
        if len(self._level) > 10_000:
            self._level = {
                name: held for name, held in self._level.items() if now - held[1] < burst_s
            }
        return 0.0 if taken else (1 - level) / rate


class Guard:
    """hosts: values of Host that are us. identify: the person's key, None for a stranger."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        identify: Callable[[Headers], str | None],
        limits: Limits,
    ) -> None:
        self.app, self.hosts, self.identify, self.limits = app, frozenset(hosts), identify, limits
        self.buckets = Buckets()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal:
            await _refuse(scope, send, *refusal)
            return
        left = self.limits.body_bytes

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, "a longer body")
            return message

        async def marked(message: Message) -> None:
            await send(_marked(message))

        await self.app(scope, bounded, marked)

    def _refusal(
        self, scope: Scope, headers: Headers
    ) -> tuple[int, dict[str, str], dict[str, str]] | None:
        """Status, what is wrong, further headers."""
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self.hosts:
            found = headers.get("host", "none")[:80]
            return (
                400,
                {
                    "subject": "host",
                    "found": found,
                    "expected": " or ".join(sorted(self.hosts)),
                    "next": "use that address",
                },
                {},
            )
        if scope["method"] not in SAFE and not self._from_us(headers):
            found = headers.get("origin", headers.get("sec-fetch-site", ""))[:80]
            return (
                403,
                {
                    "subject": "origin",
                    "found": found,
                    "expected": "a form of these pages",
                    "next": "open the page itself",
                },
                {},
            )
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.limits.body_bytes:
            return self._too_large(f"{length[:20]} bytes")
        key = self.identify(headers)
        kind = "strangers" if key is None else "reads" if scope["method"] in SAFE else "writes"
        where = key or (scope.get("client") or ("nobody",))[0]
        wait_s = self.buckets.wait_s(
            f"{kind} {where}", getattr(self.limits, kind), self.limits.burst_s
        )
        if wait_s:
            rate = f"at most {getattr(self.limits, kind):g} a second"
            told = {
                "subject": "requests",
                "found": "more",
                "expected": rate,
                "next": f"wait {wait_s:.1f} s",
            }
            return 429, told, {"retry-after": str(int(wait_s) + 1)}
        return None

    def _too_large(self, found: str) -> tuple[int, dict[str, str], dict[str, str]]:
        expected = f"at most {self.limits.body_bytes} bytes"
        return (
            413,
            {"subject": "body", "found": found, "expected": expected, "next": "send less at once"},
            {"connection": "close"},
        )

    def _from_us(self, headers: Headers) -> bool:
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        return origin is None or origin.partition("://")[2].lower() in self.hosts


def _marked(message: Message) -> Message:
    if message["type"] != "http.response.start":
        return message
    there = {name.lower() for name, _ in message.get("headers", ())}
    added = [
        (name.encode(), value.encode())
        for name, value in HEADERS.items()
        if name.encode() not in there
    ]
    return {**message, "headers": [*message.get("headers", ()), *added]}


async def _refuse(
    scope: Scope, send: Send, status: int, told: dict[str, str], more: dict[str, str]
) -> None:
    body: Any = json.dumps(told).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }
    await send(_marked(start))
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
