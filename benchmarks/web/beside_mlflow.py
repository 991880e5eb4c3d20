"""Requests a second on "get one registered version" by HTTP: `btx serve` and MLflow's own server, in turns in one run.

    python benchmarks/web/beside_mlflow.py [--versions 500] [--clients 8] [--seconds 5] [--rounds 4] [--mlflow 3.17.2] [--venv DIR]

Both on a SQLite file with as many versions of one name, on loopback, one worker process each, the same client.  Ours checks a token,
its rate limit (raised) and the Host of every request and sends the version's whole detail; MLflow is asked for model-versions/get.
MLflow comes into a virtual environment of its own, made here unless --venv names one.
Out: one JSON document: requests a second by round, medians and their ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from client import load

BTX = str(Path(sys.executable).with_name("btx"))
OURS, THEIRS = "127.0.0.1:8821", "127.0.0.1:8822"
FILL_THEIRS = """
import sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1], sys.argv[1])
client.create_registered_model("e")
for number in range(int(sys.argv[2])):
    client.create_model_version("e", f"file:///nowhere/{number}", tags={"license": f"LicenseRef-{number % 10}"})
"""


def ours(folder: Path, versions: int) -> tuple[subprocess.Popen[str], list[str], list[str]]:
    from pipelines.jobs.serve import tokens
    from pipelines.workspace.workspace import Workspace
    from registry.catalogue.catalog import Catalog
    from registry.records.facts import DataFacts, ExpertFacts
    from registry.records.version import FileFact

    (folder / "btx.toml").write_text("[registry]\n")
    (folder / ".btx").mkdir()
    catalog = Catalog(f"sqlite:///{folder}/.btx/registry.db", actor="bench")
    catalog.register("d", DataFacts(license="MIT"))
    for number in range(versions):
        catalog.register(
            "e",
            ExpertFacts(licenses=(f"LicenseRef-{number % 10}",)),
            files=[FileFact("model.safetensors", 1, f"{number:064x}")],
            parents=[("data/d@1", "trained_on")],
        )
    secret, _ = tokens(Workspace.find(folder)).issue("bench", ["viewer"])
    command = [BTX, "serve", "--port", OURS.split(":")[1], "--reads-per-s", "1000000"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    paths = [f"/api/experts/e/{1 + number % versions}" for number in range(50)]
    return server, paths, [f"Authorization: Bearer {secret}"]


def theirs(
    folder: Path, versions: int, home: Path
) -> tuple[subprocess.Popen[str], list[str], list[str]]:
    url = f"sqlite:///{folder}/theirs.db"
    python = str(home / "bin" / "python")
    subprocess.run([python, "-c", FILL_THEIRS, url, str(versions)], check=True, capture_output=True)
    command = [
        python,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        url,
        "--host",
        "127.0.0.1",
        "--port",
        THEIRS.split(":")[1],
        "--workers",
        "1",
    ]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    paths = [
        f"/api/2.0/mlflow/model-versions/get?name=e&version={1 + number % versions}"
        for number in range(50)
    ]
    return server, paths, ["Accept: application/json"]


def until_it_answers(host: str, path: str, header: str) -> Any:
    name, value = header.split(": ")
    for _ in range(240):
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"http://{host}{path}", headers={name: value}), timeout=5
            ) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{host} does not answer")


def main() -> None:
    read = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    read.add_argument("--versions", type=int, default=500)
    read.add_argument("--clients", type=int, default=8)
    read.add_argument("--seconds", type=float, default=5)
    read.add_argument("--rounds", type=int, default=4)
    read.add_argument("--mlflow", default="3.17.2")
    read.add_argument("--venv", type=Path)
    asked = read.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = asked.venv or folder / "venv"
        if not asked.venv:
            venv.create(home, with_pip=True)
            subprocess.run(
                [str(home / "bin" / "pip"), "install", "--quiet", f"mlflow=={asked.mlflow}"],
                check=True,
            )
        made = {OURS: ours(folder, asked.versions), THEIRS: theirs(folder, asked.versions, home)}
        rates: dict[str, list[float]] = {OURS: [], THEIRS: []}
        p99: dict[str, float] = {}
        try:
            for host, (_, paths, headers) in made.items():
                until_it_answers(host, paths[0], headers[0])
                load(host, paths, headers * asked.clients, 1, 0)  # warm
            for _ in range(asked.rounds):
                for host, (_, paths, headers) in made.items():
                    taken = load(host, paths, headers * asked.clients, asked.seconds, 0)
                    assert not taken.wrong, taken.wrong[:3]
                    rates[host].append(round(len(taken.ms) / taken.seconds, 1))
                    p99[host] = taken.percentile(0.99)
        finally:
            for server, _, _ in made.values():
                server.terminate()
                server.wait()
    medians = {host: statistics.median(all_) for host, all_ in rates.items()}
    answers = {
        "versions": asked.versions,
        "clients": asked.clients,
        "mlflow": asked.mlflow,
        "ours_per_s": rates[OURS],
        "theirs_per_s": rates[THEIRS],
        "ours_p99_ms": p99[OURS],
        "theirs_p99_ms": p99[THEIRS],
        "ratio_of_medians": round(medians[OURS] / medians[THEIRS], 2),
        "load_average": os.getloadavg(),
    }
    print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
