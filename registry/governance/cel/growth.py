"""Whether an expression's values could grow without bound.

In:  a syntax tree.  Out: nothing, or the error that names the part which could grow.
The CEL library bounds turns and depth, but not sizes: values that are doubled in each of a chain of
loops take time or memory that is exponential in the length of the chain.
"""

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

# Each may double a text: eight keep the largest value under 2^8 times the evidence.
MOST_ADDITIONS = 8


def check_growth(tree: SyntaxTree) -> None:
    """Check that nothing in the expression grows by more than a fixed factor.

    `has()` is refused here as well: evidence always holds every fact, so it could only hide a
    misspelt one.

    Raises:
        Invalid: naming the part that could grow, and what may stand there.
    """
    additions = 0
    # Each node with whether it is evaluated anew in every turn of a loop.
    waiting: list[tuple[Node, bool]] = [(tree.root, False)]
    while waiting:
        node, in_loop = waiting.pop()
        if isinstance(node, Presence):
            raise tree.invalid("has()", "a comparison with null: every fact is always there")
        if in_loop and _makes_a_collection(node):
            raise tree.invalid("a list or mapping made inside a loop", "constants only there")
        if isinstance(node, Call) and node.function == ADDITION:
            additions += 1
        if isinstance(node, Loop):
            waiting.append((node.elements, False))
            waiting.extend((part, True) for part in _written_by_author(node.step, node.accumulator))
        else:
            waiting.extend((child, in_loop) for child in node.children())
    if additions > MOST_ADDITIONS:
        raise tree.invalid(f"{additions} additions", f"at most {MOST_ADDITIONS}")


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
