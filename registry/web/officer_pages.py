"""The pages for officers and auditors: waivers, people, policies, what ends, erasures, documents.

In:  a request of a logged-in browser.  Out: HTML. What is signed there is sent to the API.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse

from btx_core.problems import BtxError
from registry.governance import approving, people
from registry.governance.erasure import Selection
from registry.records.kinds import Kind
from registry.web import api, officer, views
from registry.web.html_pages import Acting, Here, Ref, Visitor, show

router = APIRouter(include_in_schema=False)
MOST_DOCUMENTS = 500  # on one page

Rule = Annotated[str, Query(max_length=130)]
Words = Annotated[str, Form(max_length=500)]


@router.get("/waivers")
def waivers(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    """Approvals and waivers that count, and what could be waived."""
    page = officer.waivers(here.catalog)
    # The content may be another by now, which the gate says when it is tried again.
    waived = {(act.subject, act.rule) for act in page.acts if act.state == "ends"}
    return show(request, "waivers.html", asking, page=page, waived=waived)


@router.get("/waive")
def waive(
    request: Request, here: Here, asking: Visitor, ref: Ref = "", rule: Rule = ""
) -> HTMLResponse:
    """What a waiver would be for, and the form that signs it."""
    draft = officer.waiver_draft(here.catalog, ref.strip(), rule.strip())
    standing = officer.standing(here.catalog, "waived", draft.subject)
    return show(
        request,
        "waive.html",
        asking,
        draft=draft,
        standing=[act for act in standing if act.rule == draft.rule],
        longest=approving.LONGEST_WAIVER_DAYS,
    )


@router.get("/retract/{number}")
def retract(request: Request, here: Here, asking: Visitor, number: api.Number) -> HTMLResponse:
    """An approval or a waiver, and the form that takes it back."""
    _, act = officer.standing_act(here.catalog, number)
    return show(request, "retract.html", asking, act=act)


@router.get("/people")
def listed(request: Request, here: Here, asking: Visitor, name: str = "") -> HTMLResponse:
    """Who is on the list of actors, and the form that changes it."""
    page = officer.people_page(here.catalog)
    chosen = next((person for person in page.people if person.actor == name), None)
    return show(request, "people.html", asking, page=page, chosen=chosen, roles=people.ROLES)


@router.get("/policies")
def policies(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    """The policies in force, and their history."""
    page = officer.policies_page(here.catalog, here.jobs.policies())
    return show(request, "policies.html", asking, page=page)


@router.get("/due")
def due(
    request: Request,
    here: Here,
    asking: Visitor,
    days: Annotated[int, Query(ge=1, le=3660)] = 30,
) -> HTMLResponse:
    """What has ended, and what ends soon."""
    page = officer.due_page(here.catalog, here.tokens, days)
    return show(request, "due.html", asking, page=page)


@router.post("/documents")
def documents(
    request: Request,
    here: Here,
    asking: Acting,
    author: Words = "",
    id: Words = "",
    digest: Annotated[str, Form(pattern="^([0-9a-f]{64})?$")] = "",
) -> HTMLResponse:
    """Which data versions hold documents. A form and no address: an author is personal data."""
    api.require(asking, *people.ROLES)
    found = here.jobs.documents(author.strip(), id.strip(), digest.strip())
    return show(
        request,
        "documents.html",
        asking,
        found=found,
        author=author,
        id=id,
        digest=digest,
        most=MOST_DOCUMENTS,
    )


@router.get("/erase")
def erasures(request: Request, here: Here, asking: Visitor) -> HTMLResponse:
    """The erasures that wait for a second person, and the form that asks for one."""
    may = any(asking.may(role) for role in people.ROLES)
    return _erase(request, here, asking, Selection(ref="") if may else None)


def chosen(
    ref: Annotated[str, Form(max_length=100)],
    document: Words = "",
    author: Words = "",
    file: Annotated[str, Form(max_length=1000)] = "",
) -> Selection:
    """Return what the form of an erasure names."""
    return Selection(
        ref=ref.strip(),
        document=document.strip() or None,
        author=author.strip() or None,
        file=file.strip() or None,
    )


@router.post("/erase")
def plan_erasure(
    request: Request,
    here: Here,
    asking: Acting,
    selected: Annotated[Selection, Depends(chosen)],
) -> HTMLResponse:
    """What an erasure would take away and cost, and the form that asks for it."""
    api.require(asking, *people.ROLES)
    return _erase(request, here, asking, selected)


def _erase(
    request: Request, here: Here, asking: Visitor, selected: Selection | None
) -> HTMLResponse:
    plan, wrong = None, None
    if selected is not None and selected.ref:
        try:
            plan = here.jobs.erasing.look_ahead(selected)
        except BtxError as error:
            wrong = error
    return show(
        request,
        "erase.html",
        asking,
        selected=selected,
        plan=plan,
        wrong=wrong,
        waiting=here.jobs.erasing.waiting() if selected is not None else (),
        closed=people.is_closed(here.catalog),
        choices=[str(ref) for ref in views.references(here.catalog, Kind.DATA)],
    )
