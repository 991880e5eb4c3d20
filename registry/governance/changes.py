"""Changes of the list of people: who comes, goes, or has another key or role.

In:  the change, and an auditor once the list names one.  Out: a signed event.
One key is one person, and the last auditor cannot leave.
"""

from dataclasses import dataclass

from registry.catalogue.catalog import Catalog
from registry.errors import Refused
from registry.governance import acts, attestations
from registry.governance.acts import now, sign
from registry.governance.keys import Signer, named, public_key
from registry.governance.people import Roll, check_roles, roll
from registry.governance.policies import moment
from registry.records.events import Act, Acted
from registry.records.version import Event


@dataclass(frozen=True)
class Change:
    """A change of one person on the list of actors.

    Attributes:
        name: the person.
        roles: some of ROLES; none takes them off the list.
        public_key: in PEM form.
        since: an ISO moment; what the person signed from then on is void.
        why: the reason.
    """

    name: str
    roles: tuple[str, ...]
    public_key: str
    since: str | None = None
    why: str = ""


def change_actor(catalog: Catalog, change: Change, by: Signer | None = None) -> Event:
    """Change the list of people.

    Args:
        catalog: where it is logged.
        change: what is changed.
        by: an auditor, once the list names one.

    Raises:
        Refused: as `draft_change` does.
    """
    act = draft_change(catalog, change, by.name if by else None)
    if by:
        return sign(catalog, act, by)
    return catalog.event(Acted(act=act), act.subject, kind=act.act)


def require_reason(catalog: Catalog, change: Change) -> None:
    """Refuse to change a person who is on the list, or was, without a reason. Raises Invalid."""
    person = roll(catalog).get(change.name)
    if person is None:
        return
    same_key = change.public_key.strip() == person.public_key.strip()
    if not same_key or set(change.roles) != set(person.roles) or change.since is not None:
        acts.require_reason(f"actor {change.name}", change.why, "why, for the auditor")


def draft_change(catalog: Catalog, change: Change, by: str | None) -> Act:
    """Return the change of the list of people that an auditor signs.

    Args:
        catalog: the list as it is.
        change: what is changed.
        by: an auditor, once the list names one.

    Raises:
        Refused: without an auditor where the list names one, for a key that is another person's,
            and where no auditor would be left.
    """
    check_roles(change.roles)
    people = roll(catalog)
    auditors = [person.name for person in people.values() if "auditor" in person.roles]
    if auditors and by not in auditors:
        raise Refused(
            f"actor {change.name}",
            found="no auditor's signature",
            expected=f"one by {' or '.join(auditors)}",
            next="let an auditor do it: BTX_ACTOR=AUDITOR btx actor add",
        )
    if auditors == [change.name] and "auditor" not in change.roles:
        raise Refused(
            f"actor {change.name}",
            found="the last auditor",
            expected="an auditor who stays and keeps the list",
            next="btx actor add ANOTHER --role auditor --public-key FILE, then this again",
        )
    if change.roles and "PRIVATE KEY" in change.public_key:
        raise Refused(
            f"actor {change.name}",
            found="a private key, which whoever could read that file may have",
            expected="the public half alone",
            next=f"let {change.name} make a new key: btx key new, and hand on the .pub file",
        )
    key = public_key(change.public_key)
    _refuse_shared_key(catalog, change.name, attestations.key_id(key))
    if change.since is not None:
        moment(change.since)
    act = Act(
        act="actor",
        subject=f"actor/{named(change.name)}",
        roles=tuple(sorted(set(change.roles))),
        # Made from the key: what else stands in a file stays out of the log.
        public_key=attestations.public_pem(key),
        at=now(),
    )
    stated_too = {"since": change.since, "why": change.why or None}
    given = {name: value for name, value in stated_too.items() if value is not None}
    return act.model_copy(update=given)


def _refuse_shared_key(catalog: Catalog, whose: str, own: str) -> None:
    """Refuse a key that is or was another person's: one key is one person."""
    for person in Roll.read(catalog).ever():
        if person.name != whose and person.key_id == own:
            raise Refused(
                f"actor {whose}",
                found=f"the key of {person.name}",
                expected="a key of their own",
                next=f"let {whose} run btx key new, and add the public half",
            )
