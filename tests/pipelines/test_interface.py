"""The Python interface: its surface is kept, and it answers as the commands do."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipelines
from pipelines import BtxError, Refused
from pipelines.workspace.workspace import Workspace as Opened
from registry.errors import Invalid
from registry.records.answers.registering import RegisteredAnswer

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]
# Parameters may be added; what is here may not change.
SURFACE = {
    "open": "folder=None, *, actor=None, on_progress=...",
    "create": "folder, *, on_progress=...",
    "data.add": "name, path, *, text_field=None, **stated",
    "data.list": "",
    "seed.add": "name, path, *, data=(), license_id=None",
    "seed.list": "",
    "train": "experts, *, seed=None, mode=None, executor=None, anyway=False",
    "register": "name, path, *, data, seed=None",
    "rebuild": (
        "*, with_=(), without=(), tune=None, line='main', to=None, from_nothing=False, "
        "executor=None, anyway=False"
    ),
    "audit": "ref=None, *, recompute=False, head=None",
    "release": "build",
    "export": "build, folder, *, fused=False, target='transformers', draft=False",
    "list": "kind, **filters",
    "show": "ref",
    "status": "",
    "alias": "name, ref",
}


def surface(holder: object, prefix: str = "") -> dict[str, str]:
    found = {}
    for name, value in inspect.getmembers(holder):
        if name.startswith("_"):
            continue
        if callable(value):
            found[prefix + name] = plain(inspect.signature(value))
        elif type(value).__module__ == "pipelines.interface":
            found |= surface(value, f"{prefix}{name}.")
    return found


def plain(signature: inspect.Signature) -> str:
    """Return a signature without its types, in which a function stands as `...`."""
    parameters = []
    for one in signature.parameters.values():
        default = ... if inspect.isfunction(one.default) else one.default
        parameters.append(one.replace(annotation=inspect.Parameter.empty, default=default))
    return str(inspect.Signature(parameters))[1:-1].replace("Ellipsis", "...")


def test_the_surface_is_what_it_was(tmp_path: Path) -> None:
    assert surface(pipelines.Workspace.create(tmp_path / "w")) == SURFACE


def test_every_public_name_is_there_and_documented(tmp_path: Path) -> None:
    assert sorted(pipelines.__all__) == ["BtxError", "Refused", "Workspace"]
    assert issubclass(Refused, BtxError)
    for name, value in inspect.getmembers(pipelines.Workspace):
        assert name.startswith("_") or inspect.getdoc(value), name
    with pytest.raises(AttributeError):
        _ = pipelines.Nothing


def test_importing_the_interface_loads_nothing_heavy() -> None:
    program = (
        "import sys; from pipelines import Workspace\n"
        "assert not {'torch', 'transformers', 'dvc', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_it_answers_as_the_commands_do(own_story: Opened, btx: Run) -> None:
    told: list[str] = []
    workspace = pipelines.Workspace.open(
        own_story.root, on_progress=lambda step, done, total, text: told.append(step)
    )

    def command(*arguments: str) -> Any:
        return json.loads(btx(own_story.root, *arguments, "--json").stdout)

    def as_json(answer: Any) -> Any:
        rows = answer if isinstance(answer, list) else [answer]
        found = [json.loads(json.dumps(row.to_json())) for row in rows]
        return found if isinstance(answer, list) else found[0]

    assert as_json(workspace.list("experts", name="math")) == command(
        "list", "experts", "--name", "math"
    )
    assert as_json(workspace.data.list()) == command("list", "data")
    assert as_json(workspace.seed.list()) == command("list", "seeds")
    assert as_json(workspace.show("build/1")) == command("show", "build/1")
    assert workspace.rebuild().status == command("rebuild")["status"] == "unchanged"
    audit = workspace.audit("build/1")
    assert as_json(audit)["checks"] == command("audit", "build/1")["checks"]
    assert "audit" in told
    assert as_json(workspace.status())["counts"] == command("status")["counts"]


def test_what_a_policy_refuses_is_raised_with_its_rules(own_story: Opened, story: Any) -> None:
    workspace = pipelines.Workspace.open(own_story.root)
    with pytest.raises(Refused) as refusal:
        workspace.release("build/1")
    assert [rule.rule for rule in refusal.value.rules] == ["release/second-person"]
    with pytest.raises(TypeError, match="licence"):
        workspace.data.add("x", story.corpora / "math", licence="MIT")


def test_data_is_registered_under_what_is_stated_of_it(own_story: Opened, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Sentence {n} of a text unlike the others.\n" for n in range(400)))
    workspace = pipelines.Workspace.open(own_story.root, actor="dora")
    answer = workspace.data.add("notes", text, license="CC0-1.0", source="test", pii="none")
    assert isinstance(answer, RegisteredAnswer)
    assert (answer.ref, answer.status) == ("data/notes@1", "registered")
    shown = workspace.show("data/notes").to_json()
    assert (shown["license"], shown["source"], shown["actor"]) == ("CC0-1.0", "test", "dora")
    assert workspace.alias("text", "data/notes").ref == "data/notes@1"
    draft = workspace.export("build/1", tmp_path / "draft", draft=True)
    assert (tmp_path / "draft/config.json").is_file()
    assert draft.ref == "build/1"


def test_words_that_the_commands_refuse_are_refused_here(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Sentence {n} of words that nobody else used.\n" for n in range(400)))
    workspace = pipelines.Workspace.create(tmp_path / "w")
    stated = {"license": "CC0-1.0", "source": "test", "pii": "none"}
    for wrong in ({"use": "foo"}, {"use": "Evaluation"}, {"use": ""}):
        with pytest.raises(Invalid, match="expected"):
            workspace.data.add("words", text, **{**stated, **wrong})
    with pytest.raises(Invalid, match="expected transformers, vllm"):
        workspace.export("build/1", tmp_path / "draft", target="foo", draft=True)
    workspace.data.add("words", text, use="training", **stated)
    assert workspace.show("data/words").to_json()["use"] is None


def test_the_column_of_the_text_is_named_from_python_too(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"body": f"Sentence {n} of a text of its own."}) for n in range(40)]
    rows.write_text("\n".join(lines))
    workspace = pipelines.Workspace.create(tmp_path / "w")
    stated = {"license": "CC0-1.0", "source": "test", "pii": "none"}
    with pytest.raises(BtxError, match="--text-field body"):
        workspace.data.add("letters", rows, **stated)
    assert workspace.data.add("letters", rows, text_field="body", **stated).status == "registered"


def test_the_notebook_runs(
    own_story: Opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads((ROOT / "examples/workspace.ipynb").read_text())
    monkeypatch.setenv("BTX_WORKSPACE", str(own_story.root))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert "expert/math@1" in capsys.readouterr().out
    assert names["answer"].ref == "data/notes@1"
    assert [check.name for check in names["audit"].checks if not check.ok] == []
