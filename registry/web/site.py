"""One server's state: the catalogue, the jobs it may set going, who may ask.

The jobs come from pipelines, which this floor does not import.
"""

import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog, Event
from registry.errors import NotFound
from registry.governance import attestations, people
from registry.web import views
from registry.web.access import Person, Sessions, Tokens
from registry.web.middleware import Limits
from registry.web.runs import Heard, Run, Runs

Facts = dict[str, Any]
CHAIN_HOLDS_S = (
    10.0  # as long as no event comes: a filter of the log is no reason to read all of it again
)
MOST_WAITING = 8  # explanations, the one that runs among them


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """explain(build, text); audit(ref, head, heard); review(build, by) -> evidence, verdict of gate release now; release(build, by)."""

    explain: Callable[[str, str], Facts]
    audit: Callable[[str, str | None, Heard], Facts]
    review: Callable[[str, str], Facts]
    release: Callable[[str, str], Facts]


@dataclass(frozen=True, kw_only=True)
class Site:
    """url: of the registry. hosts: the values of Host under which the server answers."""

    url: str
    jobs: Jobs
    tokens: Tokens
    hosts: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def catalog(self) -> Catalog:
        return Catalog(self.url, actor="web")

    @cached_property
    def sessions(self) -> Sessions:
        return Sessions(self.tokens)

    @cached_property
    def audits(self) -> Runs:
        return Runs()

    @cached_property
    def explanations(self) -> Runs:
        return Runs(MOST_WAITING)

    @cached_property
    def acting(self) -> Callable[[str], Catalog]:
        """The catalogue as this person writes in it."""
        return lru_cache(maxsize=64)(lambda name: Catalog(self.url, actor=name))

    @cached_property
    def _checked(self) -> dict[str, tuple[float, Facts]]:
        return {}

    def chain(self) -> Facts:
        """The head, and every link before it checked, now or CHAIN_HOLDS_S ago at the most."""
        head = self.catalog.head()
        at, found = self._checked.get(head, (-CHAIN_HOLDS_S, None))
        if found is None or time.monotonic() - at > CHAIN_HOLDS_S:
            found = views.chain(self.catalog)
            self._checked.clear()
            self._checked[found["head"]] = (time.monotonic(), found)
        return found

    def audit(self, ref: str, person: Person, head: str | None = None) -> Run:
        """Raises Conflict while another one runs, NotFound for what is not there."""
        found = str(self.catalog.get(ref.strip()).ref)
        return self.audits.start(
            found, person.name, lambda heard: self.jobs.audit(found, head, heard)
        )

    def explain(self, build: str, text: str, person: Person) -> Run:
        """Raises Conflict where too many wait, NotFound for what is not there. The text is that token's own: nobody else sees the run."""
        found = str(self.catalog.get(build.strip()).ref)
        return self.explanations.start(
            found, person.token, lambda _: self.jobs.explain(found, text), text
        )

    def explanation(self, id_: str, person: Person) -> Run:
        run = self.explanations.get(id_)
        if run.by != person.token:
            raise NotFound(
                f"run {id_}", found="nothing", expected="one of your own", next="start one"
            )
        return run

    def review(self, ref: str, person: Person) -> Facts:
        """What an approver needs to judge, and what that person would sign."""
        build = self.catalog.get(ref)
        found = self.jobs.review(str(build.ref), person.name)
        to_sign, why_not = self._to_sign(str(build.ref), person)
        return {
            "ref": str(build.ref),
            "status": self.catalog.status(build.ref),
            "digest": build.digest,
            "evidence": found["evidence"],
            "verdict": found["verdict"],
            "approvals": people.approvals(self.catalog, build),
            "to_sign": to_sign,
            "why_not": why_not,
        }

    def _to_sign(self, ref: str, person: Person, why: str = "") -> tuple[Facts | None, str]:
        if not person.may("approver"):
            return None, "your token carries no role approver"
        try:
            return self.to_sign(ref, person, why), ""
        except BtxError as error:
            return None, f"{error.found}; expected {error.expected}"

    def to_sign(self, ref: str, person: Person, why: str) -> Facts:
        act = people.drafted(self.catalog, ref, person.name, why)
        payload, message = people.to_sign(act)
        keyid = attestations.key_id(people.roll(self.catalog)[person.name].key)
        return {
            "act": act,
            "payload": _base64(payload),
            "payload_type": people.ACT,
            "message": _base64(message),
            "keyid": keyid,
        }

    def approve(self, ref: str, person: Person, envelope: Mapping[str, Any]) -> Event:
        return people.admit(self.acting(person.name), ref, envelope)


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
