"""One server's state: the catalogue, the jobs that it may start, and who may ask.

In:  an address of the registry, and the jobs as callables: they come from pipelines, which this
floor does not import.  Out: what a request needs beside the catalogue's own answers.
"""

import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog
from registry.errors import NotFound, Refused
from registry.governance import acts, approving, people
from registry.governance.erasure import Selection
from registry.governance.policies import Policy
from registry.records.answers.auditing import AuditAnswer, ExplainAnswer
from registry.records.answers.deciding import ReleaseAnswer, VerdictAnswer
from registry.records.answers.shown import DiffAnswer
from registry.records.answers.withdrawing import EraseAnswer
from registry.records.events import Act, Envelope
from registry.records.evidence import BuildEvidence
from registry.records.facts import BuildFacts
from registry.records.officer_answers import HeldDocuments
from registry.records.pages import (
    Chain,
    GpuPrice,
    Review,
    RunsPage,
    Statements,
    ToSign,
    TrainingRun,
)
from registry.records.version import Event
from registry.web import history, officer
from registry.web.access import Person, Sessions, Tokens
from registry.web.middleware import Buckets, Limits
from registry.web.public import PublicAddress
from registry.web.runs import OnCheck, Run, Runs

# How long a check of the chain counts while no event comes: a filter of the log is no reason to
# read all of it again.
CHAIN_HOLDS_S = 10.0
MOST_WAITING, MOST_WAITING_EACH = 32, 4  # explanations, the one that runs among them


SOON_DAYS = 90  # before an end is shown to who signs


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """What is known of a build, what gate release says of that now, and what is new in it.

    Attributes:
        evidence: on the build.
        verdict: of gate release.
        since: what differs from the last release; None where there is none.
    """

    evidence: BuildEvidence
    verdict: VerdictAnswer
    since: DiffAnswer | None = None


@dataclass(frozen=True, kw_only=True)
class ErasureJobs:
    """The jobs of erasing; the last argument but one is the person who asks.

    Attributes:
        look_ahead: says what an erasure would take away and cost.
        drafted: returns what is signed to ask for it.
        ask: asks for it, with a reason and what the person signed.
        waiting: returns the erasures that wait for a second person.
        drafted_confirmation: returns what is signed to confirm one, by its number.
        confirm: confirms it and deletes the bytes.
    """

    look_ahead: Callable[[Selection], EraseAnswer]
    drafted: Callable[[Selection, str], tuple[Act, ...]]
    ask: Callable[[Selection, str, str, acts.Sent], EraseAnswer]
    waiting: Callable[[], Sequence[EraseAnswer]]
    drafted_confirmation: Callable[[int, str], tuple[Act, ...]]
    confirm: Callable[[int, str, acts.Sent], EraseAnswer]


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """The jobs that pages start.

    Attributes:
        explain: called with a build and a text.
        audit: called with a reference, a head that was noted earlier or None, and a callback that
            takes each check, as far as it has come.
        review: called with a build and the person who asks.
        drafted_release: called with a build and the person who asks; returns what they sign.
        release: called with a build, the person who asks and what they signed.
        compare: called with two versions of one kind.
        training_runs: returns what runs in the workspace, and ran.
        training_run: called with the name of one of these; returns it with its curve.
        policies: returns the policies as they lie in the workspace.
        documents: called with an author, an id and a digest, of which an empty one counts for
            nothing; returns the documents that data versions hold.
        erasing: the jobs of erasing.
    """

    explain: Callable[[str, str], ExplainAnswer]
    audit: Callable[[str, str | None, OnCheck], AuditAnswer]
    review: Callable[[str, str], Reviewed]
    drafted_release: Callable[[str, str], tuple[Act, ...]]
    release: Callable[[str, str, acts.Sent], ReleaseAnswer]
    compare: Callable[[str, str], DiffAnswer]
    training_runs: Callable[[], RunsPage]
    training_run: Callable[[str], TrainingRun]
    policies: Callable[[], Sequence[Policy]]
    documents: Callable[[str, str, str], HeldDocuments]
    erasing: ErasureJobs


@dataclass(frozen=True, kw_only=True)
class Site:
    """The state of one server.

    Attributes:
        url: the registry's database.
        jobs: what pages may start.
        tokens: who may ask.
        hosts: the values of the Host header under which the server answers.
        limits: how much and how often one person may ask.
        saved: returns the searches that are kept in the workspace, each as one line.
        public: where browsers find it behind a proxy.
        after_write: called with the catalogue after each transaction that wrote.
        price: of an hour of one GPU.
    """

    url: str
    jobs: Jobs
    tokens: Tokens
    hosts: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    saved: Callable[[], Mapping[str, str]] = dict
    public: PublicAddress | None = None
    after_write: Callable[[Catalog], None] | None = None
    price: GpuPrice | None = None

    @cached_property
    def catalog(self) -> Catalog:
        """The catalogue, to read from."""
        return Catalog(self.url, actor="web")

    @cached_property
    def sessions(self) -> Sessions:
        """The browsers that are logged in."""
        return Sessions(self.tokens)

    @cached_property
    def wrong_tokens(self) -> Buckets:
        """How many wrong tokens an address may still try."""
        return Buckets()

    @cached_property
    def audits(self) -> Runs[AuditAnswer]:
        """Audits that were started here."""
        return Runs()

    @cached_property
    def explanations(self) -> Runs[ExplainAnswer]:
        """Explanations that were started here."""
        return Runs(MOST_WAITING, MOST_WAITING_EACH)

    @cached_property
    def acting(self) -> Callable[[str], Catalog]:
        """The catalogue as a person of this name writes in it."""
        return lru_cache(maxsize=64)(
            lambda name: Catalog(self.url, actor=name, after_write=self.after_write)
        )

    def left(self, name: str) -> bool:
        """Return whether a person was taken off the list of actors: their tokens open nothing."""
        person = self._roll(self.catalog.last()).get(name)
        return person is not None and not person.roles

    @cached_property
    def _roll(self) -> Callable[[int], Mapping[str, people.Actor]]:
        """The list of actors as of the newest event: read once until there is another."""
        return lru_cache(maxsize=1)(lambda last: people.roll(self.catalog))

    @cached_property
    def _checked(self) -> "dict[str, _Checked]":
        return {}

    def chain(self) -> Chain:
        """Return the log's chain with every link checked, CHAIN_HOLDS_S ago at the most."""
        last = self._checked.get(self.catalog.head())
        if last and time.monotonic() - last.at_s <= CHAIN_HOLDS_S:
            return last.chain
        chain = history.chain(self.catalog)
        self._checked.clear()
        self._checked[chain.head] = _Checked(time.monotonic(), chain)
        return chain

    def audit(self, ref: str, person: Person, head: str | None = None) -> Run[AuditAnswer]:
        """Start an audit.

        Args:
            ref: the subject.
            person: who asks.
            head: a digest that was noted earlier, which must still be in the log.

        Raises:
            Conflict: while another one runs.
            NotFound: where nothing of that name is registered.
        """
        subject = str(self.catalog.get(ref.strip()).ref)
        return self.audits.start(
            subject, person.name, lambda on_check: self.jobs.audit(subject, head, on_check)
        )

    def explain(self, build: str, text: str, person: Person) -> Run[ExplainAnswer]:
        """Start an explanation. The text is that token's own: nobody else sees the run.

        Raises:
            Conflict: where too many wait.
            NotFound: where nothing of that name is registered.
        """
        subject = str(self.catalog.get(build.strip()).ref)
        return self.explanations.start(
            subject, person.token, lambda _: self.jobs.explain(subject, text), text
        )

    def explanation(self, run_id: str, person: Person) -> Run[ExplainAnswer]:
        """Return an explanation that this token asked for. Raises NotFound."""
        run = self.explanations.get(run_id)
        if run.by != person.token:
            raise NotFound(
                f"run {run_id}", found="nothing", expected="one of your own", next="start one"
            )
        return run

    def review(self, ref: str, person: Person) -> Review:
        """Return what an approver needs to judge a build, and what that person would sign."""
        build = self.catalog.get(ref, BuildFacts)
        name = str(build.ref)
        reviewed = self.jobs.review(name, person.name)
        to_sign, why_not = self._to_sign(name, person)
        return Review(
            ref=name,
            status=self.catalog.status(build.ref),
            digest=build.digest,
            evidence=reviewed.evidence,
            verdict=reviewed.verdict,
            approvals=tuple(approving.approvals(self.catalog, build)),
            waivers=officer.relied_on(self.catalog, reviewed.evidence.waivers),
            due=officer.due_in(self.catalog, name, reviewed.evidence, SOON_DAYS),
            licence=officer.licence_line(self.catalog, build),
            since=reviewed.since,
            signed=person.name in {one.actor for one in approving.approvals(self.catalog, build)},
            to_sign=to_sign,
            why_not=why_not,
            closed=people.is_closed(self.catalog),
        )

    def _to_sign(self, ref: str, person: Person) -> tuple[ToSign | None, str]:
        """Return what the person would sign, or None and why they cannot."""
        if not person.may("approver"):
            return None, "your token carries no role approver"
        try:
            return self.to_sign(ref, person, ""), ""
        except BtxError as error:
            return None, f"{error.found}; expected {error.expected}"

    def to_sign(self, ref: str, person: Person, why: str) -> ToSign:
        """Draft a person's approval of a build, to be signed where their key is.

        Raises:
            Refused: where the person is no approver, or registered the build.
        """
        return self.drafted(approving.drafted(self.catalog, ref, person.name, why))

    def drafted(self, act: Act, by: str | None = None) -> ToSign:
        """Return an act with the bytes that its person signs where their key is.

        Args:
            act: what is signed.
            by: who signs it, where the act itself does not say.
        """
        payload, message = acts.to_sign(act)
        name = act.actor or by
        person = people.roll(self.catalog).get(name or "")
        if person is None or person.key_id is None:
            raise Refused(
                f"{act.act} {act.subject}",
                found=f"{name}, without a key on the list of actors",
                expected="a person on it",
                next="btx actor list",
            )
        return ToSign(
            act=act.to_json(),
            payload=_base64(payload),
            payload_type=people.ACT,
            message=_base64(message),
            keyid=person.key_id,
        )

    def release_statements(self, ref: str, person: Person) -> Statements:
        """Draft what a person signs to release a build.

        Raises:
            Refused: naming every rule of the gate that says no.
        """
        drafts = self.jobs.drafted_release(ref, person.name)
        return Statements(acts=tuple(map(self.drafted, drafts)))

    def withdrawal_statements(self, ref: str, person: Person, why: str) -> Statements:
        """Draft what a person signs to withdraw a version."""
        version = self.catalog.get(ref)
        act = acts.drafted_for(
            self.acting(person.name), "withdrawn", str(version.ref), version.digest, why
        )
        return Statements(acts=(self.drafted(act),))

    def approve(self, ref: str, person: Person, envelope: Envelope) -> Event:
        """Log an approval that the person drafted here and signed elsewhere.

        Raises:
            Refused: where it does not count, saying why.
        """
        return approving.admit(self.acting(person.name), ref, envelope)


@dataclass(frozen=True)
class _Checked:
    """A chain, and the second at which it was checked."""

    at_s: float
    chain: Chain


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
