"""The syntax tree of a compiled expression, as frozen dataclasses.

In:  the checked expression in its protobuf form (`cel.expr.CheckedExpr`), macros expanded.
Out: a SyntaxTree.  Which trees are acceptable is left to `growth` and `names`.
The CEL library neither brings Python classes for these messages nor depends on protobuf, so the
wire format is read here. The field numbers come from github.com/google/cel-spec,
proto/cel/expr/checked.proto and syntax.proto.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from registry.errors import Invalid

# CEL's names of the operators that are looked for.
ADDITION = "_+_"
CONDITIONAL = "_?_:_"
INDEX = "_[_]"
MEMBERSHIP = "@in"
OR = "_||_"
AND = "_&&_"


@dataclass(frozen=True)
class Node:
    """One node of the tree."""

    def children(self) -> tuple["Node", ...]:
        """Return the nodes directly below this one, in the order of the source."""
        return ()


@dataclass(frozen=True)
class Literal(Node):
    """A constant.

    Attributes:
        text: its value if it is a text; None for a constant of any other type.
    """

    text: str | None


@dataclass(frozen=True)
class Name(Node):
    """A variable: one of those that every expression may use, or a loop's own."""

    name: str


@dataclass(frozen=True)
class Select(Node):
    """`operand.field`."""

    operand: Node
    field: str

    def children(self) -> tuple[Node, ...]:
        """Return the operand."""
        return (self.operand,)


@dataclass(frozen=True)
class Presence(Node):
    """`has(operand.field)`."""

    operand: Node
    field: str

    def children(self) -> tuple[Node, ...]:
        """Return the operand."""
        return (self.operand,)


@dataclass(frozen=True)
class Call(Node):
    """A function or an operator; the target of a method call is its first argument."""

    function: str
    arguments: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        """Return the arguments."""
        return self.arguments


@dataclass(frozen=True)
class ListLiteral(Node):
    """`[item, ...]`."""

    items: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        """Return the items."""
        return self.items


@dataclass(frozen=True)
class MappingLiteral(Node):
    """`{key: value, ...}`.

    Attributes:
        parts: keys and values in turn.
    """

    parts: tuple[Node, ...]

    def children(self) -> tuple[Node, ...]:
        """Return keys and values."""
        return self.parts


@dataclass(frozen=True)
class Loop(Node):
    """A comprehension, which is what `all`, `exists`, `map` and `filter` are expanded to.

    Attributes:
        variable: the name of the element in turn.
        accumulator: the name of the value that is carried from turn to turn.
        elements: what is looped over.
        initial: the accumulator's first value.
        condition: goes on while this is true.
        step: the accumulator's next value.
        result: what the loop gives in the end.
    """

    variable: str
    accumulator: str
    elements: Node
    initial: Node
    condition: Node
    step: Node
    result: Node

    def children(self) -> tuple[Node, ...]:
        """Return the loop's five expressions."""
        return (self.elements, self.initial, self.condition, self.step, self.result)


@dataclass(frozen=True)
class SyntaxTree:
    """An expression's tree, with the text that it was compiled from."""

    text: str
    root: Node

    def invalid(self, found: str, expected: str) -> Invalid:
        """Return the error that says what is wrong with this expression."""
        return invalid_expression(self.text, found, expected)


def invalid_expression(text: str, found: str, expected: str) -> Invalid:
    """Return the error that says what is wrong with an expression.

    Args:
        text: the expression.
        found: what is wrong in it.
        expected: what may stand there.
    """
    return Invalid(
        f"expression {text[:80]!r}", found=found, expected=expected, next="btx policy test"
    )


def decode(text: str, serialized: bytes) -> SyntaxTree:
    """Read the tree of a compiled expression.

    Args:
        text: the expression's source.
        serialized: what the library's `Expression.serialize` returned: a `google.protobuf.Any`
            that holds a `cel.expr.CheckedExpr`.

    Raises:
        Invalid: for bytes that do not hold what the protobuf definition says.
    """
    checked = _Message(serialized).message(_AnyField.VALUE)
    return SyntaxTree(text, _node(checked.message(_CheckedExprField.EXPR)))


class _AnyField(IntEnum):
    VALUE = 2


class _CheckedExprField(IntEnum):
    EXPR = 4


class _ExprField(IntEnum):
    CONSTANT = 3
    IDENTIFIER = 4
    SELECT = 5
    CALL = 6
    CREATE_LIST = 7
    CREATE_STRUCT = 8
    COMPREHENSION = 9


class _ConstantField(IntEnum):
    STRING_VALUE = 6


class _IdentifierField(IntEnum):
    NAME = 1


class _SelectField(IntEnum):
    OPERAND = 1
    FIELD = 2
    TEST_ONLY = 3


class _CallField(IntEnum):
    TARGET = 1
    FUNCTION = 2
    ARGUMENTS = 3


class _CreateListField(IntEnum):
    ELEMENTS = 1


class _CreateStructField(IntEnum):
    ENTRIES = 2


class _EntryField(IntEnum):
    MAP_KEY = 3
    VALUE = 4


class _ComprehensionField(IntEnum):
    ITERATION_VARIABLE = 1
    ITERATION_RANGE = 2
    ACCUMULATOR_VARIABLE = 3
    ACCUMULATOR_INITIAL = 4
    LOOP_CONDITION = 5
    LOOP_STEP = 6
    RESULT = 7


class _WireType(IntEnum):
    VARIABLE_INTEGER = 0
    FIXED_64 = 1
    LENGTH_DELIMITED = 2
    FIXED_32 = 5


_FIXED_SIZES = {_WireType.FIXED_64: 8, _WireType.FIXED_32: 4}


class _Message:
    """One protobuf message, its fields by number in the order in which they were written."""

    def __init__(self, content: bytes) -> None:
        self.fields = tuple(_fields(content))

    def contents(self, *numbers: int) -> list[bytes]:
        """The values of a field that may be repeated, or of several such fields in turn."""
        return [
            value for number, value in self.fields if number in numbers and isinstance(value, bytes)
        ]

    def content(self, number: int) -> bytes:
        """The value of a field that has to be there."""
        contents = self.contents(number)
        if not contents:
            raise _undecodable(f"no field {number}")
        return contents[0]

    def message(self, number: int) -> "_Message":
        return _Message(self.content(number))

    def text(self, number: int) -> str:
        return self.content(number).decode(errors="replace")

    def is_true(self, number: int) -> bool:
        return any(value for field, value in self.fields if field == number)

    def node(self, number: int) -> Node:
        return _node(self.message(number))

    def nodes(self, *numbers: int) -> tuple[Node, ...]:
        return tuple(_node(_Message(content)) for content in self.contents(*numbers))


def _node(expression: _Message) -> Node:
    for number, value in expression.fields:
        reader = _READERS.get(number)
        if reader is not None and isinstance(value, bytes):
            return reader(_Message(value))
    return Literal(None)


def _literal(message: _Message) -> Node:
    texts = message.contents(_ConstantField.STRING_VALUE)
    return Literal(texts[0].decode(errors="replace") if texts else None)


def _name(message: _Message) -> Node:
    return Name(message.text(_IdentifierField.NAME))


def _select(message: _Message) -> Node:
    kind = Presence if message.is_true(_SelectField.TEST_ONLY) else Select
    return kind(message.node(_SelectField.OPERAND), message.text(_SelectField.FIELD))


def _call(message: _Message) -> Node:
    target = message.nodes(_CallField.TARGET)
    arguments = message.nodes(_CallField.ARGUMENTS)
    return Call(message.text(_CallField.FUNCTION), target + arguments)


def _list(message: _Message) -> Node:
    return ListLiteral(message.nodes(_CreateListField.ELEMENTS))


def _mapping(message: _Message) -> Node:
    parts: list[Node] = []
    for entry in message.contents(_CreateStructField.ENTRIES):
        parts.extend(_Message(entry).nodes(_EntryField.MAP_KEY, _EntryField.VALUE))
    return MappingLiteral(tuple(parts))


def _loop(message: _Message) -> Node:
    return Loop(
        variable=message.text(_ComprehensionField.ITERATION_VARIABLE),
        accumulator=message.text(_ComprehensionField.ACCUMULATOR_VARIABLE),
        elements=message.node(_ComprehensionField.ITERATION_RANGE),
        initial=message.node(_ComprehensionField.ACCUMULATOR_INITIAL),
        condition=message.node(_ComprehensionField.LOOP_CONDITION),
        step=message.node(_ComprehensionField.LOOP_STEP),
        result=message.node(_ComprehensionField.RESULT),
    )


_READERS: Mapping[int, Callable[[_Message], Node]] = {
    _ExprField.CONSTANT: _literal,
    _ExprField.IDENTIFIER: _name,
    _ExprField.SELECT: _select,
    _ExprField.CALL: _call,
    _ExprField.CREATE_LIST: _list,
    _ExprField.CREATE_STRUCT: _mapping,
    _ExprField.COMPREHENSION: _loop,
}


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Read field number and value of each field; a value is an integer or bytes."""
    position = 0
    while position < len(content):
        key, position = _variable_integer(content, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _WireType.VARIABLE_INTEGER:
            value, position = _variable_integer(content, position)
            yield number, value
            continue
        if wire_type == _WireType.LENGTH_DELIMITED:
            size, position = _variable_integer(content, position)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[_WireType(wire_type)]
        else:
            raise _undecodable(f"wire type {wire_type}")
        yield number, content[position : position + size]
        position += size


def _variable_integer(content: bytes, position: int) -> tuple[int, int]:
    """Read an integer of seven bits a byte, lowest first; returns it and the position after it."""
    value = 0
    shift = 0
    while position < len(content):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
    raise _undecodable("an integer that is cut off")


def _undecodable(found: str) -> Invalid:
    return Invalid(
        "compiled expression",
        found=found,
        expected="cel.expr.CheckedExpr",
        next="install the pinned cel-expr-python",
    )
