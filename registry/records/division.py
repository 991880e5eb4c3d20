"""How the work is divided among the experts of a build, and where the division is worth a look.

In:  a build's facts.  Out: who answers whose text; pairs of data versions that could be one
expert's; data versions that could be several experts'; those that no expert serves.
Nothing here is a verdict. Policies read the same as `evidence.division`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.records.evidence import DivisionLine
from registry.records.facts import BuildFacts, TextParted, TextsApart
from registry.records.kinds import Kind
from registry.records.references import parse
from registry.units import percent

# Texts that are no farther apart than this many times what chance gives are one text.
LIKE_CHANCE = 1.5
# Parts of a text that teach less of each other than this share of what they teach themselves are
# two domains: benchmarks/division.
LITTLE = 0.15


@dataclass(frozen=True)
class Answered:
    """Who answers one data version's text.

    Attributes:
        data: the data version.
        shares: by the seed and each member, the share of the routing weight, mean over layers.
    """

    data: str
    shares: dict[str, float]


def line(facts: BuildFacts) -> DivisionLine:
    """Return what policies are told of it."""
    return DivisionLine(
        could_be_one=tuple((pair.left, pair.right) for pair in could_be_one(facts)),
        could_be_several=tuple(one.data for one in could_be_several(facts)),
        unserved=tuple(unserved(facts)),
    )


def answered(facts: BuildFacts) -> list[Answered]:
    """Return who answers each text that was measured; empty where that cannot be told.

    It cannot where experts are cut or blended: then no output of a router is one member's.
    """
    with_seed = bool(facts.architecture and facts.architecture.seed_expert)
    refs = [member.ref for member in facts.members]
    if with_seed and facts.seed:
        refs.insert(0, facts.seed)
    found = []
    for share in facts.routing.shares if facts.routing else ():
        layers = [layer for layer in share.layers if len(layer) == len(refs)]
        if not layers or len(layers) != len(share.layers):
            return []
        means = [sum(column) / len(layers) for column in zip(*layers, strict=True)]
        found.append(Answered(share.data, dict(zip(refs, means, strict=True))))
    return found


def could_be_one(facts: BuildFacts) -> list[TextsApart]:
    """Return pairs of data versions that nothing tells apart, and that trained two experts.

    Their documents are no farther apart than if chance had divided them.
    """
    trained = _trained_on(facts)
    return [
        pair
        for pair in facts.texts_apart
        if trained.get(pair.left) != trained.get(pair.right)
        and pair.left in trained
        and pair.right in trained
        and pair.distance <= LIKE_CHANCE * pair.by_chance
    ]


def could_be_several(facts: BuildFacts) -> list[TextParted]:
    """Return data versions with two parts that teach each other little, by what is in them."""
    return [one for one in facts.texts_parted if one.taught < LITTLE]


def unserved(facts: BuildFacts) -> list[str]:
    """Return the data versions that no member was trained on, and that the build knows no better.

    The seed's own text is not among them: the seed serves it.
    """
    return [
        result.data
        for result in facts.results
        if not result.specialists
        and result.new_to_seed is not False
        and not (result.seed_factor and result.seed_factor.high < 1)
    ]


def sentences(facts: BuildFacts) -> list[str]:
    """Say in words what of the division is worth a look."""
    lines = []
    for pair in could_be_one(facts):
        left, right = _short(pair.left), _short(pair.right)
        lines.append(
            f"{left} and {right} could be one expert's: their texts are no farther apart than "
            f"chance makes them ({pair.distance:.3f} bits, by chance {pair.by_chance:.3f})."
        )
    for one in could_be_several(facts):
        larger, smaller = (
            f"{part.passages} passages ({', '.join(part.words)})" for part in one.parts
        )
        lines.append(
            f"{_short(one.data)} could be two experts': of what a part of it teaches of itself, "
            f"another teaches {percent(max(0.0, one.taught))}: {larger}; {smaller}."
        )
    if missing := unserved(facts):
        names = ", ".join(map(_short, missing))
        lines.append(f"No expert serves {names}: the build is not surely better than the seed.")
    return lines


def _trained_on(facts: BuildFacts) -> dict[str, Sequence[str]]:
    """Return by data version the members that were trained on it."""
    return {
        result.data: tuple(one.ref for one in result.specialists if one.ref)
        for result in facts.results
        if result.specialists
    }


def _short(ref: str) -> str:
    return str(parse(ref)).removeprefix(f"{Kind.DATA}/")
