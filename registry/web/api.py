"""The JSON API: everything that a page shows, and the few things that may be done.

In:  a request with a token (Authorization: Bearer) or a session.  Out: answers in the form of schemas.py, described under /api/openapi.json.
Reading needs any token; each write names its role. Errors are Problems.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from fastapi.security import HTTPBearer

from registry.errors import Refused
from registry.formats import FORMATS, collect, render
from registry.web import schemas, views
from registry.web.access import Person
from registry.web.runs import Run
from registry.web.site import Site

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": schemas.Problem, "description": "not readable, or another host"},
    401: {"model": schemas.Problem, "description": "no token that holds"},
    403: {"model": schemas.Problem, "description": "not with these roles, or refused by a rule"},
    404: {"model": schemas.Problem, "description": "nothing of that name"},
    409: {"model": schemas.Problem, "description": "in the way of something there"},
    413: {"model": schemas.Problem, "description": "too large"},
    422: {"model": schemas.Problem, "description": "words that cannot be read"},
    429: {"model": schemas.Problem, "description": "too often"},
    503: {"model": schemas.Problem, "description": "the database cannot be reached now"},
}
KINDS = {
    "data": "data",
    "seeds": "seed",
    "experts": "expert",
    "builds": "build",
    "snapshots": "snapshot",
}
MIME = {"html": "text/html", "md": "text/markdown", "model-card": "text/markdown"}
STEP_S = 0.2  # between looks at a running audit

Number = Annotated[int, Path(ge=1, le=999_999_999)]
Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
RunId = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]
RefQuery = Annotated[str, Query(min_length=4, max_length=100, examples=["data/math@1"])]


def site(request: Request) -> Site:
    return request.app.state.site  # type: ignore[no-any-return]


def person(request: Request) -> Person:
    """Who asks. 401 for a stranger; a session's write must carry its CSRF word, since the browser sends the cookie by itself."""
    found = identified(site(request), request.headers)
    if found is None:
        raise HTTPException(401, "no token that holds", {"www-authenticate": "Bearer"})
    if (
        found.csrf
        and request.method not in ("GET", "HEAD")
        and request.headers.get("x-csrf") != found.csrf
    ):
        raise HTTPException(403, "no CSRF word of this session")
    return found


def identified(of: Site, headers: Any) -> Person | None:
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    bearer = secret.strip() if scheme else None
    return of.sessions.person(
        bearer=bearer if scheme.lower() == "bearer" or not scheme else "", cookie=_cookie(headers)
    )


def _cookie(headers: Any) -> str | None:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "btx":
            return str(value)
    return None


def role(name: str) -> Callable[[Person], Person]:
    """The person, where they may. 403 names the role."""

    def needed(asking: Annotated[Person, Depends(person)]) -> Person:
        if not asking.may(name):
            raise Refused(
                "request",
                found=f"a token with {', '.join(asking.roles)}",
                expected=f"role {name}",
                next="ask for such a token",
            )
        return asking

    return needed


Here = Annotated[Site, Depends(site)]
Viewer = Annotated[Person, Depends(person)]
Registrar = Annotated[Person, Depends(role("registrar"))]
Approver = Annotated[Person, Depends(role("approver"))]
Auditor = Annotated[Person, Depends(role("auditor"))]

# HTTPBearer says in the description what `person` checks; it lets everything pass.
router = APIRouter(
    prefix="/api",
    responses=PROBLEMS,
    dependencies=[Depends(person), Depends(HTTPBearer(auto_error=False))],
)


@router.get("/me", response_model=schemas.Me)
def me(asking: Viewer) -> Any:
    return {"name": asking.name, "roles": asking.roles}


@router.get("/overview", response_model=schemas.Overview)
def overview(here: Here) -> Any:
    return views.overview(here.catalog)


@router.get("/versions/{kind}", response_model=schemas.Listing)
def versions(
    here: Here,
    kind: Annotated[str, Path(pattern=f"^({'|'.join(KINDS)})$")],
    start: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    text: Annotated[str, Query(max_length=100)] = "",
) -> Any:
    return views.listing(here.catalog, KINDS[kind], start, text)


@router.get("/experts/{name}/{version}", response_model=schemas.Detail)
def expert(here: Here, name: Name, version: Number) -> Any:
    return views.detail(here.catalog, f"expert/{name}@{version}")


@router.get("/data/{name}/{version}", response_model=schemas.Detail)
def data(here: Here, name: Name, version: Number) -> Any:
    return views.detail(here.catalog, f"data/{name}@{version}")


@router.get("/seeds/{name}/{version}", response_model=schemas.Detail)
def seed(here: Here, name: Name, version: Number) -> Any:
    return views.detail(here.catalog, f"seed/{name}@{version}")


@router.get("/snapshots/{name}/{version}", response_model=schemas.Detail)
def snapshot(here: Here, name: Name, version: Number) -> Any:
    return views.detail(here.catalog, f"snapshot/{name}@{version}")


@router.get("/builds/{number}", response_model=schemas.Detail)
def build(here: Here, number: Number) -> Any:
    return views.detail(here.catalog, f"build/{number}")


@router.get(
    "/reports/{form}",
    response_class=Response,
    responses={200: {"content": {kind: {} for kind in (*MIME.values(), "application/json")}}},
)
def report(
    here: Here, ref: RefQuery, form: Annotated[str, Path(pattern=f"^({'|'.join(FORMATS)})$")]
) -> Response:
    """What is recorded of one version, as a file to download."""
    dossier = collect(here.catalog, ref)
    name = (
        dossier.ref.replace("/", "-").replace("@", "-")
        + "."
        + ("html" if form == "html" else "md" if form in MIME else f"{form}.json")
    )
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "content-security-policy": "sandbox",
    }
    return Response(
        render(dossier, form), media_type=MIME.get(form, "application/json"), headers=headers
    )


@router.get("/lineage", response_model=schemas.Lineage)
def lineage(here: Here, ref: RefQuery, most: Annotated[int, Query(ge=1, le=1000)] = 200) -> Any:
    return views.around(here.catalog, ref, most)


@router.get("/impact", response_model=schemas.Impact)
def impact(here: Here, ref: RefQuery) -> Any:
    return views.impact(here.catalog, ref)


@router.get("/events", response_model=schemas.Events)
def events(
    here: Here,
    kind: Annotated[str, Query(max_length=40)] = "",
    subject: Annotated[str, Query(max_length=100)] = "",
    actor: Annotated[str, Query(max_length=64)] = "",
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Any:
    return views.events(
        here.catalog, kind=kind, subject=subject, actor=actor, before=before, limit=limit
    )


@router.get("/documents/{digest}", response_model=dict[str, Any])
def document(here: Here, digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$")]) -> Any:
    """Policies or evidence, as they were when a gate decided."""
    return here.catalog.document(digest)


@router.get("/chain", response_model=schemas.Chain)
def chain(here: Here, pinned: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None) -> Any:
    """Every link of the log, checked now."""
    return views.chain(here.catalog, pinned)


@router.post("/explanations", response_model=schemas.Explanation)
async def explain(here: Here, asked: schemas.ExplainAsked, asking: Viewer) -> Any:
    """Asynchronous: who waits for the weights holds no thread that another request needs."""
    run = await run_in_threadpool(here.explain, asked.build, asked.text, asking)
    while run.state == "running":
        await asyncio.sleep(STEP_S)
    if run.error:
        raise run.error
    return run.answer


@router.get("/audits", response_model=list[schemas.AuditRun])
def audits(here: Here) -> Any:
    return [run.to_json() for run in here.audits.all()]


@router.post("/audits", response_model=schemas.AuditRun, status_code=202)
def start_audit(here: Here, asked: schemas.AuditAsked, asking: Auditor) -> Any:
    return here.audit(asked.ref, asking, asked.head).to_json()


@router.get("/audits/{id}", response_model=schemas.AuditRun)
def audit(here: Here, id: RunId) -> Any:
    return here.audits.get(id).to_json()


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


def _watched(run: Run) -> StreamingResponse:
    async def told() -> AsyncIterator[str]:
        seen = -1
        while True:
            state, grown = run.state, run.grown
            if grown != seen:
                seen = grown
                yield f"data: {json.dumps(run.to_json())}\n\n"
            if state != "running":
                return
            await asyncio.sleep(STEP_S)

    return StreamingResponse(told(), media_type="text/event-stream")


@router.get("/builds/{number}/review", response_model=schemas.Review)
def review(here: Here, number: Number, asking: Viewer) -> Any:
    """Evidence and verdict of gate release as they stand now, and what the asking person would sign."""
    return here.review(f"build/{number}", asking)


@router.get("/builds/{number}/statement", response_model=schemas.ToSign)
def statement(
    here: Here, number: Number, asking: Approver, why: Annotated[str, Query(max_length=2000)] = ""
) -> Any:
    """The asking person's approval, to be signed where their key is."""
    return here.to_sign(f"build/{number}", asking, why)


@router.get("/builds/{number}/approvals", response_model=list[schemas.Envelope])
def approvals(here: Here, number: Number) -> Any:
    """The approvals as they were signed: DSSE envelopes that anybody with the public key can check."""
    return [
        event.body["envelope"]
        for event in here.catalog.events(here.catalog.get(f"build/{number}").ref, "approved")
    ]


@router.post("/builds/{number}/approvals", response_model=schemas.Done, status_code=201)
def approve(here: Here, number: Number, envelope: schemas.Envelope, asking: Approver) -> Any:
    """Hand in a signed statement. It counts once, for this very build, while it is fresh."""
    event = here.approve(f"build/{number}", asking, envelope.model_dump())
    return {"ref": event.subject, "status": here.catalog.status(event.subject), "by": event.actor}


@router.post("/builds/{number}/release", response_model=schemas.Done)
def release(here: Here, number: Number, asking: Registrar) -> Any:
    answer = here.jobs.release(f"build/{number}", asking.name)
    return {"ref": answer["ref"], "status": answer["status"], "by": asking.name}


@router.post("/withdrawals", response_model=schemas.Done, status_code=201)
def withdraw(here: Here, asked: schemas.WithdrawAsked, asking: Registrar) -> Any:
    event = here.acting(asking.name).withdraw(asked.ref, asked.why)
    return {"ref": event.subject, "status": here.catalog.status(event.subject), "by": event.actor}
