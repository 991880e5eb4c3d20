"""Send JSON events to a server in order, beside the work that they tell of.

In:  an address, and events.  Out: what the server took, and why it did not take the rest.
A thread of its own sends them: a server that is slow or gone neither stops nor fails the work.
"""

import json
import os
import queue
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from registry.urls import in_words

KEY = "OPENLINEAGE_API_KEY"
USUAL_PATH = "/api/v1/lineage"
# Of one event, and of all that are left when the work is done.
TIMEOUT_S = 5.0
PATIENCE_S = 10.0
# In a row; after them nothing more is tried.
MOST_FAILURES = 3


@dataclass(frozen=True)
class Delivery:
    """How many events were taken, how many were not, and why the first of these was not."""

    taken: int
    lost: int
    why: str = ""


class EventSender:
    """Sends events to one address.

    Args:
        url: of the server; without a path, OpenLineage's usual one.
    """

    def __init__(self, url: str) -> None:
        root = urlsplit(url).path in ("", "/")
        self.url = f"{url.rstrip('/')}{USUAL_PATH}" if root else url
        self._events: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._asked = self._taken = self._failures = 0
        self._why = ""
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._thread = threading.Thread(target=self._send_all, name="events", daemon=True)
        self._thread.start()

    # Any: an event is whatever its format says.
    def send(self, event: Mapping[str, Any]) -> None:
        """Send an event once those before it are sent; returns at once."""
        self._asked += 1
        self._events.put(event)

    def close(self) -> Delivery:
        """Wait a little until all is sent, and return what came of it."""
        self._events.put(None)
        self._thread.join(PATIENCE_S)
        taken = self._taken
        why = self._why or f"no answer within {PATIENCE_S:.0f} s"
        lost = self._asked - taken
        return Delivery(taken, lost, why if lost else "")

    def _send_all(self) -> None:
        while (event := self._events.get()) is not None:
            if self._failures >= MOST_FAILURES:
                continue
            try:
                self._post(event)
            except Exception as error:
                # Whatever it is, it must not end the work.
                self._failures += 1
                self._why = self._why or in_words(error, self.url)
            else:
                self._failures = 0
                self._taken += 1

    def _post(self, event: Mapping[str, Any]) -> None:
        headers = {"content-type": "application/json"}
        if key := os.environ.get(KEY):
            headers["authorization"] = f"Bearer {key}"
        body = json.dumps(event).encode()
        request = urllib.request.Request(self.url, body, headers, method="POST")
        with self._opener.open(request, timeout=TIMEOUT_S):
            pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key is for the server that was confirmed."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, *rest: object
    ) -> None:
        """Return no request, so that the answer is an error."""
        return
