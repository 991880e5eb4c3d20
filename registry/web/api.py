"""The JSON API: everything that a page shows, and the few things that may be done.

In:  a request with a token (Authorization: Bearer) or a session.
Out: records of `records.answers` and `records.pages`, described under /api/openapi.json.
Reading needs any token; each write names its role. Every error is an ErrorAnswer.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers

from registry.errors import NotFound, Refused
from registry.formats import FORMATS, PAGES, collect, public, render
from registry.governance import acts, contesting, lookup, people
from registry.records.answers.answer import Answer
from registry.records.answers.auditing import ExplainAnswer
from registry.records.answers.failure import ErrorAnswer
from registry.records.answers.shown import DiffAnswer
from registry.records.base import JsonObject
from registry.records.events import Acted, Envelope
from registry.records.facts import BuildFacts
from registry.records.kinds import Kind
from registry.records.pages import (
    AuditRun,
    BuildPage,
    Chain,
    Done,
    ExpertPage,
    ImpactPage,
    LineagePage,
    ListedLine,
    Listing,
    LogPage,
    Me,
    Overview,
    Review,
    RunsPage,
    Statements,
    ToSign,
    TrainingRun,
    VersionPage,
)
from registry.web import history, relations, views
from registry.web.access import Person
from registry.web.requests import (
    ExplainRequest,
    LogQuery,
    SentEnvelope,
    SignedRequest,
    StartAudit,
    WithdrawRequest,
)
from registry.web.runs import Run
from registry.web.site import Site

COOKIE = "btx"
# Any, since FastAPI wants parts of an OpenAPI document here.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        400: "not readable, or another host",
        401: "no token that is valid",
        403: "not with these roles, or refused by a rule",
        404: "nothing of that name",
        409: "something else is there, or under way",
        413: "too large",
        422: "text that cannot be read",
        429: "too often",
        503: "the database cannot be reached now",
    }.items()
}
KINDS: Mapping[str, Kind] = {
    "data": Kind.DATA,
    "seeds": Kind.SEED,
    "experts": Kind.EXPERT,
    "builds": Kind.BUILD,
    "snapshots": Kind.SNAPSHOT,
    "exports": Kind.EXPORT,
}
MEDIA_TYPES = {
    "html": "text/html",
    "md": "text/markdown",
    "model-card": "text/markdown",
    "openlineage": "application/x-ndjson",  # an event a line
}
JSON = "application/json"
LOOK_EVERY_S = 0.2  # at something that is under way

A = TypeVar("A", bound=Answer)
Number = Annotated[int, Path(ge=1, le=999_999_999)]
Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
RunId = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]
RefQuery = Annotated[str, Query(min_length=4, max_length=100, examples=["data/math@1"])]


def site(request: Request) -> Site:
    """Return the server's state."""
    return request.app.state.site  # type: ignore[no-any-return]  # FastAPI's state is untyped


def person(request: Request) -> Person:
    """Return who asks: 401 for a stranger.

    A write of a session must carry its CSRF token, since the browser sends the cookie by itself.
    """
    asking = admitted(site(request), request.headers)
    if asking is None:
        raise HTTPException(401, "no token that is valid", {"www-authenticate": "Bearer"})
    writes = request.method not in ("GET", "HEAD")
    if asking.csrf and writes and request.headers.get("x-csrf") != asking.csrf:
        raise HTTPException(403, "no CSRF token of this session")
    return asking


def admitted(here: Site, headers: Headers) -> Person | None:
    """Return who sent a request, or None for a stranger and for who left the list of actors."""
    asking = identified(here, headers)
    return None if asking is None or here.left(asking.name) else asking


def identified(here: Site, headers: Headers) -> Person | None:
    """Return who sent a request with these headers, or None for a stranger."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    bearer = None
    if scheme:
        # A header of another scheme names a token that opens nothing.
        bearer = secret.strip() if scheme.lower() == "bearer" else ""
    return here.sessions.person(bearer=bearer, cookie=_cookie(headers))


def _cookie(headers: Headers) -> str | None:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return None


def require(asking: Person, *roles: str) -> None:
    """Raise Refused where the person has none of the roles, naming them."""
    if not any(asking.may(role) for role in roles):
        raise Refused(
            "request",
            found=f"a token with {', '.join(asking.roles)}",
            expected=f"role {' or '.join(roles)}",
            next="ask for such a token",
        )


def with_role(*roles: str) -> Callable[[Person], Person]:
    """Return the dependency that lets only people with one of the roles ask."""

    def needed(asking: Annotated[Person, Depends(person)]) -> Person:
        require(asking, *roles)
        return asking

    return needed


Here = Annotated[Site, Depends(site)]
Viewer = Annotated[Person, Depends(person)]
Registrar = Annotated[Person, Depends(with_role("registrar"))]
Approver = Annotated[Person, Depends(with_role("approver"))]
Auditor = Annotated[Person, Depends(with_role("auditor"))]
Acting = Annotated[Person, Depends(with_role(*people.ROLES))]


def api_router() -> APIRouter:
    """Return a router below /api that answers nobody without a token or a session."""
    # HTTPBearer says in the description what `person` checks; it lets everything pass.
    return APIRouter(
        prefix="/api",
        responses=PROBLEMS,
        dependencies=[Depends(person), Depends(HTTPBearer(auto_error=False))],
    )


router = api_router()


@router.get("/me")
def me(asking: Viewer) -> Me:
    """Who asks."""
    return Me(name=asking.name, roles=asking.roles)


@router.get("/overview")
def overview(here: Here) -> Overview:
    """How the registry stands: what is released, what waits, gain and cost, the newest events."""
    return views.overview(here.catalog, here.price)


@router.get("/versions/{kind}")
def versions(
    here: Here,
    kind: Annotated[str, Path(pattern=f"^({'|'.join(KINDS)})$")],
    start: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    text: Annotated[str, Query(max_length=100)] = "",
) -> Listing:
    """A page of versions, newest first; `text` is a part of the reference."""
    return views.listing(here.catalog, KINDS[kind], start, text)


@router.get("/experts/{name}/{version}")
def expert(here: Here, name: Name, version: Number) -> ExpertPage:
    """Everything recorded of an expert."""
    return views.expert_page(here.catalog, f"expert/{name}@{version}")


@router.get("/data/{name}/{version}")
def data(here: Here, name: Name, version: Number) -> VersionPage:
    """Everything recorded of a data version."""
    return views.version_page(here.catalog, f"data/{name}@{version}")


@router.get("/seeds/{name}/{version}")
def seed(here: Here, name: Name, version: Number) -> VersionPage:
    """Everything recorded of a seed."""
    return views.version_page(here.catalog, f"seed/{name}@{version}")


@router.get("/snapshots/{name}/{version}")
def snapshot(here: Here, name: Name, version: Number) -> VersionPage:
    """Everything recorded of a snapshot."""
    return views.version_page(here.catalog, f"snapshot/{name}@{version}")


@router.get("/exports/{name}/{version}")
def export(here: Here, name: Name, version: Number) -> VersionPage:
    """Everything recorded of an export."""
    return views.version_page(here.catalog, f"export/{name}@{version}")


@router.get("/lines")
def lines(here: Here) -> list[ListedLine]:
    """The product lines that have a build."""
    return [*views.lines(here.catalog)]


@router.get("/compare")
def compare(here: Here, left: RefQuery, right: RefQuery) -> DiffAnswer:
    """What differs between two versions of one kind, as `btx diff` tells it."""
    return here.jobs.compare(left, right)


@router.get("/runs")
def training_runs(here: Here) -> RunsPage:
    """What runs in the workspace, and every training and tuning that left metrics."""
    return here.jobs.training_runs()


@router.get("/runs/{name}")
def training_run(here: Here, name: Name) -> TrainingRun:
    """One training or tuning with its curve, as far as it has come."""
    return here.jobs.training_run(name)


@router.get("/builds/{number}")
def build(here: Here, number: Number) -> BuildPage:
    """Everything recorded of a build."""
    return views.build_page(here.catalog, f"build/{number}")


@router.get(
    "/reports/{form}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in (*MEDIA_TYPES.values(), JSON)}}},
)
def report(
    here: Here,
    ref: RefQuery,
    form: Annotated[str, Path(pattern=f"^({'|'.join(FORMATS)})$")],
    outside: Annotated[bool, Query(alias="public", description="the form for everybody")] = False,
) -> Response:
    """What is recorded of one version, as a file to download."""
    dossier = collect(here.catalog, ref)
    shown = public(dossier) if outside else dossier
    name = dossier.ref.replace("/", "-").replace("@", "-")
    suffixes = {"html": "html", "md": "md", "model-card": "md"}
    suffix = f"{form}.html" if form in PAGES else suffixes.get(form, f"{form}.json")
    headers = {
        "content-disposition": f'attachment; filename="{name}.{suffix}"',
        "content-security-policy": "sandbox",
    }
    media_type = MEDIA_TYPES["html"] if form in PAGES else MEDIA_TYPES.get(form, JSON)
    return Response(render(shown, form, as_page=True), media_type=media_type, headers=headers)


@router.get(
    "/search",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}, JSON: {}}}},
)
def search(
    here: Here,
    q: Annotated[str, Query(max_length=500, description="terms, such as holder=Acme")] = "",
    file_format: Annotated[str, Query(alias="format", pattern="^(json|csv)$")] = "json",
) -> Response:
    """The versions of which every term holds, as `btx search` finds them."""
    rows = lookup.search(here.catalog, lookup.split_words(q))
    if file_format == "csv":
        headers = {"content-disposition": 'attachment; filename="search.csv"'}
        return Response(lookup.as_csv(rows), media_type="text/csv", headers=headers)
    text = json.dumps([row.to_json() for row in rows], ensure_ascii=False)
    return Response(text, media_type=JSON)


@router.get("/lineage", response_model_exclude_none=True)
def lineage(
    here: Here, ref: RefQuery, most: Annotated[int, Query(ge=1, le=1000)] = 200
) -> LineagePage:
    """What a version was made from and what was made from it, the nearest first."""
    return relations.around(here.catalog, ref, most)


@router.get("/impact")
def impact(here: Here, ref: RefQuery) -> ImpactPage:
    """What withdrawing a version reaches, and the rebuild that cures it."""
    return relations.impact(here.catalog, ref)


@router.get("/events")
def events(here: Here, wanted: Annotated[LogQuery, Query()]) -> LogPage:
    """The audit log, newest first."""
    return history.events(here.catalog, wanted)


@router.get("/documents/{digest}")
def document(here: Here, digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]) -> JsonObject:
    """Policies or evidence, as they were when a gate decided."""
    kept: JsonObject = here.catalog.document(digest)
    return kept


@router.get("/chain")
def chain(
    here: Here, pinned: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None
) -> Chain:
    """Every link of the log, checked now."""
    return history.chain(here.catalog, pinned)


@router.post("/explanations")
async def explain(here: Here, asked: ExplainRequest, asking: Viewer) -> ExplainAnswer:
    """Which experts each token of a text is computed with. It may wait for others to end."""
    run = await run_in_threadpool(here.explain, asked.build, asked.text, asking)
    # Asynchronous: who waits for the weights holds no thread that another request needs.
    while run.state == "running":
        await asyncio.sleep(LOOK_EVERY_S)
    return answer_of(run)


def answer_of(run: Run[A]) -> A:
    """Return the answer of a run that has ended, or raise its error."""
    if run.error:
        raise run.error
    if run.answer is None:
        raise NotFound(f"run {run.id}", found="no answer", expected="a run that has ended")
    return run.answer


@router.get("/audits")
def audits(here: Here) -> list[AuditRun]:
    """The audits that were started here, newest first."""
    return [run.record() for run in here.audits.all()]


@router.post("/audits", status_code=202)
def start_audit(here: Here, asked: StartAudit, asking: Auditor) -> AuditRun:
    """Start an audit."""
    return here.audit(asked.ref, asking, asked.head).record()


@router.get("/audits/{id}")
def audit(here: Here, id: RunId) -> AuditRun:
    """An audit as far as it has come."""
    return here.audits.get(id).record()


@router.get(
    "/audits/{id}/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def watch_audit(here: Here, id: RunId) -> StreamingResponse:
    """Server-sent events: the run as it grows, until it is done."""
    return _watched(here.audits.get(id))


@router.get(
    "/explanations/{id}/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def watch_explanation(here: Here, id: RunId, asking: Viewer) -> StreamingResponse:
    """Server-sent events of an explanation that this token asked a page for."""
    return _watched(here.explanation(id, asking))


def _watched(run: Run[A]) -> StreamingResponse:
    async def growing() -> AsyncIterator[str]:
        seen = -1
        while True:
            state, changes = run.state, run.changes
            if changes != seen:
                seen = changes
                yield f"data: {json.dumps(run.record().to_json())}\n\n"
            if state != "running":
                return
            await asyncio.sleep(LOOK_EVERY_S)

    return StreamingResponse(growing(), media_type="text/event-stream")


@router.get("/builds/{number}/review")
def review(here: Here, number: Number, asking: Viewer) -> Review:
    """Evidence and verdict of gate release as they stand now, and what the person would sign."""
    return here.review(f"build/{number}", asking)


@router.get("/builds/{number}/statement")
def statement(
    here: Here, number: Number, asking: Approver, why: Annotated[str, Query(max_length=2000)] = ""
) -> ToSign:
    """The asking person's approval, to be signed where their key is."""
    return here.to_sign(f"build/{number}", asking, why)


@router.get("/builds/{number}/approvals")
def approvals(here: Here, number: Number) -> list[Envelope]:
    """The approvals as they were signed: envelopes that anybody with the public key can check."""
    build = here.catalog.get(f"build/{number}", BuildFacts)
    approved = [event.read(Acted) for event in here.catalog.events(build.ref, "approved")]
    return [act.envelope for act in approved if act.envelope]


@router.post("/builds/{number}/approvals", status_code=201)
def approve(here: Here, number: Number, envelope: SentEnvelope, asking: Approver) -> Done:
    """Hand in a signed statement. It counts once, for this very build, while it is fresh."""
    event = here.approve(f"build/{number}", asking, envelope.record())
    return _done(here, event.subject, event.actor)


@router.get("/builds/{number}/release-statement")
def release_statement(here: Here, number: Number, asking: Registrar) -> Statements:
    """What the asking person signs to release a build: the gate's verdict, and the release."""
    return here.release_statements(f"build/{number}", asking)


@router.post("/builds/{number}/release")
def release(
    here: Here, number: Number, asking: Registrar, signed: SignedRequest | None = None
) -> Done:
    """Release a build, where gate release allows it; signed where the list of actors is closed."""
    sent = signed.sent() if signed else acts.Sent()
    answer = here.jobs.release(f"build/{number}", asking.name, sent)
    return Done(ref=answer.ref, status=answer.status, by=asking.name)


@router.get("/withdrawal-statement")
def withdrawal_statement(
    here: Here,
    ref: RefQuery,
    why: Annotated[str, Query(min_length=1, max_length=2000)],
    asking: Acting,
) -> Statements:
    """What the asking person signs to withdraw a version."""
    return here.withdrawal_statements(ref, asking, why)


@router.post("/withdrawals", status_code=201)
def withdraw(here: Here, asked: WithdrawRequest, asking: Acting) -> Done:
    """Withdraw a version, for good; signed where the list of actors is closed."""
    event = contesting.withdraw(here.acting(asking.name), asked.ref, asked.why, asked.sent())
    return _done(here, event.subject, event.actor)


def _done(here: Site, ref: str, by: str) -> Done:
    return Done(ref=ref, status=here.catalog.status(ref), by=by)
