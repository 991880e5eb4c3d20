"""What the columns of a row mean: one document, and what is known of it.

In:  a row, as a line of JSON lines, a table or a data set holds it.
Out: its document: text; a prompt with its answer; or a conversation. Beside it what the row says
of the document itself: its id, its author, its licence. A system message, earlier turns and tools
that stand in columns of their own are taken in. Other columns are left alone.
Reading rows from files is left to `btx_core.corpus_files`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from btx_core.files import any_json
from btx_core.problems import BtxError

# Any: what a row, a message or a tool holds is its owner's.
Row = Mapping[str, Any]
# One message of a conversation, as a chat template takes it: role, content and whatever else.
Message = Mapping[str, Any]
# What a conversation's model may call, as a chat template takes it.
Tool = Mapping[str, Any]

# The names under which columns are known. The first that a row has counts.
IDS = ("id", "doc_id", "document_id", "uuid")
AUTHORS = ("author", "authors", "creator")
LICENCES = ("license", "licence", "spdx_license")
# Where such columns may stand one level deeper.
NESTED = ("metadata", "meta")
# How conversations in the form of ShareGPT call the roles.
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
# The columns that each form of a row has, and of which kind their values are.
FORMS: Sequence[Mapping[str, type]] = (
    {"text": str},
    {"prompt": str, "answer": str},
    {"messages": list},
    {"conversations": list},
    {"prompt": str, "completion": str},
    {"instruction": str, "output": str},
)
# The columns of a conversation and of its tools, whose values are lists of objects.
CONVERSATION = ("messages", "conversations", "prompt", "completion", "tools")
# The keys by which a turn says that it is not to be learnt (OpenAI's, axolotl's), and who speaks in
# one that is.
LEARNT_IF = ("weight", "train", "training")
LEARNT_OF = ("assistant", "gpt")
# Whose messages say what a model is to be, and are often the same in every conversation.
SYSTEM_ROLES = ("system", "developer")
# What may stand beside a prompt or a conversation, and is learnt from with it.
BESIDE = ("system", "history", "tools")
# Every column of which a row is read; of others only the names, and texts to be named in errors.
READ = frozenset(
    name
    for names in (*FORMS, IDS, AUTHORS, LICENCES, NESTED, BESIDE, ("input", "label", "functions"))
    for name in names
)
# What a question and an answer are called where the two are no known form.
ASKING = ("prompt", "question", "query", "instruction", "problem", "input")
ANSWERING = ("answer", "response", "output", "solution")
# Characters in which two rows are looked for.
FIRST_LINES = 1 << 20
KNOWN = (
    '{"text"}, {"prompt", "answer"}, {"prompt", "completion"}, {"instruction", "output"} or '
    '{"messages"}'
)


class Unreadable(BtxError):
    """A data folder or file that does not hold text as promised."""


@dataclass(frozen=True)
class AboutDocument:
    """What a row says of its document.

    Attributes:
        id: the name that its owner knows it by.
        author: who wrote it; several, joined by "; ".
        license: what it came under, as written.
    """

    id: str | None = None
    author: str | None = None
    license: str | None = None

    @property
    def authors(self) -> tuple[str, ...]:
        """The names that it is found under: as it was written, and each of several."""
        return (self.author, *self.author.split("; ")) if self.author else ()


UNKNOWN = AboutDocument()


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        text: all of it.
        prompt: its first part, where there is an answer.
        answer: its second part. By itself it is what can be checked.
        learns_answer_only: whether only the answer is trained on and measured. It is then text of
            any length, and not checked.
        messages: of a conversation, of which only what the assistant says is trained on and
            measured; `text` is what all of them say.
        tools: of a conversation.
        about: what else is known of it.
        number: of its line, row or item in its file, from 1; None: the file is one document.
        where: its file and row, for error messages.
        takes_in: whether it holds what stood in `system`, `history`, or `tools` as JSON.
        system: the system message that an instruction's prompt begins with.
        marked: what its row says is not to be learnt, though it would be; empty: nothing.
    """

    text: str
    prompt: str | None = None
    answer: str | None = None
    learns_answer_only: bool = False
    messages: Sequence[Message] = ()
    tools: Sequence[Tool] = ()
    about: AboutDocument = field(default=UNKNOWN, compare=False)
    number: int | None = field(default=None, compare=False)
    where: str = field(default="", compare=False)
    takes_in: bool = field(default=False, compare=False)
    system: str = field(default="", compare=False)
    marked: str = field(default="", compare=False)

    @property
    def plain(self) -> bytes:
        """Its text in lower case, every stretch of white space one blank."""
        return _plain(self.text)

    @property
    def plain_without_system(self) -> bytes:
        """Its plain text but for system messages, which many documents share word for word."""
        if not self.messages:
            return _plain(self.text.removeprefix(self.system))
        own = [_said(one) or "" for one in self.messages if one["role"] not in SYSTEM_ROLES]
        return _plain("\n".join(own))

    @property
    def plain_learnt(self) -> bytes:
        """What is trained on and measured of it, as plain text."""
        return _plain(self.learnt_text)

    @property
    def digest(self) -> str:
        """What says that two documents are the same, however they are laid out."""
        return hashlib.sha256(self.plain).hexdigest()

    @property
    def is_partly_learnt(self) -> bool:
        """Whether only a part of it is trained on and measured."""
        return bool(self.messages) or self.learns_answer_only

    @property
    def learnt_text(self) -> str:
        """What is trained on and measured: of a conversation what the assistant says and calls."""
        if self.messages:
            own = [one for one in self.messages if one["role"] == "assistant"]
            return "\n".join(part for one in own for part in (_said(one) or "", *_calls(one)))
        return (self.answer or "") if self.learns_answer_only else self.text


def _plain(text: str) -> bytes:
    return " ".join(text.lower().split()).encode()


def document(
    row: object, where: str, number: int, text_field: str | None = None, *, whole: bool = True
) -> Document:
    """Return the document of one row.

    Args:
        row: its columns.
        where: file and row, for the error message.
        number: of the row in its file.
        text_field: the column that holds the text; None: one of the known forms.
        whole: whether `system`, `history`, and `tools` as JSON are taken in, or refused where their
            meaning is not plain; else they are left out, as they once were.

    Returns:
        The document.

    Raises:
        Unreadable: for a row of no known form, and for text that is no valid Unicode.
    """
    if not isinstance(row, Mapping):
        raise _unknown(row, where, text_field)
    content = _content(row, where, text_field, whole)
    try:
        content.text.encode()
    except UnicodeEncodeError as error:
        half = content.text[error.start]
        raise Unreadable(
            where,
            found=f"\\u{ord(half):04x}, which is half of a character",
            expected="valid Unicode",
            next="fix the line",
        ) from None
    return Document(
        content.text,
        content.prompt,
        content.answer,
        content.learns_answer_only,
        content.messages,
        content.tools,
        _about(row),
        number,
        where,
        content.takes_in,
        content.system,
        _marked(row) if content.is_partly_learnt else "",
    )


def _content(row: Row, where: str, text_field: str | None, whole: bool) -> Document:
    if text_field is not None:
        text = row.get(text_field)
        if isinstance(text, str):
            return Document(text)
        raise _unknown(row, where, text_field)
    match row:
        case {"text": str(text)}:
            return Document(text)
        case {"prompt": str(prompt), "answer": str(answer)}:
            if whole:
                _require_none(row, where, BESIDE, "put it into the prompt")
            return Document(f"{prompt} {answer}", prompt, answer)
        case {"messages": [*messages]}:
            return _conversation(messages, row, where, whole)
        case {"conversations": [*turns]}:
            return _conversation([_renamed(turn) for turn in turns], row, where, whole)
        case {"prompt": [*asked], "completion": [*answered]}:
            return _conversation([*asked, *answered], row, where, whole)
        case {"prompt": str(prompt), "completion": str(completion)}:
            if whole:
                _require_none(row, where, BESIDE, "put it into the prompt")
            return Document(prompt + completion, prompt, completion, learns_answer_only=True)
        case {"instruction": str(instruction), "output": str(output)}:
            before = _before(row, where) if whole else ""
            given = row.get("input")
            context = f"{given}\n\n" if isinstance(given, str) and given else ""
            prompt = f"{before}{instruction}\n\n{context}"
            return Document(
                prompt + output,
                prompt,
                output,
                learns_answer_only=True,
                takes_in=bool(before),
                system=_system(row, where) if whole else "",
            )
    raise _unknown(row, where, None)


def _marked(row: Row) -> str:
    """Name what would not be learnt: an answer that nobody liked, a turn, older kinds of calls."""
    if row.get("label") is False:
        return "label false, beside an answer"
    turns = [turn for name in ("messages", "conversations") for turn in _listed(row.get(name))]
    if turns and row.get("functions"):
        return "functions beside a conversation, which would not be written"
    for turn in turns:
        who = turn.get("role", turn.get("from"))
        if who == "function_call":
            return "a turn of function_call, which would not be learnt"
        if turn.get("function_call"):
            return f"a turn of {who} with a function_call, which would not be learnt"
        for key in LEARNT_IF:
            if who in LEARNT_OF and turn.get(key) in (0, False):
                return f"a turn of {who} with {key} {json.dumps(turn[key])}"
    return ""


def _listed(value: object) -> list[Row]:
    turns = value if isinstance(value, list | tuple) else ()
    return [turn for turn in turns if isinstance(turn, Mapping)]


def _renamed(turn: object) -> object:
    """Return a turn in the form of ShareGPT as a message."""
    match turn:
        case {"from": str(who), "value": str(said)}:
            return {"role": ROLES.get(who, who), "content": said}
    return turn


def _before(row: Row, where: str) -> str:
    """Return what stands before an instruction: the system message, and earlier turns."""
    _require_none(row, where, ("tools",), "write the conversation as messages")
    if not isinstance(row.get("input"), str | None):
        raise _unclear(row, where, "input", "text")
    system, history = _system(row, where), row.get("history") or []
    parts = [system] if system else []
    for turn in history if isinstance(history, list | tuple) else [history]:
        match turn:
            case [str(asked), str(answered)]:
                parts += [asked, answered]
            case _:
                raise _unclear(row, where, "history", "a list of [instruction, output]")
    return "".join(f"{part}\n\n" for part in parts)


def _system(row: Row, where: str) -> str:
    """Return the system message that stands in a column of its own; empty where there is none."""
    system = row.get("system")
    if system is None or isinstance(system, str):
        return system or ""
    raise _unclear(row, where, "system", "text")


def _parsed_tools(row: Row, where: str) -> list[Tool]:
    """Return the tools of a conversation, which may be written as JSON."""
    tools = row.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = any_json(tools)
        except ValueError:
            raise _unclear(row, where, "tools", "a list of objects, or one as JSON") from None
    several = [] if tools is None or tools == "" else tools
    if isinstance(several, list | tuple) and all(isinstance(one, Mapping) for one in several):
        return list(several)
    raise _unclear(row, where, "tools", "a list of objects, or one as JSON")


def _require_none(row: Row, where: str, columns: Sequence[str], advice: str) -> None:
    """Refuse columns that say something which this form has no place for."""
    for column in columns:
        if row.get(column) and row[column] != "[]":
            raise Unreadable(
                where,
                found=f"{column} {row[column]!r:.60}, beside a prompt or an instruction",
                expected="columns that this form of a row has a place for",
                next=f"{advice}, or remove the column",
            )


def _unclear(row: Row, where: str, column: str, expected: str) -> Unreadable:
    return Unreadable(
        where,
        found=f"{column} {row[column]!r:.60}",
        expected=f"{expected} in the column {column}",
        next="fix the line, or remove the column",
    )


def _conversation(messages: Sequence[Any], row: Row, where: str, whole: bool) -> Document:
    system = _system(row, where) if whole else ""
    if whole:
        _require_none(row, where, ("history",), "write its turns as messages")
    said: list[Message] = []
    for message in messages:
        match message:
            case {"role": str()} if _said(message) is not None:
                # A table gives every message every key that any of them has.
                said.append({key: v for key, v in message.items() if v is not None})
            case {"role": str(), "content": [*parts]}:
                strange = next(part for part in parts if _text_part(part) is None)
                raise Unreadable(
                    where,
                    found=f"a part {strange!r:.60} of a message",
                    expected='{"type": "text", "text": ...}',
                    next="leave the conversation out, or what is no text in it",
                )
            case _:
                raise Unreadable(
                    where,
                    found=f"a message {message!r:.60}",
                    expected='{"role": ..., "content": ...}',
                    next="fix the message",
                )
    if not any(message["role"] == "assistant" for message in said):
        raise Unreadable(
            where,
            found=f"roles {', '.join(str(message['role']) for message in said) or 'none'}",
            expected="a message of the assistant, which is what is trained on",
            next="remove the conversation, or add the answer",
        )
    if system:
        said = _with_system(said, system, row, where)
    tools = row.get("tools")
    several = tools if isinstance(tools, list | tuple) else ()
    listed = [tool for tool in several if isinstance(tool, Mapping)]
    if whole:
        listed = _parsed_tools(row, where)
    text = "\n".join(part for message in said if (part := _said(message)))
    anew = bool(system) or (bool(listed) and isinstance(tools, str))
    return Document(text, messages=tuple(said), tools=tuple(listed), takes_in=anew)


def _with_system(messages: list[Message], system: str, row: Row, where: str) -> list[Message]:
    """Return a conversation that begins with this system message."""
    own = [_said(message) for message in messages if message["role"] == "system"]
    if not own:
        return [{"role": "system", "content": system}, *messages]
    if own == [system] and messages[0]["role"] == "system":
        return messages
    raise _unclear(
        row, where, "system", "what the system message of the conversation says, or none"
    )


def _said(message: Message) -> str | None:
    """Return the text of a message; empty where it only calls tools; None where it is none."""
    match message:
        case {"content": str(content)}:
            return content
        case {"content": [*parts]}:
            texts = [_text_part(part) for part in parts]
            return None if None in texts else "\n".join(map(str, texts))
        case {"tool_calls": [_, *_]}:
            return ""
    return None


def _calls(message: Message) -> Iterator[str]:
    """Yield the calls of tools that a message makes, as JSON, without the ids that tie answers."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        called = call.get("function", call) if isinstance(call, Mapping) else call
        yield json.dumps(called, sort_keys=True, default=str)


def _text_part(part: object) -> str | None:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    return None


def _about(row: Row) -> AboutDocument:
    nested = [row[name] for name in NESTED if isinstance(row.get(name), Mapping)]
    levels = [row, *(level for level in nested if isinstance(level, Mapping))]
    values = [_first(levels, names) for names in (IDS, AUTHORS, LICENCES)]
    return AboutDocument(*values) if any(value is not None for value in values) else UNKNOWN


def _first(levels: Sequence[Row], names: Sequence[str]) -> str | None:
    """Return the first of these columns that says anything, as text."""
    for level in levels:
        for name in names:
            value = level.get(name)
            several = value if isinstance(value, list | tuple) else [value]
            known = [str(one) for one in several if isinstance(one, str | int) and str(one)]
            if known:
                # Half of a character cannot be stored.
                return "; ".join(known).encode(errors="replace").decode()
    return None


def _unknown(row: object, where: str, text_field: str | None) -> Unreadable:
    if isinstance(row, Mapping):
        names = [str(name) for name in row]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        found = f"columns {', '.join(names[:8])}{more}" if names else "no columns"
        lengths = {str(name): len(value) for name, value in row.items() if isinstance(value, str)}
    else:
        found, lengths = f"{row!r:.60}", {}
    wrong = _wrong_kind(row, text_field) if isinstance(row, Mapping) else ""
    found = wrong or found
    if text_field is not None:
        return Unreadable(
            where,
            found=found,
            expected=f"text in the column {text_field}",
            next="fix the line, or name another column with --text-field",
        )
    way = ""
    asks = [name for name in ASKING if name in lengths]
    says = [name for name in ANSWERING if name in lengths]
    if asks and says:
        renamed = {asks[0]: "prompt", says[0]: "answer"}.items()
        way = ", or call " + " and ".join(f"{old} {new}" for old, new in renamed if old != new)
    elif lengths:
        # The longest text of the row is most likely the document.
        longest = max(lengths, key=lengths.__getitem__)
        way = f", or name the column that holds the text: --text-field {longest}"
    return Unreadable(where, found=found, expected=KNOWN, next=f"fix the line{way}")


def is_of_known_form(row: object) -> bool:
    """Whether a row has the columns of a known form, whatever stands in them."""
    return isinstance(row, Mapping) and any(form.keys() <= row.keys() for form in FORMS)


def are_rows(text: str, text_field: str | None = None) -> bool:
    """Tell whether a text is rows of a corpus, by its first two lines.

    Args:
        text: of a file that is one document.
        text_field: the column that holds the text of every row; None: one of the known forms.
    """
    if not text.lstrip().startswith("{"):
        return False
    lines = [line for line in text[:FIRST_LINES].splitlines() if line.strip()][:2]
    return len(lines) == 2 and all(_is_row(line, text_field) for line in lines)


def _is_row(line: str, text_field: str | None) -> bool:
    try:
        row = any_json(line)
    except ValueError:
        return False
    return is_of_known_form(row) or (isinstance(row, Mapping) and text_field in row)


def _wrong_kind(row: Row, text_field: str | None) -> str:
    """Name the column of a known form that holds another kind of value; empty where none does."""
    forms = FORMS if text_field is None else ({text_field: str},)
    for form in forms:
        if form.keys() <= row.keys():
            for column, kind in form.items():
                if not isinstance(row[column], kind):
                    return f"{column} is {_kind_of(row[column])}"
    return ""


def _kind_of(value: object) -> str:
    """Say what a value is, as JSON calls it."""
    match value:
        case None:
            return "null"
        case bool() | int() | float():
            return f"{json.dumps(value)}, no text"
        case str():
            return "text"
        case bytes():
            return "bytes"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
    return f"of type {type(value).__name__}"
