"""Whether an expression names only facts that exist.

In:  a syntax tree, the shapes of the variables.  Out: nothing, or the error that names the fact.
Evidence always holds every fact, null when unknown. A fact that no evidence holds is therefore a
misspelt one, and is found when the policy is written instead of when a candidate is judged.
"""

from collections.abc import Mapping, Sequence

from registry.governance.cel.shapes import (
    Anything,
    ListOf,
    MappingOf,
    Record,
    Shape,
)
from registry.governance.cel.tree import (
    ADDITION,
    AND,
    CONDITIONAL,
    INDEX,
    MEMBERSHIP,
    OR,
    Call,
    ListLiteral,
    Literal,
    Loop,
    Name,
    Node,
    Presence,
    Select,
    SyntaxTree,
)

# Operators whose value is one of their last two arguments, or is made of both.
_JOINING = frozenset({CONDITIONAL, ADDITION, OR, AND})


def check_names(tree: SyntaxTree, variables: Mapping[str, Shape]) -> None:
    """Check that the expression names no fact that its variables do not have.

    Args:
        tree: the expression.
        variables: the shape of each variable; nothing is known of one that is left out.

    Raises:
        Invalid: naming the fact, and those that exist.
    """
    _Checker(tree).shape(tree.root, variables)


def members_of(tree: SyntaxTree, variable: str) -> set[str]:
    """Return the members of a variable that the expression names."""
    found: set[str] = set()
    waiting: list[Node] = [tree.root]
    while waiting:
        node = waiting.pop()
        waiting += node.children()
        if isinstance(node, Select | Presence) and node.operand == Name(variable):
            found.add(node.field)
        elif isinstance(node, Call) and node.function == INDEX:
            container, index = node.arguments
            if container == Name(variable) and isinstance(index, Literal) and index.text:
                found.add(index.text)
    return found


class _Checker:
    """Finds the shape of each node's value from the leaves up."""

    def __init__(self, tree: SyntaxTree) -> None:
        self._tree = tree

    def shape(self, node: Node, variables: Mapping[str, Shape]) -> Shape:
        """The shape of the node's value, as far as it is known."""
        if isinstance(node, Name):
            return variables.get(node.name, Anything())
        if isinstance(node, Select):
            return self._member(self.shape(node.operand, variables), node.field)
        if isinstance(node, Loop):
            return self._of_loop(node, variables)
        shapes = [self.shape(child, variables) for child in node.children()]
        if isinstance(node, Call):
            return self._of_call(node, shapes)
        if isinstance(node, ListLiteral) and shapes:
            return ListOf(shapes[0])
        return Anything()

    def _of_call(self, call: Call, shapes: Sequence[Shape]) -> Shape:
        if call.function == INDEX:
            return self._of_index(shapes[0], call.arguments[1])
        if call.function == MEMBERSHIP and isinstance(shapes[1], Record):
            raise self._tree.invalid(
                "'in' asked of facts with fixed names",
                "a comparison with null: every fact is always there",
            )
        if call.function in _JOINING:
            return _first_known(*shapes[-2:])
        return Anything()

    def _of_index(self, container: Shape, index: Node) -> Shape:
        if isinstance(index, Literal) and index.text is not None:
            return self._member(container, index.text)
        if isinstance(container, Record):
            raise self._tree.invalid(
                "an index that is computed into facts with fixed names", "the fact's name"
            )
        return container.element if isinstance(container, ListOf | MappingOf) else Anything()

    def _of_loop(self, loop: Loop, variables: Mapping[str, Shape]) -> Shape:
        elements = self.shape(loop.elements, variables)
        element = elements.element if isinstance(elements, ListOf) else Anything()
        inner = {**variables, loop.variable: element}
        inner[loop.accumulator] = self.shape(loop.initial, variables)
        step = self.shape(loop.step, inner)
        inner[loop.accumulator] = _first_known(step, inner[loop.accumulator])
        return self.shape(loop.result, inner)

    def _member(self, shape: Shape, name: str) -> Shape:
        if isinstance(shape, Anything):
            return shape
        if isinstance(shape, MappingOf):
            return shape.element
        if not isinstance(shape, Record):
            raise self._tree.invalid(f"{name!r} of {shape.title}", "a fact that has parts")
        if name not in shape.members:
            raise self._tree.invalid(
                f"the fact {name!r}", f"one of {', '.join(sorted(shape.members))}"
            )
        return shape.members[name]


def _first_known(*shapes: Shape) -> Shape:
    for shape in shapes:
        if not isinstance(shape, Anything):
            return shape
    return Anything()
