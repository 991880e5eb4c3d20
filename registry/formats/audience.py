"""The public form of a dossier: what a company may hand to everybody.

In:  a dossier.  Out: one without people's names, verdicts, waivers, reasons and contracts, which
every format can then write as it is. What is not in it cannot get out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from registry.digest import canonical_json
from registry.formats.dossier import Dossier, stated_license
from registry.governance.build_licence import BuildLicence
from registry.licence_terms import PREFIX, community, terms_of
from registry.licences import each, is_expression
from registry.records.events import Erased
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts, SeedFacts
from registry.records.own_facts import LICENCE_TEXT, ORGANISATION, Attachment
from registry.records.version import Event, Version

# The own facts that decide what may be said, and by whose name.
SOURCE_CLASS = "source_class"
PROVIDER = "provider"
PUBLIC_SOURCES = ("public", "crawled")
PROPRIETARY = f"{PREFIX}proprietary"
# What is stated of data with its registration.
NEVER_PUBLIC = ("purpose", "retain_until")
PUBLIC_OF_OPEN_DATA = ("source", "holder", "url")
_REFERENCE = re.compile(rf"{PREFIX}[A-Za-z0-9.-]+")


def public(dossier: Dossier) -> Dossier:
    """Return what of a dossier may leave the company."""
    provider = dossier.organisation.get(PROVIDER)
    name = provider.text if provider and provider.public else "the provider"

    names = _Names(_passed_on(dossier))

    def shown(version: Version[Facts]) -> Version[Facts]:
        facts = _facts(version.facts, _is_open(dossier, version), names)
        stored = canonical_json(facts.to_json()).decode()
        return replace(version, actor=name, stored=stored)

    withheld = {
        str(node.ref): _withheld(node.facts, _is_open(dossier, node))
        | dossier.withheld.get(str(node.ref), frozenset())
        for node in dossier.graph.nodes
    }
    nodes = [shown(node) for node in dossier.graph.nodes]
    return replace(
        dossier,
        subject=nodes[0],
        graph=replace(dossier.graph, nodes=nodes),
        verdicts=(),
        approvals=(),
        exports=(),
        releases=_without_people(dossier.releases, name),
        withdrawals=_without_people(dossier.withdrawals, name),
        contests=_without_people(dossier.contests, name),
        erasures=tuple(_unsigned(event, name) for event in dossier.erasures),
        open_list=False,
        licence=_licence(dossier.licence, names) if dossier.licence else None,
        own={
            ref: {key: fact for key, fact in facts.items() if fact.public}
            for ref, facts in dossier.own.items()
        },
        organisation={key: fact for key, fact in dossier.organisation.items() if fact.public},
        public=True,
        withheld=withheld,
        own_withheld=_own_withheld(dossier),
    )


@dataclass(frozen=True)
class _Names:
    """How licences are called outside: the name of a contract may say what was agreed with whom.

    Attributes:
        passed_on: names of licences whose text is passed on anyhow.
    """

    passed_on: frozenset[str]

    def of(self, text: str | None) -> str | None:
        """Return an expression in which no private licence has its name."""
        return None if text is None else _REFERENCE.sub(self._public, text)

    def of_all(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Return each text without names of private licences."""
        return tuple(self.of(text) or "" for text in texts)

    def _public(self, found: re.Match[str]) -> str:
        name = found.group()
        return name if community(name) or name in self.passed_on else PROPRIETARY


def public_text(dossier: Dossier, version: Version[Facts]) -> Attachment | None:
    """Return the text of its licence that is attached to a version and may leave the company."""
    fact = dossier.own.get(str(version.ref), {}).get(LICENCE_TEXT)
    if fact is None or not fact.public or not isinstance(fact.value, Attachment):
        return None
    return fact.value


def _passed_on(dossier: Dossier) -> frozenset[str]:
    named = [
        name
        for node in dossier.graph.nodes
        if public_text(dossier, node) is not None
        for name in each([stated_license(node)])
    ]
    return frozenset(named)


def _is_open(dossier: Dossier, version: Version[Facts]) -> bool:
    """Tell whether a corpus is one whose source and holder everybody may know."""
    if not isinstance(version.facts, DataFacts):
        return True
    stated = dossier.own.get(str(version.ref), {}).get(SOURCE_CLASS)
    if stated is not None:
        return stated.text in PUBLIC_SOURCES
    licences = each([version.facts.license])
    return bool(licences) and all(terms_of(licence) for licence in licences)


def _facts(facts: Facts, is_open: bool, names: _Names) -> Facts:
    shown: dict[str, object] = {"own": {}}
    if isinstance(facts, DataFacts):
        shown |= dict.fromkeys(_private(is_open))
        shown |= {"license": names.of(facts.license)}
        shown |= {"license_choice": names.of(facts.license_choice)}
        # What documents say of themselves may be anything.
        listed = [one for one in facts.document_licenses if is_expression(one)]
        shown |= {"document_licenses": names.of_all(listed)}
    if isinstance(facts, SeedFacts):
        shown["license"] = names.of(facts.license)
    if isinstance(facts, ExpertFacts):
        shown["licenses"] = tuple(names.of(licence) for licence in facts.licenses)
    if isinstance(facts, BuildFacts):
        shown["registrar"] = None
    return facts.model_copy(update=shown)


def _private(is_open: bool) -> tuple[str, ...]:
    """Return which facts of data stay in the company; of open data, fewer."""
    return NEVER_PUBLIC if is_open else (*NEVER_PUBLIC, *PUBLIC_OF_OPEN_DATA)


def _withheld(facts: Facts, is_open: bool) -> frozenset[str]:
    """Return which facts are stated and stay in the company."""
    if not isinstance(facts, DataFacts):
        return frozenset()
    return frozenset(name for name in _private(is_open) if facts.to_json().get(name))


def _own_withheld(dossier: Dossier) -> dict[str, frozenset[str]]:
    """Return which own facts are stated and stay in the company, by what they are stated of."""
    every = {**dossier.own, ORGANISATION: dossier.organisation}
    return {
        ref: frozenset(key for key, fact in facts.items() if not fact.public)
        | dossier.own_withheld.get(ref, frozenset())
        for ref, facts in every.items()
    }


def _licence(licence: BuildLicence, names: _Names) -> BuildLicence:
    return replace(
        licence,
        expression=names.of(licence.expression),
        licences=tuple(sorted(set(names.of_all(licence.licences)))),
        reasons=names.of_all(licence.reasons),
        questions=names.of_all(licence.questions),
    )


def _unsigned(event: Event, name: str) -> Event:
    """Return a tombstone that says what was erased, and not by whom."""
    body = event.read(Erased).model_copy(update={"envelope": None})
    return replace(event, actor=name, stored=canonical_json(body.to_json()).decode())


def _without_people(events: tuple[Event, ...], name: str) -> tuple[Event, ...]:
    """Return events that say when something happened, and nothing else."""
    return tuple(replace(event, actor=name, stored="{}") for event in events)
