"""Accesses by string key, and those that read a fact which another module wrote.

In: syntax trees. Out: the expressions `x["key"]` and `x.get("key")`, and among them those where `x`
looks like a fact passed between modules. No types are inferred: `fact_reads` goes by names and
annotations, so it is a heuristic, and `_FactReader` says what it takes for a fact.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from sources import CodeBase, Module

FACT_NAMES = frozenset({"facts", "body", "evidence", "snapshot", "member"})
"""What ends in one of these names, `x.facts` as much as `facts`, is taken for a fact."""

PLAIN_JSON = {
    "registry/records/older.py": "reads rows of any age, to bring them into today's shape",
    "registry/catalogue/checks.py": "audits rows that may hold anything",
    "registry/governance/policies.py": "judges evidence as the plain JSON that is kept with it",
    "registry/governance/claims.py": "compares kept evidence, of any age, with rows and log",
    "registry/governance/gate.py": "reads kept evidence, of any age, for a waiver",
    "registry/catalogue/ledger.py": "writes and reads rows as they are stored, of any age",
    "registry/web/middleware.py": "passes on messages of ASGI",
    "registry/web/public.py": "passes on messages of ASGI",
    "pipelines/workspace/trust.py": "reads the dvc.yaml of a stranger",
    "pipelines/workspace/erased_bytes.py": "reads DVC's own settings",
    "registry/governance/policy_tests.py": "reads the cases of policies, which are YAML",
    "registry/governance/attestations.py": "opens envelopes that others may have written",
}
"""Modules whose work is JSON from outside or of unknown shape, and why; they are counted apart."""

FACT_FOLDERS = frozenset({"registry", "pipelines"})
"""The packages, or folders of one package, whose modules pass facts to each other."""

_MAPPINGS = frozenset({"dict", "Dict", "Mapping", "MutableMapping"})
_WRAPPERS = frozenset({"Annotated", "ClassVar", "Final", "Optional"})


@dataclass(frozen=True)
class Place:
    """A place in the code.

    Attributes:
        path: the file's path inside its code base.
        line: the line's number, from 1.
        source: the expression, on one line however it is laid out in the file.
    """

    path: str
    line: int
    source: str


@dataclass(frozen=True)
class _Declared:
    """What the annotations of a whole code base say.

    Attributes:
        aliases: names that stand for a mapping from strings to `Any`.
        fields: names of attributes that are annotated as one in a class.
    """

    aliases: frozenset[str]
    fields: frozenset[str]


def string_key_accesses(tree: ast.AST) -> list[ast.AST]:
    """Return the expressions `x["key"]` and `x.get("key")` of a tree, annotations left out.

    Args:
        tree: a module or any part of one.
    """
    annotations = _annotation_nodes(tree)
    return [node for node in ast.walk(tree) if accessed(node) and node not in annotations]


def accessed(node: ast.AST) -> ast.expr | None:
    """Return what an expression accesses by a literal string key, or None if it does not.

    Args:
        node: any node; `x["key"]` and `x.get("key", ...)` give `x`.
    """
    if isinstance(node, ast.Subscript):
        return node.value if _is_string(node.slice) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        is_get = node.func.attr == "get" and node.args and _is_string(node.args[0])
        return node.func.value if is_get else None
    return None


def fact_reads(code: CodeBase) -> list[Place]:
    """List the places where a fact is read by string key, in the packages of `FACT_FOLDERS`.

    `x.facts["a"]["b"]` is one place. Keys that are stored or deleted are no reads.

    Args:
        code: the code base; annotations are looked up in all its modules.

    Returns:
        The places in the order of path and line.
    """
    declared = _declared(code)
    places = []
    for module in code.modules:
        folders = module.path.split("/")[:-1]
        if not FACT_FOLDERS.isdisjoint(folders):
            reader = _FactReader(declared)
            reader.visit(module.tree)
            places.extend(_places(module, reader.reads))
    return places


def _places(module: Module, reads: Iterable[ast.expr]) -> list[Place]:
    ordered = sorted(reads, key=lambda read: (read.lineno, read.col_offset))
    return [Place(module.path, read.lineno, ast.unparse(read)) for read in ordered]


class _FactReader(ast.NodeVisitor):
    """Collects the reads by string key of what looks like a fact.

    A fact is what ends in one of `FACT_NAMES`; a parameter, variable or field of a class that is
    annotated as a mapping from strings to `Any`, or by an alias of one; and a variable that is
    assigned one of these. Names hold in the function that they are declared in and in those
    nested in it; fields hold by their name alone, in every module.
    """

    def __init__(self, declared: _Declared) -> None:
        self.reads: list[ast.expr] = []
        self._declared = declared
        self._scopes: list[dict[str, bool]] = [{}]

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load):
            self._read(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._read(node)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name):
            is_fact = _is_fact_type(node.annotation, self._declared.aliases)
            self._scopes[-1][node.target.id] = is_fact
        # The annotation itself is no read.
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.generic_visit(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assign(node.target, node.value)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in ast.iter_child_nodes(node):
            # Fields are read through an attribute: they are no variables of the module.
            if not isinstance(child, ast.AnnAssign):
                self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._enter(node, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._enter(node, node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._enter(node, [node.body])

    def _enter(
        self,
        function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
        body: Iterable[ast.AST],
    ) -> None:
        """Visit a function's defaults and decorators outside it, then its body inside."""
        arguments = function.args
        outside: list[ast.expr] = [*arguments.defaults]
        outside += [default for default in arguments.kw_defaults if default is not None]
        if not isinstance(function, ast.Lambda):
            outside += function.decorator_list
        for expression in outside:
            self.visit(expression)
        self._scopes.append(self._parameters(arguments))
        for node in body:
            self.visit(node)
        self._scopes.pop()

    def _parameters(self, arguments: ast.arguments) -> dict[str, bool]:
        """Return which parameters are facts; the variadic ones are not."""
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        scope = {}
        for parameter in named:
            scope[parameter.arg] = _is_fact_type(parameter.annotation, self._declared.aliases)
        return scope

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name) and self._is_fact(value):
            self._scopes[-1][target.id] = True

    def _read(self, node: ast.Subscript | ast.Call) -> None:
        mapping = accessed(node)
        if mapping is not None and self._is_fact(mapping):
            self.reads.append(node)

    def _is_fact(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in FACT_NAMES or self._is_declared(node.id)
        if isinstance(node, ast.Attribute):
            return node.attr in FACT_NAMES or node.attr in self._declared.fields
        if isinstance(node, ast.Call):
            return _last_name(node.func) in FACT_NAMES
        if isinstance(node, ast.BoolOp):
            return any(self._is_fact(value) for value in node.values)
        if isinstance(node, ast.IfExp):
            return self._is_fact(node.body) or self._is_fact(node.orelse)
        return isinstance(node, ast.NamedExpr) and self._is_fact(node.value)

    def _is_declared(self, name: str) -> bool:
        """Return what the innermost function says that declares the name."""
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return False


def _declared(code: CodeBase) -> _Declared:
    aliases: set[str] = set()
    for module in code.modules:
        aliases |= _aliases(module.tree)
    fields: set[str] = set()
    for module in code.modules:
        fields |= _fields(module.tree, frozenset(aliases))
    return _Declared(aliases=frozenset(aliases), fields=frozenset(fields))


def _aliases(tree: ast.Module) -> set[str]:
    """Return the module's own names for a fact type; `Facts = Any` is one by its name."""
    aliases = set()
    for node in tree.body:
        name, value = _alias(node)
        is_any = name.endswith("Facts") and _last_name(value) == "Any"
        if name and (is_any or _is_fact_type(value, frozenset())):
            aliases.add(name)
    return aliases


def _alias(node: ast.stmt) -> tuple[str, ast.expr | None]:
    """Return the name and value that a statement might give an alias: `A = v`, `A: T = v`."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    return "", None


def _fields(tree: ast.Module, aliases: frozenset[str]) -> set[str]:
    """Return the names of the fields that classes annotate as a fact."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fields = set()
    for definition in classes:
        for statement in definition.body:
            name, annotation = _field(statement)
            if name and _is_fact_type(annotation, aliases):
                fields.add(name)
    return fields


def _field(node: ast.stmt) -> tuple[str, ast.expr | None]:
    """Return the name and annotation of a field, `name: T` in a class, or no name."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.annotation
    return "", None


def _is_fact_type(annotation: ast.expr | None, aliases: frozenset[str]) -> bool:
    """Return whether an annotation is a mapping from strings to `Any`, or might be None instead."""
    annotation = _unquoted(annotation)
    if isinstance(annotation, ast.BinOp):
        sides = (annotation.left, annotation.right)
        return any(_is_fact_type(side, aliases) for side in sides)
    if not isinstance(annotation, ast.Subscript):
        return _last_name(annotation) in aliases
    name = _last_name(annotation.value)
    arguments = [annotation.slice]
    if isinstance(annotation.slice, ast.Tuple):
        arguments = annotation.slice.elts
    if name in _WRAPPERS:
        return _is_fact_type(arguments[0], aliases)
    return name in _MAPPINGS and [_last_name(node) for node in arguments] == ["str", "Any"]


def _unquoted(annotation: ast.expr | None) -> ast.expr | None:
    """Parse an annotation that is written as a string."""
    if not isinstance(annotation, ast.Constant) or not isinstance(annotation.value, str):
        return annotation
    try:
        return ast.parse(annotation.value, mode="eval").body
    except SyntaxError:
        # A module's constant that holds some text is looked at as a possible alias too.
        return None


def _last_name(node: ast.expr | None) -> str:
    """Return `c` of `a.b.c` or of `c`, and nothing of any other expression."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _annotation_nodes(tree: ast.AST) -> set[ast.AST]:
    """Return every node that is part of an annotation."""
    nodes: set[ast.AST] = set()
    for node in ast.walk(tree):
        annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            annotation = node.returns
        elif isinstance(node, ast.arg | ast.AnnAssign):
            annotation = node.annotation
        if annotation is not None:
            nodes.update(ast.walk(annotation))
    return nodes
