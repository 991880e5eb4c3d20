"""Policy expressions: Google's CEL, behind an interface in which only exactly true means yes.

In:  an expression's text; evidence and parameters as plain JSON.  Out: an Answer; text for people.
Everything else means no: an unknown name, a wrong type, a missing fact, a loop without end, a value
that grows without bound. The library bounds turns and depth; compiling adds what it does not check
(`growth`), and loading a policy checks the facts that it names (`names`).
Which rules there are is left to `registry.governance.policies`.
"""

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING

from btx_core.problems import BtxError
from registry.digest import canonical_json
from registry.errors import Invalid
from registry.governance.cel import names
from registry.governance.cel.growth import check_growth
from registry.governance.cel.shapes import Shape
from registry.governance.cel.tree import SyntaxTree, decode, invalid_expression

if TYPE_CHECKING:
    from cel_expr_python import cel

# Characters.
LONGEST_EXPRESSION = 4_000
LARGEST_EVIDENCE_BYTES = 1 << 20
# Lists and mappings inside each other: more of them overflow the library's own stack.
DEEPEST_EVIDENCE = 32
_LONGEST_LIST_SHOWN = 20
# Significant digits of a figure in a message; more only where unlike figures would look alike.
_FEWEST_DIGITS = 3
_MOST_DIGITS = 9


@dataclass(frozen=True)
class Answer:
    """What an expression evaluated to.

    Attributes:
        kind: the name of its CEL type; ERROR for whatever went wrong.
        value: its value as plain Python; the library's reason for an ERROR.
    """

    kind: str
    value: object

    @property
    def is_true(self) -> bool:
        """Whether the value is exactly true."""
        return self.kind == "BOOL" and self.value is True

    @property
    def problem(self) -> str | None:
        """Why the value is neither true nor false; None if it is one of them."""
        if self.kind == "BOOL":
            return None
        if self.kind == "ERROR":
            return str(self.value)
        return f"a {self.kind.lower()} where true or false was expected"


@dataclass(frozen=True)
class Expression:
    """One compiled expression over `evidence`, `parameters` and `now`."""

    text: str
    program: "cel.Expression"
    tree: SyntaxTree

    def evaluate(self, activation: "cel.Activation") -> Answer:
        """Evaluate the expression; whatever goes wrong is an answer of kind ERROR."""
        try:
            with _undisturbed():
                value = self.program.eval(activation=activation)
                return Answer(str(value.type().name()), value.plain_value())
        # The library raises RuntimeError, TypeError and others: each of them means no.
        except Exception as error:
            return Answer("ERROR", _first_line(error))


@dataclass(frozen=True)
class Placeholder:
    """An expression in the text of a message, without its braces."""

    expression: str


def activation(evidence: object, parameters: object, now: datetime) -> "cel.Activation":
    """Convert the values of the three variables, once for all expressions that read them.

    Args:
        evidence: a mapping of plain JSON that `check_evidence` has accepted.
        parameters: a mapping of plain JSON.
        now: the moment of the judgement, with its time zone.
    """
    return _environment().Activation(
        data={"evidence": evidence, "parameters": parameters, "now": now}
    )


def check_evidence(evidence: object) -> str | None:
    """Check that evidence is plain JSON of bounded size and depth.

    Returns:
        None if it is; else a sentence that says why not.
    """
    if not isinstance(evidence, Mapping):
        return "evidence is no mapping"
    if _is_deeper_than(evidence, DEEPEST_EVIDENCE):
        return f"evidence nested deeper than {DEEPEST_EVIDENCE}"
    try:
        size = len(canonical_json(evidence))
    except (BtxError, RecursionError) as error:
        return f"evidence is not plain JSON: {_first_line(error)}"
    if size > LARGEST_EVIDENCE_BYTES:
        return f"evidence of {size} bytes, at most {LARGEST_EVIDENCE_BYTES}"
    return None


@lru_cache(maxsize=4096)
def compile_expression(text: str) -> Expression:
    """Compile an expression.

    Args:
        text: CEL over `evidence`, `parameters` and `now`.

    Returns:
        The expression; the same object for the same text.

    Raises:
        Invalid: naming the expression and what is wrong with it.
    """
    if len(text) > LONGEST_EXPRESSION:
        raise invalid_expression(text, f"{len(text)} characters", f"at most {LONGEST_EXPRESSION}")
    try:
        with _undisturbed():
            program = _environment().compile(text)
    # Syntax, unknown names and type errors: all of them RuntimeError with CEL's own text.
    except Exception as error:
        raise invalid_expression(
            text, _first_line(error), "a CEL expression over evidence, parameters and now"
        ) from None
    tree = decode(text, program.serialize())
    check_growth(tree)
    return Expression(text, program, tree)


def check_truth(expression: Expression) -> None:
    """Check that an expression can be true at all.

    Raises:
        Invalid: for one that never is, such as a number.
    """
    kind = str(expression.program.return_type().name())
    if kind.upper() not in ("BOOL", "DYN"):
        raise expression.tree.invalid(kind.lower(), "true or false")


def check_names(expression: Expression, variables: Mapping[str, Shape]) -> None:
    """Check that an expression names no fact that its variables do not have.

    Args:
        expression: the expression.
        variables: the shape of `evidence` and of `parameters`.

    Raises:
        Invalid: naming the fact, and those that exist.
    """
    names.check_names(expression.tree, variables)


def members_of(text: str, variable: str) -> set[str]:
    """Return the members of a variable that an expression names: `evidence.license` gives license.

    Raises:
        Invalid: for an expression that does not compile.
    """
    return names.members_of(compile_expression(text).tree, variable)


def check_template(template: str) -> list[Expression]:
    """Compile the expressions in the text of a message.

    Args:
        template: text with expressions in braces.

    Raises:
        Invalid: for one that does not compile, or for a brace that is not closed.
    """
    return [
        compile_expression(part.expression)
        for part in _parts(template)
        if isinstance(part, Placeholder)
    ]


def render(template: str, values: "cel.Activation") -> str:
    """Fill in the expressions in the text of a message.

    Args:
        template: text with expressions in braces, which do not nest.
        values: what the expressions read.

    Returns:
        The text, with figures rounded and lists joined by commas. What cannot be evaluated is
        `unknown`.

    Raises:
        Invalid: for a brace that is not closed.
    """
    parts = [part if isinstance(part, str) else _values(part, values) for part in _parts(template)]
    digits = _digits([value for part in parts if isinstance(part, list) for value in part])
    return "".join(part if isinstance(part, str) else _joined(part, digits) for part in parts)


@cache
def engine_version() -> str:
    """Return the name and version of the CEL library, which each verdict is logged with."""
    return f"cel-expr-python {version('cel-expr-python')}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Ctrl-C for the end of the block: the library takes it for an error, which means no."""
    # Python gives signals to its main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # The alarm is a Ctrl-C too, one that came while a library was being loaded.
    found: dict[int, object] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)
    }
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    pressed: list[tuple[int, FrameType | None]] = []
    for number in handlers:
        signal.signal(number, lambda *signalled: pressed.append(signalled))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if pressed:
        number, frame = pressed[0]
        handlers[number](number, frame)


def _values(placeholder: Placeholder, values: "cel.Activation") -> list[object]:
    try:
        answer = compile_expression(placeholder.expression).evaluate(values)
    except Invalid:
        return ["unknown"]
    if answer.kind in ("ERROR", "UNKNOWN"):
        return ["unknown"]
    if not isinstance(answer.value, list):
        return [answer.value]
    return answer.value[:_LONGEST_LIST_SHOWN] or ["none"]


def _digits(values: Sequence[object]) -> int:
    """Return how many digits show figures rounded, and unlike figures still unlike."""
    figures = {value for value in values if isinstance(value, float)}
    for digits in range(_FEWEST_DIGITS, _MOST_DIGITS):
        if len({_rounded(value, digits) for value in figures}) == len(figures):
            return digits
    return _MOST_DIGITS


def _joined(values: Sequence[object], digits: int) -> str:
    shown = [_rendered_value(value, digits) for value in values]
    return ", ".join(dict.fromkeys(shown))


def _rendered_value(value: object, digits: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return _rounded(value, digits)
    return "not stated" if value is None else json.dumps(value, default=str)


def _rounded(value: float, digits: int) -> str:
    if value.is_integer() or abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


@lru_cache(maxsize=1024)
def _parts(template: str) -> tuple[str | Placeholder, ...]:
    first, *pieces = template.split("{")
    parts: list[str | Placeholder] = [first]
    for piece in pieces:
        expression, brace, text = piece.partition("}")
        if not brace:
            raise Invalid("message", found=repr(template)[:120], expected="a } for every {")
        parts += [Placeholder(expression), text]
    return tuple(parts)


@cache
def _environment() -> "cel.Env":
    # A native library: it is imported here so that only commands that judge load it.
    from cel_expr_python import cel

    return cel.NewEnv(
        variables={"evidence": cel.Type.DYN, "parameters": cel.Type.DYN, "now": cel.Type.TIMESTAMP}
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def _is_deeper_than(value: object, limit: int) -> bool:
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, list | tuple):
        items = list(value)
    else:
        return False
    return limit == 0 or any(_is_deeper_than(item, limit - 1) for item in items)
