"""Long actions that go on while nobody looks: one at a time, in threads of their own; a page can be closed and opened again meanwhile.

In:  what to do, as a callable.  Out: a Run that grows. The last KEPT runs stay in memory, and end with the server.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from registry.catalogue.checks import Check
from registry.errors import Conflict, NotFound

KEPT = 50
Heard = Callable[[Check], None]
Job = Callable[[Heard], dict[str, Any]]


@dataclass
class Run:
    """by: the name on the roll or the token that asked. asked: what a page needs to fill its form again."""

    id: str
    ref: str
    by: str
    started: str
    asked: str = ""
    state: str = "running"  # then done or failed
    steps: dict[str, Check] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    grown: int = 0  # how often it changed

    def to_json(self) -> dict[str, Any]:
        """As an audit is told."""
        shown = {key: getattr(self, key) for key in ("id", "ref", "by", "started", "state")}
        told = {"findings": self.answer.get("findings", []), "head": self.answer.get("head")}
        checks = [vars(check) for check in list(self.steps.values())]
        return shown | told | {"checks": checks, "error": str(self.error) if self.error else None}


class Runs:
    """most: how many may be under way, the one that runs among them."""

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._runs: dict[str, Run] = {}
        self._starting, self._running = threading.Lock(), threading.Lock()

    def start(self, ref: str, by: str, job: Job, asked: str = "") -> Run:
        """Raises Conflict where as many are under way as may be."""
        with self._starting:
            if (
                len(busy := [run for run in self._runs.values() if run.state == "running"])
                >= self._most
            ):
                found = (
                    f"one of {busy[0].ref} running" if self._most == 1 else f"{len(busy)} before it"
                )
                expected = "one at a time" if self._most == 1 else f"at most {self._most}"
                raise Conflict(
                    f"run of {ref}",
                    found=found,
                    expected=expected,
                    next="try again when it is done",
                )
            run = Run(
                secrets.token_hex(6),
                ref,
                by,
                datetime.now(UTC).isoformat(timespec="seconds"),
                asked,
            )
            self._runs[run.id] = run
            for old in list(self._runs)[:-KEPT]:
                del self._runs[old]
        threading.Thread(
            target=self._run, args=(run, job), name=f"run-{run.id}", daemon=True
        ).start()
        return run

    def get(self, id_: str) -> Run:
        if id_ not in self._runs:
            raise NotFound(
                f"run {id_}",
                found="nothing",
                expected="one of this server's life",
                next="start one",
            )
        return self._runs[id_]

    def all(self) -> list[Run]:
        return list(reversed(self._runs.values()))

    def _run(self, run: Run, job: Job) -> None:
        def heard(check: Check) -> None:
            run.steps[check.name] = check
            run.grown += 1

        try:
            with self._running:
                run.answer = job(heard)
            for check in run.answer.get("checks", ()):
                heard(Check(**check))
            run.state = "done"
        except Exception as error:  # whatever it is, who watches is told
            run.error, run.state = error, "failed"
        run.grown += 1
