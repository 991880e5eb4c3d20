"""Serve the registry as pages and a JSON API on this machine, for whoever holds a token.

In:  a workspace, an address.  Out: a server until it is stopped.
The pages are `registry.web`'s; here they are given the jobs. Loopback only, unless a certificate
is given: a token must not travel unencrypted.
"""

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from pipelines.jobs import erase, gates
from pipelines.jobs.access_tokens import tokens
from pipelines.jobs.audit import AuditRequest, audit
from pipelines.jobs.diff import diff
from pipelines.jobs.find import saved_searches
from pipelines.jobs.release import build_evidence, drafted, release
from pipelines.jobs.training_runs import training_run, training_runs
from pipelines.workspace.document_index import Sought, find_documents
from pipelines.workspace.workspace import Workspace, actor
from registry.errors import Conflict, Invalid
from registry.governance import acts, gate
from registry.governance.as_of import AsOf
from registry.governance.erasure import Selection
from registry.governance.policies import Policy
from registry.governance.policy_files import load
from registry.records.answers.auditing import AuditAnswer, ExplainAnswer
from registry.records.answers.deciding import ReleaseAnswer, VerdictAnswer
from registry.records.answers.withdrawing import EraseAnswer
from registry.records.events import Act
from registry.records.evidence import BuildEvidence
from registry.records.facts import BuildFacts
from registry.records.kinds import Gate
from registry.records.officer_answers import HeldDocument, HeldDocuments

try:
    import uvicorn

    from registry.web.application import application
    from registry.web.connections import Network, bounded
    from registry.web.middleware import Limits
    from registry.web.public import LOOPBACK, PublicAddress
    from registry.web.runs import OnCheck
    from registry.web.site import ErasureJobs, Jobs, Reviewed, Site
except ModuleNotFoundError as error:
    # The extra "web" is optional.
    raise Invalid(
        "btx serve",
        found=f"no {error.name}",
        expected="the packages of extra web",
        next="pip install 'btx-registry[web]'",
    ) from None

logger = logging.getLogger(__name__)

USUAL_PORTS = {"http": 80, "https": 443}
TOKEN_DAYS = 7  # of the token that a start prints; it ends with the server anyway


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the server listens.

    Attributes:
        host: the address.
        port: the TCP port.
        names: further names under which browsers reach it.
        cert: TLS certificate, PEM.
        key: its key, PEM.
        public: where browsers find it behind a proxy.
        proxies: addresses or networks of proxies whose word on who asks is taken.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()
    cert: Path | None = None
    key: Path | None = None
    public: PublicAddress | None = None
    proxies: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        """Which of http and https is spoken."""
        return "https" if self.cert else "http"

    @property
    def url(self) -> str:
        """The first page."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"

    def hosts(self) -> tuple[str, ...]:
        """Return the values of the Host header that mean this server."""
        port = "" if self.port == USUAL_PORTS[self.scheme] else f":{self.port}"
        names = dict.fromkeys((*LOOPBACK, self.host, *self.names))
        own = tuple(f"{_bracketed(name)}{port}".lower() for name in names)
        return (*own, self.public.host) if self.public else own

    def networks(self) -> tuple[Network, ...]:
        """Return the networks of the trusted proxies. Raises Invalid for what is none."""
        try:
            return tuple(ip_network(proxy) for proxy in self.proxies)
        except ValueError as error:
            raise Invalid(
                "--trusted-proxy",
                found=str(error),
                expected="an address, or a network",
                next="btx serve --public-url URL --trusted-proxy 10.0.0.7",
            ) from None

    def check(self) -> None:
        """Raise Invalid where a token would travel unencrypted."""
        # The proxy speaks TLS to browsers, and alone is answered.
        behind = bool(self.public and self.proxies)
        if self.host not in LOOPBACK and not (self.cert and self.key) and not behind:
            raise Invalid(
                "btx serve",
                found=f"--host {self.host} without TLS",
                expected="a loopback address, or a certificate",
                next="--public-url URL --trusted-proxy ADDRESS, or --cert FILE --key FILE",
            )


def site(workspace: Workspace, address: Address, limits: Limits) -> Site:
    """Return the server's state, with the jobs bound to the workspace."""
    jobs = WorkspaceJobs(workspace)
    return Site(
        url=workspace.registry_url,
        jobs=Jobs(
            explain=jobs.explain,
            audit=jobs.audit,
            review=jobs.review,
            drafted_release=jobs.drafted_release,
            release=jobs.release,
            compare=lambda left, right: diff(workspace, left, right),
            training_runs=lambda: training_runs(workspace),
            training_run=lambda name: training_run(workspace, name),
            policies=jobs.policies,
            documents=jobs.documents,
            erasing=ErasureJobs(
                look_ahead=jobs.look_ahead_of_erasure,
                drafted=jobs.drafted_erasure,
                ask=jobs.ask_erasure,
                waiting=jobs.waiting_erasures,
                drafted_confirmation=jobs.drafted_confirmation,
                confirm=jobs.confirm_erasure,
            ),
        ),
        tokens=tokens(workspace),
        hosts=address.hosts(),
        limits=limits,
        saved=lambda: _searches(workspace),
        public=address.public,
        after_write=workspace.write_ledger,
        price=workspace.settings.cost.price(),
    )


def _searches(workspace: Workspace) -> dict[str, str]:
    """Return the saved searches, each as a person would type it."""
    saved = saved_searches(workspace)
    return {name: shlex.join(one.terms) for name, one in saved.items()}


def serve(
    workspace: Workspace,
    address: Address,
    roles: Sequence[str],
    *,
    reads_per_s: float,
    on_start: Callable[[str], None],
) -> None:
    """Serve until interrupted.

    Args:
        workspace: what is served.
        address: where.
        roles: of the token that this start makes; none means viewer.
        reads_per_s: how many requests a second one token may read with.
        on_start: called with the address to open. The token in it is shown this once, and ends
            with the server.

    Raises:
        Invalid: for an address other than loopback without a certificate.
    """
    address.check()
    state = site(workspace, address, Limits(reads=reads_per_s))
    secret, _ = state.tokens.issue(actor(), roles or ("viewer",), days=TOKEN_DAYS, keep=False)
    config = uvicorn.Config(
        application(state),
        http=bounded(address.networks()),
        host=address.host,
        port=address.port,
        log_level="warning",
        server_header=False,
        proxy_headers=bool(address.proxies),
        forwarded_allow_ips=list(address.proxies),
        timeout_graceful_shutdown=2,
        ssl_certfile=address.cert,
        ssl_keyfile=address.key,
    )
    logger.info(
        "serving %s on %s port %d, at most %.0f reads a second for each token",
        workspace.root,
        address.host,
        address.port,
        reads_per_s,
    )
    at = address.public.url if address.public else address.url
    on_start(f"{at}/login#{secret}")
    uvicorn.Server(config).run()
    logger.info("the server has stopped")


@dataclass(frozen=True)
class WorkspaceJobs:
    """The jobs that pages start, in one workspace."""

    workspace: Workspace

    def explain(self, build: str, text: str) -> ExplainAnswer:
        """Explain every token of a text by a build."""
        logger.info("explaining a text of %d characters by %s", len(text), build)
        # Imported here: a server that nobody asks to explain stays without torch.
        from pipelines.jobs.explain import explain

        return explain(self.workspace, build, text)

    def audit(self, ref: str, head: str | None, on_check: OnCheck) -> AuditAnswer:
        """Audit a version and all that it was made from."""
        logger.info("auditing %s", ref)
        return audit(self.workspace, ref, AuditRequest(head=head), on_check)

    def review(self, ref: str, by: str) -> Reviewed:
        """Return the evidence on a build, and what gate release would say now if `by` asked."""
        with self._acting_as(by) as asking:
            build = asking.catalog.get(ref, BuildFacts)
            known = build_evidence(asking, build)
            # The person signs in the browser, so their key counts as at hand.
            key = acts.Sent(drafting=True)
            question = gates.question(asking, Gate.RELEASE, str(build.ref), known, key)
            verdict = gates.check(asking.catalog, question)
            # With waivers and own facts, which the log knows.
            evidence = gate.completed(asking.catalog, question)
            assert isinstance(evidence, BuildEvidence)
            before = AsOf(asking.catalog).last_release(build)
            since = diff(asking, str(before.ref), str(build.ref)) if before else None
        answer = VerdictAnswer.from_json(verdict.to_json(), f"verdict on {ref}")
        return Reviewed(evidence=evidence, verdict=answer, since=since)

    def drafted_release(self, ref: str, by: str) -> tuple[Act, ...]:
        """Return what `by` signs to release a build. Raises Refused where the gate says no."""
        with self._acting_as(by) as asking:
            return drafted(asking, ref)

    def release(self, ref: str, by: str, sent: acts.Sent) -> ReleaseAnswer:
        """Release a build in the name of `by`, who signed it elsewhere.

        Raises:
            Conflict: while a command writes, since a browser does not wait so long.
            Refused: naming every rule that said no.
        """
        self._require_quiet(f"release of {ref}")
        logger.info("%s asks for the release of %s", by, ref)
        with self._acting_as(by) as asking:
            return release(asking, ref, sent)

    def policies(self) -> Sequence[Policy]:
        """Return the policies as they lie in the workspace."""
        return load(self.workspace.policies)

    def documents(self, author: str, id: str, digest: str) -> HeldDocuments:
        """Return the documents that data versions hold by this author, id or digest.

        Raises:
            Invalid: where none of them is given.
        """
        if not (author or id or digest):
            raise Invalid(
                "documents",
                found="nothing to look for",
                expected="an author, an id or a digest",
                next="name one",
            )
        logger.info("looking for documents")
        sought = Sought(author=author or None, id=id or None, digest=digest or None)
        found = find_documents(self.workspace, sought)
        catalog = self.workspace.catalog
        status = {ref: str(catalog.status(ref)) for ref in found.versions}
        lines = []
        for one in found.documents:
            about = one.document.about
            line = HeldDocument(
                ref=one.ref,
                status=status[one.ref],
                file=one.document.file,
                number=one.document.number,
                id=about.id,
                authors=tuple(about.authors),
                digest=one.document.digest,
            )
            lines.append(line)
        return HeldDocuments(documents=tuple(lines), not_here=found.not_here)

    def look_ahead_of_erasure(self, selected: Selection) -> EraseAnswer:
        """Say what an erasure would take away and cost."""
        return erase.look_ahead(self.workspace, selected)

    def drafted_erasure(self, selected: Selection, by: str) -> tuple[Act, ...]:
        """Return what `by` signs to ask for an erasure."""
        with self._acting_as(by) as asking:
            return erase.drafted(asking, selected)

    def ask_erasure(self, selected: Selection, why: str, by: str, sent: acts.Sent) -> EraseAnswer:
        """Ask for an erasure in the name of `by`."""
        with self._acting_as(by) as asking:
            return erase.ask(asking, selected, why, sent)

    def waiting_erasures(self) -> Sequence[EraseAnswer]:
        """Return the erasures that wait for a second person."""
        return erase.waiting(self.workspace)

    def drafted_confirmation(self, number: int, by: str) -> tuple[Act, ...]:
        """Return what `by` signs to confirm an erasure."""
        with self._acting_as(by) as asking:
            return erase.drafted_confirmation(asking, number)

    def confirm_erasure(self, number: int, by: str, sent: acts.Sent) -> EraseAnswer:
        """Confirm an erasure in the name of `by`, and delete the bytes.

        Raises:
            Conflict: while a command writes, since a browser does not wait so long.
        """
        self._require_quiet(f"erasure {number}")
        logger.info("%s confirms erasure %d", by, number)
        with self._acting_as(by) as asking:
            return erase.confirm(asking, number, sent)

    @contextmanager
    def _acting_as(self, name: str) -> Iterator[Workspace]:
        """Open the workspace in another person's name, and close their catalogue at the end."""
        asking = self.workspace.acting_as(name)
        with closing(asking.catalog):
            yield asking

    def _require_quiet(self, what: str) -> None:
        if self.workspace.being_written:
            raise Conflict(
                what,
                found="another command writing",
                expected="a quiet workspace",
                next="try again when it is done",
            )


def _bracketed(host: str) -> str:
    """Return a host as addresses write it."""
    return f"[{host}]" if ":" in host else host
