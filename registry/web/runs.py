"""Long actions that go on while nobody looks: one at a time, in threads of their own.

Who asked for many waits behind who asked for one: the next is of whoever was served longest ago.

In:  what to do, as a callable.  Out: a Run that grows; a page can be closed and opened again
meanwhile. The last KEPT runs stay in memory, and end with the server.
"""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, Literal, TypeVar

from registry.errors import Conflict, NotFound
from registry.records.answers.answer import Answer
from registry.records.answers.auditing import AuditAnswer, Check
from registry.records.pages import AuditRun

KEPT = 50
A = TypeVar("A", bound=Answer)
OnCheck = Callable[[Check], None]
Job = Callable[[OnCheck], A]


@dataclass
class Run(Generic[A]):
    """One long action.

    Attributes:
        id: its name in addresses.
        ref: the version that it looks at.
        by: the person or the token that asked.
        started: when, in UTC.
        asked: the text that was asked about, so that a page can fill its form again.
        state: how far it has come.
        checks: of an audit, by name, as far as they have come.
        answer: once it is done.
        error: once it has failed.
        changes: how often it changed.
    """

    id: str
    ref: str
    by: str
    started: str
    asked: str = ""
    state: Literal["running", "done", "failed"] = "running"
    checks: dict[str, Check] = field(default_factory=dict)
    answer: A | None = None
    error: Exception | None = None
    changes: int = 0

    def note(self, check: Check) -> None:
        """Keep how far a check has come."""
        self.checks[check.name] = check
        self.changes += 1

    def record(self) -> AuditRun:
        """Return the run as pages and streams show it."""
        audit = self.answer if isinstance(self.answer, AuditAnswer) else None
        return AuditRun(
            id=self.id,
            ref=self.ref,
            by=self.by,
            started=self.started,
            state=self.state,
            checks=tuple(self.checks.values()),
            findings=audit.findings if audit else (),
            head=audit.head if audit else None,
            error=str(self.error) if self.error else None,
        )


class Runs(Generic[A]):
    """The runs of one kind of action.

    Args:
        most: how many may be under way, the one that runs among them.
        most_each: how many of one person.
    """

    def __init__(self, most: int = 1, most_each: int | None = None) -> None:
        self._most = most
        self._most_each = most_each or most
        self._runs: dict[str, Run[A]] = {}
        self._starting = threading.Lock()
        self._turns = threading.Condition()
        self._waiting: list[Run[A]] = []
        self._served: list[str] = []
        self._running = False

    def start(self, ref: str, by: str, job: Job[A], asked: str = "") -> Run[A]:
        """Start a run.

        Args:
            ref: the version that it looks at.
            by: the person or the token that asks.
            job: what to do; it calls its argument with each check, as far as it has come.
            asked: what a page needs to fill its form again.

        Raises:
            Conflict: where as many are under way as may be.
        """
        with self._starting:
            self._refuse_too_many(ref, by)
            run = Run[A](
                id=secrets.token_hex(6),
                ref=ref,
                by=by,
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                asked=asked,
            )
            self._runs[run.id] = run
            self._waiting.append(run)
            for old in list(self._runs)[:-KEPT]:
                del self._runs[old]
        thread = threading.Thread(
            target=self._run, args=(run, job), name=f"run-{run.id}", daemon=True
        )
        thread.start()
        return run

    def get(self, run_id: str) -> Run[A]:
        """Return a run. Raises NotFound."""
        if run_id not in self._runs:
            raise NotFound(
                f"run {run_id}",
                found="nothing",
                expected="one that was started since the server was",
                next="start one",
            )
        return self._runs[run_id]

    def all(self) -> list[Run[A]]:
        """Return the runs, newest first."""
        return list(reversed(self._runs.values()))

    def _refuse_too_many(self, ref: str, by: str) -> None:
        busy = [run for run in self._runs.values() if run.state == "running"]
        own = sum(run.by == by for run in busy)
        if len(busy) < self._most and own < self._most_each:
            return
        if self._most == 1:
            found, expected = f"one of {busy[0].ref} running", "one at a time"
        elif own >= self._most_each:
            found, expected = f"{own} of your own before it", f"at most {self._most_each}"
        else:
            found, expected = f"{len(busy)} before it", f"at most {self._most}"
        raise Conflict(
            f"run of {ref}", found=found, expected=expected, next="try again when it is done"
        )

    @contextmanager
    def _turn(self, run: Run[A]) -> Iterator[None]:
        """Wait until nothing runs and this run is next."""
        with self._turns:
            self._turns.wait_for(lambda: not self._running and self._next() is run)
            self._waiting.remove(run)
            self._running = True
            served = [by for by in self._served if by != run.by]
            self._served = [*served, run.by][-KEPT:]
        try:
            yield
        finally:
            with self._turns:
                self._running = False
                self._turns.notify_all()

    def _next(self) -> Run[A]:
        """Return the oldest run of whoever was served longest ago, or never."""
        served = self._served
        return min(self._waiting, key=lambda run: served.index(run.by) if run.by in served else -1)

    def _run(self, run: Run[A], job: Job[A]) -> None:
        try:
            with self._turn(run):
                run.answer = job(run.note)
            if isinstance(run.answer, AuditAnswer):
                for check in run.answer.checks:
                    run.note(check)
            run.state = "done"
        except Exception as error:
            # Whatever it is, whoever watches the run must learn of it.
            run.error, run.state = error, "failed"
        run.changes += 1
