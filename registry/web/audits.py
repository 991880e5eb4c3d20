"""Audits that run while somebody watches: one at a time, in a thread of their own; a page can be closed and opened again meanwhile.

In:  the audit job as a callable.  Out: a Run that grows. The last KEPT runs stay in memory; the audit itself writes nothing.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from registry.audit import Check
from registry.errors import Conflict, NotFound

KEPT = 50
Heard = Callable[[Check], None]
Job = Callable[[str, str | None, Heard], dict[str, Any]]


@dataclass
class Run:
    id: str
    ref: str
    by: str
    started: str
    state: str = "running"  # then done or failed
    steps: dict[str, Check] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    head: str | None = None
    error: str | None = None
    grown: int = 0  # how often it changed

    def to_json(self) -> dict[str, Any]:
        checks = [vars(check) for check in list(self.steps.values())]
        shown = {key: getattr(self, key) for key in ("id", "ref", "by", "started", "state", "findings", "head", "error")}
        return shown | {"checks": checks}


class Audits:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._runs: dict[str, Run] = {}
        self._starting = threading.Lock()

    def start(self, ref: str, by: str, head: str | None = None) -> Run:
        """Raises Conflict while another one runs."""
        with self._starting:
            if running := [run for run in self._runs.values() if run.state == "running"]:
                advice = f"watch it: /audit/{running[0].id}"
                raise Conflict(f"audit of {ref}", found=f"one of {running[0].ref} running", expected="one at a time", next=advice)
            run = Run(secrets.token_hex(6), ref, by, datetime.now(UTC).isoformat(timespec="seconds"))
            self._runs[run.id] = run
            for old in list(self._runs)[:-KEPT]:
                del self._runs[old]
        threading.Thread(target=self._run, args=(run, head), name=f"audit-{run.id}", daemon=True).start()
        return run

    def get(self, id_: str) -> Run:
        if id_ not in self._runs:
            raise NotFound(f"audit {id_}", found="nothing", expected="an audit of this server's life", next="start one")
        return self._runs[id_]

    def all(self) -> list[Run]:
        return list(reversed(self._runs.values()))

    def _run(self, run: Run, head: str | None) -> None:
        def heard(check: Check) -> None:
            run.steps[check.name] = check
            run.grown += 1

        try:
            answer = self._job(run.ref, head, heard)
            for check in answer["checks"]:
                heard(Check(**check))
            run.findings, run.head, run.state = answer["findings"], answer["head"], "done"
        except Exception as error:  # whatever it is, who watches is told
            run.error, run.state = str(error), "failed"
        run.grown += 1
