"""Read the documents of one corpus file, whatever form a team keeps it in.

In:  a file of text or Markdown; JSON lines or a JSON array; CSV; Parquet; Arrow, as the `datasets`
library saves it; each of the text forms also compressed by gzip or Zstandard.
Out: its documents, one in memory at a time (of a table, a few hundred rows).
What the columns of a row mean is left to `btx_core.columns`, which documents are held out to
`btx_core.texts`. Parquet, Arrow and Zstandard are read by pyarrow, which is asked for only then.
"""

import codecs
import csv
import gzip
import importlib
import json
import os
import re
import shlex
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from typing import IO, Any

from btx_core.columns import (
    CONVERSATION,
    READ,
    Document,
    Unreadable,
    document,
    is_of_known_form,
)
from btx_core.files import any_json

READ_BYTES = 1 << 20
# How a text is opened of which a line may hold what is no UTF-8, and how that is written again.
KEEPS_BYTES = "surrogateescape"
# Rows of a table that are in memory at a time.
ROWS = 256
BLANKS = re.compile(r"[ \t\r\n,]*")
BOM = codecs.BOM_UTF8
# What begins a file that only points to its content, and how long such a file is at most.
POINTER, POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LINES = frozenset({".jsonl", ".ndjson"})
TABLES = {".csv": ",", ".tsv": "\t"}
# What may divide the columns of a table, as messages call it.
DELIMITERS = {",": "`,`", ";": "`;`", "\t": "a tab", "|": "`|`"}
ARROW = frozenset({".parquet", ".arrow"})
COMPRESSED = frozenset({".gz", ".zst"})
# What the `datasets` library writes beside the rows of a data set.
DATASET_NOTES = frozenset({"state.json", "dataset_info.json", "dataset_dict.json"})


@dataclass(frozen=True)
class Reading:
    """How the files of a corpus are read.

    Attributes:
        text_field: the column that holds the text of every row; None: one of the known forms.
        whole: whether what stands in the columns `system`, `history`, and `tools` as JSON is taken
            in, and what would be learnt from wrongly is refused; False: those columns are left out,
            as for corpora that were registered without. True also tells the two apart by digest.
        older: as corpora were read before there was a choice: a *.jsonl file holds a document a
            line, {"text"} or {"prompt", "answer"}; every other file is one text, as it stands.
    """

    text_field: str | None = None
    whole: bool | None = None
    older: bool = False

    @property
    def takes_all_in(self) -> bool:
        """Whether columns beside the text are taken in or refused."""
        return self.whole is not False and not self.older


TODAYS = Reading()


def documents(file: Path, reading: Reading) -> Iterator[Document]:
    """Read the documents of one file.

    Args:
        file: the file.
        reading: how.

    Yields:
        Its documents, in their order.

    Raises:
        Unreadable: naming the file, and the line or row, for what is no text.
    """
    for one in readable(file, reading):
        if isinstance(one, Unreadable):
            raise one
        yield one


def readable(file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    """Read what can be read of one file.

    Args:
        file: the file.
        reading: how.

    Yields:
        Its documents, in their order; in the place of a row that is none, the error that names it.

    Raises:
        Unreadable: where nothing behind can be read.
    """
    if reading.older:
        yield from _json_lines(file, reading) if file.suffix == ".jsonl" else _whole(file, reading)
        return
    _refuse_pointer(file)
    form = form_of(file)
    if file.name in DATASET_NOTES and any(file.parent.rglob("*.arrow")):
        return
    yield from _READERS[form](file, reading)


def form_of(file: Path) -> str:
    """Return the form of a file by its name: jsonl, json, csv, parquet, arrow or text."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last in LINES:
        return "jsonl"
    if last in TABLES:
        return "csv"
    return last[1:] if last in ARROW or last == ".json" else "text"


def is_read_anew(file: Path, first_bytes: bytes, reading: Reading) -> bool:
    """Tell whether a file's documents may differ from those of the older reading.

    Args:
        file: the file.
        first_bytes: of it.
        reading: how it is read.
    """
    if reading.older:
        return False
    plain = form_of(file) == "text" or (form_of(file) == "jsonl" and file.suffix == ".jsonl")
    compressed = file.suffix.lower() in COMPRESSED
    begins_with_mark = first_bytes.startswith(BOM)
    return not plain or compressed or begins_with_mark or reading.text_field is not None


def holds_keys_of_other_rows(file: Path, reading: Reading) -> bool:
    """Tell whether a table gives calls or tools keys with null, since only other rows have them.

    They are left out, but once were read: token files of such a table are made anew.

    Args:
        file: the file.
        reading: how it is read.

    Raises:
        Unreadable: for a table that cannot be read.
    """
    if reading.older or reading.text_field is not None or form_of(file) not in ("parquet", "arrow"):
        return False
    _refuse_pointer(file)
    if form_of(file) == "arrow" and not _is_of_dataset(file):
        return False
    types = pyarrow_module(file, "pyarrow.types")
    with table_batches(file, lambda one: one.name in CONVERSATION) as (schema, batches):
        names = [name for name in schema.names if name in CONVERSATION]
        names = [name for name in names if types.is_nested(schema.field(name).type)]
        if not names:
            return False
        number = 0
        for batch in batches:
            with _rows_named(file, batch, number):
                batch.validate(full=True)
            number += batch.num_rows
            for name in names:
                # Of a message's own keys those with null were always left out.
                if _has_keys_with_null(batch.column(name), types, own_count=name == "tools"):
                    return True
    return False


# Any: an array of pyarrow, and its module of types.
def _has_keys_with_null(array: Any, types: Any, *, own_count: bool) -> bool:
    if types.is_struct(array.type):
        fields = array.drop_null().flatten()
        missing = own_count and any(one.null_count for one in fields)
        return missing or any(_has_keys_with_null(one, types, own_count=True) for one in fields)
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if any(is_list(array.type) for is_list in lists):
        return _has_keys_with_null(array.flatten(), types, own_count=own_count)
    return False


def _refuse_pointer(file: Path) -> None:
    """Refuse a file whose content Git LFS has not fetched."""
    with file.open("rb") as stream:
        first = stream.read(len(POINTER))
    if first == POINTER and file.stat().st_size <= POINTER_BYTES:
        raise Unreadable(
            file,
            found="a Git LFS pointer, not the text that it points to",
            expected="the text",
            next="git lfs pull, then add the corpus again",
        )


def _whole(file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    """Read a file that is one document; nothing where it is blank."""
    with _errors_named(file), _opened(file) as stream:
        content = stream.read(READ_BYTES)
        # An archive or weights may be larger than the memory.
        if not reading.older and b"\0" in content:
            raise _binary(file, content)
        content += stream.read()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error.start) from None
    if not reading.older:
        text = text.removeprefix("\ufeff")
    if text.strip():
        yield Document(text)


def _json_lines(file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    for number, line in enumerate(lines_of(file, reading), 1):
        if line.strip():
            where = f"{file}:{number}"
            try:
                row = _parsed(line, where)
            except Unreadable as error:
                yield error
            else:
                yield _document(row, where, number, reading)


def _document(row: object, where: str, number: int, reading: Reading) -> Document | Unreadable:
    """Return the document of a row, or the error that says why it is none."""
    try:
        return document(row, where, number, reading.text_field, whole=reading.takes_all_in)
    except Unreadable as error:
        return error


def items_of(file: Path, reading: Reading) -> Iterator[object]:
    """Yield the values of a JSON file: those of an array, or one after another."""
    with opened_text(file, reading) as stream:
        values, number = _JsonValues(file, stream), 0
        is_array = values.skip("[")
        while not (values.skip("]") if is_array else values.ended()):
            number += 1
            yield values.value(number)


def _json(file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    """Read an array of rows, or rows one after another; any other JSON file is one text."""
    number = 0
    with opened_text(file, reading) as stream:
        values = _JsonValues(file, stream)
        is_array = values.skip("[")
        while not (values.skip("]") if is_array else values.ended()):
            number += 1
            row = values.value(number)
            if number == 1 and not is_array and values.ended():
                yield from _lone_object(row, file, reading)
                return
            yield _document(row, f"{file}, item {number}", number, reading)
        if is_array and reading.takes_all_in and not values.ended():
            raise Unreadable(
                f"{file}, behind item {number}",
                found="more behind the array's end",
                expected="one array of rows, or rows one after another",
                next="write all rows into one array, or one row a line as .jsonl",
            )


def _lone_object(row: object, file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    """Read a file that holds one JSON value: a row where it has a row's form, else text."""
    one = _document(row, f"{file}, item 1", 1, reading)
    if isinstance(one, Document):
        yield one
        return
    if reading.takes_all_in and isinstance(row, Mapping):
        if is_of_known_form(row):
            raise one
        _refuse_rows_inside(row, file)
        # Beside other files it may be the settings of a program: text.
        if _is_alone(file):
            raise one
    yield from _whole(file, reading)


def _refuse_rows_inside(row: Mapping[str, Any], file: Path) -> None:
    """Refuse an object that holds the rows of a corpus under one of its keys."""
    for key, value in row.items():
        match value:
            case [first, *_] if is_of_known_form(first) or (
                isinstance(first, Mapping) and _is_alone(file)
            ):
                raise Unreadable(
                    file,
                    found=f"one object, whose key {key} holds {len(value)} rows",
                    expected="the rows themselves: an array, or JSON lines",
                    next=f"write what {key} holds as an array, or one row a line as .jsonl",
                )


def _is_alone(file: Path) -> bool:
    """Whether a file is the only one of its folder."""
    # Not iterdir, which reads the whole folder: there may be a million such files in it.
    with os.scandir(file.parent) as entries:
        return all(entry.name == file.name for entry in entries)


class _JsonValues:
    """JSON values one after another, parsed from a stream; commas between them do not count."""

    def __init__(self, file: Path, stream: TextIOWrapper) -> None:
        self.file = file
        self.stream = stream
        self.decoder = json.JSONDecoder()
        self.buffer, self.at = "", 0

    def ended(self) -> bool:
        """Skip blanks and commas; tell whether nothing follows."""
        while True:
            rest = BLANKS.match(self.buffer, self.at)
            self.at = rest.end() if rest else self.at
            if self.at < len(self.buffer):
                return False
            if not self._read_more():
                return True

    def skip(self, character: str) -> bool:
        """Skip a character where it comes next, and tell whether it did."""
        follows = not self.ended() and self.buffer[self.at] == character
        self.at += int(follows)
        return follows

    def value(self, number: int) -> object:
        """Parse the next value. Raises Unreadable, naming it by its number."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                if not self._read_more():
                    text = self.buffer[self.at : self.at + 60]
                    raise _no_json(f"{self.file}, item {number}", text, error) from None
                continue
            # A number may go on in what is read next.
            if end < len(self.buffer) or not self._read_more():
                self.at = end
                return value

    def _read_more(self) -> bool:
        left = self.buffer[self.at :]
        more = self.stream.read(max(READ_BYTES, len(left)))
        if more:
            self.buffer, self.at = left + more, 0
        return bool(more)


def delimiter_of(file: Path) -> str:
    """Return what divides the cells of a table of text, by its name."""
    suffix = next(one for one in reversed(file.suffixes) if one.lower() in TABLES)
    return TABLES[suffix.lower()]


@dataclass(frozen=True)
class TableRow:
    """A row of a table of text.

    Attributes:
        number: of it; the row that names the columns is 0.
        line: its last line.
        cells: of it; of a blank line none.
        lines: of the file, as they stand.
        unreadable: why it is no row; its cells then do not count.
    """

    number: int
    line: int
    cells: Sequence[str]
    lines: str
    unreadable: Unreadable | None = None


class _LinesOfRow:
    """The lines of a table, of which those of one row are known and can be read again."""

    def __init__(self, stream: TextIOWrapper) -> None:
        self.stream = stream
        self.row: list[str] = []
        self.again: deque[str] = deque()
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.stream)
        self.row.append(line)
        self.number += 1
        return line

    def go_back_behind_the_first(self) -> None:
        self.again.extendleft(reversed(self.row[1:]))
        self.number -= len(self.row) - 1
        del self.row[1:]


def rows_of(file: Path, reading: Reading) -> Iterator[TableRow]:
    """Yield the rows of a table of text; behind a line that begins none, the next line is read."""
    csv.field_size_limit(1 << 30)
    with opened_text(file, reading, errors=KEEPS_BYTES) as stream:
        lines = _LinesOfRow(stream)
        # Not strict, a quote that is never closed takes all that follows into its cell.
        table = csv.reader(lines, delimiter=delimiter_of(file), strict=reading.takes_all_in)
        for number in count():
            lines.row.clear()
            unreadable = None
            try:
                cells = next(table, None)
            except csv.Error as error:
                cells = []
                lines.go_back_behind_the_first()
                unreadable = Unreadable(
                    f"{file}:{lines.number}",
                    found=str(error),
                    expected="comma-separated values",
                    next="fix the line",
                )
            if cells is None:
                return
            text = "".join(lines.row)
            unreadable = unreadable or _no_utf8_in(text, f"{file}:{lines.number}")
            yield TableRow(number, lines.number, cells, text, unreadable)


def _rows(file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    """Read a table of text, whose first line names the columns."""
    rows = rows_of(file, reading)
    head = next(rows, None)
    if head is None:
        return
    if head.unreadable:
        raise head.unreadable
    names = head.cells
    _refuse_other_delimiter(file, names, reading)
    for row in rows:
        where = f"{file}:{row.line}"
        if row.unreadable:
            yield row.unreadable
        elif row.cells and len(row.cells) != len(names):
            yield Unreadable(
                where,
                found=f"{len(row.cells)} cells",
                expected=f"{len(names)}, as in the first line",
                next="fix the line",
            )
        elif row.cells:
            values = dict(zip(names, row.cells, strict=True))
            yield _document(values, where, row.number, reading)


def _refuse_other_delimiter(file: Path, names: Sequence[str], reading: Reading) -> None:
    """Refuse a table of one column, in whose name the columns seem to be divided otherwise."""
    if len(names) != 1 or names[0] == reading.text_field:
        return
    for delimiter, called in DELIMITERS.items():
        if delimiter in names[0] and delimiter != delimiter_of(file):
            raise Unreadable(
                f"{file}:1",
                found=f"one column {names[0]!r:.60}: the delimiter looks like {called}",
                expected=f"columns that are divided by {DELIMITERS[delimiter_of(file)]}",
                next="write the table so; a table divided by tabs is a .tsv file",
            )


def _parquet(file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    with table_batches(file, _is_read_by(reading, file)) as (schema, batches):
        yield from _documents_of_batches(file, schema.names, batches, reading)


def _arrow(file: Path, reading: Reading) -> Iterator[Document | Unreadable]:
    """Read a file of the `datasets` library, which streams batches; other tools write an index."""
    if _is_of_dataset(file):
        with table_batches(file) as (schema, batches):
            yield from _documents_of_batches(file, schema.names, batches, reading)


# Any: pyarrow's fields.
def _is_read_by(reading: Reading, file: Path) -> Callable[[Any], bool]:
    """Return what tells whether a column of a table is read.

    Of columns that mean nothing and hold no text only the names are there: a day that no calendar
    has in one of them is nobody's concern, and pictures or vectors take long to read.
    """
    types = pyarrow_module(file, "pyarrow.types")
    is_text = (types.is_string, types.is_large_string, types.is_string_view)
    names = READ | {reading.text_field}

    def is_read(field: Any) -> bool:
        return field.name in names or any(is_kind(field.type) for is_kind in is_text)

    return is_read


# Any: pyarrow's schema, fields and batches.
@contextmanager
def table_batches(
    file: Path, is_read: Callable[[Any], bool] | None = None
) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Open a Parquet or Arrow file.

    Args:
        file: the file.
        is_read: tells which columns are read at least; None: all.

    Yields:
        Its whole schema, and its batches one after another.
    """
    if form_of(file) == "parquet":
        module = pyarrow_module(file, "pyarrow.parquet")
        # In pieces: the rows of one group may be larger than the memory.
        with _errors_named(file), module.ParquetFile(file, buffer_size=READ_BYTES) as parquet:
            schema = parquet.schema_arrow
            names = [field.name for field in schema if is_read is None or is_read(field)]
            yield schema, parquet.iter_batches(ROWS, columns=names or None)
        return
    arrow, ipc = pyarrow_module(file, "pyarrow"), pyarrow_module(file, "pyarrow.ipc")
    # Not mapped: past the end of a file that was cut, a map ends the program.
    with _errors_named(file), arrow.OSFile(str(file)) as stream:
        indexed = stream.read(6) == b"ARROW1"
        stream.seek(0)
        if indexed:
            table = ipc.open_file(stream)
            yield table.schema, map(table.get_batch, range(table.num_record_batches))
        else:
            batches = ipc.open_stream(stream)
            yield batches.schema, iter(batches)


def _is_of_dataset(file: Path) -> bool:
    """Tell whether a file holds rows of a data set, and not what the library only cached there."""
    state = file.parent / "state.json"
    try:
        listed = {
            one["filename"] for one in any_json(state.read_text(encoding="utf-8"))["_data_files"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return file.name in listed


# Any: pyarrow's batches.
def _documents_of_batches(
    file: Path, names: Sequence[str], batches: Iterator[Any], reading: Reading
) -> Iterator[Document | Unreadable]:
    number, is_read = 0, _is_read_by(reading, file)
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            for values in _values(file, batch.slice(start, ROWS), number, is_read):
                number += 1
                row = dict.fromkeys(names) | values
                for name in CONVERSATION:
                    if name in row:
                        row[name] = _without_keys_of_other_rows(row[name])
                yield _document(row, f"{file}, row {number}", number, reading)


def _without_keys_of_other_rows(value: object) -> object:
    """Leave out keys with null: a table gives every object all keys that any row's has."""
    match value:
        case dict():
            there = {key: one for key, one in value.items() if one is not None}
            return {key: _without_keys_of_other_rows(one) for key, one in there.items()}
        case list():
            return [_without_keys_of_other_rows(one) for one in value]
    return value


# Any: pyarrow's fields and batches, and what a row holds.
def _values(
    file: Path, batch: Any, before: int, is_read: Callable[[Any], bool]
) -> list[dict[str, Any]]:
    """Return the rows of a batch, which was read behind so many others."""
    with _rows_named(file, batch, before):
        columns = batch.select([place for place, one in enumerate(batch.schema) if is_read(one)])
        columns.validate(full=True)
        rows: list[dict[str, Any]] = columns.to_pylist()
    return rows


# Any: pyarrow's batches.
@contextmanager
def _rows_named(file: Path, batch: Any, before: int) -> Iterator[None]:
    """Turn what pyarrow raises of a batch into an error that names its rows."""
    try:
        yield
    except (ValueError, OSError, KeyError, OverflowError) as error:
        raise Unreadable(
            f"{file}, rows {before + 1} to {before + batch.num_rows}",
            found=f"{type(error).__name__}: {error}"[:160],
            expected="columns that hold what their types say, text in UTF-8",
            next="write the file again",
        ) from None


_READERS: Mapping[str, Callable[[Path, Reading], Iterator[Document | Unreadable]]] = {
    "arrow": _arrow,
    "csv": _rows,
    "json": _json,
    "jsonl": _json_lines,
    "parquet": _parquet,
    "text": _whole,
}


# Any: a module without types.
def pyarrow_module(file: Path, name: str) -> Any:
    """Import a module of pyarrow. Raises Unreadable, naming the file that it is for."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Unreadable(
            file,
            found="a file that pyarrow reads, which is not installed",
            expected="pyarrow",
            next="pip install 'btx-registry[corpora]'",
        ) from None


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a file's bytes, as they were before they were compressed."""
    suffix = file.suffix.lower()
    if suffix == ".gz":
        with gzip.open(file, "rb") as stream:
            # typeshed's class of it is no IO.
            yield stream  # type: ignore[misc]
    elif suffix == ".zst":
        arrow = pyarrow_module(file, "pyarrow")
        with arrow.CompressedInputStream(arrow.OSFile(str(file)), "zstd") as stream:
            yield stream
    else:
        with file.open("rb") as stream:
            yield stream


@contextmanager
def opened_text(file: Path, reading: Reading, errors: str = "strict") -> Iterator[TextIOWrapper]:
    """Open a file's text; a line ends where the file says so, and nowhere inside of a string."""
    encoding = "utf-8" if reading.older else "utf-8-sig"
    with _errors_named(file), _opened_for(file, reading) as stream:
        newline = "" if form_of(file) == "csv" else None
        with TextIOWrapper(stream, encoding=encoding, errors=errors, newline=newline) as text:
            try:
                yield text
            except UnicodeDecodeError:
                raise _not_utf8(file, _first_bad_byte(file, reading)) from None


def _opened_for(file: Path, reading: Reading) -> Any:  # a context manager of a stream of bytes
    return file.open("rb") if reading.older else _opened(file)


def lines_of(file: Path, reading: Reading) -> Iterator[str]:
    """Yield the lines of a text, as they were before they were compressed."""
    with opened_text(file, reading, errors=KEEPS_BYTES) as stream:
        yield from stream


@contextmanager
def _errors_named(file: Path) -> Iterator[None]:
    """Turn what decompression and pyarrow raise into an error that names the file."""
    try:
        yield
    except Unreadable:
        raise
    # pyarrow's errors are kinds of ValueError, OSError, KeyError and NotImplementedError.
    except (EOFError, ValueError, OSError, zlib.error, KeyError, NotImplementedError) as error:
        raise Unreadable(
            file,
            found=f"{type(error).__name__}: {error}"[:160],
            expected=f"a whole file of the form that its name says ({file.suffix})",
            next="copy the file again, or rename it",
        ) from None


def _first_bad_byte(file: Path, reading: Reading) -> int:
    """Return the position of the first byte that is no UTF-8."""
    decoder, position = codecs.getincrementaldecoder("utf-8")(), 0
    with _opened_for(file, reading) as stream:
        while True:
            chunk = stream.read(READ_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return position - pending + error.start
            position += len(chunk)


def _not_utf8(file: Path, position: int) -> Unreadable:
    return Unreadable(
        file,
        found=f"byte {position} is no UTF-8",
        expected="UTF-8 text or JSON lines",
        next="convert or remove it",
    )


def _binary(file: Path, content: bytes) -> Unreadable:
    if content.startswith(UTF_16):
        name, converted = shlex.quote(file.name), shlex.quote(f"{file.name}.txt")
        return Unreadable(
            file,
            found="text in UTF-16, of which byte 0 is no UTF-8",
            expected="UTF-8 text or JSON lines",
            next=f"iconv -f UTF-16 -t UTF-8 {name} > {converted}, and remove the other",
        )
    return Unreadable(
        file,
        found=f"a binary file: byte {content.index(0)} is 0, and it is no UTF-8 text",
        expected="text, JSON, CSV, Parquet or Arrow",
        next="remove it from the folder",
    )


def _no_utf8_in(text: str, where: str) -> Unreadable | None:
    """Return the error for a text that was read with what is no UTF-8; None for any other."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        position = len(text[: error.start].encode())
        return Unreadable(
            where,
            found=f"byte {position} of the line is no UTF-8",
            expected="UTF-8 text",
            next="convert the file to UTF-8, or fix the line",
        )
    return None


def _parsed(line: str, where: str) -> object:
    if no_utf8 := _no_utf8_in(line, where):
        raise no_utf8
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _no_json(where, line, error) from None


def _no_json(where: str, text: str, error: Exception) -> Unreadable:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
    return Unreadable(
        where,
        found=f"{text.rstrip()[:60]} ({reason})",
        expected="one JSON object",
        next="fix the line",
    )
