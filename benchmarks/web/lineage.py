"""How long the lineage page of a registry with 10,000 experts takes to open in Chromium.

    python benchmarks/web/lineage.py [--experts 10000] [--rounds 5] [--database FILE]

Out: one JSON document, in seconds, for three subjects: data that reaches far, an expert, and the
newest build.

The registry is filled as benchmarks/catalogue/scale.py fills it. --database names a filled one to
be used, or where to store this one.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from registry.catalogue.catalog import Catalog

sys.path.insert(0, str(Path(__file__).parents[1] / "catalogue"))
from scale import fill

BTX = str(Path(sys.executable).with_name("btx"))
PORT = 8831
SUBJECTS = ("data/d3@1", "expert/e77@1", "build")


def make_workspace(folder: Path, experts: int, database: Path | None) -> None:
    """Make a workspace around a filled registry; use or store the database where one is named."""
    (folder / "btx.toml").write_text("[registry]\n")
    (folder / ".btx").mkdir()
    registry = folder / ".btx" / "registry.db"
    if database and database.exists():
        shutil.copy(database, registry)
        return
    catalog = Catalog(f"sqlite:///{registry}", actor="bench")
    fill(catalog, experts)
    catalog.close()
    if database:
        shutil.copy(registry, database)


def open_lineage(page: Page, subject: str, rounds: int) -> dict[str, object]:
    """Open a subject's lineage several times; return the nodes drawn and the seconds taken."""
    address, opened_s = f"http://127.0.0.1:{PORT}/lineage?ref={subject}", []
    for _ in range(rounds):
        started = time.perf_counter()
        page.goto(address, wait_until="load")
        page.wait_for_selector(".graph a.subject")
        opened_s.append(round(time.perf_counter() - started, 3))
    return {
        "nodes drawn": page.locator(".graph a").count(),
        "opened_s": {
            "first": opened_s[0],
            "median": statistics.median(opened_s),
            "most": max(opened_s),
        },
    }


@contextmanager
def signed_in(folder: Path, port: int, *options: str) -> Iterator[Page]:
    """Serve a workspace, and yield a page of Chromium that is signed in there."""
    command = [BTX, "serve", "--port", str(port), *options]
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
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Serve a filled registry, open its pages and print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_workspace(folder, options.experts, options.database)
        with signed_in(folder, PORT) as page:
            answers = {name: open_lineage(page, name, options.rounds) for name in SUBJECTS}
    load = {"load_average": os.getloadavg()}
    print(json.dumps({"experts": options.experts} | answers | load, indent=1))


if __name__ == "__main__":
    main()
