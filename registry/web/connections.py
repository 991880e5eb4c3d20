"""How long a connection may say nothing, and how many one address may hold open.

In:  what uvicorn reads from the network.  Out: the same, or a closed connection.
Behind a proxy that is named as trusted its own limits count: all its clients share its address.
"""

import asyncio
from collections import Counter
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0  # for the first line and the headers of a request
MOST_PER_ADDRESS = 128
Network = IPv4Network | IPv6Network


class Bounded(H11Protocol):
    """HTTP/1.1 for clients that ask something, in time, over few connections."""

    trusted: ClassVar[tuple[Network, ...]] = ()
    head_s: ClassVar[float] = HEAD_S
    most: ClassVar[int] = MOST_PER_ADDRESS
    held: ClassVar[Counter[str]] = Counter()

    # Any: as uvicorn hands its settings on.
    def __init__(self, *settings: Any, **more: Any) -> None:
        super().__init__(*settings, **more)
        self._address = ""
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, unless the address holds too many connections."""
        super().connection_made(transport)
        peer = str((transport.get_extra_info("peername") or ("",))[0])
        if not _within(peer, self.trusted):
            self._address = peer
            self.held[peer] += 1
            if self.held[peer] > self.most:
                transport.abort()
                return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._in_time()
        if self._address:
            self.held[self._address] -= 1
            if not self.held[self._address]:
                del self.held[self._address]
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Wait for the rest of the headers for a while, and no longer."""
        if self.conn.their_state is not h11.IDLE:
            self._in_time()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_s, self.transport.abort)

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def bounded(
    trusted: tuple[Network, ...], head_s: float = HEAD_S, most: int = MOST_PER_ADDRESS
) -> type[asyncio.Protocol]:
    """Return the protocol of one server.

    Args:
        trusted: addresses of proxies.
        head_s: seconds that a client has for its request's headers.
        most: connections of one other address.
    """
    own = {"trusted": trusted, "head_s": head_s, "most": most, "held": Counter[str]()}
    return type("OneServers", (Bounded,), own)


def _within(peer: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    return any(address in network for network in networks)
