"""The pages: the API's facts, laid out as HTML; forms for the few things that may be done.

In:  a request of a logged-in browser.  Out: HTML, or after a form that did something, the page that shows it.
"""

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from btx_core.problems import BtxError
from registry.errors import Refused
from registry.web import api, charts, graph, views
from registry.web.access import SESSION, Person
from registry.web.rendering import page
from registry.web.site import Site

router = APIRouter(include_in_schema=False)
MENU = (
    ("/", "Overview"),
    ("/builds", "Builds"),
    ("/experts", "Experts"),
    ("/data", "Data"),
    ("/lineage", "Lineage"),
    ("/impact", "Impact"),
    ("/explain", "Explain"),
    ("/audit", "Audit"),
    ("/approve", "Approve"),
)
ABOUT = {
    "build": "Composed models, newest first.",
    "expert": "What may be composed: one domain each, never altered.",
    "data": "Named, licensed corpora, fixed by digest.",
}
SOON = 20  # looks at an explanation that has just begun
EXAMPLE = "def area(r):\n    return 3.14 * r ** 2\n\nHow many metres are 3 km?"

Here = Annotated[Site, Depends(api.site)]


def visitor(request: Request) -> Person:
    """Who looks; a stranger goes to the login page."""
    found = api.identified(api.site(request), request.headers)
    if found is None:
        raise HTTPException(401)
    return found


Visitor = Annotated[Person, Depends(visitor)]


def acting(asking: Visitor, csrf: Annotated[str, Form()] = "") -> Person:
    """Who sent a form of these pages in their own session."""
    if asking.csrf is None or csrf != asking.csrf:
        raise Refused(
            "form",
            found="no word of this session",
            expected="the form of these pages",
            next="open the page again",
        )
    return asking


Acting = Annotated[Person, Depends(acting)]


def show(
    request: Request, template: str, asking: Person, status: int = 200, **facts: Any
) -> HTMLResponse:
    here = "/" + request.url.path.split("/")[1]
    here = {"/build": "/builds", "/expert": "/experts", "/seed": "", "/snapshot": ""}.get(
        here, here
    )
    return HTMLResponse(page(template, menu=MENU, here=here, asking=asking, **facts), status)


def problem(request: Request, status: int, told: dict[str, str]) -> str:
    asking = api.identified(api.site(request), request.headers)
    return page("problem.html", menu=MENU, here="", asking=asking, status=status, told=told)


def to_login(request: Request) -> Response:
    where = request.url.path if request.method == "GET" else "/"
    if "hx-request" in request.headers:  # htmx would put the login page into a corner of this one
        return Response(status_code=401, headers={"hx-redirect": "/login"})
    return RedirectResponse(f"/login?then={quote(where)}", 303)


@router.get("/login")
def login_page(then: Annotated[str, Query(max_length=500)] = "/") -> HTMLResponse:
    return HTMLResponse(page("login.html", then=then, wrong=False))


@router.post("/login")
def login(
    request: Request,
    here: Here,
    token: Annotated[str, Form(max_length=200)],
    then: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    cookie = here.sessions.begin(token.strip())
    if cookie is None:
        return HTMLResponse(page("login.html", then=then, wrong=True), 401)
    inside = then if then.startswith("/") and not then.startswith(("//", "/\\")) else "/"
    answer = RedirectResponse(inside, 303)
    answer.set_cookie(
        "btx",
        cookie,
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def logout(request: Request, here: Here, asking: Acting) -> Response:
    here.sessions.end(request.cookies.get("btx", ""))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie("btx")
    return answer


@router.get("/")
def overview(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    facts = views.overview(here.catalog)
    return show(request, "overview.html", asking, facts=facts, chart=charts.gains(facts["gains"]))


@router.get("/builds")
@router.get("/experts")
@router.get("/data")
def listing(
    request: Request,
    here: Here,
    asking: Visitor,
    start: Annotated[int, Query(ge=0)] = 0,
    text: Annotated[str, Query(max_length=100)] = "",
) -> HTMLResponse:
    kind = api.KINDS[request.url.path[1:]]
    facts = views.listing(here.catalog, kind, start, text)
    return show(
        request,
        "listing.html",
        asking,
        facts=facts,
        about=ABOUT[kind],
        text=text,
        page_length=views.PAGE,
    )


@router.get("/expert/{name}/{version}")
def expert(
    request: Request, here: Here, asking: Visitor, name: api.Name, version: api.Number
) -> HTMLResponse:
    facts = views.detail(here.catalog, f"expert/{name}@{version}")
    curve = charts.curve((facts["facts"].get("train") or {}).get("curve") or ())
    divergence = charts.bars(
        (facts["facts"].get("preflight") or {}).get("divergence_per_layer") or ()
    )
    return show(request, "expert.html", asking, facts=facts, curve=curve, divergence=divergence)


@router.get("/build/{number}")
def build(request: Request, here: Here, asking: Visitor, number: api.Number) -> HTMLResponse:
    facts = views.detail(here.catalog, f"build/{number}")
    recorded, members = facts["facts"], views.members(here.catalog, facts["facts"])
    routed = [member["ref"] for member in members if member["slot"] is not None]
    heat = charts.heat((recorded.get("routing") or {}).get("shares") or {}, routed)
    return show(request, "build.html", asking, facts=facts, members=members, heat=heat)


@router.get("/data/{name}/{version}")
@router.get("/seed/{name}/{version}")
@router.get("/snapshot/{name}/{version}")
def version(
    request: Request, here: Here, asking: Visitor, name: api.Name, version: api.Number
) -> HTMLResponse:
    kind = request.url.path.split("/")[1]
    return show(
        request,
        "version.html",
        asking,
        facts=views.detail(here.catalog, f"{kind}/{name}@{version}"),
    )


@router.get("/lineage")
def lineage(
    request: Request, here: Here, asking: Visitor, ref: Annotated[str, Query(max_length=100)] = ""
) -> HTMLResponse:
    wanted = ref.strip() or _newest(here)
    facts = views.around(here.catalog, wanted) if wanted else None
    picture = (
        graph.draw(facts["nodes"], [(edge["from"], edge["to"]) for edge in facts["edges"]])
        if facts
        else None
    )
    return show(
        request,
        "lineage.html",
        asking,
        facts=facts,
        picture=picture,
        box=(graph.WIDTH, graph.HEIGHT),
    )


@router.get("/impact")
def impact(
    request: Request, here: Here, asking: Visitor, ref: Annotated[str, Query(max_length=100)] = ""
) -> HTMLResponse:
    choices = [str(found) for found in views.references(here.catalog, "data")]
    facts = views.impact(here.catalog, ref.strip()) if ref.strip() else None
    return show(request, "impact.html", asking, facts=facts, choices=choices)


@router.post("/withdraw")
def withdraw(
    request: Request,
    here: Here,
    asking: Acting,
    ref: Annotated[str, Form(max_length=100)],
    why: Annotated[str, Form(max_length=2000)],
) -> Response:
    _needs(asking, "registrar")
    if not why.strip():
        raise HTTPException(422, "say why: the log keeps it")
    event = here.acting(asking.name).withdraw(ref, why.strip())
    return RedirectResponse(f"/impact?ref={quote(event.subject)}", 303)


@router.get("/explain")
def explain_page(
    request: Request, here: Here, asking: Visitor, build: Annotated[str, Query(max_length=40)] = ""
) -> HTMLResponse:
    return show(
        request, "explain.html", asking, builds=_builds(here), build=build, text=EXAMPLE, run=None
    )


@router.post("/explain")
async def explain(
    here: Here,
    asking: Acting,
    build: Annotated[str, Form(max_length=40)],
    text: Annotated[str, Form(min_length=1, max_length=20_000)],
) -> Response:
    text = text.replace("\r\n", "\n")  # a form sends every end of line as two characters
    run = await run_in_threadpool(here.explain, build, text, asking)
    for _ in range(SOON):  # once the weights are open it takes no longer: no waiting page for that
        await asyncio.sleep(0.05 if run.state == "running" else 0)
    return RedirectResponse(f"/explain/{run.id}", 303)


@router.get("/explain/{id}")
def explained(request: Request, here: Here, asking: Visitor, id: api.RunId) -> HTMLResponse:
    run = here.explanation(id, asking)
    return show(
        request,
        "explain.html",
        asking,
        builds=_builds(here),
        build=run.ref,
        text=run.asked,
        run=run,
    )


@router.get("/audit")
def audit(
    request: Request,
    here: Here,
    asking: Visitor,
    kind: Annotated[str, Query(max_length=40)] = "",
    subject: Annotated[str, Query(max_length=100)] = "",
    actor: Annotated[str, Query(max_length=64)] = "",
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> HTMLResponse:
    asked = {"kind": kind, "subject": subject, "actor": actor}
    facts = views.events(here.catalog, before=before, limit=50, **asked)
    chain, runs = here.chain(), [run.to_json() for run in here.audits.all()]
    return show(
        request,
        "audit.html",
        asking,
        facts=facts,
        chain=chain,
        runs=runs,
        asked=asked,
        newest=_newest(here),
    )


@router.post("/audit")
def start_audit(
    request: Request,
    here: Here,
    asking: Acting,
    ref: Annotated[str, Form(max_length=100)],
    head: Annotated[str, Form(pattern="^([0-9a-f]{64})?$")] = "",
) -> Response:
    _needs(asking, "auditor")
    run = here.audit(ref, asking, head or None)
    return RedirectResponse(f"/audit/{run.id}", 303)


@router.get("/audit/{id}")
def audit_run(request: Request, here: Here, asking: Visitor, id: api.RunId) -> HTMLResponse:
    return show(request, "audit_run.html", asking, run=here.audits.get(id).to_json())


@router.get("/approve")
def waiting(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    return show(
        request,
        "waiting.html",
        asking,
        waiting=views.overview(here.catalog)["waiting"],
        people=views.people_on_roll(here.catalog),
    )


@router.get("/approve/{number}")
def review(request: Request, here: Here, asking: Visitor, number: api.Number) -> HTMLResponse:
    return show(
        request, "review.html", asking, number=number, facts=here.review(f"build/{number}", asking)
    )


@router.post("/release/{number}")
def release(request: Request, here: Here, asking: Acting, number: api.Number) -> Response:
    _needs(asking, "registrar")
    here.jobs.release(f"build/{number}", asking.name)
    return RedirectResponse(f"/build/{number}", 303)


def _needs(asking: Person, role: str) -> None:
    if not asking.may(role):
        raise Refused(
            "request",
            found=f"a token with {', '.join(asking.roles)}",
            expected=f"role {role}",
            next="ask for such a token",
        )


def _builds(here: Site) -> list[str]:
    return [str(found) for found in views.references(here.catalog, "build")]


def _newest(here: Site) -> str:
    try:
        return str(here.catalog.get("build").ref)
    except BtxError:
        return ""
