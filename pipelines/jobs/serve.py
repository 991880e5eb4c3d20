"""Job: the registry as pages and a JSON API on this machine, for who holds a token.

In:  a workspace, an address.  Out: a server until it is stopped. The pages are registry.web's; here they are given the jobs.
Loopback only, unless a certificate is given: a token must not travel in the clear.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.jobs.audit import audit
from pipelines.jobs.release import build_evidence, release
from pipelines.workspace.workspace import Workspace, actor
from registry.catalogue.catalog import Catalog
from registry.errors import Conflict, Invalid
from registry.governance import gate
from registry.governance.policies import load
from registry.web.access import Tokens

try:
    import uvicorn

    from registry.web.app import application
    from registry.web.middleware import Limits
    from registry.web.runs import Heard
    from registry.web.site import Jobs, Site
except ImportError as error:  # the extra "web" is optional
    advice = "pip install 'btx-registry[web]'"
    raise Invalid(
        "btx serve", found=f"no {error.name}", expected="the packages of extra web", next=advice
    ) from None

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Address:
    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()  # further names under which browsers reach it
    cert: Path | None = None
    key: Path | None = None

    @property
    def scheme(self) -> str:
        return "https" if self.cert else "http"

    def hosts(self) -> tuple[str, ...]:
        """Values of the Host header that mean this server."""
        usual = {"http": 80, "https": 443}[self.scheme]
        names = [
            f"[{name}]" if ":" in name else name for name in (*LOOPBACK, self.host, *self.names)
        ]
        return tuple(
            dict.fromkeys(
                f"{name.lower()}:{self.port}" if self.port != usual else name.lower()
                for name in names
            )
        )


def tokens(workspace: Workspace) -> Tokens:
    return Tokens(workspace.root / ".btx" / "tokens.json")


def site(workspace: Workspace, address: Address, limits: Limits) -> Site:
    """The server's state, with the jobs bound to the workspace."""
    jobs = Jobs(
        explain=lambda build, text: _explained(workspace, build, text),
        audit=lambda ref, head, heard: _audited(workspace, ref, head, heard),
        review=lambda ref, by: _reviewed(workspace, ref, by),
        release=lambda ref, by: _released(workspace, ref, by),
    )
    return Site(
        url=workspace.registry_url,
        jobs=jobs,
        tokens=tokens(workspace),
        hosts=address.hosts(),
        limits=limits,
    )


def serve(
    workspace: Workspace, address: Address, roles: Sequence[str], *, reads_per_s: float, told: Any
) -> None:
    """Serve until interrupted. told: called with the address to open; the token in it is shown this once and ends with the server."""
    if address.host not in LOOPBACK and not (address.cert and address.key):
        advice = "--host 127.0.0.1 behind your own proxy, or --cert FILE --key FILE"
        raise Invalid(
            "btx serve",
            found=f"--host {address.host} without TLS",
            expected="a loopback address, or a certificate",
            next=advice,
        )
    made = site(workspace, address, Limits(reads=reads_per_s))
    secret, _ = made.tokens.issue(actor(), roles or ("viewer",), keep=False, days=7)
    config = uvicorn.Config(
        application(made),
        host=address.host,
        port=address.port,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
        ssl_certfile=address.cert,
        ssl_keyfile=address.key,
    )
    name = f"[{address.host}]" if ":" in address.host else address.host
    logger.info(
        "serving %s on %s port %d, at most %.0f reads a second for each token",
        workspace.root,
        address.host,
        address.port,
        reads_per_s,
    )
    told(f"{address.scheme}://{name}:{address.port}/login#{secret}")
    uvicorn.Server(config).run()
    logger.info("the server has stopped")


def _as(workspace: Workspace, name: str) -> Workspace:
    """The workspace as another person writes in it."""
    other = Workspace(workspace.root, workspace.settings)
    vars(other)["catalog"] = Catalog(
        workspace.registry_url, actor=name
    )  # in place of the account's own
    return other


def _explained(workspace: Workspace, build: str, text: str) -> dict[str, Any]:
    logger.info("explaining a text of %d characters by %s", len(text), build)
    # Imported here: a server that nobody asks to explain stays without torch.
    from pipelines.jobs.explain import explain

    return explain(workspace, build, text)


def _audited(workspace: Workspace, ref: str, head: str | None, heard: Heard) -> dict[str, Any]:
    logger.info("auditing %s", ref)
    return audit(workspace, ref, head=head, heard=heard)


def _reviewed(workspace: Workspace, ref: str, by: str) -> dict[str, Any]:
    """Evidence, and what gate release would say now if this person asked."""
    asking = _as(workspace, by)
    build = asking.catalog.get(ref)
    facts = build_evidence(asking, build)
    policies, at = load(workspace.policies), datetime.now(UTC)
    verdict = gate.check(
        asking.catalog,
        gate="release",
        subject=str(build.ref),
        kind="build",
        evidence=facts,
        policies=policies,
        at=at,
    )
    asking.catalog.close()
    return {"evidence": facts, "verdict": verdict.to_json()}


def _released(workspace: Workspace, ref: str, by: str) -> dict[str, Any]:
    if workspace.being_written:
        raise Conflict(
            f"release of {ref}",
            found="another command writing",
            expected="a quiet workspace",
            next="try again when it is done",
        )
    logger.info("%s asks for the release of %s", by, ref)
    asking = _as(workspace, by)
    try:
        return release(asking, ref)
    finally:
        asking.catalog.close()
