"""Follow stages that run elsewhere: a bar for each, a note in the audit log, errors by name.

In:  the notes that the stages leave in work/progress.  Out: bars on a terminal, events for the log.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from btx_core.problems import BtxError
from pipelines.stages.task import Task
from pipelines.workspace.bars import Note, bars, forget_unfinished, note_of
from registry.records.events import StageRan

logger = logging.getLogger(__name__)

LOGGED_EVERY_S = 60.0
# Between two looks for a reason to stop.
ASKED_EVERY_S = 1.0
# Called with the name of a stage or branch, and what happened to it.
Log = Callable[[str, StageRan], None]


class TaskMonitor:
    """Follows every task.

    On a terminal that is a bar for each; in the audit log it is an event when a task starts, once
    a minute while it runs, and when it ends, fails or is interrupted.

    Args:
        root: the workspace.
        tasks: what is followed.
        log: called with a task's label and what happened.
        reason_to_stop: asked every second; the error that it returns is raised.
    """

    def __init__(
        self,
        root: Path,
        tasks: Sequence[Task],
        log: Log,
        reason_to_stop: Callable[[], BtxError | None] = lambda: None,
    ) -> None:
        self._notes = {task.label: note_of(root, task.run) for task in tasks}
        self._log, self._reason_to_stop = log, reason_to_stop
        self._asked = time.monotonic()
        self._began: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self.errors: dict[str, str] = {}
        for path in self._notes.values():
            path.unlink(missing_ok=True)

    def __enter__(self) -> "TaskMonitor":
        self._stack = ExitStack()
        self._show = self._stack.enter_context(bars(list(self._notes)))
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.close()
        for name in list(self._began) if kind else ():
            self._end(name, "interrupted")

    def started(self, name: str) -> None:
        """Note that a task has started."""
        self._began[name] = self._logged[name] = time.monotonic()
        logger.info("%s started", name)
        self._log(name, StageRan(state="started"))

    def ended(self, name: str, error: str | None) -> None:
        """Note that a task has ended, with an error or well."""
        if error is not None:
            logger.warning("%s failed: %s", name, error)
            self.errors[name] = error
        self._end(name, "ended" if error is None else "failed")

    def look(self) -> None:
        """Read every running task's notes, and move its bar; raise the reason to stop."""
        if time.monotonic() - self._asked > ASKED_EVERY_S:
            self._asked = time.monotonic()
            reason = self._reason_to_stop()
            if reason is not None:
                raise reason
        for name in self._began:
            note = Note.read(self._notes[name])
            if note:
                self._show(name, note)
            if note and time.monotonic() - self._logged[name] > LOGGED_EVERY_S:
                self._logged[name] = time.monotonic()
                running = StageRan(state="running", done=note.done, total=note.total)
                self._log(name, running)

    def _end(self, name: str, state: str) -> None:
        seconds = round(time.monotonic() - self._began.pop(name), 2)
        forget_unfinished(self._notes[name])
        logger.info("%s %s after %.2f s", name, state, seconds)
        self._log(name, StageRan(state=state, seconds=seconds))
