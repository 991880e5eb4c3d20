"""Figures that a code base can be looked at by: size, density, documentation, types.

In: a `CodeBase`. Out: one number, share or spread a function. How a figure is defined is said at
the function that counts it. Import cycles are counted in `cycles`, facts that are read by string
key in `string_keys`.
"""

import ast
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sources import CodeBase, Module
from string_keys import string_key_accesses

Function = ast.FunctionDef | ast.AsyncFunctionDef

DENSE = 25
"""A line of code with more tokens than this is dense."""

MANY = 6
"""A function with this many parameters, or more, has many."""

_LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
}
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
)


@dataclass(frozen=True)
class Spread:
    """How a figure is spread over the modules or functions of a code base.

    Attributes:
        median: the middle value, or the mean of the two in the middle.
        p95: the least value that 95 % of the values do not exceed.
        maximum: the greatest value.
    """

    median: float
    p95: int
    maximum: int


@dataclass(frozen=True)
class Documented:
    """The shares, 0 to 1, of what is public that have a docstring."""

    functions: float
    classes: float
    modules: float


@dataclass(frozen=True)
class Parameters:
    """How many parameters functions take, without `self` and `cls`.

    Attributes:
        mean: the mean over all functions.
        p95: the least number that 95 % of the functions do not exceed.
        maximum: the greatest number.
        many: the share, 0 to 1, of functions with `MANY` or more.
        annotated: the share, 0 to 1, of parameters that have an annotation.
    """

    mean: float
    p95: int
    maximum: int
    many: float
    annotated: float


@dataclass(frozen=True)
class Comments:
    """How many comments there are, and how many of them stand on a line of their own."""

    all: int
    own_line: int


def spread(values: Sequence[int]) -> Spread:
    """Return the median, the 95th percentile by nearest rank, and the maximum.

    Args:
        values: the values in any order; none gives zeros.
    """
    if not values:
        return Spread(median=0, p95=0, maximum=0)
    ordered = sorted(values)
    # The rank is 95 % of the count, rounded up; whole numbers keep the rounding exact.
    rank = (95 * len(ordered) + 99) // 100
    return Spread(
        median=statistics.median(ordered),
        p95=ordered[rank - 1],
        maximum=ordered[-1],
    )


def share(part: int, whole: int) -> float:
    """Return the part of the whole, 0 to 1; nothing of nothing is 0."""
    return part / whole if whole else 0.0


def module_lines(code: CodeBase) -> Spread:
    """Return the spread of the physical lines of each module."""
    return spread([len(module.lines) for module in code.modules])


def function_lines(code: CodeBase) -> Spread:
    """Return the spread of the lines of each function or method.

    The lines run from `def` to the last line of the body, docstring and blank lines included,
    decorators left out. A nested function counts for itself and inside the one around it.
    """
    lengths = []
    for function in _functions(code):
        last = function.end_lineno or function.lineno
        lengths.append(last - function.lineno + 1)
    return spread(lengths)


def tokens_by_line(code: CodeBase) -> list[int]:
    """Return the number of tokens that begin on each line of code.

    A line of code is one on which a token begins. Comments, line ends and indentation are no
    tokens. A string is one token however long it is, on its first line; so is an f-string, which
    Python splits from version 3.12 on.
    """
    lines: list[int] = []
    for module in code.modules:
        starts = [token.start[0] for token in _code_tokens(module)]
        lines.extend(Counter(starts).values())
    return lines


def longer_lines(code: CodeBase, limit: int) -> float:
    """Return the share, 0 to 1, of physical lines with more characters than the limit."""
    longer = 0
    for module in code.modules:
        longer += sum(len(line) > limit for line in module.lines)
    return share(longer, code.lines)


def comprehensions(code: CodeBase) -> int:
    """Return the number of comprehensions and generator expressions."""
    return sum(isinstance(node, _COMPREHENSIONS) for node in _nodes(code))


def ternaries(code: CodeBase) -> int:
    """Return the number of conditional expressions."""
    return sum(isinstance(node, ast.IfExp) for node in _nodes(code))


def documented(code: CodeBase) -> Documented:
    """Return how much of what is public has a docstring.

    Public is what has no leading underscore: functions and classes at module level, classes
    inside others, and the methods of public classes. Every module is public.
    """
    public = [node for node in _definitions(code) if not node.name.startswith("_")]
    classes = [node for node in public if isinstance(node, ast.ClassDef)]
    functions = [node for node in public if not isinstance(node, ast.ClassDef)]
    return Documented(
        functions=_with_docstring(functions),
        classes=_with_docstring(classes),
        modules=_with_docstring([module.tree for module in code.modules]),
    )


def comments(code: CodeBase) -> Comments:
    """Return the number of comments, and of those on a line of their own."""
    found = 0
    own_line = 0
    for module in code.modules:
        for token in _comment_tokens(module):
            found += 1
            own_line += token.line.lstrip().startswith("#")
    return Comments(all=found, own_line=own_line)


def comments_with(code: CodeBase, mark: str) -> int:
    """Return the number of comments that contain a mark, such as `noqa`."""
    found = 0
    for module in code.modules:
        found += sum(mark in token.string for token in _comment_tokens(module))
    return found


def parameters(code: CodeBase) -> Parameters:
    """Return how many parameters functions and methods take, and how many are annotated.

    `*args` and `**kwargs` count as one each; a first parameter named `self` or `cls` does not
    count; lambdas are left out.
    """
    counts = []
    annotated = 0
    for function in _functions(code):
        taken = _parameters(function)
        counts.append(len(taken))
        annotated += sum(parameter.annotation is not None for parameter in taken)
    counted = spread(counts)
    return Parameters(
        mean=share(sum(counts), len(counts)),
        p95=counted.p95,
        maximum=counted.maximum,
        many=share(sum(count >= MANY for count in counts), len(counts)),
        annotated=share(annotated, sum(counts)),
    )


def complexity(code: CodeBase) -> Spread:
    """Return the spread of the cyclomatic complexity of each function or method.

    A function starts at 1. Each `if`, `elif`, `for`, `while`, conditional expression, `except`
    and `case` adds 1, each `and` or `or` adds 1, each `if` of a comprehension adds 1. What is
    nested in a function counts for it too.
    """
    return spread([_complexity(function) for function in _functions(code)])


def any_uses(code: CodeBase) -> int:
    """Return how often `Any` is named; its import does not count, nor does a quoted annotation."""
    uses = 0
    for node in _nodes(code):
        if isinstance(node, ast.Name):
            uses += node.id == "Any"
        elif isinstance(node, ast.Attribute):
            uses += node.attr == "Any"
    return uses


def string_keys(code: CodeBase) -> int:
    """Return the number of accesses by string key: `x["key"]` and `x.get("key")`.

    Reading, storing and deleting all count; annotations such as `Literal["key"]` do not.
    """
    return sum(len(string_key_accesses(module.tree)) for module in code.modules)


def _nodes(code: CodeBase) -> Iterator[ast.AST]:
    for module in code.modules:
        yield from ast.walk(module.tree)


def _functions(code: CodeBase) -> list[Function]:
    return [node for node in _nodes(code) if isinstance(node, Function)]


def _code_tokens(module: Module) -> Iterator[tokenize.TokenInfo]:
    """Yield the tokens that are code, an f-string as its first token alone."""
    depth = 0
    for token in module.tokens:
        kind = tokenize.tok_name[token.type]
        if kind in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
        elif depth == 0 and token.type not in _LAYOUT:
            yield token
        if kind in ("FSTRING_START", "TSTRING_START"):
            depth += 1


def _comment_tokens(module: Module) -> list[tokenize.TokenInfo]:
    return [token for token in module.tokens if token.type == tokenize.COMMENT]


def _definitions(code: CodeBase) -> Iterator[Function | ast.ClassDef]:
    """Yield functions and classes, going down into public classes but into no function."""
    waiting: list[ast.stmt] = []
    for module in code.modules:
        waiting.extend(module.tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function | ast.ClassDef):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            waiting.extend(node.body)


def _with_docstring(nodes: Sequence[Function | ast.ClassDef | ast.Module]) -> float:
    with_docstring = sum(ast.get_docstring(node) is not None for node in nodes)
    return share(with_docstring, len(nodes))


def _parameters(function: Function) -> list[ast.arg]:
    arguments = function.args
    taken = [*arguments.posonlyargs, *arguments.args]
    if taken and taken[0].arg in ("self", "cls"):
        taken = taken[1:]
    taken += arguments.kwonlyargs
    for variadic in (arguments.vararg, arguments.kwarg):
        if variadic is not None:
            taken.append(variadic)
    return taken


def _complexity(function: Function) -> int:
    decisions = 1
    for statement in function.body:
        for node in ast.walk(statement):
            if isinstance(node, _BRANCHES):
                decisions += 1
            elif isinstance(node, ast.BoolOp):
                decisions += len(node.values) - 1
            elif isinstance(node, ast.comprehension):
                decisions += len(node.ifs)
    return decisions
