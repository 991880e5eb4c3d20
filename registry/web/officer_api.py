"""The JSON API for officers and auditors: waivers, people, policies, ends, erasures, documents.

In:  a request with a token or a session.  Out: records of `records.officer_answers`.
A deed is two requests: POST .../draft says what is signed, and with the signed envelopes the same
body is sent again without /draft. Drafts are sent in a body, not in an address: they hold reasons
and names.
"""

import csv
import io
import json
from typing import Annotated

from fastapi import Depends, Query
from fastapi.responses import Response

from registry.governance.lookup import harmless
from registry.records.answers.withdrawing import EraseAnswer
from registry.records.officer_answers import (
    DuePage,
    ErasuresPage,
    HeldDocuments,
    PeoplePage,
    PoliciesPage,
    WaiverDraft,
    WaiversPage,
)
from registry.records.pages import Done, Statements
from registry.web import history, officer, signing
from registry.web.access import Person
from registry.web.api import JSON, Acting, Approver, Auditor, Here, api_router, with_role
from registry.web.requests import (
    ActorRequest,
    ConfirmationRequest,
    DocumentsRequest,
    ErasureRequest,
    LogQuery,
    RetractionRequest,
    WaiverRequest,
)

MOST_EVENTS = 100_000  # in one file
EVENT_COLUMNS = ("seq", "at", "kind", "subject", "actor", "words", "digest")
Judge = Annotated[Person, Depends(with_role("approver", "auditor"))]

router = api_router()


@router.get("/waivers")
def waivers(here: Here) -> WaiversPage:
    """Approvals and waivers that count, and what rules refused and could be waived."""
    return officer.waivers(here.catalog)


@router.get("/waiver")
def waiver_for(
    here: Here,
    ref: Annotated[str, Query(max_length=100)],
    rule: Annotated[str, Query(max_length=130)],
) -> WaiverDraft:
    """What a waiver would be for: the newest candidate of this name that the rule judged."""
    return officer.waiver_draft(here.catalog, ref, rule)


@router.post("/waivers/draft")
def draft_waiver(here: Here, asked: WaiverRequest, asking: Approver) -> Statements:
    """What the asking person signs for a waiver."""
    return signing.statements(here, [signing.waiver(here, asked, asking)])


@router.post("/waivers", status_code=201)
def waive(here: Here, asked: WaiverRequest, asking: Approver) -> Done:
    """Hand in a signed waiver."""
    act = signing.waiver(here, asked, asking)
    return _done(signing.admitted(here, act, asking, asked).subject, "waived", asking)


@router.post("/retractions/draft")
def draft_retraction(here: Here, asked: RetractionRequest, asking: Judge) -> Statements:
    """What the asking person signs to take an approval or a waiver back."""
    return signing.statements(here, [signing.retraction(here, asked, asking)])


@router.post("/retractions", status_code=201)
def retract(here: Here, asked: RetractionRequest, asking: Judge) -> Done:
    """Hand in a signed retraction."""
    act = signing.retraction(here, asked, asking)
    return _done(signing.admitted(here, act, asking, asked).subject, "retracted", asking)


@router.get("/people")
def listed_people(here: Here) -> PeoplePage:
    """Who is on the list of actors, or was."""
    return officer.people_page(here.catalog)


@router.post("/people/draft")
def draft_change(here: Here, asked: ActorRequest, asking: Auditor) -> Statements:
    """What an auditor signs to change the list of actors."""
    return signing.change_statements(here, signing.actor(here, asked, asking), asking)


@router.post("/people", status_code=201)
def change_people(here: Here, asked: ActorRequest, asking: Auditor) -> Done:
    """Put a person on the list of actors, change them, or without a role take them off it."""
    event = signing.admitted(here, signing.actor(here, asked, asking), asking, asked)
    return _done(event.subject, ", ".join(asked.roles) or "off the list", asking)


@router.get("/policies")
def policies(here: Here) -> PoliciesPage:
    """The policies in force, their history, and what the files say differently."""
    return officer.policies_page(here.catalog, here.jobs.policies())


@router.get("/due")
def due(here: Here, days: Annotated[int, Query(ge=1, le=3660)] = 30) -> DuePage:
    """What has ended, and what ends soon: waivers, dates of retention, tokens."""
    return officer.due_page(here.catalog, here.tokens, days)


@router.post("/documents-held")
def documents(here: Here, asked: DocumentsRequest, asking: Acting) -> HeldDocuments:
    """Which data versions hold documents by this author, or with this id or digest."""
    return here.jobs.documents(asked.author.strip(), asked.id.strip(), asked.digest.strip())


@router.get("/erasures")
def erasures(here: Here, asking: Acting) -> ErasuresPage:
    """The erasures that wait for a second person."""
    return ErasuresPage(waiting=tuple(here.jobs.erasing.waiting()))


@router.post("/erasures/draft")
def draft_erasure(here: Here, asked: ErasureRequest, asking: Acting) -> Statements:
    """What the asking person signs to ask that bytes be erased."""
    return signing.erasure_acts(here, asked, asking)


@router.post("/erasures", status_code=201)
def ask_erasure(here: Here, asked: ErasureRequest, asking: Acting) -> EraseAnswer:
    """Ask that bytes be erased, for a second person to confirm."""
    return signing.ask_erasure(here, asked, asking)


@router.post("/confirmations/draft")
def draft_confirmation(here: Here, asked: ConfirmationRequest, asking: Judge) -> Statements:
    """What the asking person signs to confirm an erasure."""
    return signing.confirmation_acts(here, asked, asking)


@router.post("/confirmations", status_code=201)
def confirm_erasure(here: Here, asked: ConfirmationRequest, asking: Judge) -> EraseAnswer:
    """Confirm an erasure that somebody else asked for: the bytes are deleted."""
    return signing.confirm_erasure(here, asked, asking)


@router.get(
    "/log",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}, JSON: {}}}},
)
def log_file(
    here: Here,
    wanted: Annotated[LogQuery, Query()],
    file_format: Annotated[str, Query(alias="format", pattern="^(json|csv)$")] = "csv",
) -> Response:
    """The events that are asked for as one file, newest first."""
    found = history.events(here.catalog, wanted, most=MOST_EVENTS).events
    if file_format == "json":
        lines = [event.to_json() for event in found]
        return Response(json.dumps(lines, ensure_ascii=False), media_type=JSON)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(EVENT_COLUMNS)
    for event in found:
        writer.writerow([harmless(str(getattr(event, name))) for name in EVENT_COLUMNS])
    headers = {"content-disposition": 'attachment; filename="log.csv"'}
    return Response(out.getvalue(), media_type="text/csv", headers=headers)


def _done(subject: str, status: str, by: Person) -> Done:
    return Done(ref=subject, status=status, by=by.name)
