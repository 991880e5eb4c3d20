"""Contesting a withdrawal: a person objects, and the withdrawal stands.

In:  the catalogue; a version that was withdrawn.
Out: an event that names the withdrawal; who contests it, for everything that shows it.
A withdrawal is never undone: who wants the version back registers it again, past the gates.
"""

from registry.catalogue.catalog import Catalog
from registry.errors import Invalid
from registry.governance import people
from registry.governance.first_uses import first_uses
from registry.records.events import Contested, Withdrawn
from registry.records.version import Event


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
    envelope = people.vouched(catalog, body.logged_as, subject, body.withdrawal)
    if envelope is not None:
        body = body.model_copy(update={"envelope": envelope})
    return catalog.event(body, subject)


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
