"""Conversations and instructions as tokens, and which of the tokens are learnt.

In:  a document of which only a part is learnt: what the assistant says, or an answer.
Out: its token ids; which are learnt; how many bytes of learnt text each spells.
A conversation is written by the tokenizer's own chat template. Where the template marks what the
assistant says ({% generation %}), transformers' own mask is taken; elsewhere a message is what the
template writes more when it is given that message too. Writing token files is left to
`btx_core.tokens`.
Shapes: T tokens, K spans.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray

from btx_core.columns import Document, Message, Tool, Unreadable
from btx_core.files import any_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Spelt as transformers looks for it, before it masks what the assistant says.
GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
# How a template asks what day it is, and the day that it is told: the same text has the same tokens
# whenever they are made. It is the day that Llama's template takes where it cannot ask.
NOW, DAY = "strftime_now", date(2024, 7, 26)
DAY_PARTS = "".join(f"|replace('%{part}', '{DAY:%{part}}')" for part in "aAbBdHIjmMpSyY")
FIXED_DAY = f"{{% macro {NOW}(format) %}}{{{{ format{DAY_PARTS} }}}}{{% endmacro %}}\n"
ASSISTANT = "assistant"
# Stands behind a part of a conversation to see whether the template writes it.
FIRST_MARK = 7203594100000000
COLUMN = "in the column tools"
# What a message says before its content, by the names that templates and servers have for it.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
# What a template raises for a conversation that it does not take.
REFUSALS = (TemplateError, AttributeError, KeyError, TypeError, ValueError)
# Characters (start, stop) of a text.
Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PartlyLearnt:
    """A document as tokens, of which a part is learnt.

    Attributes:
        ids: (T,) token ids.
        learnt: (T,) whether a token is learnt and measured.
        text_bytes: (T,) bytes of text that each learnt token spells. A special token spells none:
            it is the template's, as the end token is a text's.
        changes_calls: whether the arguments of calls are not written as they came.
    """

    ids: Sequence[int]
    learnt: NDArray[np.bool_]
    text_bytes: NDArray[np.uint32]
    changes_calls: bool = False


def template_digest(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return a digest of a tokenizer's chat templates; None where it has none."""
    template = tokenizer.chat_template
    if not template:
        return None
    named = json.dumps(template, sort_keys=True)
    if NOW in named:
        # Once it was told the day on which the tokens were made.
        named += FIXED_DAY
    return hashlib.sha256(named.encode()).hexdigest()


# Any: tools, as a chat template takes them.
def template_of(tokenizer: "PreTrainedTokenizerBase", tools: Any = None) -> str:
    """Return the chat template of a tokenizer that has one, which writes the same on every day.

    Args:
        tokenizer: of the model that is trained or measured.
        tools: of the conversation: for such there may be a template of its own.
    """
    template: str = tokenizer.get_chat_template(None, tools)
    return FIXED_DAY + template if NOW in template else template


def encoded(document: Document, tokenizer: "PreTrainedTokenizerBase") -> PartlyLearnt:
    """Encode a document of which only a part is learnt.

    Args:
        document: a conversation, or a prompt with the answer that is learnt.
        tokenizer: of the model that is trained or measured.

    Returns:
        The tokens, without an end token.

    Raises:
        Unreadable: for a conversation that the tokenizer's chat template does not take, or of which
            it leaves out what a message says or calls or a tool, and where there is no template.
    """
    if not document.messages:
        start = len(document.prompt or "")
        return _from_spans(document.text, [(start, len(document.text))], tokenizer)
    if not tokenizer.chat_template:
        raise no_template(document.where, "the tokenizer")
    chat = _Chat(document, tokenizer)
    changes = chat.change_calls()
    text = chat.written(chat.messages)
    chat.refuse_left_out()
    if chat.marks_what_is_said and tokenizer.is_fast:
        tokens = _from_marks(chat, text, tokenizer)
    else:
        tokens = _from_spans(text, chat.spans(text), tokenizer)
    return replace(tokens, changes_calls=changes)


def no_template(where: str, of: str) -> Unreadable:
    """Return the error for conversations that no chat template can write.

    Args:
        where: the conversations.
        of: what has no template.
    """
    return Unreadable(
        where,
        found=f"a conversation, and {of} has no chat template",
        expected="a seed whose tokenizer has one, as instruction-tuned models do",
        next="put chat_template.jinja into the seed's folder and register it anew, or register "
        'the corpus as {"prompt", "completion"}',
    )


def is_in_parts(message: Message) -> bool:
    """Tell whether the content of a message is a list of texts."""
    return not isinstance(message.get("content"), str | None)


def _in_text(message: Message) -> Message:
    """Return a message whose content is one text: many templates write a list as Python does."""
    if not is_in_parts(message):
        return message
    return {**message, "content": "\n".join(part["text"] for part in message["content"])}


# Any: the arguments of a call, as its owner or as a template writes them.
def _as_object(arguments: Any) -> Any:
    """Return arguments that were written as JSON as the object that they are."""
    try:
        read = any_json(arguments) if isinstance(arguments, str) else None
    except ValueError:
        return arguments
    return read if isinstance(read, Mapping) else arguments


def _as_json(arguments: Any) -> Any:
    """Return arguments that are an object as JSON."""
    if isinstance(arguments, Mapping):
        return json.dumps(arguments, ensure_ascii=False)
    return arguments


def _with_arguments(message: Message, changed: Callable[[Any], Any]) -> Message:
    """Return a message whose calls have these arguments."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple):
        return message
    return {**message, "tool_calls": [_call_with(call, changed) for call in calls]}


def _call_with(call: Any, changed: Callable[[Any], Any]) -> Any:
    match call:
        case {"function": Mapping() as function}:
            return {**call, "function": _call_with(function, changed)}
        case {"arguments": arguments}:
            return {**call, "arguments": changed(arguments)}
    return call


def _arguments_of(messages: Sequence[Message]) -> Iterator[Any]:
    """Yield the arguments of every call."""
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list | tuple) else ():
            match call:
                case {"function": {"arguments": arguments}} | {"arguments": arguments}:
                    yield arguments


def _is_miswritten(arguments: Any, text: str) -> bool:
    """Tell whether a template wrote JSON as a string inside of JSON, or an object as Python does.

    The first happens to JSON where it expects an object, the second to an object where it expects
    JSON.
    """
    if isinstance(arguments, Mapping):
        return bool(arguments) and repr(arguments) in text
    is_json = isinstance(_as_object(arguments), Mapping)
    return is_json and any(json.dumps(arguments, ensure_ascii=one) in text for one in (True, False))


def _with_marks(
    messages: Sequence[Message], tools: Sequence[Tool]
) -> tuple[list[Message], list[Tool], dict[str, str]]:
    """Return a conversation with a mark behind each part, and by mark what it stands for.

    Parts are what each message says and calls, what the last one thinks, and each tool. Marks are
    digits, which no template changes.
    """
    parts: dict[str, str] = {}

    def mark(part: str) -> str:
        digits = str(FIRST_MARK + len(parts))
        parts[digits] = part
        return digits

    marked: list[Message] = []
    for number, message in enumerate(messages, 1):
        copy = dict(message)
        named = f"message {number} of the {message['role']}"
        content, calls = message.get("content"), message.get("tool_calls")
        if isinstance(content, str) and content.strip():
            copy["content"] = content + mark(named)
        # Thoughts of earlier turns are the template's to forget.
        thoughts = [key for key in THOUGHTS if isinstance(message.get(key), str) and message[key]]
        if thoughts and number == len(messages):
            digits = mark(f"{thoughts[0]} of {named}")
            copy |= {key: message[key] + digits for key in thoughts}
        if isinstance(calls, list | tuple):
            copy["tool_calls"] = [
                _marked(call, mark(f"call {which} in {named}"), "arguments")
                for which, call in enumerate(calls, 1)
            ]
        marked.append(copy)
    offered = [
        _marked(tool, mark(f"tool {number} {COLUMN}"), "description")
        for number, tool in enumerate(tools, 1)
    ]
    return marked, offered, parts


# Any: a call or a tool as its owner writes it.
def _marked(one: Any, mark: str, key: str) -> Any:
    """Return a call or a tool with a mark behind its name and a key: a template may write one."""
    if not isinstance(one, Mapping):
        return f"{one}{mark}"
    if isinstance(one.get("function"), Mapping):
        return {**one, "function": _marked(one["function"], mark, key)}
    given = one.get(key)
    value = {**given, mark: mark} if isinstance(given, Mapping) else f"{given or ''}{mark}"
    return {**one, "name": f"{one.get('name', '')}{mark}", key: value}


class _Chat:
    """A conversation, and the template that writes it."""

    def __init__(self, document: Document, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.document = document
        self.messages = [_in_text(message) for message in document.messages]
        self.tokenizer = tokenizer
        # Any: a list of mappings; None where the template is to see no tools.
        self.tools: Any = [dict(tool) for tool in document.tools] or None
        try:
            self.template = template_of(tokenizer, self.tools)
        except REFUSALS as error:
            raise self._refused(error) from None
        self.marks_what_is_said = GENERATION_TAG.search(self.template) is not None

    # Any: transformers' answer, text or tokens.
    def applied(self, messages: Sequence[Message], **arguments: Any) -> Any:
        """Apply the template. Raises Unreadable where it does not take the messages."""
        listed = [dict(message) for message in messages]
        given = {"tools": self.tools, "chat_template": self.template, **arguments}
        try:
            return self.tokenizer.apply_chat_template(listed, **given)
        except REFUSALS as error:
            raise self._refused(error) from None

    def written(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        """Return the messages as the template writes them; `asks`: up to where one is answered."""
        text: str = self.applied(messages, tokenize=False, add_generation_prompt=asks)
        return text

    def change_calls(self) -> bool:
        """Give calls their arguments as the template takes them: as objects, or as JSON.

        Returns:
            Whether they came otherwise.
        """
        if not any(True for _ in _arguments_of(self.messages)):
            return False
        for changed in (None, _as_object, _as_json):
            messages = [_with_arguments(one, changed) if changed else one for one in self.messages]
            try:
                text = self.written(messages)
            except Unreadable:
                continue
            if not any(_is_miswritten(given, text) for given in _arguments_of(messages)):
                self.messages = messages
                return changed is not None
        return False

    def spans(self, text: str) -> list[Span]:
        """Return what the assistant says of the whole text, message by message."""
        messages, spans = self.messages, []
        for number, message in enumerate(messages):
            if message["role"] != ASSISTANT:
                continue
            until = self.written(messages[: number + 1])
            before = self.written(messages[:number], asks=True) if number else ""
            if not (text.startswith(until) and until.startswith(before)):
                raise Unreadable(
                    self.document.where,
                    found=f"a chat template that writes message {number + 1} in another way "
                    "when more messages follow",
                    expected="a template of which each message is a part of the whole",
                    next="put {% generation %} and {% endgeneration %} around what the assistant "
                    "says in the seed's chat template, and register the seed anew",
                )
            spans.append((len(before), len(until)))
        return spans

    def refuse_left_out(self) -> None:
        """Refuse a conversation of which the template leaves out a message, a call or a tool.

        What it changes is its own: it may strip blanks, write JSON, or forget earlier thoughts.
        """
        messages, tools, parts = _with_marks(self.messages, self.tools or [])
        try:
            text = self.applied(messages, tools=tools or None, tokenize=False)
        except Unreadable:
            # A template that looks into what is said does not take the marks.
            return
        left_out = [part for mark, part in parts.items() if mark not in text]
        if left_out:
            in_column = left_out[0].endswith(COLUMN)
            other_way = "write the tools into a message instead, " if in_column else ""
            raise Unreadable(
                self.document.where,
                found=f"{left_out[0]}, which the chat template does not write",
                expected="a template that writes what every message says and calls, and every tool",
                next=f"leave the conversation out, {other_way}or register the seed anew with such "
                "a template",
            )

    def _refused(self, error: Exception) -> Unreadable:
        return Unreadable(
            self.document.where,
            found=f"a conversation that the chat template refuses: {error}"[:200],
            expected="messages as the seed's chat template takes them",
            next="fix the conversation, or leave it out",
        )


def _from_marks(chat: _Chat, text: str, tokenizer: "PreTrainedTokenizerBase") -> PartlyLearnt:
    """Take transformers' own mask of what the assistant says."""
    tokens = chat.applied(
        chat.messages,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    learnt = np.array(tokens["assistant_masks"], dtype=bool)
    sizes = _bytes_of_tokens(text, tokens["offset_mapping"])
    return _measured(tokens["input_ids"], learnt, sizes, tokenizer)


def _from_spans(
    text: str, spans: Sequence[Span], tokenizer: "PreTrainedTokenizerBase"
) -> PartlyLearnt:
    """Learn every token that has a character in one of the spans."""
    if not tokenizer.is_fast:
        return _piece_by_piece(text, spans, tokenizer)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = np.array(tokens["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    learnt = np.zeros(len(offsets), dtype=bool)
    for start, stop in spans:
        learnt |= (offsets[:, 1] > start) & (offsets[:, 0] < stop)
    return _measured(tokens["input_ids"], learnt, _bytes_of_tokens(text, offsets), tokenizer)


def _piece_by_piece(
    text: str, spans: Sequence[Span], tokenizer: "PreTrainedTokenizerBase"
) -> PartlyLearnt:
    """Encode what is learnt and what is not by themselves: this tokenizer says no characters."""
    ids: list[int] = []
    learnt: list[NDArray[np.bool_]] = []
    sizes: list[NDArray[np.int64]] = []
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    for number, (start, stop) in enumerate(pairwise(edges)):
        piece = tokenizer(text[start:stop], add_special_tokens=False, verbose=False)["input_ids"]
        ids += piece
        learnt.append(np.full(len(piece), number % 2 == 1))
        shares = np.arange(len(piece) + 1) * len(text[start:stop].encode()) // max(1, len(piece))
        sizes.append(np.diff(shares))
    return _measured(ids, np.concatenate(learnt), np.concatenate(sizes), tokenizer)


# Any: pairs, as a list of transformers or an array.
def _bytes_of_tokens(text: str, offsets: Any) -> NDArray[np.int64]:
    """Return the bytes of each token's characters; one of several tokens is the first's."""
    pairs = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    sizes = np.array([len(character.encode()) for character in text], dtype=np.int64)
    before = np.concatenate([[0], np.cumsum(sizes)])
    ends = before[pairs[:, 1]]
    return np.diff(np.maximum.accumulate(ends), prepend=0) if len(ends) else ends


def _measured(
    ids: Sequence[int],
    learnt: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    tokenizer: "PreTrainedTokenizerBase",
) -> PartlyLearnt:
    special = np.isin(np.array(ids, dtype=np.int64), tokenizer.all_special_ids)
    spelt = np.where(learnt & ~special, sizes, 0).astype(np.uint32)
    return PartlyLearnt(list(ids), learnt, spelt)
