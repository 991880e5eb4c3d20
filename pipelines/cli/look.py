"""The commands that look at what is registered, from list and search to report and serve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli.options import Json, Ref, find_workspace, registered, require_choice
from pipelines.cli.output import print_document, print_json, print_line, print_table
from pipelines.workspace.terminal import cell
from registry.records.kinds import UNUSABLE
from registry.units import size

if TYPE_CHECKING:
    from registry.catalogue.catalog import Catalog
    from registry.records.answers.auditing import LineageAnswer, LineageFile, LineageNode
    from registry.records.answers.listing import RowEnd
    from registry.records.answers.shown import Change
    from registry.records.answers.upkeep import StatusAnswer
    from registry.records.facts import Facts
    from registry.records.version import Version

# A corpus may hold thousands of files.
FILES_SHOWN = 5
# Figures of single blocks of a sample, which `btx show` leaves to --json.
BLOCKS = ("block_bits", "seed_block_bits")

app = typer.Typer()


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(metavar="seeds|data|experts|builds|exports")],
    name: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    domain: Annotated[
        str | None, typer.Option(metavar="NAME", help="of the version, or of what it was made of")
    ] = None,
    license: Annotated[str | None, typer.Option(metavar="SPDX-ID", help="likewise")] = None,
    holder: Annotated[str | None, typer.Option(metavar="TEXT", help="likewise")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="data/NAME[@V]", help="what it was made of", autocompletion=registered
        ),
    ] = None,
    seed: Annotated[
        str | None, typer.Option(metavar="seed/NAME[@V]", autocompletion=registered)
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST", help="of the version or of one of its files; its start will do"
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME<NUMBER", help="for example 'math.bits_per_byte<1.2'")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="registered on that day (UTC) or later")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="registered before that day (UTC)")
    ] = None,
    json: Json = False,
) -> None:
    """List what is registered; of several filters all must hold.

    Example: btx list experts --license CC0-1.0 --since 2026-01-01
    """
    from pipelines.jobs.show import listed

    options = {
        "name": name,
        "domain": domain,
        "license": license,
        "holder": holder,
        "data": data,
        "seed": seed,
        "digest": digest,
        "metric": metric,
        "after": since,
        "before": until,
    }
    filters = {key: value for key, value in options.items() if value}
    rows = listed(find_workspace(), kind, filters)
    if json:
        print_json(rows)
    else:
        _print_listing(rows)


def _print_listing(rows: "Sequence[RowEnd]") -> None:
    """Print one line for each version; the reference stands for its name and number."""
    fields = rows[0].fields() if rows else ["ref"]
    left_out = {"name", "version"} | (set() if any(row.aliases for row in rows) else {"aliases"})
    columns = [name for name in fields if name not in left_out]
    lines = []
    for row in rows:
        short = row.model_copy(update={"digest": row.digest[:12]})
        lines.append([getattr(short, column) for column in columns])
    print_table(columns, lines)


@app.command("search")
def search_command(
    terms: Annotated[
        list[str] | None,
        typer.Argument(metavar="TERM...", help="WORD, or FIELD=VALUE; @NAME for a saved search"),
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="show it too; may be repeated"),
    ] = None,
    document: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="only what holds this file, or a document of its text"),
    ] = None,
    author: Annotated[
        str | None, typer.Option(metavar="NAME", help="only data that holds a document by them")
    ] = None,
    document_id: Annotated[
        str | None, typer.Option(metavar="ID", help="only data that holds the document of this id")
    ] = None,
    save: Annotated[
        str | None, typer.Option(metavar="NAME", help="keep the search in searches.yaml")
    ] = None,
    format: Annotated[str, typer.Option("--format", metavar="table|csv|json")] = "table",
    json: Json = False,
) -> None:
    """Find versions by anything: recorded facts, own.NAME, and what the log says of them.

    A plain WORD is looked for in all of them. Signs are = != ~ (holds) < <= > >=; VALUE * is any;
    of several terms all must hold. Logged fields: approved_by, approved_at, waived, waived_by,
    waived_until, ends, released_by, released_at, withdrawn_by, withdrawn_at, withdrawn_why, alias,
    note, exported_by, exported_at, exported_to; file and sha256 are those of a version's files.

    Example: btx search acme

    Example: btx search 'approved_by=*' --show approved_at

    Example: btx search 'ends<2027-01-01' own.residency=EU --save ends-soon

    Example: btx search @ends-soon --format csv
    """
    from pipelines.jobs.find import SearchRequest, lines, search
    from pipelines.workspace.document_index import Sought
    from registry.governance.lookup import as_csv

    require_choice("--format", format, ("table", "csv", "json"))
    by_row = author is not None or document_id is not None
    request = SearchRequest(
        words=tuple(terms or ()),
        show=tuple(show or ()),
        document=document,
        sought=Sought(author=author, id=document_id) if by_row else None,
        save=save,
    )
    rows = search(find_workspace(), request)
    if json or format == "json":
        print_json(rows)
    elif format == "csv":
        print_document(as_csv(rows).rstrip("\n"))
    else:
        print_table(*lines(rows))


@app.command("show")
def show_command(ref: Ref, json: Json = False) -> None:
    """Show one registered version.

    Example: btx show build/2
    """
    from pipelines.jobs.show import shown

    answer = shown(find_workspace(), ref)
    if json:
        print_json(answer)
    else:
        _print_nested(answer.to_json())


def _for_programs(path: tuple[str, ...], value: Any) -> bool:
    """Say whether `btx show` leaves a value to --json: nobody reads it, or it is said again."""
    if path[0] == "own":
        return False
    if path[-1] == "sample":
        # Not the figures of data of that name.
        return isinstance(value, Mapping) and "block_bytes" in value
    # `evaluation` says the same as `results`; the pages draw a curve.
    return path in (("results",), ("train", "curve")) or path[-1] in BLOCKS


def _print_nested(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
    """Print nested values as indented lines, one value a line."""
    space = "  " * len(path)
    shown = {key: one for key, one in values.items() if not _for_programs((*path, key), one)}
    width = max((len(str(key)) for key in shown), default=0)
    for key, value in shown.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(value, Mapping) and value:
            print_line(f"{space}{key}")
            _print_nested(value, (*path, key))
        elif isinstance(first, Mapping):
            print_line(f"{space}{key}")
            _print_records(value, f"{space}  ")
        elif isinstance(first, list):
            print_line(f"{space}{key}")
            for item in value:
                print_line(f"{space}  {cell(item)}")
        else:
            print_line(f"{space}{str(key).ljust(width)}  {cell(value)}")


def _print_records(records: Sequence[Mapping[str, Any]], space: str) -> None:
    """Print records of one kind below the names of their fields, without what is nested."""
    nested = {
        key for one in records for key, value in one.items() if isinstance(value, Mapping | list)
    }
    columns = [key for key in records[0] if key not in nested]
    rows = [columns, *([cell(one.get(key)) for key in columns] for one in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        texts = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        print_line(f"{space}{'  '.join(texts)}".rstrip())


@app.command("lineage")
def lineage_command(
    ref: Ref,
    down: Annotated[bool, typer.Option("--down", help="what was made from REF")] = False,
    json: Json = False,
) -> None:
    """Show what REF was made from, down to the data's files; --down: what was made from it.

    Example: btx lineage data/math@1 --down
    """
    answer = lineage_answer(find_workspace().catalog, ref, down=down)
    if json:
        print_json(answer)
    else:
        _print_lineage(answer)


def lineage_answer(catalog: "Catalog", reference: str, *, down: bool) -> "LineageAnswer":
    """Walk the lineage of one version.

    Args:
        catalog: the catalogue that holds the version.
        reference: the version to start from.
        down: walk to what was made from the version instead of to what it was made from.

    Returns:
        The version itself and what the walk reached, and the edges between them. Only data
        versions come with their files.
    """
    from registry.records.answers.auditing import LineageAnswer, LineageEdge

    graph = catalog.lineage(reference, down=down)
    statuses = catalog.statuses(graph.nodes)
    nodes = tuple(_node(version, statuses[version.ref]) for version in graph.nodes)
    edges = []
    for edge in graph.edges:
        ends = {"from": str(edge.from_), "to": str(edge.to)}
        edges.append(LineageEdge.model_validate({**ends, "relation": edge.relation}))
    return LineageAnswer(nodes=nodes, edges=tuple(edges))


def _node(version: "Version[Facts]", status: str) -> "LineageNode":
    from registry.records.answers.auditing import LineageFile, LineageNode

    files = None
    if version.ref.kind == "data":
        files = tuple(
            LineageFile(path=file.path, bytes=file.bytes, sha256=file.sha256)
            for file in version.files
        )
    return LineageNode(
        ref=str(version.ref),
        kind=version.ref.kind,
        digest=version.digest,
        status=status,
        files=files,
    )


def _print_lineage(answer: "LineageAnswer") -> None:
    """Print the lineage as a tree that starts at the first node."""
    start = answer.nodes[0].ref
    # Upwards the edges start at the first node, downwards they end there.
    upwards = any(edge.from_ == start for edge in answer.edges)
    below: dict[str, list[tuple[str, str]]] = {}
    for edge in answer.edges:
        near, far = (edge.from_, edge.to) if upwards else (edge.to, edge.from_)
        below.setdefault(near, []).append((edge.relation, far))
    _Tree({node.ref: node for node in answer.nodes}, below).print_from(start)


@dataclass
class _Tree:
    """A lineage that is printed as a tree, in which a node that comes again is not unfolded again.

    Attributes:
        nodes: every node of the answer by its reference.
        below: for each reference, the relation to and the reference of the nodes below it.
        printed: the references that were unfolded already.
    """

    nodes: "Mapping[str, LineageNode]"
    below: Mapping[str, list[tuple[str, str]]]
    printed: set[str] = field(default_factory=set)

    def print_from(self, ref: str, relation: str = "", depth: int = 0) -> None:
        """Print one node and all that is below it."""
        node, below = self.nodes[ref], self.below.get(ref, [])
        again = ref in self.printed
        parts = [ref, node.digest[:12]]
        if relation:
            parts.append(relation)
        if node.status in UNUSABLE:
            parts.append(node.status)
        if again and below:
            parts.append("(above)")
        print_line("  " * depth + "   ".join(parts))
        if again:
            return
        self.printed.add(ref)
        _print_files(node.files or (), "  " * (depth + 1))
        for relation_below, ref_below in below:
            self.print_from(ref_below, relation_below, depth + 1)


def _print_files(files: "Sequence[LineageFile]", space: str) -> None:
    for file in files[:FILES_SHOWN]:
        print_line(f"{space}{file.sha256[:12]}   {cell(file.path)}   {size(file.bytes)}")
    more = len(files) - FILES_SHOWN
    if more > 0:
        print_line(f"{space}and {more} more files: --json lists them all")


@app.command("diff")
def diff_command(left: Ref, right: Ref, json: Json = False) -> None:
    """Show what differs between two versions of one kind.

    Example: btx diff build/1 build/2
    """
    from pipelines.jobs.diff import diff

    answer = diff(find_workspace(), left, right)
    if json:
        print_json(answer)
        return
    shown = [one for one in answer.changes if not one.for_programs]
    rows = [[one.what, one.left, one.right, _difference(one)] for one in shown]
    print_table(["what", answer.left, answer.right, "change"], rows)
    left_out = len(answer.changes) - len(shown)
    if left_out:
        print_line(f"left out: {left_out} digests and figures of single blocks, which --json has")
    files = answer.files
    _print_paths("same", files.same)
    _print_paths("changed", files.changed)
    _print_paths("only left", files.only_left)
    _print_paths("only right", files.only_right)
    for note in answer.notes:
        print_line(f"note: {note}")


def _difference(change: "Change") -> str:
    """Return by how much a number changed, and of bits per byte whether that is better."""
    before, after = change.left, change.right
    numbers = [one for one in (before, after) if isinstance(one, int | float)]
    if len(numbers) < 2 or isinstance(before, bool) or isinstance(after, bool) or not before:
        return ""
    said = f"{100 * (after / before - 1):+.3g} %"
    if change.what.endswith("bits_per_byte"):
        said += " better" if after < before else " worse"
    return said


def _print_paths(what: str, paths: "Sequence[str]") -> None:
    print_line(f"{what}: {', '.join(paths) or 'none'}")


@app.command("report")
def report_command(
    ref: Ref,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="html|md|model-card|annex-xi|annex-xii|annex-iv|cop-model-documentation|"
            "training-summary|cyclonedx|spdx|openlineage|prov|croissant|in-toto|vsa|pdf",
            help="default: html or pdf where FILE ends so, else md",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="a new file; default: stdout")
    ] = None,
    sign: Annotated[
        bool,
        typer.Option(
            "--sign",
            help="with your key: in-toto and vsa as a DSSE envelope, "
            "every other FILE by FILE.dsse.json beside it",
        ),
    ] = False,
    public: Annotated[
        bool,
        typer.Option("--public", help="for everybody: without people, waivers and contracts"),
    ] = False,
    json: Json = False,
) -> None:
    """Write what is recorded of REF: for people, for the law, or for other tools.

    The law's forms are pages where FILE ends in .html: annex-xi (documentation of a general-purpose
    model), annex-xii (for those who build on it), cop-model-documentation (Code of Practice),
    training-summary (for everybody), annex-iv (of a high-risk system). pdf is one page on a build:
    what it gained and cost, what is in it, and what one more expert would take.

    Example: btx report build/2 --format html -o build-2.html

    Example: btx report build/2 --format training-summary -o summary.html
    """
    from pipelines.jobs.write_report import report

    answer = report(find_workspace(), ref, format, out=out, sign=sign, outside=public)
    if json:
        print_json(answer)
    elif answer.text is not None:
        print_document(answer.text.rstrip("\n"))
    else:
        sha256 = f"sha256 {answer.sha256:.12}"
        print_line(f"{answer.ref}   {answer.format}   {answer.file}   {sha256}")
        if answer.signature:
            print_line(f"signed: {answer.signature}")


@app.command("status")
def status_command(json: Json = False) -> None:
    """Say what is here, what runs, what waits for whom, what ends soon, and the disk it takes.

    Example: btx status
    """
    from pipelines.jobs.status import status

    answer = status(find_workspace())
    if json:
        print_json(answer)
    else:
        _print_status(answer)


def _print_status(answer: "StatusAnswer") -> None:
    held = ", ".join(f"{kind} {number}" for kind, number in answer.counts.items())
    print_line(f"{answer.workspace}   head {answer.head[:12]}")
    print_line(f"  in use   {held}")
    print_line(f"  newest   {answer.newest_build or 'no build yet'}")
    for alias, ref in answer.aliases.items():
        print_line(f"  alias    {alias} is {ref}")
    for running in answer.running or ("nothing",):
        print_line(f"  runs     {running}")
    for waiting in answer.waiting:
        print_line(f"  waits    {waiting.what} for {waiting.who}: {waiting.next}")
    for row in answer.due:
        print_line(f"  {row.state:<7}  {row.what} of {row.ref} {row.until[:10]}: {row.next}")
    parts = ", ".join(f"{use.part} {size(use.bytes)}" for use in answer.disk)
    total = size(sum(use.bytes for use in answer.disk))
    print_line(f"  disk     {total}: {parts}")


@app.command("serve")
def serve_command(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8765,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="viewer|registrar|approver|auditor",
            help="of the token that is printed; default viewer",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="another address than loopback needs --cert and --key")
    ] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a further name under which browsers reach it"),
    ] = None,
    cert: Annotated[Path | None, typer.Option(metavar="FILE", help="TLS certificate, PEM")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="its key, PEM")] = None,
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="where browsers find it behind a proxy that speaks TLS"),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="of that proxy: it says who asks"),
    ] = None,
    reads_per_s: Annotated[
        float, typer.Option(min=1, help="requests a token may read with in a second")
    ] = 50.0,
) -> None:
    """Serve the registry as pages and a JSON API, read-only unless a token's role says otherwise.

    Example: btx serve --role auditor
    """
    from pipelines.jobs.serve import Address, serve
    from registry.web.public import PublicAddress

    address = Address(
        host=host,
        port=port,
        names=tuple(name or ()),
        cert=cert,
        key=key,
        public=PublicAddress.of(public_url) if public_url else None,
        proxies=tuple(trusted_proxy or ()),
    )
    serve(find_workspace(), address, role or (), reads_per_s=reads_per_s, on_start=_print_address)


def _print_address(url: str) -> None:
    """Print the address at once: the server runs until it is stopped, and a pipe is buffered."""
    print(f"open {url}", flush=True)
