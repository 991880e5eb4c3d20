"""Import cycles between the modules of one code base.

In: a `CodeBase`. Out: groups of modules that import each other, round about or directly. Imports
under `if TYPE_CHECKING` run nothing and are left out. An import of `a.b.c` is an import of that
module alone: Python also runs `a` and `a.b`, but a package that names its own modules is no cycle.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence

from sources import CodeBase, Module

Graph = Mapping[str, frozenset[str]]
"""The modules that each module imports, by dotted name."""


def import_cycles(code: CodeBase, *, function_local: bool) -> list[list[str]]:
    """Find the groups of modules of which each imports every other, directly or through others.

    Args:
        code: the code base.
        function_local: whether imports inside functions count, which run only when called.

    Returns:
        The names of the modules of each group of two or more, sorted.
    """
    graph = _graph(code, function_local=function_local)
    components = strongly_connected(graph)
    return sorted(sorted(component) for component in components if len(component) > 1)


def strongly_connected(graph: Graph) -> list[list[str]]:
    """Split a graph into its strongly connected components, by Kosaraju's method.

    Args:
        graph: for each node the nodes that it points to; each of those is a key too.

    Returns:
        The components, each node in exactly one.
    """
    finished: list[str] = []
    seen: set[str] = set()
    for node in graph:
        finished.extend(_unseen_from(node, graph, seen))
    reversed_graph = _reversed(graph)
    components = []
    seen = set()
    for node in reversed(finished):
        component = _unseen_from(node, reversed_graph, seen)
        if component:
            components.append(component)
    return components


def _unseen_from(start: str, graph: Graph, seen: set[str]) -> list[str]:
    """Return the nodes that are reached and not yet seen, each after those that it leads to."""
    if start in seen:
        return []
    seen.add(start)
    order = []
    path = [(start, iter(sorted(graph[start])))]
    while path:
        node, targets = path[-1]
        target = next((target for target in targets if target not in seen), None)
        if target is None:
            order.append(node)
            path.pop()
        else:
            seen.add(target)
            path.append((target, iter(sorted(graph[target]))))
    return order


def _reversed(graph: Graph) -> Graph:
    sources: dict[str, set[str]] = {node: set() for node in graph}
    for node, targets in graph.items():
        for target in targets:
            sources[target].add(node)
    return {node: frozenset(found) for node, found in sources.items()}


def _graph(code: CodeBase, *, function_local: bool) -> Graph:
    names = frozenset(module.name for module in code.modules)
    graph = {}
    for module in code.modules:
        imported = set()
        for statement in _imports(module.tree.body, function_local=function_local):
            imported |= _imported(statement, module, names)
        graph[module.name] = frozenset(imported - {module.name})
    return graph


def _imports(
    body: Sequence[ast.AST], *, function_local: bool
) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements that run, going down into every block but a type checker's."""
    for node in body:
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _imports(node.orelse, function_local=function_local)
        elif function_local or not is_function:
            inside = list(ast.iter_child_nodes(node))
            yield from _imports(inside, function_local=function_local)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _imported(
    statement: ast.Import | ast.ImportFrom, module: Module, names: frozenset[str]
) -> set[str]:
    """Return the modules of the code base that one statement imports."""
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names} & names
    base = _base(statement, module)
    imported = set()
    for alias in statement.names:
        submodule = f"{base}.{alias.name}"
        imported.add(submodule if submodule in names else base)
    return imported & names


def _base(statement: ast.ImportFrom, module: Module) -> str:
    """Return the dotted name after `from`, with leading dots resolved."""
    if not statement.level:
        return statement.module or ""
    package = module.name.split(".")
    upwards = statement.level - 1 if module.is_package else statement.level
    parts = package[: len(package) - upwards]
    if statement.module:
        parts.append(statement.module)
    return ".".join(parts)
