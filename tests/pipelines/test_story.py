"""The three jobs on a tiny real story.

What is reused, what ran, what an audit sees, what a withdrawal reaches.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli.look import lineage_answer
from pipelines.jobs.add_data import add_data
from pipelines.jobs.audit import AuditRequest, audit
from pipelines.jobs.build_plan import Request
from pipelines.jobs.export import ExportRequest, export
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.register import register
from pipelines.jobs.release import release
from pipelines.jobs.show import listed
from pipelines.jobs.train import train
from pipelines.jobs.withdraw import withdraw
from pipelines.story import demo
from pipelines.story.narrator import Narrator
from pipelines.workspace.workspace import Workspace
from registry.errors import Conflict, Damaged, Refused
from registry.records.answers.building import RebuildAnswer
from registry.records.facts import BuildFacts, DataFacts, DataStatement

Run = Callable[..., subprocess.CompletedProcess[str]]
STATEMENT = DataStatement(
    license="CC0-1.0", source="the test", holder="nobody", purpose="testing", pii="none"
)


def flip(path: Path, position: int = -1) -> None:
    """Change one byte in place, as a bad disk does: every hard link sees it."""
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    with path.open("r+b") as file:
        file.write(content)


def stage_times(workspace: Workspace) -> dict[str, int]:
    return {
        path.name: path.stat().st_mtime_ns
        for path in (
            workspace.work / "mixed",
            workspace.work / "tuned",
            workspace.work / "evaluation.json",
        )
    }


def test_a_rebuild_with_nothing_new_is_unchanged_and_runs_no_stage(own_story: Workspace) -> None:
    before = stage_times(own_story)
    answer = rebuild(own_story)
    assert (answer.status, answer.build, answer.ran) == ("unchanged", "build/1", ())
    assert stage_times(own_story) == before
    assert len(own_story.catalog.versions(BuildFacts)) == 1


@pytest.fixture(scope="module")
def grown(
    story: Any, tmp_path_factory: pytest.TempPathFactory, quiet: Any
) -> tuple[Workspace, RebuildAnswer]:
    """The story with a third expert and build/2. Read only."""
    root = tmp_path_factory.mktemp("grown") / "workspace"
    subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
    workspace = Workspace.find(root)
    add_data(workspace, "units", story.corpora / "units", STATEMENT)
    branch = train(workspace, {"units": "data/units"})["units"]
    register(
        workspace,
        "units",
        branch.folder,
        data=[str(branch.data.ref)],
        seed=str(branch.seed.ref),
        show=quiet,
    )
    return workspace, rebuild(workspace)


def test_one_more_expert_runs_only_its_own_stages_and_links_the_others_shards(
    grown: tuple[Workspace, RebuildAnswer],
) -> None:
    workspace, answer = grown
    assert answer.ran == ("mix", "tune", "evaluate")
    assert {"expert/math@1", "expert/code@1"} <= set(answer.reused)
    for name in ("math", "code", "seed"):
        file = f"model-expert-{name}.safetensors"
        first, second = workspace.root / "builds/1" / file, workspace.root / "builds/2" / file
        assert first.stat().st_ino == second.stat().st_ino
    members = workspace.catalog.get("build/2", BuildFacts).facts.members
    slots = {member.ref: member.slot for member in members}
    assert slots == {"expert/code@1": 1, "expert/math@1": 2, "expert/units@1": 3}


def test_an_expert_is_trained_once(own_story: Workspace, quiet: Any) -> None:
    branch = train(own_story, {"math": "data/math"})["math"]
    assert not branch.ran
    version = register(
        own_story, "math", branch.folder, data=["data/math@1"], seed="seed/base@1", show=quiet
    )
    assert (str(version.ref), version.created) == ("expert/math@1", False)


@pytest.mark.parametrize("number", [1, 2])
def test_builds_load_and_generate_with_stock_transformers_alone(
    grown: tuple[Workspace, RebuildAnswer], number: int
) -> None:
    program = """
import sys
for package in ("btx_core", "registry", "pipelines"):
    sys.modules[package] = None  # importing one fails now
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
wrong = ("missing_keys", "unexpected_keys", "mismatched_keys")
assert not any(report[key] for key in wrong), report
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
prompt = tokenizer("12 + 30 =", return_tensors="pt")
text = model.generate(**prompt, max_new_tokens=8, do_sample=False)
print(text.shape[1])
"""
    folder = grown[0].root / "builds" / str(number)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4


def test_an_audit_of_sound_builds_has_no_finding(grown: tuple[Workspace, RebuildAnswer]) -> None:
    for build in ("build/1", "build/2"):
        answer = audit(grown[0], build, AuditRequest(recompute=True))
        assert answer.findings == ()
        assert all(check.ok for check in answer.checks)
        examined = {check.name: check.examined for check in answer.checks}
        assert (
            min(
                examined[name]
                for name in ("log", "rows", "files", "tensors", "verdicts", "recompute")
            )
            > 0
        )


FILES = [
    *(pytest.param(at, marks=pytest.mark.slow) for at in ("data/math/1", "seeds/base/1")),
    pytest.param("experts/math/1", marks=pytest.mark.slow),
    "builds/1",
]


@pytest.mark.parametrize("folder", FILES)
def test_a_flipped_byte_in_any_registered_file_is_named(
    own_story: Workspace, btx: Run, folder: str
) -> None:
    for path in sorted(path for path in (own_story.root / folder).rglob("*") if path.is_file()):
        flip(path)
        done = btx(own_story.root, "audit", "build/1", "--json")
        flip(path)
        assert done.returncode == 4, (path, done.stderr)
        found = " ".join(
            finding["subject"] + finding["found"] for finding in json.loads(done.stdout)["findings"]
        )
        assert path.name in found
        if path.suffix == ".safetensors":
            assert ".weight" in found, "the tensor is named too"
    assert audit(own_story, "build/1").findings == ()


def test_lineage_ends_at_the_datas_files_and_walks_down_to_the_builds(
    grown: tuple[Workspace, RebuildAnswer],
) -> None:
    up = lineage_answer(grown[0].catalog, "build/2", down=False)
    data = {node.ref: node for node in up.nodes if node.kind == "data"}
    assert set(data) == {"data/prose@1", "data/math@1", "data/code@1", "data/units@1"}
    assert all(node.files for node in data.values())
    assert all(len(file.sha256) == 64 for node in data.values() for file in node.files or ())
    walked = lineage_answer(grown[0].catalog, "data/math@1", down=True)
    down = {node.ref for node in walked.nodes}
    assert {"expert/math@1", "build/1", "build/2"} <= down
    assert "expert/code@1" not in down


def test_a_withdrawal_marks_what_it_reached_and_the_next_build_is_clean(
    own_story: Workspace, tmp_path: Path
) -> None:
    withdrawal = withdraw(own_story, "data/code@1", "the holder withdrew consent")
    assert {item.ref for item in withdrawal.reached} == {"expert/code@1", "build/1"}
    rows = listed(own_story, "builds", {})
    assert {row.ref: row.status for row in rows} == {"build/1": "tainted"}
    for refused in (
        lambda: release(own_story, "build/1"),
        lambda: export(own_story, "build/1", tmp_path / "out"),
    ):
        with pytest.raises(Refused, match="standing"):
            refused()
    assert not (tmp_path / "out").exists()
    assert rebuild(own_story).build == "build/2"
    nodes = lineage_answer(own_story.catalog, "build/2", down=False).nodes
    assert "data/code@1" not in {node.ref for node in nodes}
    assert not list((own_story.root / "builds/2").glob("*code*"))
    assert audit(own_story, "build/2", AuditRequest(recompute=True)).findings == ()
    export(own_story, "build/2", tmp_path / "out", ExportRequest(draft=True))
    assert (tmp_path / "out" / "config.json").is_file()


def test_data_without_a_licence_is_refused_by_name_and_leaves_nothing(
    own_story: Workspace, story: Any
) -> None:
    with pytest.raises(Refused, match=r"licence/stated.*(\n|.)*--license SPDX-ID"):
        add_data(
            own_story,
            "units",
            story.corpora / "units",
            DataStatement(source="the test", pii="none"),
        )
    assert not (own_story.root / "data/units").exists()
    assert "units" not in {version.ref.name for version in own_story.catalog.versions(DataFacts)}
    assert own_story.catalog.status("data/units@1") == "refused"


def test_changed_data_is_noticed_before_a_training(own_story: Workspace) -> None:
    path = next((own_story.root / "data/math/1").glob("*.jsonl"))
    tracked = (own_story.root / "data/math/1.dvc").read_text()
    flip(path)
    with pytest.raises(Damaged, match=path.name):
        train(own_story, {"again": "data/math"})
    assert (own_story.root / "data/math/1.dvc").read_text() == tracked


@pytest.mark.slow
def test_a_damaged_shard_is_not_linked_into_the_next_build(own_story: Workspace) -> None:
    damaged = own_story.root / "builds/1/model-expert-math.safetensors"
    flip(damaged)
    assert rebuild(own_story, Request(without=["code"])).build == "build/2"
    assert audit(own_story, "build/2", AuditRequest(recompute=True)).findings == ()


def test_a_demonstration_goes_on_where_it_stopped(
    own_story: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*given: object, **more: object) -> None:
        raise AssertionError("this was done before")

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    narrator = Narrator(StringIO())
    with pytest.raises(Conflict):
        demo.demo(tmp_path / "mine", None, narrator, again)
    settings = (own_story.root / "btx.toml").read_text()
    with pytest.raises(Conflict):
        demo.demo(own_story.root, None, narrator, again)
    monkeypatch.setattr(demo, "SETTINGS", settings)
    # The story's text is the demo's, with other rights: what the gate says is not the question.
    monkeypatch.setattr("pipelines.jobs.add_data.gates.ask", lambda *_, **__: None)
    monkeypatch.setattr(demo, "pretrain", again)
    monkeypatch.setattr(demo, "rebuild", again)
    # The seed and the first build are there, an expert of the first three is not.
    monkeypatch.setattr(demo, "train", again)
    with pytest.raises(AssertionError, match="done before"):
        demo.demo(own_story.root, None, narrator, again)
    begun = demo.Story(own_story.root, narrator, again)
    begun.seed(None)
    begun.build()
    assert [str(build.ref) for build in begun.builds] == ["build/1"]
