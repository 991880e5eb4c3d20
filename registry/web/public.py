"""The address under which browsers reach a server that stands behind a proxy.

In:  `https://btx.example.com/btx`, as whoever runs the server names it.
Out: the host and scheme that count as this server's, and answers whose addresses begin with the
prefix. A proxy may hand the prefix on or take it away: both are understood.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import Invalid

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# An address within an attribute of a page. Recorded text has no quotation marks of its own there.
_ADDRESS = re.compile(rb'((?:href|src|action|hx-get|hx-post|data-[a-z]+)=")(?=/(?!/))')
_MOVED = ("location", "hx-redirect", "hx-push-url")


@dataclass(frozen=True)
class PublicAddress:
    """Where browsers find the server.

    Attributes:
        scheme: https, or http on this machine.
        host: with its port where that is not the usual one, as a Host header names it.
        prefix: of every path, with a stroke before and none after; empty for none.
    """

    scheme: str
    host: str
    prefix: str = ""

    @property
    def url(self) -> str:
        """The first page, without a stroke at the end."""
        return f"{self.scheme}://{self.host}{self.prefix}"

    @classmethod
    def of(cls, url: str) -> "PublicAddress":
        """Read an address.

        Raises:
            Invalid: for what is none, and for one that would carry tokens unencrypted.
        """
        parts = urlsplit(url)
        named = parts.hostname or ""
        safe = parts.scheme == "https" or (parts.scheme == "http" and named in LOOPBACK)
        if not (named and safe) or parts.query or parts.fragment or "@" in parts.netloc:
            raise Invalid(
                "--public-url",
                found=url,
                expected="https://HOST or https://HOST/PREFIX, where the proxy speaks TLS",
                next="btx serve --public-url https://btx.example.com/registry",
            )
        return cls(parts.scheme, parts.netloc.lower(), parts.path.rstrip("/"))


class UnderPrefix:
    """Middleware that answers under a public address.

    Args:
        app: the next application, which knows nothing of a prefix.
        address: where browsers find it.
    """

    def __init__(self, app: ASGIApp, *, address: PublicAddress) -> None:
        self.app = app
        self.address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        inner = dict(scope)
        if Headers(scope=scope).get("host", "").lower() == self.address.host:
            inner["scheme"] = self.address.scheme
        prefix, path = self.address.prefix, scope["path"]
        if prefix and (path == prefix or path.startswith(prefix + "/")):
            inner["path"] = path[len(prefix) :] or "/"
            inner["raw_path"] = inner["path"].encode()
        if not prefix:
            await self.app(inner, receive, send)
            return
        await self.app(inner, receive, _Prefixed(send, prefix).send)


class _Prefixed:
    """Sends an answer on, with the prefix before each of its addresses."""

    def __init__(self, send: Send, prefix: str) -> None:
        self._send = send
        self._prefix = prefix
        self._start: Message | None = None
        self._page = b""

    async def send(self, message: Message) -> None:
        """Take one message of the answer; a page is sent when it is whole."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            self._move(headers)
            message = {**message, "headers": headers.raw}
            if headers.get("content-type", "").startswith("text/html"):
                self._start = message
                return
        elif self._start is not None:
            self._page += message.get("body", b"")
            if message.get("more_body"):
                return
            message = {**message, "body": await self._begin(self._start)}
        await self._send(message)

    def _move(self, headers: MutableHeaders) -> None:
        """Put the prefix before the addresses in the headers, and bind cookies to it."""
        for name in _MOVED:
            if headers.get(name, "").startswith("/"):
                headers[name] = self._prefix + headers[name]
        cookies = headers.getlist("set-cookie")
        if cookies:
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", re.sub("Path=/", f"Path={self._prefix}", cookie))

    async def _begin(self, start: Message) -> bytes:
        """Send the headers of a page, and return the page."""
        page = _ADDRESS.sub(rb"\1" + self._prefix.encode(), self._page)
        headers = MutableHeaders(raw=list(start["headers"]))
        if "content-length" in headers and self._page:
            headers["content-length"] = str(len(page))
        await self._send({**start, "headers": headers.raw})
        self._start = None
        return page
