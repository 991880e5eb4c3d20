"""What the log said at any event: who was out of use, what a gate had said, what was released.

In:  the catalogue's log.  Out: the same answers as of now, as they were before an event.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import inf

from registry.catalogue.catalog import Catalog
from registry.governance import gate
from registry.governance.out_of_use import out_of_use
from registry.records.events import Judged, Released, Retired
from registry.records.facts import BuildFacts
from registry.records.version import Event, Version


@dataclass(frozen=True)
class AsOf:
    """The log, read once for many questions about earlier times."""

    catalog: Catalog

    def was_out_of_use(self, ref: str, seq: int) -> bool:
        """Tell whether a version was withdrawn, erased, retired or tainted before an event."""
        return self._out_of_use.get(ref, seq) < seq

    def out_of_use(self, seq: int) -> list[str]:
        """Return what was out of use before an event."""
        return [ref for ref, since in self._out_of_use.items() if since < seq]

    def was_seen(self, ref: str, seq: int) -> bool:
        """Tell whether a version stood in the registry before an event, and was no mistake."""
        retired = any(one.subject == ref and one.seq < seq for one in self._retired)
        return self._registered.get(ref, seq) < seq and not retired

    def released(self, seq: float) -> Iterator[Event]:
        """Yield the releases before an event, oldest first."""
        return (event for event in self._releases if event.seq < seq)

    def last_release(
        self, build: Version[BuildFacts], seq: float = inf, *, of_line: bool = True
    ) -> Version[BuildFacts] | None:
        """Return the build that was released last before an event, other than this one.

        It is what its users have by then, and what this build is compared with.

        Args:
            build: what asks to be released.
            seq: the number of the event.
            of_line: whether builds of other product lines, which others use, are passed over.
        """
        for event in reversed(list(self.released(seq))):
            if event.subject != str(build.ref):
                released = self.catalog.get(event.subject, BuildFacts)
                if not of_line or released.facts.line == build.facts.line:
                    return released
        return None

    def gate_said(self, ref: str, seq: int) -> str | None:
        """Return what the gate said of a version that it had to pass; None where none was asked."""
        event = gate.newest(self.catalog, ref, seq)
        return str(event.read(Judged).outcome) if event else None

    @cached_property
    def _registered(self) -> dict[str, int]:
        """Return the number of the event that registered each version."""
        return {event.subject: event.seq for event in self.catalog.events(kind="registered")}

    @cached_property
    def _retired(self) -> list[Event]:
        return list(self.catalog.events(kind=Retired.logged_as))

    @cached_property
    def _releases(self) -> list[Event]:
        return list(self.catalog.events(kind=Released.logged_as))

    @cached_property
    def _out_of_use(self) -> dict[str, int]:
        return out_of_use(self.catalog)
