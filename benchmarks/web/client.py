"""A small HTTP client for benchmarks: keep-alive connections, each asking one thing after another; latencies out.

In:  addresses, headers, how long, how long a person pauses between two pages.  Out: milliseconds by path, and what was not status 200.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field


@dataclass
class Taken:
    ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.ms)
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str, header: str
) -> int:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        int(line.split(":")[1])
        for line in head.split("\r\n")
        if line.lower().startswith("content-length:")
    )
    await reader.readexactly(length)
    return int(head.split()[1])


async def client(
    taken: Taken, host: str, paths: list[str], header: str, until: float, pause_s: float, seed: int
) -> None:
    chance = random.Random(seed)
    name, port = host.rsplit(":", 1)
    await asyncio.sleep(chance.random() * pause_s)
    reader, writer = await asyncio.open_connection(name, int(port))
    while time.perf_counter() < until:
        path = chance.choice(paths)
        started = time.perf_counter()
        status = await ask(reader, writer, host, path, header)
        taken.ms.append((time.perf_counter() - started) * 1000)
        if status != 200:
            taken.wrong.append(f"{status} {path}")
        if pause_s:
            await asyncio.sleep(chance.uniform(0.5, 1.5) * pause_s)
    writer.close()


def load(host: str, paths: list[str], headers: list[str], seconds: float, pause_s: float) -> Taken:
    """One client a header."""

    async def all_of_them() -> Taken:
        taken, started = Taken(), time.perf_counter()
        until = started + seconds
        await asyncio.gather(
            *(
                client(taken, host, paths, header, until, pause_s, seed)
                for seed, header in enumerate(headers)
            )
        )
        taken.seconds = time.perf_counter() - started
        return taken

    return asyncio.run(all_of_them())
