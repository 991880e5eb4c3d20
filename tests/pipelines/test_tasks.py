"""Tasks of the lm-evaluation-harness in a workspace.

Their figures are the build's, and their bytes are part of its recipe.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from btx_core.problems import WrongUsage
from pipelines.jobs.build_plan import Request
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.show import shown
from pipelines.stages import stages
from pipelines.workspace.workspace import Workspace
from registry.errors import Damaged
from registry.records.facts import BuildFacts

UNTUNED = Request(tune="none")
TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["4", "5"]
doc_to_target: "{{right}}"
metric_list: [{metric: acc}]
"""


@pytest.fixture
def with_task(own_story: Workspace) -> Workspace:
    (own_story.root / "tasks").mkdir()
    (own_story.root / "tasks/sums.yaml").write_text(TASK)
    questions = [
        {"question": "2 + 2 =", "right": 0},
        {"question": "2 + 2 =", "right": 1},
    ]  # one of the two is right, whatever it says
    (own_story.root / "tasks/sums.jsonl").write_text(
        "".join(json.dumps(question) + "\n" for question in questions)
    )
    settings = own_story.root / "btx.toml"
    settings.write_text(settings.read_text() + 'tasks = ["tasks/sums.yaml"]\n')
    return Workspace.find(own_story.root)


@pytest.mark.slow
def test_a_builds_tasks_are_stored_with_it_and_a_changed_one_builds_anew(
    with_task: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = with_task.root
    capfd.readouterr()
    first = rebuild(with_task, UNTUNED)
    assert (first.build, first.status) == ("build/2", "evaluated")
    assert "it/s" not in capfd.readouterr().err, "the harness's own bars stay out of sight"
    # What `btx show --json` prints.
    told = shown(with_task, "build/2").to_json()
    assert told["tasks"]["sums"]["acc"] == 0.5
    assert set(told["evaluation"]) == {"math", "code", "prose"}
    assert rebuild(with_task, UNTUNED).status == "unchanged"

    data = root / "tasks/sums.jsonl"
    data.write_text(data.read_text().replace('"right": 1', '"right": 0'))
    monkeypatch.chdir(root)
    with pytest.raises(Damaged, match=r"tasks/sums\.jsonl"):
        stages.evaluate()  # of the snapshot as it was frozen
    second = rebuild(with_task, UNTUNED)
    assert (second.build, second.ran) == ("build/3", ("evaluate",)), (
        "the same weights, measured again"
    )
    tasks = with_task.catalog.get("build/3", BuildFacts).facts.tasks
    assert tasks is not None
    assert tasks["sums"]["acc"] in (0.0, 1.0)


def test_a_task_file_that_is_missing_stops_before_anything_is_written(
    with_task: Workspace, btx: Any
) -> None:
    (with_task.root / "tasks/sums.yaml").unlink()
    head = with_task.catalog.head()
    with pytest.raises(WrongUsage, match=r"tasks/sums\.yaml"):
        rebuild(with_task)
    said = btx(with_task.root, "rebuild")
    assert (said.returncode, "Traceback" in said.stderr) == (2, False), said.stderr
    assert with_task.catalog.head() == head


def test_no_tasks_leave_no_trace(story: Any) -> None:
    workspace = Workspace.find(Path(story.root))
    assert "tasks" not in workspace.catalog.get("build/1").facts.to_json()
    assert (
        "tasks"
        not in json.loads((workspace.root / "snapshot.json").read_text())["recipe"]["evaluate"]
    )
