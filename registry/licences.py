"""SPDX licence expressions, by meaning.

In:  an expression such as `MIT AND (CC-BY-4.0 OR CC0-1.0)`.  Out: its spelling, and the sets of
licences of which one must be kept as a whole. Order, brackets and repetition mean nothing; `WITH`
makes a licence of its own; deprecated names stand for what SPDX says they mean.
Which licences are acceptable, and which may stand in one model, is left to the policies.
"""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from registry.errors import Invalid

if TYPE_CHECKING:
    from license_expression import Licensing

# Each inner tuple is one way to comply: all of its licences apply.
Alternatives = tuple[tuple[str, ...], ...]


def spelled(text: str) -> str:
    """Return a licence expression in SPDX's spelling.

    Raises:
        Invalid: for what is no expression of licences that SPDX lists.
    """
    # Imported here: only writing needs the list of licences.
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, AttributeError):
        raise Invalid(
            "licence",
            found=repr(text),
            expected="an SPDX identifier or expression, such as Apache-2.0",
            next="write LicenseRef-NAME for a licence that SPDX does not list",
        ) from None


@cache
def alternatives(text: str) -> Alternatives:
    """Return the ways to comply with an expression.

    Args:
        text: an expression, in any spelling. What cannot be read is one licence of that name, so
            that nothing is taken to agree with it.

    Returns:
        Sorted, none containing another: equal meanings have equal alternatives.
    """
    from boolean import ParseError
    from license_expression import ExpressionError

    licensing = _licensing()
    try:
        parsed = licensing.parse(text, validate=False)
    except (ExpressionError, ParseError):
        parsed = None
    if parsed is None:
        return ((text,),)
    normal = licensing.dnf(parsed.simplify())
    ways = normal.args if isinstance(normal, licensing.OR) else (normal,)
    named = {
        frozenset(map(str, way.args if isinstance(way, licensing.AND) else (way,))) for way in ways
    }
    least = [way for way in named if not any(other < way for other in named)]
    return tuple(sorted(tuple(sorted(way)) for way in least))


def each(texts: Iterable[str | None]) -> tuple[str, ...]:
    """Return every licence that any of the expressions names, sorted.

    Of a choice all count: until one is recorded nobody knows which applies.
    """
    return tuple(
        sorted({licence for text in texts if text for way in alternatives(text) for licence in way})
    )


def is_expression(text: str) -> bool:
    """Tell whether a text is an expression of licences that SPDX lists."""
    try:
        spelled(text)
    except Invalid:
        return False
    return True


def is_same(one: str | None, other: str | None) -> bool:
    """Tell whether two expressions mean the same; what is not stated is the same as itself."""
    if one is None or other is None:
        return one == other
    return alternatives(one) == alternatives(other)


def is_choice(chosen: str, among: str) -> bool:
    """Tell whether an expression is one of the ways to comply with another."""
    own = alternatives(chosen)
    return len(own) == 1 and own[0] in alternatives(among)


def joined(texts: Iterable[str | None]) -> str:
    """Return the expression of a work that all of these apply to, each licence once.

    Choices stay choices. Empty where nothing is stated.
    """
    parts = [f"({text})" for text in texts if text]
    return str(_licensing().parse(" AND ".join(parts)).simplify()) if parts else ""


@cache
def _licensing() -> "Licensing":
    """Return the grammar that knows SPDX's list; reading the list takes a second.

    The library takes further names for licences of the list, such as a LicenseRef that somebody
    else once used: here such a name is a licence of its own.
    """
    from license_expression import LicenseSymbol, Licensing, get_spdx_licensing

    return Licensing(
        LicenseSymbol(
            licence.key,
            aliases=tuple(name for name in licence.aliases if _is_listed(name)),
            is_exception=licence.is_exception,
        )
        for licence in get_spdx_licensing().known_symbols.values()
        if _is_listed(licence.key) or licence.is_exception
    )


def _is_listed(name: str) -> bool:
    """Tell whether SPDX's list of licences has a name, deprecated ones included."""
    return is_expression(name) and not spelled(name).startswith("LicenseRef-")
