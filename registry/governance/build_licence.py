"""The licence of a build: what may be said of it from the licences of all that it was made from.

In:  the licences of seed, experts and data; the company's table of pairs, from the policy
`licence-build`; the licence that the company states, if any.  Out: an expression with its reasons,
or the questions for counsel. A pair that the table does not name is such a question, never allowed.
Whether weights are a derived work at all is counsel's to say: here they are taken for one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from btx_core.problems import BtxError
from registry.catalogue.catalog import Catalog
from registry.governance import adoption, gate, stating
from registry.governance.policies import Policy, from_document
from registry.licence_terms import Duty, Terms, community, terms_of
from registry.licences import alternatives, each, is_expression, joined
from registry.records.events import Judged
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts, SeedFacts
from registry.records.version import Version

F = TypeVar("F", bound=Facts)

POLICY = "licence-build"
# The own fact by which a company states under which licence a build goes out.
STATED_AS = "licence"


class LicenceAnswer(StrEnum):
    """Where a build's licence comes from."""

    COMPUTED = "computed"
    STATED = "stated"
    COUNSEL = "ask counsel"


class PairTable(BaseModel):
    """Which licences may stand in one build, as the policy `licence-build` says.

    Attributes:
        attribution: any two of these may.
        copyleft: each asks that the whole is passed on under it.
        in_copyleft: what such a whole may hold.
        beside: further pairs.
        never: licences that forbid derived works.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    attribution: tuple[str, ...] = ()
    copyleft: tuple[str, ...] = ()
    in_copyleft: tuple[str, ...] = ()
    beside: Mapping[str, tuple[str, ...]] = {}
    never: tuple[str, ...] = ()

    def allows(self, left: str, right: str) -> bool:
        """Tell whether two licences may stand in one build."""
        return left == right or self._one_way(left, right) or self._one_way(right, left)

    def _one_way(self, left: str, right: str) -> bool:
        return (
            (left in self.attribution and right in self.attribution)
            or (left in self.copyleft and right in self.in_copyleft)
            or right in self.beside.get(left, ())
        )


@dataclass(frozen=True)
class LicensedInput:
    """One thing that a build was made from, and the expression that applies to it."""

    ref: str
    licence: str | None


@dataclass(frozen=True)
class BuildLicence:
    """Under which licence a build may be passed on, and why.

    Attributes:
        answer: where it comes from.
        expression: in SPDX's form; None where counsel has to be asked.
        licences: of all inputs, one by one.
        reasons: a sentence each.
        questions: for counsel, a sentence each; only where there is no expression.
    """

    answer: LicenceAnswer
    expression: str | None
    licences: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """The expression, or that counsel has to be asked."""
        return self.expression or "ask counsel"

    @property
    def non_commercial(self) -> bool:
        """Whether any input forbids commercial use."""
        return any(Duty.NON_COMMERCIAL in _asks(terms_of(one)) for one in self.licences)


def of_build(catalog: Catalog, build: Version[BuildFacts]) -> BuildLicence:
    """Return the licence of a registered build, by today's facts and the policies in force."""
    facts = build.facts
    named = [_registered(catalog, member.ref, ExpertFacts) for member in facts.members]
    members = [member for member in named if member is not None]
    inputs = inputs_of(catalog, facts.seed, members, facts.tuned_on)
    own = stating.own_facts_of(catalog, build.ref).get(STATED_AS)
    table = pair_table(_policies(catalog, str(build.ref)))
    return licence_of(inputs, table, str(own.value) if own else None)


def inputs_of(
    catalog: Catalog,
    seed: str | None,
    members: Sequence[Version[ExpertFacts]],
    tuned_on: Sequence[str] = (),
) -> list[LicensedInput]:
    """Return all that a build is made from that has a licence: seed, experts, data of both.

    Documents that state a licence of their own are among it.
    """
    inputs = []
    used = {*tuned_on, *(ref for member in members for ref in member.facts.data)}
    base = _registered(catalog, seed, SeedFacts) if seed else None
    if seed:
        inputs.append(LicensedInput(seed, base.facts.license if base else None))
    if base:
        used |= set(base.facts.data)
    for member in members:
        # Data's own line says more than the copy that an expert carries.
        if not member.facts.data:
            text = joined(member.facts.licenses) or None
            inputs.append(LicensedInput(str(member.ref), text))
    for ref in sorted(used):
        data = _registered(catalog, ref, DataFacts)
        inputs.append(LicensedInput(ref, data.facts.applying_license if data else None))
        for licence in data.facts.document_licenses if data else ():
            # What a document says may be anything; what is no licence is repeated nowhere.
            stated = licence if is_expression(licence) else None
            inputs.append(LicensedInput(f"documents of {ref}", stated))
    return inputs


def inherited(
    seed: Version[SeedFacts], members: Iterable[Version[ExpertFacts]], tuned_on: Iterable[str]
) -> list[str]:
    """Return what a build was tuned on before it grew, which neither seed nor members name."""
    named = {*seed.facts.data, *(ref for member in members for ref in member.facts.data)}
    return sorted(set(tuned_on) - named)


def licences_in(
    catalog: Catalog,
    seed: Version[SeedFacts],
    members: Iterable[Version[ExpertFacts]],
    tuned_on: Iterable[str] = (),
) -> tuple[str, ...]:
    """Return each licence that a build of this seed and these members is under, as gates are told.

    Those that documents state themselves are among them.
    """
    licences = [seed.facts.license]
    used = {*seed.facts.data, *tuned_on}
    for member in members:
        licences += member.facts.licenses
        used |= set(member.facts.data)
    for ref in used:
        licences += catalog.get(ref, DataFacts).facts.every_license
    return each(licences)


def pair_table(policies: Iterable[Policy]) -> PairTable:
    """Return the company's table; an empty one, which allows no pair, where it has none."""
    for policy in policies:
        if policy.name == POLICY:
            try:
                return PairTable.model_validate(policy.parameters)
            except ValidationError:
                return PairTable()
    return PairTable()


def licence_of(
    inputs: Sequence[LicensedInput], table: PairTable, stated: str | None = None
) -> BuildLicence:
    """Return the licence of a work that was made from these inputs.

    Args:
        inputs: everything with a licence of its own.
        table: which licences may stand in one work.
        stated: the licence under which the company wants to pass it on.

    Returns:
        An expression of all whose terms must be kept; the stated one where nothing speaks against
        it; or the questions for counsel.
    """
    licences = each(one.licence for one in inputs)
    questions = _questions(inputs, licences, table)
    if questions:
        return BuildLicence(LicenceAnswer.COUNSEL, None, licences, questions=tuple(questions))
    # After the questions each licence has terms.
    terms = {one: asked for one in licences if (asked := _terms(one, table)) is not None}
    whole = _whole(terms, table)
    if whole is None and any(Duty.SAME_TERMS in asked.asks for asked in terms.values()):
        strict = [one for one, asked in terms.items() if Duty.SAME_TERMS in asked.asks]
        question = (
            f"no licence is known under which a whole of {', '.join(licences)} may be passed on: "
            f"{', '.join(strict)} each ask for their own terms"
        )
        return BuildLicence(LicenceAnswer.COUNSEL, None, licences, questions=(question,))
    reasons = _reasons(inputs, terms, whole)
    kept = [one for one, asked in terms.items() if _stays(one, asked, whole)]
    parts = [whole, *kept] if whole else list(kept or licences)
    expression = joined(parts)
    if stated is None:
        return BuildLicence(LicenceAnswer.COMPUTED, expression, licences, tuple(reasons))
    objection = _against(stated, whole, terms, table)
    if objection is not None:
        return BuildLicence(LicenceAnswer.COUNSEL, None, licences, tuple(reasons), (objection,))
    reasons.append(f"The company passes it on under {stated}; the terms of all parts stay.")
    return BuildLicence(LicenceAnswer.STATED, stated, licences, tuple(reasons))


def _questions(
    inputs: Sequence[LicensedInput], licences: Sequence[str], table: PairTable
) -> list[str]:
    """Return what nobody has answered, a sentence each."""
    questions = [f"no licence is stated for {one.ref}" for one in inputs if not one.licence]
    if not inputs:
        questions.append("nothing is recorded of what it was made from")
    questions += [
        f"{one.ref} offers a choice, {one.licence}, and none is recorded (--license-choice)"
        for one in inputs
        if one.licence and len(alternatives(one.licence)) > 1
    ]
    for licence in licences:
        if licence in table.never:
            questions.append(f"{licence} forbids derived works")
        elif _terms(licence, table) is None:
            questions.append(f"nobody described what {licence} asks of a model made under it")
    questions += [
        f"nobody said that {left} and {right} may stand in one build"
        for left, right in combinations(licences, 2)
        if not table.allows(left, right)
    ]
    return questions


def _terms(licence: str, table: PairTable) -> Terms | None:
    """Return what a licence asks; of one that counsel put beside the others, the least."""
    known = terms_of(licence)
    if known is None and (community(licence) or licence in table.attribution):
        return Terms(asks=(Duty.ATTRIBUTION, Duty.NOTICE))
    return known


def _whole(terms: Mapping[str, Terms], table: PairTable) -> str | None:
    """Return the licence that the whole has to be under; None where none asks, or none will do."""
    strict = {one: asked for one, asked in terms.items() if Duty.SAME_TERMS in asked.asks}
    if not strict:
        return None
    further = [licence for asked in strict.values() for licence in asked.under]
    for candidate in (*sorted(strict), *further):
        takes_strict = all(one == candidate or candidate in strict[one].under for one in strict)
        takes_rest = all(
            one in strict or (table.allows(candidate, one) and candidate not in asked.not_under)
            for one, asked in terms.items()
        )
        if takes_strict and takes_rest:
            return candidate
    return None


def _stays(licence: str, terms: Terms, whole: str | None) -> bool:
    """Tell whether a licence's own terms stay beside those of the whole."""
    return bool(terms.asks) and licence != whole and Duty.SAME_TERMS not in terms.asks


def _reasons(
    inputs: Sequence[LicensedInput], terms: Mapping[str, Terms], whole: str | None
) -> list[str]:
    reasons = []
    for licence, asked in terms.items():
        refs = [one.ref for one in inputs if one.licence and licence in each([one.licence])]
        duties = ", ".join(duty.replace("_", " ") for duty in asked.asks) or "nothing"
        reasons.append(f"{licence} ({', '.join(refs)}) asks for {duties}.")
        if Duty.SAME_TERMS in asked.asks and licence != whole:
            reasons.append(f"What is under {licence} may be passed on under {whole}.")
    if whole:
        reasons.append(f"The whole has to be passed on under {whole}.")
    if any(Duty.NON_COMMERCIAL in asked.asks for asked in terms.values()):
        reasons.append("No commercial use.")
    return reasons


def _against(
    stated: str, whole: str | None, terms: Mapping[str, Terms], table: PairTable
) -> str | None:
    """Return what speaks against the licence that the company states; None for nothing."""
    ways = alternatives(stated)
    if len(ways) > 1:
        return f"{stated} is stated, which is a choice: one licence goes out"
    if whole and whole not in ways[0]:
        return f"{stated} is stated, and the whole has to be passed on under {whole}"
    unknown = [
        f"{own} and {licence}"
        for own in ways[0]
        for licence in terms
        if own not in terms and not table.allows(own, licence)
    ]
    if unknown:
        return f"{stated} is stated, and nobody said that {unknown[0]} may stand in one build"
    strict = any(Duty.NON_COMMERCIAL in asked.asks for asked in terms.values())
    own_terms = [_asks(terms_of(own)) for own in ways[0]]
    if strict and not any(Duty.NON_COMMERCIAL in asks for asks in own_terms):
        return f"{stated} is stated, and what it was made from forbids commercial use"
    return None


def _asks(terms: Terms | None) -> tuple[Duty, ...]:
    return terms.asks if terms else ()


def _registered(catalog: Catalog, ref: str, kind: type[F]) -> Version[F] | None:
    """Return a version; None for one that an older row names and nobody registered."""
    version = catalog.find(ref)
    return version.of(kind) if version else None


def _policies(catalog: Catalog, ref: str) -> list[Policy]:
    """Return the policies in force: the adopted set, else those that last judged the build."""
    valid = adoption.adopted(catalog)
    try:
        if valid is not None:
            return adoption.policies_of(catalog, valid)
        for event in reversed(gate.readable_verdicts(catalog, ref)):
            kept = from_document(catalog.document(event.read(Judged).policies))
            if any(policy.name == POLICY for policy in kept):
                return kept
    except BtxError:
        return []
    return []
