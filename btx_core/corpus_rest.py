"""Write a corpus file again without some of its documents, in the form that it has.

In:  a file that `btx_core.corpus_files` reads, and the numbers of rows that do not stay.
Out: a file of the same form with the other rows; none where no row stays.
Of what does not stay no byte is written: tables are built from the rows that stay, so that neither
dictionaries nor statistics of the old ones come along. Whether rows stay is the caller's to know.
"""

import csv
import gzip
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from btx_core.corpus_files import (
    KEEPS_BYTES,
    ROWS,
    Reading,
    delimiter_of,
    form_of,
    items_of,
    lines_of,
    pyarrow_module,
    rows_of,
    table_batches,
)

Gone = Collection[int | None]


def write_rest(source: Path, target: Path, reading: Reading, gone: Gone) -> bool:
    """Write what stays of a corpus file.

    Args:
        source: the file.
        target: where the rest is written; not the same file.
        reading: how the file is read.
        gone: the numbers of its documents that do not stay; None is the whole file.

    Returns:
        Whether anything stays; else nothing is written.

    Raises:
        Unreadable: for a file that is not of the form that its name says.
    """
    form = "jsonl" if reading.older and source.suffix == ".jsonl" else form_of(source)
    if None in gone or form not in _WRITERS or (reading.older and form != "jsonl"):
        return False
    return _WRITERS[form](source, target, reading, gone)


def _write_lines(source: Path, target: Path, reading: Reading, gone: Gone) -> bool:
    stays = False
    with _created(source, target) as file:
        for number, line in enumerate(lines_of(source, reading), 1):
            if number not in gone:
                stays = stays or bool(line.strip())
                file.write(line)
    return _whether(target, stays)


def _write_items(source: Path, target: Path, reading: Reading, gone: Gone) -> bool:
    stays = False
    with _created(source, target) as file:
        file.write("[")
        for number, item in enumerate(items_of(source, reading), 1):
            if number not in gone:
                file.write(",\n" if stays else "\n")
                json.dump(item, file)
                stays = True
        file.write("\n]\n")
    return _whether(target, stays)


def _write_table(source: Path, target: Path, reading: Reading, gone: Gone) -> bool:
    stays = False
    with _created(source, target, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter_of(source), lineterminator="\n")
        for row in rows_of(source, reading):
            if row.unreadable:
                file.write(row.lines)
            elif row.cells and row.number not in gone:
                writer.writerow(row.cells)
            else:
                continue
            stays = stays or row.number > 0
    return _whether(target, stays)


def _write_columns(source: Path, target: Path, reading: Reading, gone: Gone) -> bool:
    """Write a Parquet or Arrow file, a few hundred rows at a time."""
    arrow, number, writer = pyarrow_module(source, "pyarrow"), 0, None
    with table_batches(source) as (schema, batches):
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS):
                rows = batch.slice(start, ROWS)
                stay = [number + one not in gone for one in range(1, rows.num_rows + 1)]
                number += rows.num_rows
                if any(stay):
                    columns = [_anew(source, one) for one in rows.filter(arrow.array(stay)).columns]
                    writer = writer or _table_writer(source, target, schema)
                    writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
    if writer is not None:
        writer.close()
    return writer is not None


# Any: an array of pyarrow.
def _anew(source: Path, column: Any) -> Any:
    """Return a column that holds nothing of what was filtered out of it."""
    # A filter copies numbers and times, some of which Python has no value for.
    if pyarrow_module(source, "pyarrow.types").is_primitive(column.type):
        return column
    return pyarrow_module(source, "pyarrow").array(column.to_pylist(), type=column.type)


def _table_writer(source: Path, target: Path, schema: Any) -> Any:
    if form_of(source) == "parquet":
        return pyarrow_module(source, "pyarrow.parquet").ParquetWriter(str(target), schema)
    ipc = pyarrow_module(source, "pyarrow.ipc")
    with source.open("rb") as stream:
        indexed = stream.read(6) == b"ARROW1"
    return (ipc.new_file if indexed else ipc.new_stream)(str(target), schema)


@contextmanager
def _created(source: Path, target: Path, newline: str | None = "\n") -> Iterator[IO[str]]:
    """Open a new file of text, compressed as the source is."""
    with (
        _created_bytes(source, target) as stream,
        TextIOWrapper(stream, encoding="utf-8", errors=KEEPS_BYTES, newline=newline) as text,
    ):
        yield text


def _created_bytes(source: Path, target: Path) -> Any:  # a context manager of a stream of bytes
    suffix = source.suffix.lower()
    if suffix == ".gz":
        # Without the time, so that equal rows are equal bytes.
        return gzip.GzipFile(target, "wb", mtime=0)
    if suffix == ".zst":
        arrow = pyarrow_module(source, "pyarrow")
        return arrow.CompressedOutputStream(str(target), "zstd")
    return target.open("wb")


def _whether(target: Path, stays: bool) -> bool:
    if not stays:
        target.unlink()
    return stays


_WRITERS: Mapping[str, Callable[[Path, Path, Reading, Gone], bool]] = {
    "arrow": _write_columns,
    "csv": _write_table,
    "json": _write_items,
    "jsonl": _write_lines,
    "parquet": _write_columns,
}
