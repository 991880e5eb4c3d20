"""How long every page of a registry with 10,000 experts takes.

    python benchmarks/web/pages.py [--experts 10000] [--rounds 3] [--database FILE] [--chromium]

Out: one JSON document: for each page its status, its size, and the seconds of the first opening and
the least of all; and the pages over the target of one second.

Without --chromium the application is asked in this process, and the seconds are of its CPU time,
which other work on the machine does not change. With it Chromium opens the pages of `btx serve`,
and the seconds are by the clock, until the page is loaded.

The registry is filled as benchmarks/catalogue/scale.py fills it: beside the experts it has 200
data versions, 1,000 builds and as many snapshots. --database names a filled one to be used, or
where to store this one.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.testclient import TestClient

from pipelines.jobs.serve import Address, site
from pipelines.workspace.workspace import Workspace
from registry.web.application import application
from registry.web.middleware import Limits

sys.path.insert(0, str(Path(__file__).parent))
from lineage import make_workspace, signed_in

HOST, PORT = "127.0.0.1", 8832
TARGET_S = 1.0

# Opens a page; returns its status, its size in bytes and the seconds that it took.
Open = Callable[[str], tuple[int, int, float]]


def addresses(experts: int) -> list[str]:
    """Return the address of every page, and of the ends of the long lists."""
    builds = experts // 10
    lists = ("builds", "experts", "seeds", "data", "snapshots", "lines", "exports", "runs")
    searches = ("e77", "holder=holder3", "seed=seed/base@1", "no-such-word", "ends<2027-01-01")
    return [
        "/",
        *(f"/{name}" for name in lists),
        f"/experts?start={max(0, experts - 100)}",
        "/experts?text=e77",
        *(f"/search?q={terms}" for terms in searches),
        "/compare",
        "/lineage",
        "/lineage?ref=data/d3@1",
        "/impact",
        "/impact?ref=data/d3@1",
        "/impact?ref=seed/base@1",
        "/explain",
        "/audit",
        "/approve",
        "/expert/e77/1",
        f"/build/{builds}",
        "/data/d3/1",
        "/seed/base/1",
        f"/snapshot/main/{builds}",
    ]


@contextmanager
def in_this_process(folder: Path) -> Iterator[Open]:
    """Yield the function that asks the application of a workspace, timed by this process's CPU."""
    served = site(
        Workspace.find(folder), Address(port=PORT), Limits(reads=1e6, writes=1e6, strangers=1e6)
    )
    token = served.tokens.issue("reader", ["auditor"])[0]
    with TestClient(application(served), base_url=f"http://{HOST}:{PORT}") as client:

        def open_page(path: str) -> tuple[int, int, float]:
            started = time.process_time()
            answer = client.get(path, headers={"authorization": f"Bearer {token}"})
            return answer.status_code, len(answer.content), time.process_time() - started

        yield open_page


@contextmanager
def in_chromium(folder: Path) -> Iterator[Open]:
    """Yield the function that opens a page of `btx serve` in Chromium, timed by the clock."""
    # So many readings a second that the server's own limit is not what is measured.
    with signed_in(folder, PORT, "--reads-per-s", "1000", "--role", "auditor") as page:

        def open_page(path: str) -> tuple[int, int, float]:
            started = time.perf_counter()
            answer = page.goto(f"http://{HOST}:{PORT}{path}", wait_until="load")
            took_s = time.perf_counter() - started
            return (answer.status if answer else 0), len(page.content()), took_s

        yield open_page


def opened(open_page: Open, path: str, rounds: int) -> dict[str, float]:
    """Open a page several times."""
    status, size, first_s = open_page(path)
    again_s = [open_page(path)[2] for _ in range(rounds - 1)]
    return {
        "status": status,
        "bytes": size,
        "first_s": round(first_s, 3),
        "least_s": round(min(first_s, *again_s), 3),
    }


def main() -> None:
    """Open every page of a filled registry and print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database", type=Path)
    parser.add_argument("--chromium", action="store_true")
    options = parser.parse_args()
    way = in_chromium if options.chromium else in_this_process
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder, options.experts, options.database)
        pages = {}
        with way(folder) as open_page:
            for path in addresses(options.experts):
                pages[path] = opened(open_page, path, options.rounds)
                print(path, pages[path], file=sys.stderr)
    answer = {
        "experts": options.experts,
        "seconds of": "the clock, in Chromium" if options.chromium else "CPU, in this process",
        "pages": pages,
        "over_target": [path for path, took in pages.items() if took["least_s"] > TARGET_S],
        "load_average": os.getloadavg(),
    }
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
