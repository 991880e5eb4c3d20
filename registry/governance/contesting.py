"""Withdrawing a version, and contesting that: a person objects, and the withdrawal stands.

In:  the catalogue; a version.
Out: the withdrawal; an event that names it; who contests it, for everything that shows it.
A withdrawal is never undone: who wants the version back registers it again, past the gates.
"""

from registry.catalogue import pins
from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.governance import acts, people
from registry.governance.first_uses import first_uses
from registry.records.events import Contested, Withdrawn
from registry.records.version import Event


def withdraw(catalog: Catalog, ref: str, why: str, sent: acts.Sent | None = None) -> Event:
    """Log a withdrawal, signed where the list of actors is closed. A second one changes nothing.

    The log's head is written down outside.

    Args:
        catalog: the log, and who acts.
        ref: the version.
        why: the reason.
        sent: what the person signed elsewhere.

    Raises:
        Invalid: without a reason.
        Refused: for somebody without a role, where the list of actors is closed.
    """
    version = catalog.get(ref)
    subject = str(version.ref)
    acts.require_reason(f"withdrawal of {subject}", why)
    people.require_role(catalog, catalog.actor, people.ROLES, f"withdraw {subject}")
    envelope = acts.vouched(
        catalog, Withdrawn.logged_as, subject, version.digest, why=why, sent=sent
    )
    event = catalog.withdraw(subject, why, envelope)
    pins.pin(catalog)
    return event


def contest(catalog: Catalog, ref: str, private: str) -> Event:
    """Log that a person contests a withdrawal.

    Args:
        catalog: the log, and who contests.
        ref: the version that was withdrawn.
        private: the salted digest of the reason.

    Raises:
        Invalid: for what was not withdrawn.
        Refused: for somebody without a role, where the list of actors is closed.
    """
    withdrawal = require_withdrawn(catalog, ref)
    subject = withdrawal.subject
    body = Contested(withdrawal=withdrawal.digest, private=private)
    envelope = acts.vouched(catalog, body.logged_as, subject, body.withdrawal)
    return catalog.event(body.with_envelope(envelope), subject)


def require_withdrawn(catalog: Catalog, ref: str) -> Event:
    """Return the withdrawal that the acting person may contest; the errors are `contest`'s."""
    subject = str(catalog.get(ref).ref)
    withdrawals = catalog.events(subject, Withdrawn.logged_as)
    if not withdrawals:
        raise Invalid(
            subject,
            found=f"status {catalog.status(subject)}",
            expected="a version that was withdrawn",
            next=f"btx show {subject}",
        )
    people.require_role(catalog, catalog.actor, people.ROLES, f"contest {subject}")
    return withdrawals[0]


def contests(catalog: Catalog, subject: str) -> list[Event]:
    """Return who contests a withdrawal, oldest first; on a closed list what was signed alone."""
    withdrawn = {event.digest for event in catalog.events(subject, Withdrawn.logged_as)}
    roll = people.Roll.read(catalog)
    found = []
    for event in first_uses(catalog.events(subject, Contested.logged_as)):
        body = event.read(Contested)
        if body.withdrawal not in withdrawn:
            continue
        if not roll.closed(event.seq) or roll.vouches(event, body.envelope, body.withdrawal):
            found.append(event)
    return found


def sentences(catalog: Catalog, subject: str) -> tuple[str, ...]:
    """Return a sentence for each person who contests the withdrawal of a version."""
    return tuple(sentence(event) for event in contests(catalog, subject))


def sentence(event: Event) -> str:
    """Return who contests a withdrawal, and when, as a sentence."""
    return f"Contested by {event.actor} on {event.at[:10]}; the withdrawal stands."
