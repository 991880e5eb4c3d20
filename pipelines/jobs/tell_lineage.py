"""Tell a lineage server what a rebuild does, while it runs: OpenLineage events over HTTP.

In:  the workspace's `[openlineage] url`, and what happens.
Out: an event when the rebuild starts, when each of its stages starts and ends, and when the build
is there or the rebuild failed. Without an address nothing is told. A server that takes no event
changes nothing about the rebuild: it is said on stderr.
"""

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from btx_core.problems import Interrupted
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.event_sender import EventSender
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.formats.documents import Document
from registry.formats.openlineage import LiveRun, dataset, job_name, live_event
from registry.records.events import StageRan
from registry.records.facts import Facts
from registry.records.kinds import Kind
from registry.records.references import Reference
from registry.records.version import Version
from registry.urls import without_secrets

logger = logging.getLogger(__name__)

STATES = {
    "started": "START",
    "running": "RUNNING",
    "ended": "COMPLETE",
    "failed": "FAIL",
    "interrupted": "ABORT",
}


class ToldRun:
    """One rebuild that a lineage server is told of.

    Args:
        catalog: where its inputs are registered.
        line: the product line that is rebuilt.
        sender: who sends the events; None where nobody is told.
    """

    def __init__(self, catalog: Catalog, line: str, sender: EventSender | None) -> None:
        self._catalog, self._sender = catalog, sender
        self._run = LiveRun(str(uuid.uuid4()), job_name(Kind.BUILD, line))
        self._stages: dict[str, LiveRun] = {}

    def starts(self, inputs: Sequence[Reference | str]) -> None:
        """Tell that the rebuild starts, from these versions."""
        if self._sender:
            datasets = [self._dataset(self._catalog.get(ref)) for ref in inputs]
            self._sender.send(live_event(self._run, "START", inputs=datasets))

    def stage(self, name: str, ran: StageRan) -> None:
        """Tell what happened to a stage."""
        state = STATES.get(ran.state)
        if not self._sender or not state:
            return
        new = LiveRun(str(uuid.uuid4()), f"{self._run.job}.{name}", self._run)
        stage = self._stages.setdefault(name, new)
        self._sender.send(live_event(stage, state))

    def made(self, build: Version[Facts]) -> None:
        """Tell that the build is there."""
        if self._sender:
            outputs = [self._dataset(build)]
            self._sender.send(live_event(self._run, "COMPLETE", outputs=outputs))

    def failed(self, error: BaseException) -> None:
        """Tell that the rebuild ended without a build."""
        if self._sender:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            state = "ABORT" if stopped else "FAIL"
            self._sender.send(live_event(self._run, state, error=str(error) or state.lower()))

    def _dataset(self, version: Version[Facts]) -> Document:
        return dataset(version, self._catalog.status(version.ref))


@contextmanager
def told(workspace: Workspace, line: str) -> Iterator[ToldRun]:
    """Yield the run that a workspace's lineage server is told of, and say what it did not take."""
    url = workspace.settings.openlineage.url
    sender = EventSender(url) if url else None
    run = ToldRun(workspace.catalog, line, sender)
    try:
        yield run
    except BaseException as error:
        run.failed(error)
        raise
    finally:
        if sender:
            _say(sender)


def _say(sender: EventSender) -> None:
    delivery, where = sender.close(), without_secrets(sender.url)
    logger.info("%s took %d lineage events", where, delivery.taken)
    if delivery.lost:
        remark(
            f"{where} took {delivery.taken} of {delivery.taken + delivery.lost} lineage events: "
            f"{delivery.why}. Nothing else depends on it; "
            "btx report BUILD --format openlineage writes them."
        )
