"""A signed act counts once: which events of the log hold a signature for the first time.

In:  events, oldest first.  Out: those that are not signed, or signed by an act that no earlier one
holds; for each other one, the number of the event that holds it first.
Whoever can write events can write down again what somebody else signed long ago. What is compared
are the signed bytes and signatures themselves: the text that encodes them has several spellings.
"""

import base64
import binascii
from collections.abc import Iterable

from pydantic import ValidationError

from btx_core.files import any_json
from registry.records.base import JsonObject
from registry.records.events import Envelope
from registry.records.version import Event

# The bytes that were signed, and one signature over them.
Signed = tuple[bytes, bytes]
# The same in an event: its kind, subject and actor, without which the act does not count in it.
Logged = tuple[str, str, str, Signed]


def first_uses(events: Iterable[Event]) -> list[Event]:
    """Return the events without those that repeat an act which an earlier one holds."""
    listed = list(events)
    repeated = repetitions(listed)
    return [event for event in listed if event.seq not in repeated]


def repetitions(events: Iterable[Event]) -> dict[int, int]:
    """Return, by the number of each event that repeats a signed act, the number of the first."""
    first: dict[Logged, int] = {}
    repeated: dict[int, int] = {}
    for event in events:
        for one in _signed(_envelope(event)):
            number = first.setdefault((event.kind, event.subject, event.actor, one), event.seq)
            if number != event.seq:
                repeated[event.seq] = number
    return repeated


def is_logged(envelope: Envelope, events: Iterable[Event]) -> bool:
    """Return whether one of the events holds a signature of this envelope."""
    signed = _signed(envelope)
    return any(signed & _signed(_envelope(event)) for event in events)


def signed_act(event: Event) -> JsonObject:
    """Return what an event's envelope says, whoever signed it; nothing where there is none."""
    envelope = _envelope(event)
    try:
        act: object = any_json(base64.b64decode(envelope.payload)) if envelope else {}
    except (binascii.Error, ValueError):
        return {}
    return act if isinstance(act, dict) else {}


def _envelope(event: Event) -> Envelope | None:
    """Return the envelope of an event's body; None where there is none that can be read."""
    try:
        return Envelope.model_validate(any_json(event.stored).get("envelope"))
    except (ValidationError, ValueError, AttributeError):
        return None


def _signed(envelope: Envelope | None) -> set[Signed]:
    if envelope is None:
        return set()
    try:
        payload = base64.b64decode(envelope.payload)
        return {(payload, base64.b64decode(one.sig)) for one in envelope.signatures}
    except (binascii.Error, ValueError):
        return set()
