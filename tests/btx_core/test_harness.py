"""Tasks of the lm-evaluation-harness: figures by hand, no network, broken files named."""

import json
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from btx_core.machine import load
from btx_core.measuring import harness
from btx_core.problems import BtxError, WrongUsage
from btx_core.texts import split

ANSWER = {
    "task": "answer",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "answer.jsonl"}},
    "test_split": "test",
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    # The harness sets no space of its own here, as it does before a choice.
    "doc_to_target": " {{answer}}",
}
CHOICE = ANSWER | {
    "task": "choice",
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{right}}",
    "metric_list": [{"metric": "acc"}],
}


@pytest.fixture
def tasks(tiny_corpora: Path, tmp_path: Path) -> Path:
    """answer.yaml, choice.yaml and their twelve questions; the first of three choices is right."""
    heldout = split(tiny_corpora / "math").heldout
    documents = [document for document in heldout if document.answer][:12]
    others = [str(document.answer) for document in documents]
    rows = [
        {
            "prompt": document.prompt,
            "answer": document.answer,
            "choices": [document.answer, others[place - 1], others[place - 2]],
            "right": 0,
        }
        for place, document in enumerate(documents)
    ]
    (tmp_path / "answer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task in (ANSWER, CHOICE):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return tmp_path


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    asked: list[object] = []  # the harness swallows errors, so that raising alone would not tell

    def refused(host: object, *arguments: object, **settings: object) -> None:
        asked.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    yield
    assert asked == []


def nats(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    before, row = tokenizer(prompt)["input_ids"], tokenizer(f"{prompt} {answer}")["input_ids"]
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)
    answered = range(len(before), len(row))
    return sum(float(scores[position - 1, row[position]]) for position in answered)


def test_figures_are_those_of_the_models_own_logits(
    tiny_seed: Path, tasks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    found = harness.run(tiny_seed, ["answer.yaml", "choice.yaml"], tasks)
    assert capfd.readouterr() == ("", "")
    assert found == harness.run(tiny_seed, ["answer.yaml", "choice.yaml"], tasks)
    model, tokenizer = (
        load(tiny_seed, torch.float32),
        AutoTokenizer.from_pretrained(tiny_seed),
    )
    rows = [json.loads(line) for line in (tasks / "answer.jsonl").read_text().splitlines()]
    by_choice = [
        [nats(model, tokenizer, row["prompt"], choice) for choice in row["choices"]] for row in rows
    ]
    assert found["answer"]["perplexity"] == pytest.approx(
        math.exp(-sum(first for first, *_ in by_choice) / len(by_choice)), rel=1e-4
    )
    alone = harness.run(tiny_seed, ["answer.yaml"], tasks, batch_tokens=1)
    assert alone["answer"]["perplexity"] == pytest.approx(
        found["answer"]["perplexity"], rel=1e-5
    ), "padding changes nothing"
    assert found["choice"]["acc"] == sum(max(row) == row[0] for row in by_choice) / len(by_choice)
    assert 0 < found["choice"]["acc"] < 1, "a figure that a wrong sum would move"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: [", "ParserError"),
        ("a list", "no `task: NAME`"),
        (ANSWER | {"dataset_path": "hellaswag"}, "dataset_path: hellaswag"),
        (ANSWER | {"dataset_kwargs": {"data_files": "nowhere.jsonl"}}, r"data file nowhere\.jsonl"),
        (ANSWER | {"dataset_kwargs": {}}, "no data_files"),
        (ANSWER | {"include": "other.yaml"}, "include"),
        ("task: code\ndoc_to_text: !function code.text", "!function"),
    ],
)
def test_a_task_file_that_cannot_be_read_is_named(tasks: Path, text: Any, said: str) -> None:
    (tasks / "broken.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    with pytest.raises(WrongUsage, match=rf"broken\.yaml[\s\S]*{said}"):
        harness.files("broken.yaml", tasks)


def test_a_missing_task_file_is_named(tasks: Path) -> None:
    assert harness.files("choice.yaml", tasks) == ["choice.yaml", "answer.jsonl"]
    with pytest.raises(WrongUsage, match=r"nowhere\.yaml\n  found No such file"):
        harness.files("nowhere.yaml", tasks)


@pytest.mark.parametrize(
    "change",
    [
        {"doc_to_text": "{{question}}"},
        {"doc_to_text": "{{prompt"},
        {"metric_list": [{"metric": "luck"}]},
        {"output_type": "guess"},
        {"test_split": "training"},
        {"unknown": 1},
        {"unsafe_code": True},
        {"dataset_kwargs": {"data_files": {"test": "answer.yaml"}}},
    ],
)
def test_a_task_that_the_harness_refuses_is_named(
    tiny_seed: Path, tasks: Path, change: dict[str, Any]
) -> None:
    (tasks / "broken.yaml").write_text(yaml.safe_dump(ANSWER | change))
    with pytest.raises(WrongUsage, match=r"broken\.yaml\n"):
        harness.run(tiny_seed, ["broken.yaml"], tasks)


COMMAND = "cycler.__init__.__globals__.os.popen('echo ran > HERE/ran').read()"


@pytest.mark.parametrize(
    "change",
    [
        {"doc_to_text": "{{ joiner.__init__.__globals__.os.popen('echo > HERE/ran').read() }}"},
        {"doc_to_target": "{{ ''.__class__.__base__.__subclasses__() }}{{answer}}"},
        {"description": f"{{{{ {COMMAND} }}}}"},
        {"fewshot_config": {"doc_to_text": f"{{{{ {COMMAND} }}}}"}, "num_fewshot": 1},
        {"doc_to_text": "{{ prompt * 10 ** 10 }}"},
        {"metric_list": [{"metric": "HERE/metric.py"}]},
        {"metric_list": [{"metric": "HERE/metric.py", "hf_evaluate": True}]},
        {
            "output_type": "generate_until",
            "generation_kwargs": {"custom_generate": "HERE", "trust_remote_code": True},
        },
        {"dataset_kwargs": {"data_files": "answer.jsonl", "trust_remote_code": True}},
    ],
)
def test_a_task_runs_no_code(tiny_seed: Path, tasks: Path, change: dict[str, Any]) -> None:
    code = f"open({str(tasks / 'ran')!r}, 'w')\n"
    (tasks / "custom_generate").mkdir()
    for name in ("metric.py", "custom_generate/generate.py"):
        (tasks / name).write_text(code)
    text = yaml.safe_dump(ANSWER | change).replace("HERE", str(tasks))
    (tasks / "hostile.yaml").write_text(text)
    with pytest.raises(WrongUsage, match=r"hostile\.yaml\n"):
        harness.run(tiny_seed, ["hostile.yaml"], tasks)
    assert not (tasks / "ran").exists()
    harness.run(tiny_seed, ["answer.yaml"], tasks)


@pytest.mark.parametrize("name", ["../outside.jsonl", "/etc/hostname", "sub/../../outside.jsonl"])
def test_a_task_reads_nothing_outside_the_workspace(tasks: Path, name: str) -> None:
    (tasks / "inside").mkdir()
    (tasks / "outside.jsonl").write_text("{}\n")
    text = yaml.safe_dump(ANSWER | {"dataset_kwargs": {"data_files": name}})
    (tasks / "inside/reads.yaml").write_text(text)
    with pytest.raises(BtxError, match="a path inside"):
        harness.files("reads.yaml", tasks / "inside")
    with pytest.raises(BtxError, match="a path inside"):
        harness.files("../answer.yaml", tasks / "inside")


def test_two_tasks_of_one_name_are_refused(tiny_seed: Path, tasks: Path) -> None:
    (tasks / "again.yaml").write_text(yaml.safe_dump(ANSWER))
    with pytest.raises(WrongUsage, match=r"again\.yaml\n  found task answer again"):
        harness.run(tiny_seed, ["answer.yaml", "again.yaml"], tasks)


def test_without_the_extra_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WrongUsage, match=r"pip install 'btx-registry\[harness\]'"):
        harness.check_installed()
