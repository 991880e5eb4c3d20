"""Which set of policies is valid: the one that was adopted last, by an act in the log.

In:  the log; policies as they lie in a folder.  Out: the set that was valid at a time; a new act.
On a closed list of actors the act is signed by an auditor; while the list is open anybody may
adopt, as anybody may join the list. Judging is `policies`; refusing under another set is `gate`.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.catalogue.catalog import Catalog
from registry.digest import digest
from registry.errors import Invalid, NotFound, Refused
from registry.governance import acts, keys, people
from registry.governance.first_uses import first_uses
from registry.governance.policies import Policy, from_document
from registry.records.events import Act, Acted
from registry.records.version import Event

SUBJECT = "policies"
ADOPTED = "adopted"


@dataclass(frozen=True)
class Adoption:
    """A set of policies that became valid.

    Attributes:
        seq: the number of its event.
        at: when, an ISO moment in UTC.
        actor: who adopted it.
        digest: of the set.
        signed: whether an auditor signed it.
        document: digest of the kept policies.
    """

    seq: int
    at: str
    actor: str
    digest: str
    signed: bool
    document: str


def set_digest(policies: Sequence[Policy]) -> str:
    """Return the digest of a set of policies, whatever their order.

    What equals its default is left out: a later version of the program may know more of it.
    """
    stated = [policy.model_dump(mode="json", exclude_defaults=True) for policy in policies]
    return digest(sorted(stated, key=lambda policy: str(policy["name"])))


def adopted(catalog: Catalog, before: int | None = None) -> Adoption | None:
    """Return the set that was valid before event number `before` (default: now), if any was."""
    for event in reversed(first_uses(catalog.events(kind=ADOPTED))):
        if before is not None and event.seq >= before:
            continue
        act = _counted(catalog, event)
        if act is not None:
            return act
    return None


def all_adopted(catalog: Catalog) -> list[Adoption]:
    """Return every set that became valid, oldest first."""
    events = first_uses(catalog.events(kind=ADOPTED))
    counted = [_counted(catalog, event) for event in events]
    return [one for one in counted if one is not None]


def first(catalog: Catalog) -> int | None:
    """Return the number of the event that first made a set valid; None in older registries."""
    for event in catalog.events(kind=ADOPTED):
        if _counted(catalog, event) is not None:
            return event.seq
    return None


def is_lacking(catalog: Catalog) -> bool:
    """Say whether a set has to be adopted before a gate is asked.

    A registry that judged something before sets were adopted is older, and stays as it is until
    somebody adopts one. On a closed list whoever writes events could write that it had judged, so
    only what was logged before the list was closed says so.
    """
    if adopted(catalog) is not None:
        return False
    if catalog.events(kind=ADOPTED):
        return True
    then = people.Roll.read(catalog)
    judged = [*catalog.events(kind="verdict"), *catalog.events(kind="refused")]
    return all(then.closed(event.seq) for event in judged)


def awaits_auditor(catalog: Catalog) -> bool:
    """Say whether gates refuse until an auditor adopts a set."""
    return people.is_closed(catalog) and is_lacking(catalog)


def adopt(
    catalog: Catalog, policies: Sequence[Policy], by: keys.Signer | None = None, why: str = ""
) -> Event:
    """Make a set of policies the valid one.

    Args:
        catalog: where it is logged.
        policies: the set.
        by: an auditor, where the list of actors is closed.
        why: the reason.

    Raises:
        Refused: without an auditor's signature where the list of actors is closed.
        Invalid: for an empty set.
    """
    if not policies:
        raise Invalid(
            "policies", found="none", expected="at least one", next="btx init lays them down"
        )
    act = Act(
        act=ADOPTED,
        subject=SUBJECT,
        digest=set_digest(policies),
        actor=catalog.actor,
        why=why,
        at=acts.now(),
    )
    document = {"policies": [policy.to_json() for policy in policies]}
    if not people.is_closed(catalog):
        return catalog.event(Acted(act=act), SUBJECT, kind=ADOPTED, documents=[document])
    if by is None:
        raise Refused(
            SUBJECT,
            found="no auditor's signature",
            expected="an auditor, who keeps the list of actors",
            next="let an auditor look at the change: BTX_ACTOR=AUDITOR btx policy adopt",
        )
    people.require_role(catalog, by.name, ("auditor",), "adopt policies")
    return acts.sign(catalog, act, by, documents=[document])


def policies_of(catalog: Catalog, adoption: Adoption) -> list[Policy]:
    """Return the policies that an act made valid. Raises NotFound where they are not kept."""
    return from_document(catalog.document(adoption.document))


def differing(before: Sequence[Policy], after: Sequence[Policy]) -> list[str]:
    """Return the names of the policies in which two sets differ."""
    old, new = _texts(before), _texts(after)
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def changes(before: Sequence[Policy], after: Sequence[Policy]) -> list[str]:
    """Return what differs between two sets, in the form of a unified diff, policy by policy."""
    old, new = _texts(before), _texts(after)
    lines: list[str] = []
    for name in differing(before, after):
        lines += difflib.unified_diff(
            old.get(name, []), new.get(name, []), f"{name} as adopted", name, lineterm="", n=1
        )
    return lines


def _texts(policies: Sequence[Policy]) -> Mapping[str, list[str]]:
    return {
        policy.name: json.dumps(
            policy.to_json(), indent=1, ensure_ascii=False, sort_keys=True
        ).splitlines()
        for policy in policies
    }


def _counted(catalog: Catalog, event: Event) -> Adoption | None:
    """Return the adoption of an event that counts: signed by an auditor, or on an open list."""
    act = people.act_of(catalog, event)
    signed = act is not None
    if act is None and not people.is_closed(catalog, event.seq):
        act = people.stated(event)
    body = people.acted(event)
    if act is None or act.digest is None or body is None or not body.documents:
        return None
    try:
        kept = from_document(catalog.document(body.documents[0]))
    except (NotFound, Invalid):
        return None
    if set_digest(kept) != act.digest:
        return None
    return Adoption(event.seq, event.at, event.actor, act.digest, signed, body.documents[0])
