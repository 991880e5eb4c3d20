"""How long the lineage page of a registry with 10,000 experts takes to open, in Chromium and by HTTP alone.

    python benchmarks/web/lineage.py [--experts 10000] [--rounds 5] [--database FILE]

The registry is filled as benchmarks/catalogue/scale.py fills it; --database uses (or keeps) a filled one. Out: one JSON document, seconds,
for three subjects: data that reaches far, an expert, the newest build.
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

from playwright.sync_api import sync_playwright

from registry.catalogue.catalog import Catalog

sys.path.insert(0, str(Path(__file__).parents[1] / "catalogue"))
from scale import fill

BTX = str(Path(sys.executable).with_name("btx"))
PORT = "8831"
SUBJECTS = ("data/d3@1", "expert/e77@1", "build")


def main() -> None:
    read = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    read.add_argument("--experts", type=int, default=10_000)
    read.add_argument("--rounds", type=int, default=5)
    read.add_argument("--database", type=Path)
    asked = read.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "btx.toml").write_text("[registry]\n")
        (folder / ".btx").mkdir()
        there = folder / ".btx" / "registry.db"
        if asked.database and asked.database.exists():
            shutil.copy(asked.database, there)
        else:
            catalog = Catalog(f"sqlite:///{there}", actor="bench")
            fill(catalog, asked.experts)
            catalog.close()
            if asked.database:
                shutil.copy(there, asked.database)
        server = subprocess.Popen(
            [BTX, "serve", "--port", PORT], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        answers: dict[str, object] = {"experts": asked.experts}
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
                for subject in SUBJECTS:
                    address, opened = f"http://127.0.0.1:{PORT}/lineage?ref={subject}", []
                    for _ in range(asked.rounds):
                        started = time.perf_counter()
                        page.goto(address, wait_until="load")
                        page.wait_for_selector(".graph a.subject")
                        opened.append(round(time.perf_counter() - started, 3))
                    answers[subject] = {
                        "nodes drawn": page.locator(".graph a").count(),
                        "opened_s": {
                            "first": opened[0],
                            "median": statistics.median(opened),
                            "most": max(opened),
                        },
                    }
                browser.close()
        finally:
            server.terminate()
            server.wait()
        print(json.dumps(answers | {"load_average": os.getloadavg()}, indent=1))


if __name__ == "__main__":
    main()
