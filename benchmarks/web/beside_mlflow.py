"""Requests per second of "get one registered version" by HTTP: `btx serve` and MLflow's server.

    python benchmarks/web/beside_mlflow.py [--versions 500] [--clients 8] [--seconds 5]
                                           [--rounds 4] [--mlflow 3.17.2] [--venv DIR]

Out: one JSON document: requests per second by round, medians and their ratio.

The servers take turns in one run, each on a SQLite file with as many versions of one name, on
loopback, with one worker process and the same client. `btx serve` checks a token, its rate limit
(raised) and the Host of every request, and sends the version's whole detail; MLflow is asked for
model-versions/get. MLflow is installed into a virtual environment of its own unless --venv names
one.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from client import Load, load

BTX = str(Path(sys.executable).with_name("btx"))
OURS_PORT, THEIRS_PORT = "8821", "8822"
# Different paths that the clients ask for.
PATHS = 50
FILL_THEIRS = """
import sys
from mlflow.tracking import MlflowClient

url, versions = sys.argv[1:]
client = MlflowClient(url, url)
client.create_registered_model("e")
for number in range(int(versions)):
    tags = {"license": f"LicenseRef-{number % 10}"}
    client.create_model_version("e", f"file:///nowhere/{number}", tags=tags)
"""


@dataclass
class Server:
    """A running server, and what was measured of it.

    Attributes:
        process: its process.
        host: its address, as HOST:PORT.
        paths: what the clients ask for.
        header: which every request carries.
        per_s: requests per second, by round.
        p99_ms: of the last round.
    """

    process: subprocess.Popen[str]
    host: str
    paths: Sequence[str]
    header: str
    per_s: list[float] = field(default_factory=list)
    p99_ms: float = 0.0

    def wait(self) -> None:
        """Wait until the server answers; SystemExit where it does not within two minutes."""
        name, value = self.header.split(": ")
        address = f"http://{self.host}{self.paths[0]}"
        request = urllib.request.Request(address, headers={name: value})
        for _ in range(240):
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    json.load(answer)
                    return
            except OSError:
                time.sleep(0.5)
        raise SystemExit(f"{self.host} does not answer")

    def measure(self, clients: int, seconds: float) -> None:
        """Let clients ask for so many seconds, and add a round."""
        taken = load(Load(self.host, self.paths, seconds), [self.header] * clients)
        assert not taken.wrong, taken.wrong[:3]
        self.per_s.append(round(len(taken.ms) / taken.seconds, 1))
        self.p99_ms = taken.percentile(0.99)


def start_ours(folder: Path, versions: int) -> Server:
    """Register as many versions in a new workspace, and start `btx serve` there."""
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
    command = [BTX, "serve", "--port", OURS_PORT, "--reads-per-s", "1000000"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    paths = [f"/api/experts/e/{1 + number % versions}" for number in range(PATHS)]
    return Server(process, f"127.0.0.1:{OURS_PORT}", paths, f"Authorization: Bearer {secret}")


def start_theirs(folder: Path, versions: int, environment: Path) -> Server:
    """Register as many versions with MLflow, and start its server."""
    url = f"sqlite:///{folder}/theirs.db"
    python = str(environment / "bin" / "python")
    subprocess.run([python, "-c", FILL_THEIRS, url, str(versions)], check=True, capture_output=True)
    options = {
        "--backend-store-uri": url,
        "--host": "127.0.0.1",
        "--port": THEIRS_PORT,
        "--workers": "1",
    }
    arguments = [text for option in options.items() for text in option]
    process = subprocess.Popen(
        [python, "-m", "mlflow", "server", *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    paths = [
        f"/api/2.0/mlflow/model-versions/get?name=e&version={1 + number % versions}"
        for number in range(PATHS)
    ]
    return Server(process, f"127.0.0.1:{THEIRS_PORT}", paths, "Accept: application/json")


def install_mlflow(environment: Path, version: str) -> None:
    """Make a virtual environment with MLflow in it."""
    venv.create(environment, with_pip=True)
    subprocess.run(
        [str(environment / "bin" / "pip"), "install", "--quiet", f"mlflow=={version}"],
        check=True,
    )


def main() -> None:
    """Start both servers, measure them in turns and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--mlflow", default="3.17.2")
    parser.add_argument("--venv", type=Path)
    options = parser.parse_args()
    servers: list[Server] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = options.venv or folder / "venv"
        if not options.venv:
            install_mlflow(environment, options.mlflow)
        try:
            servers.append(start_ours(folder, options.versions))
            servers.append(start_theirs(folder, options.versions, environment))
            for server in servers:
                server.wait()
                # To warm up; not counted.
                load(Load(server.host, server.paths, 1), [server.header] * options.clients)
            for _ in range(options.rounds):
                for server in servers:
                    server.measure(options.clients, options.seconds)
        finally:
            for server in servers:
                server.process.terminate()
                server.process.wait()
    ours, theirs = servers
    ratio = statistics.median(ours.per_s) / statistics.median(theirs.per_s)
    answers = {
        "versions": options.versions,
        "clients": options.clients,
        "mlflow": options.mlflow,
        "ours_per_s": ours.per_s,
        "theirs_per_s": theirs.per_s,
        "ours_p99_ms": ours.p99_ms,
        "theirs_p99_ms": theirs.p99_ms,
        "ratio_of_medians": round(ratio, 2),
        "load_average": os.getloadavg(),
    }
    print(json.dumps(answers, indent=1))


if __name__ == "__main__":
    main()
