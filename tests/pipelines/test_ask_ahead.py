"""Before a branch trains: what the gate would refuse whatever training brings."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pipelines
from btx_core.columns import Unreadable
from pipelines.jobs import ask_ahead
from pipelines.jobs import register_branches as register_branches_module
from pipelines.jobs import train as train_module
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.annotate import retire
from pipelines.jobs.register import register
from pipelines.jobs.register_branches import register_branches
from pipelines.jobs.train import look_ahead, train
from pipelines.stages import local_processes
from pipelines.workspace import disk_need
from pipelines.workspace.bars import bar
from pipelines.workspace.fitted import kept
from pipelines.workspace.orders import read_branches
from pipelines.workspace.settings_file import Recipes
from pipelines.workspace.workspace import Workspace, create
from registry.errors import BrokenRule, Invalid, Refused, Unavailable
from registry.records.facts import DataStatement, SeedFacts
from registry.records.kinds import DataUse

Run = Callable[..., subprocess.CompletedProcess[str]]
STATED = DataStatement(
    license="CC0-1.0", source="the test", holder="the state", purpose="tests", pii="none"
)
CHAT = [
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "Four, and not five."},
]


@pytest.fixture(scope="module")
def workspace(tiny_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = create(tmp_path_factory.mktemp("ahead") / "workspace")
    add_seed(workspace, "base", tiny_seed, license="Apache-2.0")
    return workspace


def written(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(number: int) -> dict[str, object]:
    words = f"The {number}th sentence, which stands in no other document of this corpus:"
    return {"text": f"{words} {number * 7919}."}


def repeated(folder: Path) -> Path:
    """Held-out text that stands in the text for training, word for word."""
    rows = [said(number) for number in range(6)]
    written(folder / "heldout/a.jsonl", rows)
    return written(folder / "a.jsonl", [*rows, *map(said, range(20, 26))]).parent


def spaced(folder: Path) -> Path:
    """The same with other spacing and case, as one text."""
    rows = [said(number) for number in range(6)]
    written(folder / "heldout/a.jsonl", rows)
    text = "\n\n  ".join(str(row["text"]).upper() for row in rows)
    (folder / "a.md").write_text(text)
    return folder


@pytest.mark.parametrize("corpus", [repeated, spaced])
def test_duplicates_are_refused_before_anything_is_trained(
    workspace: Workspace, tmp_path: Path, corpus: object
) -> None:
    name = getattr(corpus, "__name__", "")
    assert callable(corpus)
    add_data(workspace, name, corpus(tmp_path / "c"), STATED)
    events = workspace.catalog.head()
    for ask in (train, look_ahead):
        with pytest.raises(Refused) as refusal:
            ask(workspace, {name: f"data/{name}"})
        assert "contamination/little" in refusal.value.found
        assert "quality" not in refusal.value.found, "what is not known yet is no reason"
        assert "--anyway" in refusal.value.next
    assert not (workspace.work / "branches" / name).exists()
    assert workspace.catalog.head() == events, "nothing is logged of a branch that is none"


def test_the_gate_is_not_told_that_text_is_new_to_a_seed_of_unknown_data(
    workspace: Workspace, tmp_path: Path
) -> None:
    data = add_data(workspace, "unknown", repeated(tmp_path / "unknown"), STATED)
    seed = workspace.catalog.get("seed/base", SeedFacts)
    (line,) = ask_ahead._at_best(ask_ahead.Intent("unknown", seed, data), 0.0).results
    assert line.new_to_seed is None


@pytest.mark.parametrize("row", [{"messages": CHAT}, {"prompt": CHAT[:1], "completion": CHAT[1:]}])
def test_conversations_need_a_chat_template_before_anything_is_trained(
    workspace: Workspace, tmp_path: Path, row: dict[str, object]
) -> None:
    name = f"chat{len(row)}"
    corpus = tmp_path / "c"
    written(corpus / "heldout/a.jsonl", [row])
    written(corpus / "a.jsonl", [row])
    add_data(workspace, name, corpus, STATED)
    for ask in (train, look_ahead):
        with pytest.raises(Unreadable, match="no chat template") as refusal:
            ask(workspace, {name: f"data/{name}"})
        assert refusal.value.subject.startswith(f"data/{name}@1, a.jsonl:1")
    assert not (workspace.work / "branches" / name).exists()


@pytest.mark.parametrize("strange", ["other weights", "not finite"])
def test_a_refusal_names_its_cause_and_not_what_could_not_be_measured_for_it(
    workspace: Workspace, tiny_seed: Path, tmp_path: Path, strange: str
) -> None:
    add_data(workspace, "plain", written(tmp_path / "a.jsonl", [*map(said, range(60))]), STATED)
    candidate = tmp_path / "candidate"
    shutil.copytree(tiny_seed, candidate)
    tensors = load_file(candidate / "model.safetensors")
    torch.manual_seed(1)
    for name, tensor in tensors.items():
        if tensor.dim() > 1 and strange == "other weights":
            tensors[name] = torch.randn_like(tensor.float()).to(tensor.dtype)
    if strange == "not finite":
        next(iter(tensors.values())).view(-1)[0] = torch.nan
    save_file(tensors, candidate / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused) as refusal:
        register(workspace, "stranger", candidate, data=["data/plain"], seed="seed/base", show=bar)
    found = refusal.value.found
    if strange == "other weights":
        # It can be run, so it is measured: what it is worth is a cause of its own.
        assert "weights/ancestry" in found
        assert "quality/measured" not in found
        return
    assert "weights/finite" in found.split(" (because of that not measured")[0]
    causes, unmeasured = found.split(" (because of that not measured: ")
    assert "quality" not in causes
    assert "quality/measured" in unmeasured
    assert "train longer" not in refusal.value.next


def test_a_statement_of_the_data_that_the_gate_refuses_is_known_before(
    workspace: Workspace, tmp_path: Path
) -> None:
    corpus = written(tmp_path / "a.jsonl", [*map(said, range(100, 140))])
    version = add_data(workspace, "dated", corpus, STATED)
    assert look_ahead(workspace, {"dated": str(version.ref)}).branches[0].action == "train"
    policy = workspace.root / "policies/expert-data.yaml"
    before = policy.read_text()
    try:
        policy.write_text(before.replace('["registered", "released"]', '["released"]'))
        with pytest.raises(Refused):
            look_ahead(workspace, {"dated": str(version.ref)})
    finally:
        policy.write_text(before)


def test_data_for_evaluation_alone_is_refused_before_anything_is_trained(
    workspace: Workspace, tmp_path: Path
) -> None:
    corpus = written(tmp_path / "a.jsonl", [said(number) for number in range(200, 240)])
    stated = STATED.model_copy(update={"use": DataUse.EVALUATION})
    data = str(add_data(workspace, "measured", corpus, stated).ref)
    for ask in (train, look_ahead):
        with pytest.raises(Invalid, match="--use evaluation"):
            ask(workspace, {"measured": data})


@pytest.mark.parametrize("lacking", ["memory", "disk"])
def test_what_memory_or_disk_cannot_hold_is_known_before(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    written(tmp_path / "c/a.jsonl", [said(number) for number in range(40)])
    data = str(add_data(workspace, f"room-{lacking}", tmp_path / "c", STATED).ref)
    small = workspace
    if lacking == "memory":
        machine = workspace.settings.machine.model_copy(update={"memory_gb": 0.5})
        settings = workspace.settings.model_copy(update={"machine": machine})
        small = replace(workspace, settings=settings)
    else:
        monkeypatch.setattr(disk_need, "free", lambda folder: 1 << 10)
    for act in (train, look_ahead):
        with pytest.raises(Unavailable, match=r"--anyway") as refused:
            act(small, {"roomy": data})
        assert lacking in refused.value.found
    (planned,) = look_ahead(small, {"roomy": data}, anyway=True).branches
    assert planned.action == "train", "as train does it"
    assert not (workspace.work / "branches/roomy").exists()
    monkeypatch.undo()
    (planned,) = look_ahead(workspace, {"roomy": data}).branches
    assert planned.action == "train"


def test_a_branch_is_fitted_to_where_it_runs_and_not_to_where_it_is_asked_for(
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written(tmp_path / "c/a.jsonl", [said(number) for number in range(40)])
    experts = {"far": str(add_data(workspace, "far", tmp_path / "c", STATED).ref)}
    machine = workspace.settings.machine.model_copy(update={"processes": 6, "gpus": 0})
    settings = workspace.settings.model_copy(update={"machine": machine, "recipe": Recipes()})
    shared = replace(workspace, settings=settings)
    # Of this machine alone.
    monkeypatch.setattr(local_processes, "memory_each", lambda resources: 1)
    with pytest.raises(Unavailable, match="of memory a process"):
        look_ahead(shared, experts)
    assert look_ahead(shared, experts, executor="slurm").place.executor == "slurm"

    monkeypatch.setattr(train_module, "_run", lambda *given: None)
    train(shared, experts, executor="slurm")
    order = read_branches(workspace.root)["far"]
    chosen = order.chosen or {}
    assert chosen["batch"] % 6 == 0
    assert chosen["accumulate"] == 1, "nobody knows the memory there"
    capsys.readouterr()
    look_ahead(shared, experts, anyway=True)
    assert "far: accumulate 1, " in capsys.readouterr().err, "what is ordered stays, and is told"
    refused = order.model_copy(update={"chosen": {**chosen, "batch": 4}})
    assert kept(refused, order) == order, "what no training takes is chosen anew"


def test_seed_and_data_that_are_named_without_a_version_are_the_newest_in_use(
    tiny_seed: Path, tmp_path: Path
) -> None:
    workspace = create(tmp_path / "workspace")
    for number in (1, 2):
        rows = [said(one) for one in range(number, number + 40)]
        corpus = written(tmp_path / f"{number}.jsonl", rows)
        add_data(workspace, "said", corpus, STATED)
    for of_data in ((), ("data/said@1",)):
        add_seed(workspace, "base", tiny_seed, data=of_data, license="Apache-2.0")
    retire(workspace, "seed/base@2", "of other data")
    retire(workspace, "data/said@2", "the wrong file")

    def planned(data: str, seed: str) -> tuple[str, str]:
        (branch,) = look_ahead(workspace, {"said": data}, seed=seed, anyway=True).branches
        return branch.data, branch.seed

    assert planned("data/said", "seed/base") == ("data/said@1", "seed/base@1")
    for data, seed in (("data/said@2", "seed/base"), ("data/said", "seed/base@2")):
        with pytest.raises(Refused, match="retired"):
            planned(data, seed)


@pytest.mark.slow
def test_of_two_branches_one_is_registered_though_the_other_is_refused(
    btx: Run, tiny_seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round too, and from Python; one of them learns conversations."""
    seed = Path(shutil.copytree(tiny_seed, tmp_path / "seed"))
    (seed / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    root = create(tmp_path / "workspace").root
    (root / "btx.toml").write_text("[recipe.train]\nsteps = 1\nbatch = 1\nsequence = 32\n")
    quality = root / "policies/quality.yaml"
    quality.write_text(quality.read_text() + "enforcement: warn\n")
    chats = [
        {"messages": [CHAT[0], {"role": "assistant", "content": f"{n} and {n * 7919}."}]}
        for n in range(80)
    ]
    stated = ["--license", "CC0-1.0", "--source", "x", "--pii", "none"]
    corpora = {"chat": written(tmp_path / "chat.jsonl", chats), "twice": repeated(tmp_path / "t")}
    for name, corpus in corpora.items():
        assert btx(root, "data", "add", name, str(corpus), *stated).returncode == 0
    added = btx(root, "seed", "add", "base", str(seed), "--license", "Apache-2.0")
    assert added.returncode == 0, added.stderr
    ahead = btx(root, "train", "twice", "chat", "--dry-run")
    assert ahead.returncode == 3, ahead.stderr
    ahead = btx(root, "train", "twice", "chat", "--dry-run", "--anyway")
    assert ahead.returncode == 0, ahead.stderr
    monkeypatch.setattr(train_module, "require_admissible", lambda *given: None)
    with pytest.raises(Refused) as refused:
        pipelines.Workspace.open(root).train({"twice": "data/twice", "chat": "data/chat"})
    assert "contamination/little" in str(refused.value)
    assert "expert/chat@1 is registered" in str(refused.value)
    for names in (("twice", "chat"), ("chat", "twice")):
        done = btx(root, "train", *names, "--anyway")
        assert done.returncode == 3, done.stderr
        assert "contamination/little" in done.stderr
        assert "expert/chat@1 is registered" in done.stderr
        listed = json.loads(btx(root, "list", "experts", "--json").stdout)
        assert [expert["ref"] for expert in listed] == ["expert/chat@1"]
    shown = json.loads(btx(root, "show", "expert/chat@1", "--json").stdout)
    assert shown["preflight"]["ancestry"]["trained_here"] is True


def test_what_refuses_a_branch_without_a_rule_is_told_beside_rules_and_what_is_registered(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = BrokenRule("quality/better", "expert/b@1 is no better", "train longer")
    unmeasured = "because of that not measured: quality/measured"
    answers: dict[str, Exception | None] = {
        "a": Refused("expert/a", found="data/a@1, retired", expected="parents", next="name others"),
        "b": Refused.by("expert/b@1 at gate register", [rule], otherwise="", besides=[unmeasured]),
        "c": None,
    }

    def answer(_: Workspace, name: str, *given: object, **named: object) -> Any:
        if error := answers[name]:
            raise error
        return SimpleNamespace(ref=f"expert/{name}@1")

    monkeypatch.setattr(register_branches_module, "register", answer)
    any_version = SimpleNamespace(ref="data/any@1")
    branch: Any = SimpleNamespace(folder=workspace.work, data=any_version, seed=any_version)
    for names in ("ac", "abc", "bc"):
        with pytest.raises(Refused) as refused:
            register_branches(workspace, dict.fromkeys(names, branch), bar)
        told = (str(refused.value), refused.value.found)
        for name, text in {"a": "data/a@1, retired", "b": rule.message, "c": "expert/c@1"}.items():
            assert all((text in one) is (name in names) for one in told)
        assert all((unmeasured in one) is ("b" in names) for one in told)
        assert ("name others" in refused.value.next) is ("a" in names)
        assert ("train longer" in refused.value.next) is ("b" in names)
