"""Measure this project's Python before and now, beside other projects, and print a table.

    python benchmarks/house/count.py --before ab547da [--cache DIR] [--list]

In: a git revision, the working tree, and wheels from the package index. Out: a table in Markdown,
a row a figure and a column a code base, then how many facts each module of this project reads by
string key. The figures are for looking at, not limits: the exit status is 0 whatever they are, and
1 only where a code base cannot be read. How each figure is counted is said in `figures`, `cycles`
and `string_keys`.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import figures
from cycles import import_cycles
from figures import Spread
from sources import CodeBase, SourceError, from_folder, from_index, from_revision
from string_keys import PLAIN_JSON, Place, fact_reads

ROOT = Path(__file__).resolve().parents[2]
BESIDE = ("tuf==7.0.1", "mergekit==0.1.5")


@dataclass(frozen=True)
class Row:
    """One row of the table: what it is called, and the text of a code base's cell."""

    label: str
    cell: Callable[[CodeBase], str]


def main() -> int:
    """Run the command line.

    Returns:
        The exit status: 0, or 1 where a code base cannot be read.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", metavar="REV", help="also measure this git revision")
    parser.add_argument("--cache", metavar="DIR", type=Path, help="keep the wheels in this folder")
    parser.add_argument(
        "--beside",
        metavar="NAME==VERSION",
        nargs="*",
        default=BESIDE,
        help=f"distributions to measure beside it (default: {' '.join(BESIDE)}); may be none",
    )
    parser.add_argument("--list", action="store_true", help="list each fact read by string key")
    asked = parser.parse_args()
    try:
        own = own_code(asked.before)
        others = other_code(asked.beside, asked.cache)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    print_figures([*own, *others])
    print_fact_reads(own, each=asked.list)
    return 0


def own_code(before: str | None) -> list[CodeBase]:
    """Read this project at a revision, if one is given, and as its files are now.

    Args:
        before: a git revision, or None.

    Raises:
        SourceError: if git does not know the revision, or if a file cannot be parsed.
    """
    own = []
    if before is not None:
        own.append(from_revision(f"before ({before})", ROOT, before))
    own.append(from_folder("after (working tree)", ROOT))
    return own


def other_code(requirements: Sequence[str], cache: Path | None) -> list[CodeBase]:
    """Read other projects from the package index.

    Args:
        requirements: a name and version each, such as `tuf==7.0.1`.
        cache: the folder that keeps the wheels, made if need be; None keeps none.

    Raises:
        SourceError: if a wheel cannot be downloaded, or if a file cannot be parsed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return [from_index(requirement, folder) for requirement in requirements]


def print_figures(codes: Sequence[CodeBase]) -> None:
    """Print the table of figures, a column a code base."""
    rows = [[row.label, *(row.cell(code) for code in codes)] for row in ROWS]
    print_table(["", *(code.heading for code in codes)], rows)


def print_fact_reads(codes: Sequence[CodeBase], *, each: bool) -> None:
    """Print how many facts each module reads by string key.

    Args:
        codes: the code bases, a column each.
        each: whether to list every place too.
    """
    places = [fact_reads(code) for code in codes]
    counts = [Counter(place.path for place in found) for found in places]
    paths = sorted({path for count in counts for path in count})
    heads = ["module", *(code.heading for code in codes)]
    crossing = [path for path in paths if path not in PLAIN_JSON]
    print("\nFacts read by string key across a module's border:\n")
    print_table(heads, _counted(counts, crossing))
    print("\nApart from these, in modules whose work is JSON of unknown shape:\n")
    print_table(heads, _counted(counts, [path for path in paths if path in PLAIN_JSON]))
    if each:
        for code, found in zip(codes, places, strict=True):
            print_places(code.heading, found)


def _counted(counts: Sequence[Counter[str]], paths: Sequence[str]) -> list[list[str]]:
    """Return a row for each module, after a row for all of them."""
    total = [str(sum(count[path] for path in paths)) for count in counts]
    return [["all", *total], *([path, *(str(count[path]) for count in counts)] for path in paths)]


def print_places(heading: str, places: Sequence[Place]) -> None:
    """Print a line for each place: its path, line and source."""
    print(f"\n{heading}:\n")
    for place in places:
        print(f"{place.path}:{place.line}: {place.source}")


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table with its columns aligned, the first to the left."""
    first, *others = (_width(column) for column in zip(heads, *rows, strict=True))
    rule = ["-" * first, *("-" * (width - 1) + ":" for width in others)]
    for label, *cells in (heads, rule, *rows):
        line = [label.ljust(first)]
        line += [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
        print("| " + " | ".join(line) + " |")


def _width(cells: Sequence[str]) -> int:
    return max(len(cell) for cell in cells)


def _spread(spread: Spread) -> str:
    return f"{spread.median:.0f}, {spread.p95:,}, {spread.maximum:,}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _rate(count: int, lines: int) -> str:
    """Return a count in each 1,000 lines, and the count itself in brackets."""
    return f"{1000 * figures.share(count, lines):.1f} ({count:,})"


def _per_line_of_code(count: int, code: CodeBase) -> str:
    return _rate(count, len(figures.tokens_by_line(code)))


def _tokens(code: CodeBase) -> str:
    tokens = figures.tokens_by_line(code)
    return f"{figures.share(sum(tokens), len(tokens)):.1f}"


def _dense(code: CodeBase) -> str:
    tokens = figures.tokens_by_line(code)
    dense = sum(count > figures.DENSE for count in tokens)
    return _percent(figures.share(dense, len(tokens)))


def _longer(code: CodeBase) -> str:
    over_100 = figures.longer_lines(code, 100)
    over_120 = figures.longer_lines(code, 120)
    return f"{_percent(over_100)}, {_percent(over_120)}"


def _documented(code: CodeBase) -> str:
    found = figures.documented(code)
    shares = (found.functions, found.classes, found.modules)
    return " / ".join(f"{100 * share:.0f}" for share in shares) + " %"


def _parameters(code: CodeBase) -> str:
    found = figures.parameters(code)
    return f"{found.mean:.1f}, {found.p95}, {found.maximum}; {_percent(found.many)}"


def _cycles(code: CodeBase) -> str:
    on_import = import_cycles(code, function_local=False)
    ever = import_cycles(code, function_local=True)
    return f"{len(on_import)} ({len(ever)})"


def _marks(code: CodeBase) -> str:
    marks = ("fmt: skip", "type: ignore", "noqa")
    return " / ".join(str(figures.comments_with(code, mark)) for mark in marks)


ROWS = (
    Row("modules", lambda code: f"{len(code.modules):,}"),
    Row("lines", lambda code: f"{code.lines:,}"),
    Row("lines of code", lambda code: f"{len(figures.tokens_by_line(code)):,}"),
    Row("lines a module: median, p95, max", lambda code: _spread(figures.module_lines(code))),
    Row("lines a function: median, p95, max", lambda code: _spread(figures.function_lines(code))),
    Row("tokens a line of code", _tokens),
    Row(f"lines of code with more than {figures.DENSE} tokens", _dense),
    Row("lines over 100, over 120 characters", _longer),
    Row(
        "comprehensions per 1,000 lines of code",
        lambda code: _per_line_of_code(figures.comprehensions(code), code),
    ),
    Row(
        "ternaries per 1,000 lines of code",
        lambda code: _per_line_of_code(figures.ternaries(code), code),
    ),
    Row("with docstring: public functions / classes / modules", _documented),
    Row(
        "comments per 1,000 lines",
        lambda code: _rate(figures.comments(code).all, code.lines),
    ),
    Row(
        "comments on a line of their own per 1,000 lines",
        lambda code: _rate(figures.comments(code).own_line, code.lines),
    ),
    Row(f"parameters: mean, p95, max; {figures.MANY} or more", _parameters),
    Row(
        "annotated parameters",
        lambda code: _percent(figures.parameters(code).annotated),
    ),
    Row(
        "cyclomatic complexity: median, p95, max",
        lambda code: _spread(figures.complexity(code)),
    ),
    Row("import cycles (with imports inside functions)", _cycles),
    Row("`Any` per 1,000 lines", lambda code: _rate(figures.any_uses(code), code.lines)),
    Row(
        "string-key access per 1,000 lines",
        lambda code: _rate(figures.string_keys(code), code.lines),
    ),
    Row("`fmt: skip` / `type: ignore` / `noqa`", _marks),
)


if __name__ == "__main__":
    sys.exit(main())
