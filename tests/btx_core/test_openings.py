"""Where conversations of several domains begin alike, the seed model's expert answers."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from btx_core.batches import Corpus
from btx_core.machine import load
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.routed import RoutedModel
from btx_core.training.objectives import GENERAL
from btx_core.training.openings import Openings
from btx_core.training.recipes import TuneRecipe
from btx_core.training.router_start import OwnExpert, statistics
from btx_core.training.tune import TuneInputs, tune

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<system>You are of use.\n{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PREAMBLE = "<system>You are of use.\n<user>"
OWN_EXPERTS = {GENERAL: 0, "sums": 1, "words": 2}
LENGTH = 64


@pytest.fixture(scope="module")
def seed(tiny_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seed model that chats."""
    folder = tmp_path_factory.mktemp("openings") / "seed"
    shutil.copytree(tiny_seed, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def tokenizer(seed: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(seed)


def questions(sign: str, system: str = "") -> Iterator[str]:
    first = [{"role": "system", "content": system}] if system else []
    for a in range(8):
        for b in range(8):
            said = [("user", f"{sign} {a} of {b}"), ("assistant", f"{sign * 3} {a}{b}")]
            messages = first + [{"role": role, "content": text} for role, text in said]
            yield json.dumps({"messages": messages}) + "\n"


def chat(folder: Path, sign: str, system: str = "") -> Path:
    for part in (folder, folder / "heldout"):
        part.mkdir(parents=True)
        (part / "chat.jsonl").write_text("".join(questions(sign, system)))
    return folder


def corpora(tokenizer: PreTrainedTokenizerBase, **folders: Path) -> dict[str, Corpus]:
    named = {GENERAL if name == "general" else name: path for name, path in folders.items()}
    return {name: Corpus.of([path], tokenizer) for name, path in named.items()}


def shared(text: str, openings: Openings, tokenizer: PreTrainedTokenizerBase) -> str:
    """What of a document is an opening."""
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    begins = np.zeros(len(ids) + 1, dtype=bool)
    begins[0] = True
    within = openings.within(np.array([tokenizer.eos_token_id, *ids]), begins)
    return tokenizer.decode(ids[within[1:]])


def test_what_conversations_of_several_domains_begin_with_is_an_opening(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    texts = corpora(
        tokenizer, sums=chat(tmp_path / "sums", "+"), words=chat(tmp_path / "words", "w", "Own.")
    )
    found = Openings.of(texts, OWN_EXPERTS, GENERAL, tokenizer, LENGTH)
    assert found
    # The template's own words, though no other domain has them.
    assert shared(PREAMBLE + "+ 1 of 2", found, tokenizer) == PREAMBLE
    # A system prompt of its own tells a domain; what every conversation begins with does not.
    assert shared("<system>Own.\n<user>w 1", found, tokenizer) == "<system>"
    texts["more"] = corpora(tokenizer, x=chat(tmp_path / "more", "m", "Own."))["x"]
    found = Openings.of(texts, OWN_EXPERTS, GENERAL, tokenizer, LENGTH)
    assert found
    assert shared("<system>Own.\n<user>w 1", found, tokenizer) == "<system>Own.\n<user>"


def test_plain_text_and_mixtures_without_the_seed_have_no_openings(
    tokenizer: PreTrainedTokenizerBase, tiny_corpora: Path, tmp_path: Path
) -> None:
    plain = corpora(tokenizer, general=tiny_corpora / "prose", sums=tiny_corpora / "math")
    assert Openings.of(plain, OWN_EXPERTS, GENERAL, tokenizer, LENGTH) is None
    chats = corpora(tokenizer, sums=chat(tmp_path / "sums", "+"))
    assert Openings.of(chats, {"sums": 0}, GENERAL, tokenizer, LENGTH) is None


def share_of_seed(
    folder: Path, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> float:
    """The share of the routers' choices at the preamble of prompts that fall on the seed model."""
    routed = RoutedModel.load(folder, torch.float32)
    size = len(tokenizer(PREAMBLE, add_special_tokens=False)["input_ids"])
    chosen = []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(PREAMBLE + prompt, add_special_tokens=False)["input_ids"]])
        with torch.no_grad(), routed.recording(logits=True) as recording:
            routed.network(input_ids=ids)
        logits = [recording.logits[router.name][1 : size - 1] for router in routed.routers]
        chosen += [each.argmax(-1) == 0 for each in logits]
    return float(torch.cat(chosen).float().mean())


@pytest.mark.parametrize("start", ["fitted", "random"])
def test_the_seed_models_expert_answers_the_openings(
    seed: Path,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    start: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what routers start from, and by what they are taught, each alone."""
    for name in ("sums", "words"):
        shutil.copytree(seed, tmp_path / name)
    mix(
        seed,
        [Member(name, number, tmp_path / name) for number, name in enumerate(("sums", "words"), 1)],
        MixRecipe(),
        tmp_path / "mixed",
    )
    texts = {
        GENERAL: [chat(tmp_path / "texts/general", "g")],
        "sums": [chat(tmp_path / "texts/sums", "+")],
        "words": [chat(tmp_path / "texts/words", "w")],
    }
    own = {
        name: OwnExpert(index, seed if name == GENERAL else tmp_path / name)
        for name, index in OWN_EXPERTS.items()
    }
    recipe = TuneRecipe(
        mode="router",
        text=0.0,
        keep=0.0,
        home=1.0,
        balance=0.0,
        start=start,
        steps=1 if start == "fitted" else 60,
        learning_rate=1e-6 if start == "fitted" else 1e-2,
        batch=8,
        sequence=LENGTH,
        general_share=0.1,
        warmup_steps=1,
    )
    given = TuneInputs(tmp_path / "mixed", texts, own)
    prompts = ["+ 1 of 2", "w 3 of 1", "g 2 of 2"]
    tune(given, recipe, tmp_path / "tuned")
    assert share_of_seed(tmp_path / "tuned", prompts, tokenizer) > 0.6
    monkeypatch.setattr(Openings, "of", lambda *_: None)
    tune(given, recipe, tmp_path / "blind")
    assert share_of_seed(tmp_path / "blind", prompts, tokenizer) < 0.4, "otherwise others do"


def test_an_experts_own_states_are_those_after_its_openings(
    seed: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    texts = corpora(tokenizer, general=chat(tmp_path / "g", "g"), sums=chat(tmp_path / "sums", "+"))
    openings = Openings.of(texts, OWN_EXPERTS, GENERAL, tokenizer, LENGTH)
    assert openings
    model = load(seed, torch.float32)
    every = statistics(model, texts["sums"], LENGTH, sequences=4)
    own = statistics(model, texts["sums"], LENGTH, sequences=4, openings=openings)
    assert every.tokens == 4 * LENGTH
    inside = sum(
        int(
            openings.within(
                texts["sums"].sequence(number, LENGTH)[:-1],
                texts["sums"].marks(number, LENGTH).begins[:-1],
            ).sum()
        )
        for number in range(4)
    )
    assert inside
    assert own.tokens == every.tokens - inside
    assert openings.of_others(GENERAL) is None
    assert openings.of_others("sums") is openings
