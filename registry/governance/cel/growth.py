"""Whether an expression's values could grow without bound.

In:  a syntax tree.  Out: nothing, or the error that names the part which could grow.
The CEL library bounds turns and depth, but not sizes: values that are doubled in each of a chain of
loops take time or memory that is exponential in the length of the chain.
"""

import math
from enum import Enum

from registry.governance.cel.tree import (
    ADDITION,
    CONDITIONAL,
    Call,
    ListLiteral,
    Literal,
    Loop,
    MappingLiteral,
    Name,
    Node,
    Presence,
    SyntaxTree,
)

# Each may double a value: eight keep the largest one under 2^8 times the evidence.
MOST_ADDITIONS = 8


def check_growth(tree: SyntaxTree) -> None:
    """Check that nothing in the expression grows by more than a fixed factor.

    `has()` is refused here as well: evidence always holds every fact, so it could only hide a
    misspelt one.

    Raises:
        Invalid: naming the part that could grow, and what may stand there.
    """
    doublings = 0
    waiting: list[tuple[Node, _Place]] = [(tree.root, _Place.OUTSIDE)]
    while waiting:
        node, place = waiting.pop()
        if isinstance(node, Presence):
            raise tree.invalid("has()", "a comparison with null: every fact is always there")
        if _makes_a_collection(node):
            if place is _Place.INSIDE:
                raise tree.invalid("a list or mapping made inside a loop", "constants only there")
            if place is _Place.GONE_THROUGH:
                doublings += _doublings(node)
        if isinstance(node, Call) and node.function == ADDITION:
            doublings += 1
        if isinstance(node, Loop):
            carried = place is not _Place.OUTSIDE and isinstance(node.initial, ListLiteral)
            waiting.append((node.elements, _Place.GONE_THROUGH if carried else _Place.OUTSIDE))
            parts = _written_by_author(node.step, node.accumulator)
            waiting.extend((part, _Place.INSIDE) for part in parts)
        else:
            waiting.extend((child, place) for child in node.children())
    if doublings > MOST_ADDITIONS:
        raise tree.invalid(
            f"{doublings} additions, or lists that a loop inside a loop goes through",
            f"at most {MOST_ADDITIONS}",
        )


class _Place(Enum):
    """Where a node is evaluated.

    Attributes:
        OUTSIDE: once.
        INSIDE: anew in every turn of a loop.
        GONE_THROUGH: anew in every turn, as what an inner `map` or `filter` goes through: these
            carry their elements into their result, where `all` and `exists` carry nothing on.
    """

    OUTSIDE = 0
    INSIDE = 1
    GONE_THROUGH = 2


def _doublings(node: Node) -> int:
    """Return how often a value is doubled where a loop makes it of a list with so many items."""
    return max(1, math.ceil(math.log2(max(1, len(node.children())))))


def _makes_a_collection(node: Node) -> bool:
    if not isinstance(node, ListLiteral | MappingLiteral):
        return False
    return any(not isinstance(child, Literal) for child in node.children())


def _written_by_author(step: Node, accumulator: str) -> list[Node]:
    """Return the parts of a loop's step that the policy's author wrote.

    The `accumulator + [x]` to which the macros `map` and `filter` are expanded adds one element a
    turn, so that only `x` counts.
    """
    if not isinstance(step, Call):
        return [step]
    if step.function == CONDITIONAL:
        condition, if_true, if_false = step.arguments
        return [
            condition,
            *_written_by_author(if_true, accumulator),
            *_written_by_author(if_false, accumulator),
        ]
    if step.function == ADDITION:
        left, right = step.arguments
        if left == Name(accumulator) and isinstance(right, ListLiteral):
            return list(right.items)
    return [step]
