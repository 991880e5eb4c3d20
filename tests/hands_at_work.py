"""One of several people who work on one registry: does act after act as it is told on stdin.

Started as `python hands_at_work.py WORKSPACE`. Each line of stdin is an act, as JSON with the key
`act`; each line of stdout says how it ended: `done` with what came of it, or `error` with the kind
and the message of an error that a person would get. Anything else ends the process. What an act
needs is imported with it: most need no torch.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from btx_core.problems import BtxError
from pipelines.workspace.workspace import Workspace
from registry.records.facts import DataStatement

SAID = DataStatement(license="MIT", source="s", holder="h", purpose="p", pii="none")
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]


@contextmanager
def silent(label: str) -> Any:
    yield lambda done, total, text: None


def data(workspace: Workspace, act: Mapping[str, str]) -> Any:
    from pipelines.jobs.add_data import add_data

    return str(add_data(workspace, act["name"], Path(act["path"]), SAID).ref)


def expert(workspace: Workspace, act: Mapping[str, str]) -> Any:
    from pipelines.jobs.register import register

    version = register(
        workspace,
        act["name"],
        Path(act["path"]),
        data=[act["data"]],
        seed="seed/base",
        show=silent,
    )
    return str(version.ref)


def build(workspace: Workspace, act: Mapping[str, str]) -> Any:
    from pipelines.jobs.build_plan import Request
    from pipelines.jobs.rebuild import rebuild

    answer = rebuild(workspace, Request(without=act["without"], tune="none"))
    return {"ref": answer.build, "status": str(answer.status)}


def gone(workspace: Workspace, act: Mapping[str, str]) -> Any:
    from pipelines.jobs.withdraw import withdraw

    withdraw(workspace, act["ref"], "consent ended")
    return act["ref"]


def gc(workspace: Workspace, act: Mapping[str, str]) -> Any:
    from pipelines.jobs import archive

    answer = archive.collect(workspace, grace_s=0)
    return {"deleted": len(answer.deleted), "skipped": list(answer.skipped)}


def backup(workspace: Workspace, act: Mapping[str, str]) -> Any:
    from pipelines.jobs import archive

    return archive.backup(workspace, Path(act["path"])).head


def pull(workspace: Workspace, act: Mapping[str, str]) -> Any:
    """Bring what the other clone has: small files by git, bytes by DVC."""
    with workspace.writing("pull"):
        for command in (
            [*GIT, "add", "-A"],
            [*GIT, "commit", "-qm", "x", "--allow-empty"],
            [*GIT, "pull", "-q", "--no-rebase", "--no-edit", act["other"]],
        ):
            _run(workspace.root, command)
        _run(workspace.root, [sys.executable, "-m", "dvc", "push", "-q"])
        # What the other clone did not push yet stays there.
        _run(workspace.root, [sys.executable, "-m", "dvc", "pull", "-q", "--allow-missing"])
    return None


def look(workspace: Workspace, act: Mapping[str, str]) -> Any:
    from pipelines.jobs.audit import audit

    return [
        [one.check, one.subject, one.found] for one in audit(workspace, act["ref"] or None).findings
    ]


def _run(root: Path, command: list[str]) -> None:
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise BtxError(" ".join(command[-4:]), found=(done.stderr or done.stdout)[-500:])


ACTS: Mapping[str, Callable[[Workspace, Mapping[str, str]], Any]] = {
    act.__name__: act for act in (data, expert, build, gone, gc, backup, pull, look)
}


def main() -> None:
    for line in sys.stdin:
        act = json.loads(line)
        workspace = Workspace.find(Path(sys.argv[1]))
        try:
            reply = {"done": ACTS[act["act"]](workspace, act)}
        except BtxError as error:
            reply = {"error": type(error).__name__, "text": str(error)}
        finally:
            # A server that is down was never opened.
            if "catalog" in vars(workspace):
                workspace.catalog.close()
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
