"""A small HTTP client for benchmarks: connections that stay open, each asking page after page.

In:  a host, paths, a header per client, how long, and how long a person pauses between two pages.
Out: the latencies, and the answers that were not status 200.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Taken:
    """What the clients saw.

    Attributes:
        ms: milliseconds of each request.
        wrong: status and path of each answer that was not status 200.
        seconds: how long it went on in all.
    """

    ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """Return the milliseconds within which this share of the requests was answered."""
        ordered = sorted(self.ms)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)


@dataclass(frozen=True)
class Load:
    """What the clients do.

    Attributes:
        host: the server, as HOST:PORT.
        paths: each request asks for one of them, by chance.
        seconds: how long.
        pause_s: the mean pause between two requests of one client; 0 for none.
    """

    host: str
    paths: Sequence[str]
    seconds: float
    pause_s: float = 0.0


@dataclass(frozen=True)
class Connection:
    """An open connection whose every request carries the same header."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    host: str
    header: str

    async def get(self, path: str) -> int:
        """Ask for a path, read the whole answer, and return its status."""
        request = f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n{self.header}\r\n\r\n"
        self.writer.write(request.encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(text.split(":")[1])
            for text in head.split("\r\n")
            if text.lower().startswith("content-length:")
        )
        await self.reader.readexactly(length)
        return int(head.split()[1])


def load(task: Load, headers: Sequence[str]) -> Taken:
    """Let one client per header ask until the time is over.

    Args:
        task: what they ask.
        headers: each client's own, for example with its access token.

    Returns:
        What they saw.
    """
    return asyncio.run(_all_clients(task, headers))


async def _all_clients(task: Load, headers: Sequence[str]) -> Taken:
    taken, started = Taken(), time.perf_counter()
    end = started + task.seconds
    clients = (_client(task, header, number, end, taken) for number, header in enumerate(headers))
    await asyncio.gather(*clients)
    taken.seconds = time.perf_counter() - started
    return taken


async def _client(task: Load, header: str, random_seed: int, end: float, taken: Taken) -> None:
    generator = random.Random(random_seed)
    name, port = task.host.rsplit(":", 1)
    await asyncio.sleep(generator.random() * task.pause_s)
    reader, writer = await asyncio.open_connection(name, int(port))
    connection = Connection(reader, writer, task.host, header)
    while time.perf_counter() < end:
        path = generator.choice(task.paths)
        started = time.perf_counter()
        status = await connection.get(path)
        taken.ms.append((time.perf_counter() - started) * 1000)
        if status != 200:
            taken.wrong.append(f"{status} {path}")
        if task.pause_s:
            await asyncio.sleep(generator.uniform(0.5, 1.5) * task.pause_s)
    writer.close()
