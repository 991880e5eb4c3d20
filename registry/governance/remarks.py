"""What people say of a registered version afterwards: aliases, notes, that it was a mistake.

In:  the catalogue, a version's reference, words.
Out: an event in the log, signed where the list of actors is closed.
Withdrawing, approving and waiving are `people`.
"""

import re

from registry.catalogue.catalog import Catalog
from registry.errors import Conflict, Invalid, NotFound, Refused
from registry.governance import acts, people
from registry.records.events import AliasMoved, Noted, Retired
from registry.records.kinds import UNUSABLE, Kind
from registry.records.version import Event

_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,63}")
RESERVED = {*Kind, *(kind.plural for kind in Kind)}


def move_alias(catalog: Catalog, alias: str, ref: str, why: str = "") -> Event:
    """Let an alias stand for a version from now on.

    Args:
        catalog: the registry.
        alias: a word, such as production.
        ref: the version.
        why: for the log.

    Raises:
        Invalid: for a word that is no alias.
        Refused: for a version that may not be used, and for somebody without a role, where the
            list of actors is closed.
    """
    _check_alias(alias)
    version = catalog.get(ref)
    status = catalog.status(version.ref)
    if status in UNUSABLE:
        raise Refused(
            f"alias {alias}",
            found=f"{version.ref} is {status}",
            expected="a version that may be used",
            next="name another version",
        )
    before = catalog.aliases().get(alias)
    return _log(
        catalog, str(version.ref), AliasMoved(alias=alias, set=True, before=before, why=why)
    )


def remove_alias(catalog: Catalog, alias: str, why: str = "") -> Event:
    """Let an alias stand for nothing any more. Raises NotFound where it does not."""
    aliases = catalog.aliases()
    holder = aliases.get(alias)
    if holder is None:
        known = ", ".join(sorted(aliases)) or "one; there is none yet"
        raise NotFound(f"alias {alias}", found="nothing", expected=known, next="btx alias list")
    return _log(catalog, holder, AliasMoved(alias=alias, set=False, before=holder, why=why))


def note(catalog: Catalog, ref: str, text: str) -> Event:
    """Log a note on a version."""
    if not text.strip():
        raise Invalid(
            f"note on {ref}", found="no text", expected="a text", next="btx note REF TEXT"
        )
    return _log(catalog, str(catalog.get(ref).ref), Noted(text=text))


def notes(catalog: Catalog, ref: str) -> list[Event]:
    """Return the notes on a version, oldest first."""
    return list(catalog.events(ref, Noted.logged_as))


def retire(catalog: Catalog, ref: str, why: str) -> Event:
    """Say that a version was registered by mistake, before anything stands on it.

    Its number is never given again; its content may be registered anew, as another version.

    Raises:
        Conflict: where something was made from it, or it was released or is out of use; and where
            an alias stands for it.
        Invalid: without a reason.
        Refused: for somebody without a role, where the list of actors is closed.
    """
    acts.require_reason(f"retiring {ref}", why, "why")
    version = catalog.get(ref)
    subject = str(version.ref)
    named = [alias for alias, holder in catalog.aliases().items() if holder == subject]
    if named:
        raise Conflict(
            subject,
            found=f"alias {', '.join(named)}",
            expected="a version that nothing stands on",
            next=f"btx alias remove {named[0]}",
        )
    people.require_role(catalog, catalog.actor, people.ROLES, f"retire {subject}")
    envelope = acts.vouched(catalog, Retired.logged_as, subject, version.digest)
    return catalog.retire(subject, why, envelope)


def _check_alias(alias: str) -> None:
    if not _ALIAS.fullmatch(alias) or alias in RESERVED:
        raise Invalid(
            f"alias {alias!r}",
            found="no alias",
            expected="a word of a-z, 0-9, '.', '_', '-' that is no kind of thing",
            next="btx alias set production build/7",
        )


def _log(catalog: Catalog, subject: str, body: AliasMoved | Noted) -> Event:
    people.require_role(catalog, catalog.actor, people.ROLES, f"{body.logged_as} {subject}")
    envelope = acts.vouched(catalog, body.logged_as, subject, body.signed)
    return catalog.event(body.with_envelope(envelope), subject)
