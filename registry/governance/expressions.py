"""Policy expressions: Google's CEL behind one narrow door, so that a rule can say yes only by being exactly true.

In:  an expression's text, plain JSON facts.  Out: `holds` -> None (true) or the reason why not; `render` -> text for people.
Everything else is a no: an unknown name, a wrong type, a missing fact, a loop without end, a value that grows without bound.
The library bounds iterations and depth; `compile` adds what it lacks: no growth inside loops, no `has()`, no facts nobody records.
Which rules there are is policy.py's.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from btx_core.problems import BtxError
from registry.digest import canonical_json
from registry.errors import Invalid

LONGEST_EXPRESSION = 4_000  # characters
MOST_ADDITIONS = 8  # each may double a text; 8 keep the largest value under 2^8 times the evidence
LARGEST_EVIDENCE_BYTES = 1 << 20
DEEPEST_EVIDENCE = 32  # nested lists and mappings: deeper ones overflow the library's own stack

Facts = Any  # the library's Activation
Node = tuple[str, Any]
Shape = (
    Mapping[str, Any] | str | list[Any] | None
)  # as evidence.yaml writes it; None: nothing is known


@dataclass(frozen=True)
class Expression:
    """One compiled expression over `evidence`, `parameters` and `now`."""

    text: str
    program: Any

    def value(self, facts: Facts) -> tuple[str, Any]:
        """(CEL type, value); type ERROR with the library's reason for whatever goes wrong."""
        try:
            answer = self.program.eval(activation=facts)
            return str(answer.type().name()), answer.plain_value()
        except (
            Exception
        ) as error:  # the binding raises RuntimeError, TypeError, ... : each of them is a no
            return "ERROR", _first_line(error)

    def holds(self, facts: Facts) -> str | None:
        """None when exactly true. Else what came instead, in a few words."""
        kind, value = self.value(facts)
        if kind == "BOOL":
            return None if value is True else "false"
        return (
            f"error: {value}"
            if kind == "ERROR"
            else f"error: a {kind.lower()} where true or false was expected"
        )


def facts(evidence: Mapping[str, Any], parameters: Mapping[str, Any], now: datetime) -> Facts:
    """What expressions may name, handed over once for many of them. Call `check_evidence` first."""
    return _environment().Activation(
        data={"evidence": evidence, "parameters": parameters, "now": now}
    )


def check_evidence(evidence: Any) -> str | None:
    """None when the evidence is plain JSON of bounded size and depth; else why not."""
    if not isinstance(evidence, Mapping):
        return "evidence is no mapping"
    if _deeper_than(evidence, DEEPEST_EVIDENCE):
        return f"evidence nested deeper than {DEEPEST_EVIDENCE}"
    try:
        size = len(canonical_json(evidence))
    except (BtxError, RecursionError) as error:
        return f"evidence is not plain JSON: {_first_line(error)}"
    return (
        f"evidence of {size} bytes, at most {LARGEST_EVIDENCE_BYTES}"
        if size > LARGEST_EVIDENCE_BYTES
        else None
    )


def misshapen(value: Any, shape: Shape, at: str = "evidence") -> str | None:
    """None when every described fact that is there is null or of its type; else the first that is not.

    A rule that says what must not be (a status that is not "withdrawn") is true of any value of another type: so types are held here.
    """
    if value is None or shape in (None, "any"):
        return None
    if isinstance(shape, str):
        types = {"text": str, "truth": bool}
        fits = (
            isinstance(value, types[shape])
            if shape in types
            else isinstance(value, int | float) and not isinstance(value, bool)
        )
        return None if fits else f"{at} is {json.dumps(value)[:60]}, not a {shape}"
    parts: list[tuple[Any, Shape, str]]
    if isinstance(shape, list) and isinstance(value, list | tuple):
        parts = [(item, shape[0], f"{at}[{position}]") for position, item in enumerate(value)]
    elif isinstance(shape, Mapping) and isinstance(value, Mapping):
        parts = [
            (item, shape.get(key, shape.get("*")), f"{at}.{key}") for key, item in value.items()
        ]
    else:
        return f"{at} is {json.dumps(value)[:60]}, not a {'list' if isinstance(shape, list) else 'mapping'}"
    return next((wrong for part in parts if (wrong := misshapen(*part))), None)


@lru_cache(maxsize=4096)
def compile_expression(text: str) -> Expression:
    """Raises Invalid, naming the expression and what is wrong with it."""
    if len(text) > LONGEST_EXPRESSION:
        raise _invalid(text, f"{len(text)} characters", f"at most {LONGEST_EXPRESSION}")
    try:
        program = _environment().compile(text)
    except (
        Exception
    ) as error:  # syntax, unknown names, type errors: all RuntimeError with CEL's own words
        raise _invalid(
            text, _first_line(error), "a CEL expression over evidence, parameters and now"
        ) from None
    tree = _tree(program)
    _refuse_growth(text, tree)
    return Expression(text, program)


def check_truth(expression: Expression) -> None:
    """Raises Invalid for an expression that can never be true, such as a number."""
    kind = str(expression.program.return_type().name())
    if kind.upper() not in ("BOOL", "DYN"):
        raise _invalid(expression.text, kind.lower(), "true or false")


def check_names(expression: Expression, shapes: Mapping[str, Shape]) -> None:
    """Raises Invalid for a fact that no evidence of this shape holds: a misspelt fact is found when the policy is written."""
    _shape_of(_tree(expression.program), dict(shapes), expression.text)


def render(template: str, data: Facts) -> str:
    """Fill `{expression}` in a message: text as it is, lists joined by commas, what is not there as 'unknown'. Never fails."""
    parts = _template(template)
    return "".join(
        part if position % 2 == 0 else _words(part, data) for position, part in enumerate(parts)
    )


def check_template(template: str) -> list[Expression]:
    """The compiled expressions in a message. Raises Invalid for one that does not compile."""
    return [
        compile_expression(part)
        for position, part in enumerate(_template(template))
        if position % 2
    ]


def engine() -> str:
    from importlib.metadata import version

    return f"cel-expr-python {version('cel-expr-python')}"


def _words(text: str, data: Facts) -> str:
    try:
        kind, value = compile_expression(text).value(data)
    except Invalid:
        return "unknown"
    if kind in ("ERROR", "UNKNOWN"):
        return "unknown"
    if isinstance(value, list):
        return ", ".join(dict.fromkeys(map(_word, value[:20]))) or "none"
    return _word(value)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "not stated" if value is None else json.dumps(value, default=str)


@lru_cache(maxsize=1024)
def _template(template: str) -> tuple[str, ...]:
    """Literal, expression, literal, ... ; braces do not nest."""
    parts: list[str] = []
    for position, piece in enumerate(template.split("{")):
        expression, closed, literal = piece.partition("}")
        if position == 0:
            parts.append(piece)
        elif not closed:
            raise Invalid("message", found=repr(template)[:120], expected="a } for every {")
        else:
            parts += [expression, literal]
    return tuple(parts)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from cel_expr_python import cel  # a native library: only commands that judge load it

    return cel.NewEnv(
        variables={"evidence": cel.Type.DYN, "parameters": cel.Type.DYN, "now": cel.Type.TIMESTAMP}
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _invalid(text: str, found: str, expected: str) -> Invalid:
    return Invalid(
        f"expression {text[:80]!r}", found=found, expected=expected, next="btx policy test"
    )


def _deeper_than(value: Any, limit: int) -> bool:
    if isinstance(value, Mapping | list | tuple):
        return limit == 0 or any(
            _deeper_than(item, limit - 1)
            for item in (value.values() if isinstance(value, Mapping) else value)
        )
    return False


# The syntax tree, read from the compiled expression's own protobuf form (cel.expr.CheckedExpr), macros expanded.
# Field numbers: github.com/google/cel-spec, proto/cel/expr/{checked,syntax}.proto.


def _tree(program: Any) -> Node:
    return _node(_one(_one(program.serialize(), 2), 4))


def _node(message: bytes) -> Node:
    for number, value in _fields(message):
        if number in _READERS:
            return _READERS[number](value)
    return "constant", None


def _constant(message: bytes) -> Node:
    for number, value in _fields(message):
        if number == 6:
            return "constant", value.decode(errors="replace")
    return "constant", None


def _select(message: bytes) -> Node:
    if any(number == 3 and value for number, value in _fields(message)):
        return "has", None
    return "select", (_node(_one(message, 1)), _one(message, 2).decode())


def _call(message: bytes) -> Node:
    target = [_node(value) for number, value in _fields(message) if number == 1]
    return "call", (
        _one(message, 2).decode(),
        target + [_node(value) for number, value in _fields(message) if number == 3],
    )


def _list(message: bytes) -> Node:
    return "list", [_node(value) for number, value in _fields(message) if number == 1]


def _struct(message: bytes) -> Node:
    entries = [value for number, value in _fields(message) if number == 2]
    return "map", [
        _node(value) for entry in entries for number, value in _fields(entry) if number in (3, 4)
    ]


def _loop(message: bytes) -> Node:
    texts = {number: value.decode() for number, value in _fields(message) if number in (1, 3)}
    return "loop", (
        texts[1],
        texts[3],
        {number: _node(value) for number, value in _fields(message) if number in (2, 4, 5, 6, 7)},
    )


_READERS = {
    3: _constant,
    4: lambda message: ("name", _one(message, 1).decode()),
    5: _select,
    6: _call,
    7: _list,
    8: _struct,
    9: _loop,
}


def _one(message: bytes, wanted: int) -> bytes:
    for number, value in _fields(message):
        if number == wanted and isinstance(value, bytes):
            return value
    raise Invalid(
        "compiled expression",
        found=f"no field {wanted}",
        expected="cel.expr.CheckedExpr",
        next="install the pinned cel-expr-python",
    )


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, integer or bytes) of one protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
        else:
            size, at = _varint(message, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
            yield key >> 3, message[at : at + size]
            at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def _children(node: Node) -> list[Node]:
    kind, body = node
    if kind == "select":
        return [body[0]]
    if kind == "call":
        return list(body[1])
    if kind in ("list", "map"):
        return list(body)
    return list(body[2].values()) if kind == "loop" else []


def _refuse_growth(text: str, tree: Node) -> None:
    """Nothing the library leaves unbounded: values doubled in chained loops took 2^depth time or memory."""
    additions = 0
    waiting: list[tuple[Node, bool]] = [(tree, False)]
    while waiting:
        node, in_loop = waiting.pop()
        kind, body = node
        if kind == "has":
            raise _invalid(text, "has()", "a comparison with null: every fact is always there")
        if (
            kind in ("list", "map")
            and in_loop
            and any(child[0] != "constant" for child in _children(node))
        ):
            raise _invalid(text, "a list or mapping made inside a loop", "constants only there")
        additions += kind == "call" and body[0] == "_+_"
        if kind == "loop":
            waiting += _loop_parts(body)
        else:
            waiting += [(child, in_loop) for child in _children(node)]
    if additions > MOST_ADDITIONS:
        raise _invalid(text, f"{additions} additions", f"at most {MOST_ADDITIONS}")


def _loop_parts(body: Any) -> list[tuple[Node, bool]]:
    """The loop's parts that its author wrote; `accumulator + [x]`, which map and filter write, adds one element a turn and is left out."""
    _, accumulator, parts = body
    return [(parts[2], False), *((part, True) for part in _written(parts[6], accumulator))]


def _written(step: Node, accumulator: str) -> list[Node]:
    kind, body = step
    if kind == "call" and body[0] == "_?_:_":
        return [body[1][0], *_written(body[1][1], accumulator), *_written(body[1][2], accumulator)]
    if (
        kind == "call"
        and body[0] == "_+_"
        and body[1][0] == ("name", accumulator)
        and body[1][1][0] == "list"
    ):
        return list(body[1][1][1])
    return [step]


def _shape_of(node: Node, scope: dict[str, Shape], text: str) -> Shape:
    """The shape of the node's value: a mapping of known keys, {"*": shape}, [shape], or None where nothing is known."""
    kind, body = node
    if kind == "name":
        return scope.get(body)
    if kind == "select":
        return _member(_shape_of(body[0], scope, text), body[1], text)
    if kind == "call":
        return _shape_of_call(
            body[0], body[1], [_shape_of(argument, scope, text) for argument in body[1]], text
        )
    if kind == "list":
        shapes = [_shape_of(item, scope, text) for item in body]
        return [shapes[0]] if shapes else None
    if kind == "loop":
        return _shape_of_loop(body, scope, text)
    for child in _children(node):
        _shape_of(child, scope, text)
    return None


def _shape_of_call(function: str, arguments: list[Node], shapes: list[Shape], text: str) -> Shape:
    if function == "_[_]":
        if arguments[1][0] == "constant" and arguments[1][1] is not None:
            return _member(shapes[0], arguments[1][1], text)
        if isinstance(shapes[0], Mapping) and "*" not in shapes[0]:
            raise _invalid(
                text, "an index that is computed into facts with fixed names", "the fact's name"
            )
        return _element(shapes[0])
    if function == "@in" and isinstance(shapes[1], Mapping) and "*" not in shapes[1]:
        raise _invalid(
            text,
            "'in' asked of facts with fixed names",
            "a comparison with null: every fact is always there",
        )
    if function in ("_?_:_", "_+_", "_||_", "_&&_"):
        return next((shape for shape in shapes[-2:] if shape is not None), None)
    return None


def _shape_of_loop(body: Any, scope: dict[str, Shape], text: str) -> Shape:
    variable, accumulator, parts = body
    over = _shape_of(parts[2], scope, text)
    inner: dict[str, Shape] = {
        **scope,
        variable: [*over, None][0] if isinstance(over, list) else None,
    }
    inner[accumulator] = _shape_of(parts[4], scope, text)
    inner[accumulator] = _shape_of(parts[6], inner, text) or inner[accumulator]
    return _shape_of(parts[7], inner, text)


def _member(shape: Shape, key: str, text: str) -> Shape:
    if isinstance(shape, Mapping):
        if key in shape or "*" in shape:
            found: Shape = shape.get(key, shape.get("*"))
            return found
        raise _invalid(text, f"the fact {key!r}", f"one of {', '.join(sorted(shape))}")
    if shape in ("text", "number", "truth") or isinstance(shape, list):
        raise _invalid(
            text,
            f"{key!r} of a {shape if isinstance(shape, str) else 'list'}",
            "a fact that has parts",
        )
    return None


def _element(shape: Shape) -> Shape:
    found: Shape = (
        shape[0]
        if isinstance(shape, list)
        else shape.get("*")
        if isinstance(shape, Mapping)
        else None
    )
    return found
