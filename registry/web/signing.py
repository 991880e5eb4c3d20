"""What people sign in their browser: each deed drafted here, and done once it is signed.

In:  a Site, a person, what they ask for.  Out: the acts to sign; then the event, or a job's answer.
While the list of actors is open some deeds need no signature: then there is no act to sign. Keys
never come here. Who may do what is governance's to decide; a token's roles are the API's.
"""

from collections.abc import Iterable

from registry.governance import acts, approving, changes, gate, people, policies
from registry.governance.changes import Change
from registry.governance.erasure import Selection
from registry.records.answers.withdrawing import EraseAnswer
from registry.records.events import Act, Acted
from registry.records.pages import Statements
from registry.records.version import Event
from registry.web import officer
from registry.web.access import Person
from registry.web.requests import (
    ActorRequest,
    ConfirmationRequest,
    ErasureRequest,
    RetractionRequest,
    WaiverRequest,
)
from registry.web.site import Site


def waiver(here: Site, asked: WaiverRequest, person: Person) -> Act:
    """Draft a waiver.

    Raises:
        Refused: for a rule that no waiver is for, and for whoever may not sign one.
        Invalid: for a day that is past or too far.
    """
    policies.require_waivable(here.jobs.policies(), asked.rule)
    grant = gate.grant(here.catalog, asked.rule, asked.ref)
    return approving.draft_waiver(
        here.catalog, grant, person.name, until=asked.until, why=asked.why.strip()
    )


def retraction(here: Site, asked: RetractionRequest, person: Person) -> Act:
    """Draft that an approval or a waiver is taken back. Raises NotFound where none counts."""
    event, _ = officer.standing_act(here.catalog, asked.event)
    return approving.draft_retraction(here.catalog, event, person.name, asked.why.strip())


def actor(here: Site, asked: ActorRequest, person: Person) -> Act:
    """Draft a change of the list of actors.

    Raises:
        Invalid: without a reason to change a person who is on the list.
        Refused: as `changes.draft_change` does.
    """
    known = people.roll(here.catalog).get(asked.name)
    key = asked.public_key if asked.public_key.strip() else known.public_key if known else ""
    change = Change(asked.name, asked.roles, key, asked.since or None, asked.why.strip())
    changes.require_reason(here.catalog, change)
    return changes.draft_change(here.catalog, change, person.name)


def admitted(
    here: Site, act: Act, person: Person, asked: WaiverRequest | RetractionRequest | ActorRequest
) -> Event:
    """Log an act that was drafted as this one and signed by the person.

    A change of an open list needs no signature.
    """
    catalog = here.acting(person.name)
    if act.act == "actor" and not people.is_closed(catalog):
        return catalog.event(Acted(act=act), act.subject, kind=act.act)
    envelopes = asked.sent().envelopes
    if not envelopes:
        raise acts.unsigned(act)
    return acts.admit_act(catalog, act, envelopes[0])


def statements(here: Site, drafts: Iterable[Act]) -> Statements:
    """Return acts as they are signed; those of an open list that need no signature are left out."""
    closed = people.is_closed(here.catalog)
    signed_always = ("waived", "approved", "retracted")
    return Statements(
        acts=tuple(here.drafted(act) for act in drafts if closed or act.act in signed_always)
    )


def change_statements(here: Site, act: Act, person: Person) -> Statements:
    """Return a change of the list as its auditor signs it: the act itself names no signer."""
    if not people.is_closed(here.catalog):
        return Statements(acts=())
    return Statements(acts=(here.drafted(act, by=person.name),))


def selected(asked: ErasureRequest) -> Selection:
    """Return what is to be erased."""
    return Selection(
        ref=asked.ref.strip(),
        document=asked.document.strip() or None,
        author=asked.author.strip() or None,
        file=asked.file.strip() or None,
    )


def erasure_acts(here: Site, asked: ErasureRequest, person: Person) -> Statements:
    """Return what a person signs to ask for an erasure."""
    return statements(here, here.jobs.erasing.drafted(selected(asked), person.name))


def ask_erasure(here: Site, asked: ErasureRequest, person: Person) -> EraseAnswer:
    """Ask for an erasure."""
    return here.jobs.erasing.ask(selected(asked), asked.why.strip(), person.name, asked.sent())


def confirmation_acts(here: Site, asked: ConfirmationRequest, person: Person) -> Statements:
    """Return what a person signs to confirm an erasure: one act for each version."""
    return statements(here, here.jobs.erasing.drafted_confirmation(asked.number, person.name))


def confirm_erasure(here: Site, asked: ConfirmationRequest, person: Person) -> EraseAnswer:
    """Confirm an erasure, and delete the bytes."""
    return here.jobs.erasing.confirm(asked.number, person.name, asked.sent())
