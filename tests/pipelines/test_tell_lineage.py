"""A lineage server is told of a rebuild while it runs, and cannot make it fail."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from outside import by_openlineage

from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.tell_lineage import told
from pipelines.workspace import trust
from pipelines.workspace.event_sender import KEY, MOST_FAILURES, EventSender
from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid
from registry.formats.openlineage import LiveRun, live_event


@dataclass
class Server:
    """A lineage server: what it was sent, and whether the workspace was written then."""

    url: str = ""
    answers: int = 201
    looks: Callable[[], object] = str
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    looked: list[object] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    received = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.paths.append(self.path)
            received.keys.append(self.headers.get("authorization"))
            received.events.append(json.loads(body))
            received.looked.append(received.looks())
            self.send_response(received.answers)
            self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *said: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    received.url = f"http://127.0.0.1:{http.server_port}"
    yield received
    http.shutdown()
    http.server_close()
    thread.join()


def telling(own_story: Any, url: str) -> Workspace:
    """The story, whose user has confirmed that this server is told."""
    with (own_story.root / "btx.toml").open("a") as file:
        file.write(f'\n[openlineage]\nurl = "{url}"\n')
    workspace = Workspace.unconfirmed(own_story.root)
    trust.confirm(workspace.root, workspace.statements())
    return Workspace.find(own_story.root)


@pytest.fixture(autouse=True)
def _own_machine(tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))


@pytest.mark.slow
def test_a_real_server_receives_the_rebuild_while_it_runs(
    own_story: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret")
    workspace = telling(own_story, server.url)
    server.looks = workspace.writer
    answer = rebuild(workspace, Request(without=("code",)))
    assert set(server.paths) == {"/api/v1/lineage"}
    assert set(server.keys) == {"Bearer secret"}
    by_openlineage("".join(json.dumps(event) + "\n" for event in server.events))
    assert all("btx rebuild" in (writer or "") for writer in server.looked)

    states = [(event["job"]["name"], event["eventType"]) for event in server.events]
    stages = [f"rebuild main.{stage}" for stage in answer.ran]
    between = []
    for stage in stages:
        between += [(stage, "START"), (stage, "COMPLETE")]
    assert states == [("rebuild main", "START"), *between, ("rebuild main", "COMPLETE")]
    first, last = server.events[0], server.events[-1]
    assert first["run"]["runId"] == last["run"]["runId"]
    assert {"seed/base@1", "expert/math@1", "data/math@1"} <= {
        one["name"] for one in first["inputs"]
    }
    assert [one["name"] for one in last["outputs"]] == [answer.build]
    for event in server.events[1:-1]:
        assert event["run"]["facets"]["parent"]["run"]["runId"] == first["run"]["runId"]


@pytest.mark.slow
def test_a_server_that_is_gone_does_not_fail_a_rebuild_and_is_told_of(
    own_story: Any, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = telling(own_story, f"{server.url}/at/a/path?token=hidden")
    server.answers = 500
    assert rebuild(workspace, Request(without=("code",))).status == "evaluated"
    assert set(server.paths) == {"/at/a/path?token=hidden"}
    assert len(server.events) == MOST_FAILURES
    said = capsys.readouterr().err
    assert f"{server.url}/at/a/path took 0 of" in said
    assert "500" in said
    assert "hidden" not in said


def test_a_rebuild_that_fails_and_one_that_is_stopped_are_told_as_such(
    own_story: Any, server: Server
) -> None:
    workspace = telling(own_story, server.url)

    def end_with(error: BaseException) -> None:
        with told(workspace, "main") as run:
            run.starts(["expert/math@1"])
            raise error

    ends = ((Invalid("a shard", found="none"), "FAIL"), (KeyboardInterrupt(), "ABORT"))
    for error, state in ends:
        with pytest.raises(type(error)):
            end_with(error)
        assert [event["eventType"] for event in server.events[-2:]] == ["START", state]
    by_openlineage("".join(json.dumps(event) + "\n" for event in server.events))
    assert "a shard" in server.events[1]["run"]["facets"]["errorMessage"]["message"]


def test_no_redirection_is_followed_with_the_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret")
    server.answers = 307
    sender = EventSender(server.url)
    sender.send(live_event(LiveRun("00000000-0000-4000-8000-000000000000", "rebuild"), "START"))
    delivery = sender.close()
    assert (delivery.taken, delivery.lost) == (0, 1)
    assert "307" in delivery.why
    assert server.paths == ["/api/v1/lineage"]


def test_a_server_that_nobody_listens_at_is_named(server: Server) -> None:
    sender = EventSender("http://127.0.0.1:9/")
    sender.send({})
    assert "refused" in sender.close().why


@pytest.mark.parametrize("url", ["file:///etc/passwd", "https://user:secret@host", "host:5000"])
def test_another_address_than_of_the_web_is_refused(own_story: Any, url: str) -> None:
    with (own_story.root / "btx.toml").open("a") as file:
        file.write(f'\n[openlineage]\nurl = "{url}"\n')
    with pytest.raises(Invalid, match="without a password"):
        Workspace.unconfirmed(own_story.root)
