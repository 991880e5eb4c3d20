"""The pages: the API's answers laid out as HTML, and forms for the few things that may be done.

In:  a request of a logged-in browser.
Out: HTML; or after a form that did something, the page that shows it.
"""

import asyncio
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from btx_core.problems import BtxError
from registry.errors import Invalid, Refused
from registry.governance import acts, contesting, lookup, people
from registry.records import division
from registry.records.answers.failure import ErrorAnswer
from registry.records.kinds import Kind
from registry.web import api, charts, graph, history, relations, views
from registry.web.access import SESSION, Person
from registry.web.comparing import comparison
from registry.web.rendering import page
from registry.web.requests import LogForm
from registry.web.site import Site

router = APIRouter(include_in_schema=False)
MENU = (
    ("/", "Overview"),
    ("/builds", "Builds"),
    ("/experts", "Experts"),
    ("/seeds", "Seeds"),
    ("/data", "Data"),
    ("/snapshots", "Snapshots"),
    ("/lines", "Lines"),
    ("/exports", "Exports"),
    ("/runs", "Runs"),
    ("/compare", "Compare"),
    ("/search", "Search"),
    ("/lineage", "Lineage"),
    ("/impact", "Impact"),
    ("/explain", "Explain"),
    ("/audit", "Audit"),
    ("/approve", "Approve"),
    ("/waivers", "Waivers"),
    ("/due", "Ends soon"),
    ("/policies", "Policies"),
    ("/people", "People"),
)
# Addresses that belong to another entry of the menu.
MENU_ENTRY: Mapping[str, str] = {
    "/build": "/builds",
    "/expert": "/experts",
    "/seed": "/seeds",
    "/snapshot": "/snapshots",
    "/export": "/exports",
    "/documents": "/search",
    "/erase": "",
    "/retract": "/waivers",
    "/waive": "/waivers",
}
ABOUT: Mapping[Kind, str] = {
    Kind.BUILD: "Composed models, newest first.",
    Kind.EXPERT: "What may be composed: one domain each, never altered.",
    Kind.SEED: "The dense models that experts start from.",
    Kind.DATA: "Named, licensed corpora, fixed by digest.",
    Kind.SNAPSHOT: "Frozen lists of one seed and its experts, each with its slot.",
    Kind.EXPORT: "Builds that were written as plain checkpoint folders for other tools.",
}
EVENTS = 50  # on one page of the log
MOST_CHOICES = 500  # references that a field proposes
MOST_FOUND = 1000  # versions that the page of a search looks for
FOUND = 200  # versions on the page of a search
SOON = 20  # looks at an explanation that has just begun
LOOK_EVERY_S = 0.05
EXAMPLE = "def area(r):\n    return 3.14 * r ** 2\n\nHow many metres are 3 km?"

Here = Annotated[Site, Depends(api.site)]
Ref = Annotated[str, Query(max_length=100)]


def visitor(request: Request) -> Person:
    """Return who looks; a stranger goes to the login page."""
    asking = api.admitted(api.site(request), request.headers)
    if asking is None:
        raise HTTPException(401)
    return asking


Visitor = Annotated[Person, Depends(visitor)]


def acting(asking: Visitor, csrf: Annotated[str, Form()] = "") -> Person:
    """Return who sent a form of these pages in their own session."""
    if asking.csrf is None or csrf != asking.csrf:
        raise Refused(
            "form",
            found="no CSRF token of this session",
            expected="the form of these pages",
            next="open the page again",
        )
    return asking


Acting = Annotated[Person, Depends(acting)]


def show(request: Request, template: str, asking: Person, **values: object) -> HTMLResponse:
    """Answer with a page.

    Args:
        request: what is answered.
        template: the page's template.
        asking: who looks.
        values: what the template lays out.
    """
    first = "/" + request.url.path.split("/")[1]
    here = MENU_ENTRY.get(first, first)
    return HTMLResponse(page(template, menu=MENU, here=here, asking=asking, **values))


def problem(request: Request, status: int, answer: ErrorAnswer) -> str:
    """Return the page that says why there is no other."""
    asking = api.identified(api.site(request), request.headers)
    return page("problem.html", menu=MENU, here="", asking=asking, status=status, problem=answer)


def to_login(request: Request) -> Response:
    """Lead a stranger to the login page, and from there back to where they came from."""
    if "hx-request" in request.headers:
        # htmx would put the login page into a corner of this one.
        return Response(status_code=401, headers={"hx-redirect": "/login"})
    back = request.url.path if request.method == "GET" else "/"
    return RedirectResponse(f"/login?then={quote(back)}", 303)


@router.get("/login")
def login_page(then: Annotated[str, Query(max_length=500)] = "/") -> HTMLResponse:
    """The form that a token is entered in."""
    return HTMLResponse(page("login.html", then=then, wrong=False))


@router.post("/login")
def login(
    request: Request,
    here: Here,
    token: Annotated[str, Form(max_length=200)],
    then: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    """Begin a session."""
    cookie = here.sessions.begin(token.strip())
    if cookie is None:
        address, limits = request.client.host if request.client else "", here.limits
        wait_s = here.wrong_tokens.wait_s(address, limits.wrong_tokens, limits.burst_s)
        if wait_s:
            raise HTTPException(429, "more wrong tokens", {"retry-after": str(int(wait_s) + 1)})
        return HTMLResponse(page("login.html", then=then, wrong=True), 401)
    inside = then.startswith("/") and not then.startswith(("//", "/\\"))
    answer = RedirectResponse(then if inside else "/", 303)
    answer.set_cookie(
        api.COOKIE,
        cookie,
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def logout(request: Request, here: Here, asking: Acting) -> Response:
    """End the session."""
    here.sessions.end(request.cookies.get(api.COOKIE, ""))
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(api.COOKIE)
    return answer


@router.get("/")
def overview(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    """How the registry stands."""
    answer = views.overview(here.catalog, here.price)
    return show(request, "overview.html", asking, overview=answer, chart=charts.gains(answer.gains))


@router.get("/builds")
@router.get("/experts")
@router.get("/seeds")
@router.get("/data")
@router.get("/snapshots")
@router.get("/exports")
def listing(
    request: Request,
    here: Here,
    asking: Visitor,
    start: Annotated[int, Query(ge=0)] = 0,
    text: Annotated[str, Query(max_length=100)] = "",
) -> HTMLResponse:
    """The versions of one kind."""
    kind = api.KINDS[request.url.path[1:]]
    return show(
        request,
        "listing.html",
        asking,
        listing=views.listing(here.catalog, kind, start, text),
        about=ABOUT[kind],
        text=text,
        page_length=views.PAGE,
    )


@router.get("/lines")
def lines(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    """The product lines."""
    return show(request, "lines.html", asking, lines=views.lines(here.catalog))


@router.get("/runs")
def training_runs(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    """What trains and tunes now, and what did."""
    return show(request, "runs.html", asking, page=here.jobs.training_runs())


@router.get("/runs/{name}")
def training_run(request: Request, here: Here, asking: Visitor, name: api.Name) -> HTMLResponse:
    """The curve of one training or tuning, as far as it has come."""
    run = here.jobs.training_run(name)
    return show(request, "run.html", asking, run=run, curve=charts.losses(run.points))


@router.get("/compare")
def compare(
    request: Request, here: Here, asking: Visitor, left: Ref = "", right: Ref = ""
) -> HTMLResponse:
    """What differs between two versions; of the two newest builds unless others are named."""
    builds = _all(here, Kind.BUILD)
    left, right = left.strip(), right.strip()
    if not left and not right and len(builds) > 1:
        left, right = builds[1], builds[0]
    compared = here.jobs.compare(left, right) if left and right else None
    return show(
        request,
        "compare.html",
        asking,
        left=left,
        right=right,
        choices=builds[:MOST_CHOICES],
        compared=comparison(compared) if compared else None,
    )


@router.get("/search")
def search(
    request: Request, here: Here, asking: Visitor, q: Annotated[str, Query(max_length=500)] = ""
) -> HTMLResponse:
    """Versions by anything that is recorded, stated or logged of them."""
    wrong, rows = None, []
    try:
        if q.strip():
            rows = lookup.search(here.catalog, lookup.split_words(q), most=MOST_FOUND)
    except Invalid as error:
        wrong = error
    saved = here.saved()
    return show(
        request,
        "search.html",
        asking,
        q=q,
        rows=rows[:FOUND],
        all=len(rows),
        more=len(rows) == MOST_FOUND,
        wrong=wrong,
        saved=saved,
    )


@router.get("/expert/{name}/{version}")
def expert(
    request: Request, here: Here, asking: Visitor, name: api.Name, version: api.Number
) -> HTMLResponse:
    """One expert."""
    answer = views.expert_page(here.catalog, f"expert/{name}@{version}")
    report, weights = answer.facts.train, answer.facts.preflight
    divergence = (weights.divergence_per_layer if weights else None) or ()
    return show(
        request,
        "expert.html",
        asking,
        version=answer,
        curve=charts.curve(report.curve) if report else None,
        divergence=charts.bars(divergence),
    )


@router.get("/build/{number}")
def build(request: Request, here: Here, asking: Visitor, number: api.Number) -> HTMLResponse:
    """One build."""
    answer = views.build_page(here.catalog, f"build/{number}")
    routing = answer.facts.routing
    routed = [member.ref for member in answer.members if member.slot is not None]
    heat = charts.heat(routing.shares if routing else (), routed)
    return show(
        request,
        "build.html",
        asking,
        version=answer,
        heat=heat,
        answered=division.answered(answer.facts),
        division=division.sentences(answer.facts),
    )


@router.get("/data/{name}/{version}")
@router.get("/seed/{name}/{version}")
@router.get("/snapshot/{name}/{version}")
@router.get("/export/{name}/{version}")
def version(
    request: Request, here: Here, asking: Visitor, name: api.Name, version: api.Number
) -> HTMLResponse:
    """One version of another kind."""
    kind = request.url.path.split("/")[1]
    answer = views.version_page(here.catalog, f"{kind}/{name}@{version}")
    return show(request, "version.html", asking, version=answer)


@router.get("/lineage")
def lineage(request: Request, here: Here, asking: Visitor, ref: Ref = "") -> HTMLResponse:
    """What surrounds a version, as a picture; of the newest build unless one is named."""
    subject = ref.strip() or _newest(here)
    answer = relations.around(here.catalog, subject) if subject else None
    picture = None
    if answer:
        links = [graph.Link(edge.from_, edge.to) for edge in answer.edges]
        picture = graph.draw(answer.nodes, links)
    return show(
        request,
        "lineage.html",
        asking,
        lineage=answer,
        picture=picture,
        box_width=graph.WIDTH,
        box_height=graph.HEIGHT,
    )


@router.get("/impact")
def impact(request: Request, here: Here, asking: Visitor, ref: Ref = "") -> HTMLResponse:
    """What a withdrawal would reach."""
    kinds = (Kind.DATA, Kind.SEED, Kind.EXPERT)
    return show(
        request,
        "impact.html",
        asking,
        impact=relations.impact(here.catalog, ref.strip()) if ref.strip() else None,
        choices=[ref for kind in kinds for ref in _all(here, kind)[:MOST_CHOICES]],
        may_withdraw=any(asking.may(role) for role in people.ROLES),
    )


@router.post("/withdraw")
def withdraw(
    here: Here,
    asking: Acting,
    ref: Annotated[str, Form(max_length=100)],
    why: Annotated[str, Form(max_length=2000)],
) -> Response:
    """Withdraw a version, for good."""
    api.require(asking, *people.ROLES)
    if not why.strip():
        raise HTTPException(422, "say why: the log keeps it")
    # On a closed list of actors the page signs and calls the API instead.
    event = contesting.withdraw(here.acting(asking.name), ref, why.strip(), acts.Sent())
    return RedirectResponse(f"/impact?ref={quote(event.subject)}", 303)


@router.get("/explain")
def explain_page(
    request: Request, here: Here, asking: Visitor, build: Annotated[str, Query(max_length=40)] = ""
) -> HTMLResponse:
    """The form that asks for an explanation."""
    return show(
        request,
        "explain.html",
        asking,
        builds=_all(here, Kind.BUILD),
        build=build,
        text=EXAMPLE,
        run=None,
    )


@router.post("/explain")
async def explain(
    here: Here,
    asking: Acting,
    build: Annotated[str, Form(max_length=40)],
    text: Annotated[str, Form(min_length=1, max_length=20_000)],
) -> Response:
    """Start an explanation."""
    # A form sends every end of line as two characters.
    text = text.replace("\r\n", "\n")
    run = await run_in_threadpool(here.explain, build, text, asking)
    # Once the weights are open it takes no longer than this: no waiting page for that.
    for _ in range(SOON):
        await asyncio.sleep(LOOK_EVERY_S if run.state == "running" else 0)
    return RedirectResponse(f"/explain/{run.id}", 303)


@router.get("/explain/{id}")
def explained(request: Request, here: Here, asking: Visitor, id: api.RunId) -> HTMLResponse:
    """An explanation, or how far it has come."""
    run = here.explanation(id, asking)
    return show(
        request,
        "explain.html",
        asking,
        builds=_all(here, Kind.BUILD),
        build=run.ref,
        text=run.asked,
        run=run,
    )


@router.get("/audit")
def audit(
    request: Request, here: Here, asking: Visitor, wanted: Annotated[LogForm, Query()]
) -> HTMLResponse:
    """The log, its chain, and the audits that were started here."""
    return show(
        request,
        "audit.html",
        asking,
        log=history.events(here.catalog, wanted.model_copy(update={"limit": EVENTS})),
        chain=here.chain(),
        runs=[run.record() for run in here.audits.all()],
        wanted=wanted,
        newest=_newest(here),
    )


@router.post("/audit")
def start_audit(
    here: Here,
    asking: Acting,
    ref: Annotated[str, Form(max_length=100)],
    head: Annotated[str, Form(pattern="^([0-9a-f]{64})?$")] = "",
) -> Response:
    """Start an audit."""
    api.require(asking, "auditor")
    run = here.audit(ref, asking, head or None)
    return RedirectResponse(f"/audit/{run.id}", 303)


@router.get("/audit/{id}")
def audit_run(request: Request, here: Here, asking: Visitor, id: api.RunId) -> HTMLResponse:
    """An audit, or how far it has come."""
    return show(request, "audit_run.html", asking, run=here.audits.get(id).record())


@router.get("/approve")
def waiting(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    """What waits for a release, and who may sign for it."""
    return show(
        request,
        "waiting.html",
        asking,
        waiting=views.overview(here.catalog).waiting,
        actors=list(people.roll(here.catalog).values()),
    )


@router.get("/approve/{number}")
def review(request: Request, here: Here, asking: Visitor, number: api.Number) -> HTMLResponse:
    """Evidence and verdict of one build, and the form that signs its approval."""
    answer = here.review(f"build/{number}", asking)
    return show(request, "review.html", asking, number=number, review=answer)


@router.post("/release/{number}")
def release(here: Here, asking: Acting, number: api.Number) -> Response:
    """Release a build."""
    api.require(asking, "registrar")
    here.jobs.release(f"build/{number}", asking.name, acts.Sent())
    return RedirectResponse(f"/build/{number}", 303)


def _all(here: Site, kind: Kind) -> list[str]:
    return [str(ref) for ref in views.references(here.catalog, kind)]


def _newest(here: Site) -> str:
    """Return the newest build; empty where there is none."""
    try:
        return str(here.catalog.get("build").ref)
    except BtxError:
        return ""
