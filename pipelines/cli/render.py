"""Print answers: rows as a table, a fact sheet, or one JSON document. The only file that prints to stdout."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from pipelines.workspace.terminal import cell, console, table_of
from registry.units import size


def as_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def answer(value: Any, json: bool, text: str) -> None:
    """One answer in either form."""
    if json:
        as_json(value)
    else:
        line(text)


def line(text: str = "") -> None:
    print(text)


def now(text: str) -> None:
    """A line that must be read before the command goes on."""
    print(text, flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A plain table; numbers stand right. A narrow terminal folds its cells; without a terminal it has no colour and no width."""
    console(sys.stdout).print(table_of(columns, rows))


def sheet(facts: Mapping[str, Any], indent: int = 0) -> None:
    """Nested facts as indented lines, one a fact."""
    width = max((len(str(key)) for key in facts), default=0)
    for key, value in facts.items():
        space = " " * indent
        if isinstance(value, Mapping) and value:
            print(f"{space}{key}")
            sheet(value, indent + 2)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            print(f"{space}{key}")
            for item in value:
                print(
                    f"{space}  "
                    + "  ".join(
                        cell(part) for part in item.values() if not isinstance(part, Mapping | list)
                    )
                )
        else:
            print(f"{space}{str(key).ljust(width)}  {cell(value)}")


SIGNS = {"added": "+", "replaced": "~", "kept": "=", "removed": "-"}


def rebuilt(answer: Mapping[str, Any]) -> None:
    """What a rebuild did, or would do."""
    line(
        f"{answer['build'] or 'plan'}   {answer['status']}"
        + (f"   line {answer['line']}" if "line" in answer else "")
    )
    for change in answer.get("changes", ()):
        slot = "" if change["slot"] is None else f"   slot {change['slot']}"
        before = f"   for {change['before']}" if change["change"] == "replaced" else ""
        line(f"  {SIGNS[change['change']]} {change['ref']}{slot}{before}")
    planned = answer["status"] == "planned"
    line(f"  {'run   ' if planned else 'ran   '}  {', '.join(answer['ran']) or 'nothing'}")
    line(f"  {'reuse ' if planned else 'reused'}  {', '.join(answer['reused']) or 'nothing'}")
    if answer["bytes_written"]:
        line(
            f"  bytes   {size(answer['bytes_written'])} {'to write' if planned else 'written'}, {size(answer['bytes_linked'])} linked"
        )
    if planned:
        took = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in answer["seconds"].items())
        line(
            f"  time    {took}, by {answer['measured_on']}"
            if took
            else "  time    not known: no build like it was measured yet"
        )
        if answer["cost"].get("flops"):
            line(
                f"  cost    {answer['cost']['tokens']:.0f} tokens, {answer['cost']['flops']:.3g} FLOPs of tuning"
            )


def audit(answer: Mapping[str, Any]) -> None:
    """The checks, a line each, then the findings with their next step."""
    line(f"{answer['subject']}   head {answer['head'][:12]}")
    for check in answer["checks"]:
        line(
            f"  {'ok  ' if check['ok'] else 'FAIL'}  {check['name'].ljust(10)}  {check['examined']} examined"
        )
    for finding in answer["findings"]:
        line(f"  {finding['check']}: {finding['subject']}")
        for key in ("found", "expected", "next"):
            line(f"    {key} {finding[key]}")
    line(f"{len(answer['findings']) or 'no'} finding{'' if len(answer['findings']) == 1 else 's'}")


def verdicts(answer: Mapping[str, Any]) -> None:
    """Per gate the outcome, then every rule that has something to say, with its remedy."""
    for gate, verdict in answer["verdicts"].items():
        line(f"{answer['ref']} at gate {gate}: {verdict['outcome']}")
        for rule in verdict["rules"]:
            if rule["outcome"] != "allowed":
                line(
                    f"  {rule['outcome']}  {rule['policy']}/{rule['rule']}: {rule['message']}\n    next: {rule['remedy']}"
                )


def graph(answer: Mapping[str, Any], start: str) -> None:
    """Lineage as a tree from `start`; a node met again is named, not unfolded again."""
    nodes = {node["ref"]: node for node in answer["nodes"]}
    children: dict[str, list[tuple[str, str]]] = {}
    for edge in answer["edges"]:
        children.setdefault(edge["from"], []).append((edge["relation"], edge["to"]))
    if start not in nodes:
        start = answer["nodes"][0]["ref"]
    if start not in children:  # downwards, edges point at the start
        children = {}
        for edge in answer["edges"]:
            children.setdefault(edge["to"], []).append((edge["relation"], edge["from"]))
    seen: set[str] = set()

    def walk(ref: str, relation: str, depth: int) -> None:
        node = nodes[ref]
        mark = f"   {node['status']}" if node["status"] in ("withdrawn", "tainted") else ""
        again = "   (above)" if ref in seen and children.get(ref) else ""
        line(
            f"{'  ' * depth}{ref}   {node['digest'][:12]}{'   ' + relation if relation else ''}{mark}{again}"
        )
        if ref in seen:
            return
        seen.add(ref)
        for file in node.get("files", [])[:FILES_SHOWN]:
            line(
                f"{'  ' * (depth + 1)}{file['sha256'][:12]}   {file['path']}   {size(file['bytes'])}"
            )
        if len(node.get("files", [])) > FILES_SHOWN:
            line(
                f"{'  ' * (depth + 1)}and {len(node['files']) - FILES_SHOWN} more files: --json lists them all"
            )
        for edge_relation, child in children.get(ref, []):
            walk(child, edge_relation, depth + 1)

    walk(start, "", 0)


FILES_SHOWN = 5  # a corpus may hold thousands


TERMINAL_HUES = ("white", "blue", "dark_orange3", "green", "purple", "red", "cyan", "yellow")


def explanation(answer: Mapping[str, Any]) -> None:
    """The text, each token coloured by the expert of the largest weight; below it the shares by source."""
    hues = {
        source["ref"]: TERMINAL_HUES[place % len(TERMINAL_HUES)]
        for place, source in enumerate(answer["sources"])
    }
    text = Text()
    for token in answer["tokens"]:
        first = max(token["experts"], key=lambda item: item["weight"])
        text.append(
            token["text"],
            f"{hues[first['ref']]}{' bold' if first['weight'] > 0.5 else ''} underline",
        )
    out = console(sys.stdout)
    out.print(text, soft_wrap=True)
    rows = []
    for source in answer["sources"]:
        share = f"{100 * source['share']:.1f} %".rjust(7)
        rows.append(
            [
                Text(source["ref"], hues[source["ref"]]),
                share,
                ", ".join(source["data"]),
                ", ".join(source["licenses"]),
            ]
        )
    out.print(table_of(["source", "share", "data", "licences"], rows))
