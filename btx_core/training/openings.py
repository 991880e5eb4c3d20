"""Where nothing tells yet whose text a conversation is.

In:  training text by domain, the tokenizer.
Out: which tokens of a sequence are an opening of several domains: token by token, conversations of
     another domain begin the same, or any conversation that the seed model's template writes.
A router that is taught there to choose a domain's expert takes the openings of all others' too.
Plain text has no openings here: what it begins with is its own.
Shapes: S tokens a sequence.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from btx_core.batches import Corpus
from btx_core.conversations import REFUSALS, template_of
from btx_core.tokens import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Sequences of a domain in which its openings are looked for, and tokens that one has at most.
SEQUENCES = 60
LONGEST = 512


@dataclass(frozen=True)
class Openings:
    """What conversations of several domains begin with.

    Attributes:
        keys: of every such beginning, of each length; a longer one's key is made of the shorter's.
        expert: the index of the seed model's, which is to answer them.
        own: the domains of that expert's text.
    """

    keys: frozenset[int]
    expert: int
    own: frozenset[str]

    @classmethod
    def of(
        cls,
        corpora: Mapping[str, Corpus],
        own_experts: Mapping[str, int],
        general: str,
        tokenizer: "PreTrainedTokenizerBase",
        length: int,
    ) -> "Openings | None":
        """Look for openings.

        Args:
            corpora: the training text by domain.
            own_experts: by domain, the index of the expert that its text trained.
            general: the domain of the seed model's own text.
            tokenizer: of the model that is trained.
            length: S.

        Returns:
            The openings; None where no text has conversations, and where the seed model is no
            expert of the mixture.
        """
        conversations = [corpus for corpus in corpora.values() if corpus.is_partly_learnt]
        if not conversations or general not in own_experts:
            return None
        domains = Counter(set(_keys(_of_template(tokenizer))))
        for corpus in conversations:
            domains.update(_beginnings(corpus, length))
        expert = own_experts[general]
        own = frozenset(name for name, index in own_experts.items() if index == expert)
        keys = frozenset(key for key, count in domains.items() if count > 1)
        return cls(keys, expert, own)

    def of_others(self, domain: str) -> "Openings | None":
        """Return the openings that are not this domain's own; None for none."""
        return None if domain in self.own else self

    def within(self, ids: Ids, begins: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which tokens of a sequence (S,) are openings.

        Args:
            ids: token ids (S,).
            begins: (S,) whether a document begins with a token: it is the end of the one before.
        """
        found = np.zeros(len(ids), dtype=bool)
        for start in np.flatnonzero(begins):
            keys = _keys(ids[start + 1 : start + 1 + LONGEST])
            shared = sum(1 for _ in takewhile(self.keys.__contains__, keys))
            found[start : start + 1 + shared] = shared > 0
        return found


def _beginnings(corpus: Corpus, length: int) -> set[int]:
    """Return the keys of how some of a corpus' documents begin."""
    found: set[int] = set()
    for number in range(SEQUENCES):
        ids = corpus.sequence(number, length)
        starts = np.flatnonzero(corpus.marks(number, length).begins)
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            found.update(_keys(ids[start + 1 : min(int(stop), start + 1 + LONGEST)]))
    return found


def _keys(ids: Ids) -> Iterator[int]:
    """Yield a key for each beginning of the ids, from the shortest."""
    key = 0
    for token in ids.tolist():
        key = hash((key, token))
        yield key


def _of_template(tokenizer: "PreTrainedTokenizerBase") -> Ids:
    """Return what the chat template writes before the first word of any conversation."""
    written: list[list[int]] = []
    with suppress(*REFUSALS):
        template = template_of(tokenizer)
        for word in ("one", "2"):
            asked = [{"role": "user", "content": word}]
            text = tokenizer.apply_chat_template(asked, chat_template=template, tokenize=False)
            written.append(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(*written, strict=False))
    return np.array([pair[0] for pair in pairs] if len(written) == 2 else [], dtype=np.int64)
