"""How long every page of a registry with 10,000 experts takes to open in Chromium.

    python benchmarks/web/pages.py [--experts 10000] [--rounds 5] [--database FILE]

Out: one JSON document: for each page the seconds of its first opening, the median and the most,
and the pages whose median is over the target of one second.

The registry is filled as benchmarks/catalogue/scale.py fills it: beside the experts it has 200
data versions, 1,000 builds and as many snapshots. --database names a filled one to be used, or
where to store this one.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))
from lineage import BTX, make_workspace

PORT = "8832"
TARGET_S = 1.0


def addresses(experts: int) -> list[str]:
    """Return the address of every page, and of the ends of the long lists."""
    builds = experts // 10
    lists = ("builds", "experts", "seeds", "data", "snapshots", "lines", "exports", "runs")
    searches = ("e77", "holder=holder3", "kind=build line=main", "no-such-word", "name~9 seed=*")
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
        f"/approve/{builds}",
        "/expert/e77/1",
        f"/build/{builds}",
        "/data/d3/1",
        "/seed/base/1",
        f"/snapshot/main/{builds}",
    ]


def opened(page: Page, path: str, rounds: int) -> dict[str, float | int | None]:
    """Open a page several times; return its status and the seconds until it is loaded."""
    took_s, status = [], None
    for _ in range(rounds):
        started = time.perf_counter()
        answer = page.goto(f"http://127.0.0.1:{PORT}{path}", wait_until="load")
        took_s.append(round(time.perf_counter() - started, 3))
        status = answer.status if answer else None
    return {
        "status": status,
        "first_s": took_s[0],
        "median_s": statistics.median(took_s),
        "most_s": max(took_s),
    }


def main() -> None:
    """Serve a filled registry, open every page and print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder, options.experts, options.database)
        # So many readings a second that the server's own limit is not what is measured.
        command = [BTX, "serve", "--port", PORT, "--reads-per-s", "1000"]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            entry = server.stdout.readline().split()[1]
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=shutil.which("chromium"), args=["--no-sandbox"]
                )
                page = browser.new_page()
                page.goto(entry)
                page.wait_for_selector("nav")
                pages = {
                    path: opened(page, path, options.rounds) for path in addresses(options.experts)
                }
                browser.close()
        finally:
            server.terminate()
            server.wait()
    slow = [path for path, took in pages.items() if (took["median_s"] or 0) > TARGET_S]
    answer = {
        "experts": options.experts,
        "pages": pages,
        "over_target": slow,
        "load_average": os.getloadavg(),
    }
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
