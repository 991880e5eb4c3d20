"""Whether two tokenizers give the same text the same ids, in whatever files they are kept.

In:  checkpoint folders with tokenizer.json of any release, vocab.json and merges.txt, or a
     sentencepiece model.
Out: nothing, or the first thing that differs: vocabulary, merges, special tokens, or the ids of a
     probe: sentences in several scripts and the vocabulary's own words.
What only concerns how text is shown (templates, the side of padding) is no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateSyntaxError

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.contents import contents_of
from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.checkpoints.strict_json import read_json
from btx_core.problems import ShapeMismatch, Unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Any one of these holds a vocabulary.
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
# Each line is where normalisers, pre-tokenizers or byte fallbacks are known to part.
PROBE = (
    "The quick brown fox, jumps over: the lazy dog's 12345 tails! It's we'll I'm you'RE.",
    "  leading, double  and trailing spaces  \n\n\tand\ttabs\r\n   \n end ",
    "Ünïcödé e\u0301 \u00e9 \ufb01 ﬁne ½ ² ① Ａ ａ İstanbul straße ǅ",
    "日本語のテキスト。中文，文字！ 한국어 ไทย हिन्दी العربية עברית Ελληνικά Русский",
    "def f(x):\n    return x**2 + 3.14e-10 if x != 0 else {'a': [1, 2]}  # 0xFF",
    "👩‍👩‍👧 🇨🇭 \u200b\u00a0\u3000\ufeff \u2028 ▁ Ġ <s></s> [MASK] <|end|>",
    "0 00 000 0000 1,000,000 2024-01-31 3.0e8 10% $5 a1b2c3 CamelCaseWord snake_case_word",
)
PROBED_WORDS = 4000
# Only transformers has this tag: what the assistant says stands between the two.
GENERATION_TAGS = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
WORDS_A_LINE = 40


@dataclass(frozen=True)
class TokenDifference:
    """The first thing by which a member's tokenizer is not its seed's."""

    found: str
    expected: str


def has_tokenizer(folder: Path) -> bool:
    """Say whether a folder holds a tokenizer's vocabulary."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return a folder's tokenizer as stock transformers reads it.

    Raises:
        Unsafe: for a file that is none, or a link elsewhere.
        Unsupported: when it cannot.
    """
    # Here, since it takes torch along.
    from transformers import AutoTokenizer

    # A pipe among the files would be waited for.
    contents_of(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    with refused_as_unsupported(folder / "tokenizer.json", "a tokenizer that transformers reads"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return tokenizer


def different_tokens(seed: Path, member: Path) -> TokenDifference | None:
    """Return how a member's tokens differ in meaning from its seed's.

    Args:
        seed: the seed's folder.
        member: the member's; without a tokenizer of its own it takes the seed's.

    Returns:
        The first difference, None if there is none.

    Raises:
        Unsupported: for a tokenizer that transformers cannot read.
        Unsafe: for one whose files must not be read.
    """
    if not has_tokenizer(member) or _same_files(seed, member):
        return None
    if not has_tokenizer(seed):
        return TokenDifference("a tokenizer", "none, as in the seed")
    ours, theirs = read_tokenizer(seed), read_tokenizer(member)
    return _vocabulary(ours, theirs) or _merges(ours, theirs) or _encodings(ours, theirs)


def require_tokenizer(checkpoint: Checkpoint, rows: int) -> None:
    """Require a tokenizer that training and measuring can use.

    Args:
        checkpoint: the seed.
        rows: of its embeddings.

    Raises:
        ShapeMismatch: for a token without a row.
        Unsupported: for no tokenizer, one that transformers cannot read, one that has no token for
            the end of a text, or a chat template that is none.
    """
    folder = checkpoint.folder
    if not has_tokenizer(folder):
        raise Unsupported(
            folder,
            found="no tokenizer",
            expected=f"one of {', '.join(VOCABULARIES[:3])}",
            next="copy the files of the model's tokenizer into the folder",
        )
    tokenizer = read_tokenizer(folder)
    # Some classes add special tokens of their own to what the files hold; no text gives their ids.
    vocabulary = tokenizer.get_vocab()  # once: each call copies it all
    own = vocabulary.keys() - tokenizer.get_added_vocab().keys()
    named = {str(tokenizer.eos_token or tokenizer.bos_token)} & vocabulary.keys()
    ids = {token: vocabulary[token] for token in own | named}
    token, last = max(ids.items(), key=lambda entry: entry[1])
    if last >= rows:
        raise ShapeMismatch(
            f"{folder}, token {token!r}",
            found=f"id {last}",
            expected=f"ids below {rows}, the rows of the embeddings",
            next="give the tokenizer that the model was trained with",
        )
    if not any(isinstance(i, int) for i in (tokenizer.eos_token_id, tokenizer.bos_token_id)):
        raise Unsupported(
            folder / "tokenizer_config.json",
            found="neither eos_token nor bos_token",
            expected="a token that stands between documents",
            next="name the model's end-of-text token as eos_token",
        )
    _require_templates(tokenizer, folder)


def _require_templates(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Require that chat templates can be parsed. They are not run."""
    known = tokenizer.chat_template or {}
    named = known.items() if isinstance(known, dict) else [("default", known)]
    jinja = Environment(extensions=["jinja2.ext.loopcontrols"])
    for name, template in named:
        try:
            jinja.parse(GENERATION_TAGS.sub("", template))
        except TemplateSyntaxError as error:
            raise Unsupported(
                f"{folder}, chat template {name!r}, line {error.lineno}",
                found=error.message,
                expected="a template of Jinja",
                next="correct chat_template.jinja, or take the model's own",
            ) from None


def _same_files(seed: Path, member: Path) -> bool:
    """Whether both keep their vocabulary in the same files with the same bytes."""
    names = [*VOCABULARIES, "merges.txt", "added_tokens.json"]
    if (seed / "tokenizer.json").is_file() and (member / "tokenizer.json").is_file():
        names = ["tokenizer.json"]
    return all(_bytes(seed / name) == _bytes(member / name) for name in names)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _vocabulary(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase
) -> TokenDifference | None:
    """The first token, by its id, that one has and the other has not so."""
    left, right = ours.get_vocab(), theirs.get_vocab()
    different = left.items() ^ right.items()
    if not different:
        return None
    token, _ = min(different, key=lambda entry: (entry[1], entry[0]))
    return TokenDifference(_id(token, right), f"{_id(token, left)}, as in the seed")


def _id(token: str, vocabulary: dict[str, int]) -> str:
    if token not in vocabulary:
        return f"no token {token!r}"
    return f"token {token!r} with id {vocabulary[token]}"


def _merges(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase
) -> TokenDifference | None:
    """The first merge that differs, or scores that do."""
    left, right = _model(ours), _model(theirs)
    first, second = (_pairs(model.get("merges") or ()) for model in (left, right))
    for rank, (own, other) in enumerate(zip(first, second, strict=False)):
        if own != other:
            return TokenDifference(f"merge {rank} {other}", f"{own}, as in the seed")
    if len(first) != len(second):
        return TokenDifference(f"{len(second)} merges", f"{len(first)}, as in the seed")
    scored = "Unigram" in (left.get("type"), right.get("type"))
    if scored and left.get("vocab") != right.get("vocab"):
        return TokenDifference("other scores of tokens", "the seed's")
    return None


def _model(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The model of the tokenizers library, empty where the tokenizer does not use it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model: dict[str, Any] = json.loads(backend.to_str())["model"] if backend else {}
    return model


def _pairs(merges: Iterable[Any]) -> list[tuple[str, ...]]:
    """Merges as pairs; files from before tokenizers 0.20 give them as one text."""
    return [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in merges]


def _encodings(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase
) -> TokenDifference | None:
    for text in _probe(ours):
        left, right = (_encoded(tokenizer, text) for tokenizer in (ours, theirs))
        if left != right:
            return TokenDifference(
                f"other ids for {text[:40]!r}: {right[:6]}", f"{left[:6]}, as in the seed"
            )
    return None


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # Longer than the model's context is no matter here; a warning of it would be.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _probe(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The fixed lines, then the vocabulary's words: in a row, and joined."""
    yield from PROBE
    size = len(tokenizer)
    ids = range(0, size, max(1, size // PROBED_WORDS))
    words = [str(tokenizer.decode([number])) for number in ids]
    for start in range(0, len(words), WORDS_A_LINE):
        line = words[start : start + WORDS_A_LINE]
        yield " ".join(line)
        yield "".join(line)
