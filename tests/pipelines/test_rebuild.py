"""Upgrade, pin, go back, product lines.

What a plan says before, what a rebuild does, and that the same content gives the same bytes.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pipelines.jobs.rebuild as rebuild_module
from btx_core.problems import Unsupported
from pipelines.cli.compose import _print_forecast
from pipelines.jobs.annotate import retire
from pipelines.jobs.audit import AuditRequest, audit
from pipelines.jobs.build_plan import Request, plan, recipes_of, slots
from pipelines.jobs.rebuild import _keeps_members, look_ahead, rebuild
from pipelines.jobs.register import register
from pipelines.stages import local_processes
from pipelines.workspace import disk_need
from pipelines.workspace.settings_file import Recipes, read_recipes
from pipelines.workspace.workspace import Workspace
from registry.errors import Invalid, NotFound, Unavailable
from registry.governance import worth
from registry.records.answers.building import ForecastAnswer, RebuildAnswer
from registry.records.events import StageRan
from registry.records.facts import BuildFacts, ExpertFacts, Member, SnapshotFacts
from registry.records.references import parse
from registry.records.version import Version

RECOMPUTE = AuditRequest(recompute=True)
BACK = Request(line="support", to="build/1")


@pytest.fixture(scope="module")
def upgraded(
    story: Any, tmp_path_factory: pytest.TempPathFactory, quiet: Any
) -> tuple[Workspace, ForecastAnswer, RebuildAnswer]:
    """expert/math@2 and build/2, whose rebuild was forecast before: workspace, forecast, answer.

    Read only.
    """
    from safetensors.torch import load_file, save_file

    root = tmp_path_factory.mktemp("upgraded") / "workspace"
    subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
    workspace = Workspace.find(root)
    checkpoint = root.parent / "math"
    shutil.copytree(root / "experts/math/1", checkpoint, copy_function=shutil.copyfile)
    # Trained elsewhere: nobody tells what it took.
    (checkpoint / "btx-train.json").unlink()
    tensors = load_file(checkpoint / "model.safetensors")
    moved = next(name for name in tensors if "down_proj" in name)
    save_file(
        tensors | {moved: tensors[moved] * 0.999},
        checkpoint / "model.safetensors",
        metadata={"format": "pt"},
    )
    register(workspace, "math", checkpoint, data=["data/math"], seed="seed/base", show=quiet)
    forecast = look_ahead(workspace)
    assert len(workspace.catalog.versions(BuildFacts)) == 1
    return workspace, forecast, rebuild(workspace)


@pytest.fixture(scope="module")
def returned(upgraded: Any) -> Workspace:
    """build/3, the first of line support: back to build/1's content."""
    workspace: Workspace = upgraded[0]
    assert rebuild(workspace, BACK).build == "build/3"
    return workspace


def dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def members(workspace: Workspace, **asked: Any) -> dict[str, int]:
    planned = plan(workspace, Request(**asked)).members
    return {str(member.version.ref): member.slot for member in planned}


def build(workspace: Workspace, number: int) -> BuildFacts:
    return workspace.catalog.get(f"build/{number}", BuildFacts).facts


def test_an_upgrade_takes_the_place_of_the_version_before(upgraded: Any) -> None:
    workspace, forecast, answer = upgraded
    found = {change.ref: (change.change, change.before, change.slot) for change in forecast.changes}
    assert found == {
        "expert/code@1": ("kept", "expert/code@1", 1),
        "expert/math@2": ("replaced", "expert/math@1", 2),
    }
    taken = {member.ref: member.slot for member in build(workspace, 2).members}
    assert taken == {"expert/code@1": 1, "expert/math@2": 2}
    assert answer.ran == forecast.ran == ("mix", "tune", "evaluate")
    assert "expert/code@1" in answer.reused
    assert "expert/math@2" not in answer.reused


def test_a_dry_run_forecasts_which_weights_are_written_and_how_large_they_are(
    upgraded: Any,
) -> None:
    workspace, forecast, _ = upgraded
    built = {
        file.path: file
        for file in workspace.catalog.get("build/2").files
        if file.path.endswith(".safetensors")
    }
    planned = {file.file: file for file in forecast.weights}
    assert {name: file.action for name, file in planned.items()} == {
        n: "link" if f.linked else "write" for n, f in built.items()
    }
    for name, file in planned.items():
        # Tuned shards are written by another writer: its header leaves the digests out.
        slack = 4000 if name in ("model-shared.safetensors", "model-router.safetensors") else 0
        assert 0 <= file.bytes - built[name].bytes <= slack, name
    assert forecast.measured_on == "build/1"
    took = build(workspace, 1).cost.tune.wall_s
    assert forecast.seconds["tune"] == pytest.approx(took, abs=0.01)
    assert forecast.cost["tokens"] == build(workspace, 2).cost.tune.tokens


def test_the_parts_of_a_time_and_of_a_cost_are_all_told(upgraded: Any) -> None:
    workspace, forecast, answer = upgraded
    for seconds in (forecast.seconds, answer.seconds):
        parts = [value for part, value in seconds.items() if part != "total"]
        assert sum(parts) == pytest.approx(seconds["total"], abs=0.05)
        assert {"mix", "tune", "evaluate", "overhead"} < seconds.keys()
    assert build(workspace, 1).cost.unreported == ()
    assert build(workspace, 2).cost.unreported == ("expert/math@2",)


def test_a_dry_run_tells_the_price_of_one_more_by_what_was_measured(upgraded: Any) -> None:
    workspace, forecast, answer = upgraded
    price, built = forecast.price, workspace.catalog.get("build/1", BuildFacts)
    trained = [
        version.facts.train
        for ref in ("expert/code@1", "expert/math@1")
        if (version := workspace.catalog.get(ref, ExpertFacts)).facts.train
    ]
    branch = sum(train.tokens or 0 for train in trained) / len(trained)
    tuning = built.facts.cost.tune.tokens or 0
    assert (price.experts, price.grown, price.measured_on) == (3, False, "build/1")
    assert price.one_more.tokens == round(branch) + tuning
    assert price.from_nothing.tokens == 3 * round(branch) + tuning
    # An expert that joins is written as one that takes another's place, and registered beside it.
    registered = sum(file.bytes for file in workspace.catalog.get("expert/code@1").files)
    written = registered + answer.bytes_written
    assert price.one_more.bytes == pytest.approx(written, rel=0.1)
    assert price.one_more.flops < price.from_nothing.flops
    assert price.one_more.bytes < price.from_nothing.bytes


def test_a_dry_run_and_the_overview_say_the_same_of_one_more(upgraded: Any) -> None:
    workspace, forecast, _ = upgraded
    catalog = workspace.catalog
    builds = [catalog.get("build/1", BuildFacts)]
    told = worth.next_expert(catalog, builds, worth.joined(catalog, builds, 0), None)
    price = forecast.price.one_more
    assert (told.tuned_as, told.takes.tokens) == (forecast.price.measured_on, price.tokens)
    assert (told.takes.flops, told.takes.wall_s) == (price.flops, price.seconds)
    # Training and tuning alone are hours of devices; mixing, measuring and starting are not.
    assert 0 < told.hours * 3600 < price.seconds


def test_going_back_gives_the_earlier_builds_bytes(returned: Workspace) -> None:
    first, second, third = (build(returned, number) for number in (1, 2, 3))
    assert third.mixed == first.mixed != second.mixed
    assert third.tensors == first.tensors, (
        "tuned too: on one machine it is a function of the snapshot"
    )
    assert rebuild(returned, BACK).status == "unchanged"
    for number in (2, 3):
        findings = audit(returned, f"build/{number}", RECOMPUTE).findings
        assert findings == (), "mixed again, byte for byte"


def test_versions_are_newest_pinned_or_gone_back_to(returned: Workspace) -> None:
    assert members(returned) == {"expert/code@1": 1, "expert/math@2": 2}
    assert (
        members(returned, with_=["math@1"])
        == members(returned, to="build/1")
        == {"expert/code@1": 1, "expert/math@1": 2}
    )
    assert members(returned, to="snapshot/main@2", without=["code"]) == {"expert/math@2": 2}
    with pytest.raises(Invalid, match="a build or a snapshot"):
        members(returned, to="expert/math@1")


def test_a_line_has_its_own_members_and_history_and_shares_the_shards(returned: Workspace) -> None:
    assert build(returned, 3).snapshot == "snapshot/support@1"
    shard = "builds/{}/model-expert-code.safetensors"
    assert (returned.root / shard.format(3)).stat().st_ino == (
        returned.root / shard.format(1)
    ).stat().st_ino
    support, main = (
        plan(returned, Request(line="support", without=["code"])),
        plan(returned, Request()),
    )
    assert [str(one.previous and one.previous.ref) for one in (support, main)] == [
        "build/3",
        "build/2",
    ]
    assert members(returned, line="support") == {"expert/code@1": 1, "expert/math@2": 2}, (
        "its experts, each the newest"
    )
    assert members(returned, line="support", without=["code"]) == {"expert/math@2": 2}
    with pytest.raises(NotFound, match=r"\[line.sales\]"):
        members(returned, line="sales")
    assert members(returned, line="sales", with_=["code"]) == {"expert/code@1": 1}


def test_a_build_that_was_a_mistake_is_the_newest_of_no_line(own_story: Workspace) -> None:
    catalog = own_story.catalog
    for name in ("math", "code"):
        members = (Member(ref=f"expert/{name}@1", slot=1),)
        catalog.register("", BuildFacts(line="legal", members=members))
    assert plan(own_story, Request(line="legal")).refs == ("expert/code@1",)
    retire(own_story, "build/3", "the wrong expert")
    assert plan(own_story, Request(line="legal")).refs == ("expert/math@1",)


@pytest.mark.parametrize("name", ["../../x", "", "a/b", "a\x1b[2J", "A", "x" * 65])
def test_a_plan_for_a_line_that_can_have_no_name_is_refused(story: Any, name: str) -> None:
    with pytest.raises(Invalid, match="line"):
        plan(story, Request(line=name, with_=["expert/math"]))


def test_a_line_in_the_settings_pins_its_experts(returned: Workspace) -> None:
    settings = returned.root / "btx.toml"
    before = settings.read_text()
    settings.write_text(
        before + '[line.sales]\nexperts = ["math@1"]\n[line.main]\nexperts = ["math"]\n'
    )
    try:
        changed = Workspace.find(returned.root)
        assert members(changed, line="sales") == {"expert/math@1": 2}
        assert members(changed) == {"expert/math@2": 2}
    finally:
        settings.write_text(before)


def test_a_build_after_going_back_holds_what_dvc_and_git_need(returned: Workspace) -> None:
    for number in (2, 3):
        held = build(returned, number).dvc
        assert held is not None
        assert (returned.root / f"{held.path}.dvc").is_file()
        store = returned.store.path(returned.catalog.get(f"build/{number}").files[0].sha256)
        assert store.stat().st_ino in {
            path.stat().st_ino
            for path in (returned.root / ".dvc/cache").rglob("*")
            if path.is_file()
        }
    assert json.loads((returned.root / "snapshot.json").read_text())["ref"] == "snapshot/support@1"
    assert "up to date" in dvc(returned.root, "status")
    drawn = dvc(returned.root, "dag", "--dot")
    assert all(
        edge in drawn
        for edge in ('"mix" -> "tune"', '"tune" -> "evaluate"', '"data/math/1.dvc" -> "train@math"')
    )
    again = dvc(returned.root, "repro")
    assert {
        f"Stage '{stage}' didn't change" for stage in ("train@math", "mix", "tune", "evaluate")
    } <= set(again.replace(",", "\n").split("\n"))


def test_recipes_come_from_a_file_and_a_wrong_key_is_named(
    tmp_path: Path, returned: Workspace
) -> None:
    path = tmp_path / "fast.toml"
    path.write_text('[recipe.tune]\nmode = "router"\nsteps = 7\n')
    recipe = plan(returned, Request(recipes=read_recipes(path))).given
    assert recipe.tune == {"mode": "router", "steps": 7}
    path.write_text("[recipe.tunes]\n")
    with pytest.raises(Invalid, match=r"fast\.toml, recipe\.tunes"):
        read_recipes(path)
    with pytest.raises(NotFound, match="nowhere"):
        read_recipes(tmp_path / "nowhere.toml")


def test_a_tuning_is_fitted_to_where_it_runs(
    returned: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = returned.settings.machine.model_copy(update={"processes": 3, "gpus": 0})
    settings = returned.settings.model_copy(update={"machine": machine})
    shared = replace(returned, settings=settings)
    # Of this machine alone.
    monkeypatch.setattr(local_processes, "memory_each", lambda resources: 1)
    asked = Request(recipes=Recipes())
    here, there = plan(shared, asked).chosen, plan(shared, asked, executor="slurm").chosen
    assert here["batch"] == there["batch"]
    assert here["batch"] % 3 == 0
    assert here["accumulate"] == here["batch"] / 3 > 1
    assert there["accumulate"] == 1, "nobody knows the memory there"


@pytest.mark.parametrize("lacking", ["memory", "disk"])
def test_what_memory_or_disk_cannot_hold_is_not_begun(
    own_story: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lacking: str,
) -> None:
    if lacking == "memory":
        monkeypatch.setattr(local_processes, "memory_each", lambda resources: 1 << 20)
        found = "1.05 MB of memory a process"
    else:
        monkeypatch.setattr(disk_need, "free", lambda folder: 1 << 10)
        shutil.rmtree(own_story.work / "mixed", ignore_errors=True)
        found = f"1.02 kB free on the disk of {own_story.root}"
    catalog, asked = own_story.catalog, Request(recipes=Recipes())
    ahead = look_ahead(own_story, asked)
    (tuning,) = [one for one in ahead.stages if one.stage == "tune"]
    assert (tuning.fits is False) == (lacking == "memory")
    _print_forecast(ahead)
    assert capsys.readouterr().out.count("DOES NOT FIT") == 1
    events, snapshots = catalog.head(), catalog.versions(SnapshotFacts)
    with pytest.raises(Unavailable, match=rf"{re.escape(found)}(.|\n)*--anyway"):
        rebuild(own_story, asked)
    assert catalog.head() == events, "the gate was not asked"
    assert catalog.versions(SnapshotFacts) == snapshots

    def begun(*_: object) -> None:
        raise Begun

    monkeypatch.setattr(rebuild_module, "_compose", begun)
    with pytest.raises(Begun):
        rebuild(own_story, asked, anyway=True)


@pytest.mark.parametrize("folder", ["seeds/base/1", "experts/code/1"])
def test_what_is_not_on_this_disk_is_named_before_the_gate_is_asked(
    own_story: Workspace, folder: str
) -> None:
    shutil.rmtree(own_story.root / folder)
    asked, head = Request(without=("math",)), own_story.catalog.head()
    for act in (look_ahead, rebuild):
        with pytest.raises(NotFound, match=rf"dvc pull (.|\n)*{folder}\.dvc"):
            act(own_story, asked)
    assert own_story.catalog.head() == head


class Begun(Exception):
    """The stages would run now."""


def test_a_tuning_that_divided_or_trained_experts_cannot_follow_is_refused_ahead(
    tmp_path: Path, returned: Workspace
) -> None:
    path = tmp_path / "recipe.toml"
    for mixing, tuning, key in (
        ("split = 2", "", "start"),
        ("blend = true", "", "start"),
        ("split = 2", 'start = "random"\nhome = 0.3', "home"),
        ("split = 2", 'start = "random"\ngrow = 0.2', "grow"),
        ("", 'mode = "all"\ngrow = 0.2', "grow"),
    ):
        path.write_text(f"[recipe.mix]\n{mixing}\n[recipe.tune]\n{tuning}\n")
        with pytest.raises(Invalid, match=rf"\[recipe\.tune\] {key}"):
            recipes_of(plan(returned, Request(recipes=read_recipes(path))))
    path.write_text('[recipe.mix]\nsplit = 2\n[recipe.tune]\nstart = "random"\n')
    assert recipes_of(plan(returned, Request(recipes=read_recipes(path))))[0].split == 2


@pytest.mark.parametrize(
    ("recipes", "tuned", "taken_over"),
    [
        ("[recipe.mix]", "router", True),
        ("[recipe.mix]", "all", False),  # its expert files are no member's own any more
        ('[recipe.mix]\nsplit = 2\n[recipe.tune]\nstart = "random"', "router", False),
        ('[recipe.mix]\nblend = true\n[recipe.tune]\nstart = "random"', "router", False),
        # Llama's mixture is of another class then, with other names for its experts.
        ('[recipe.mix]\nrouting = "switch"', "router", False),
        ('[recipe.mix]\nrouting = "soft"', "router", True),
    ],
)
def test_expert_files_are_taken_over_where_they_are_the_members_own_and_laid_out_alike(
    returned: Workspace, tmp_path: Path, recipes: str, tuned: str, taken_over: bool
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipes)
    planned = plan(returned, Request(recipes=read_recipes(path)))
    build = returned.catalog.get("build/1", BuildFacts).facts
    assert _keeps_members(build.model_copy(update={"tuned": tuned}), planned) is taken_over


def test_a_routing_that_the_seed_s_family_has_not_is_refused_before_the_gate_is_asked(
    own_story: Workspace, tmp_path: Path
) -> None:
    config = own_story.root / "seeds/base/1/config.json"
    granite = json.loads(config.read_text()) | {"model_type": "granite"}
    config.unlink()
    config.write_text(json.dumps(granite))
    path = tmp_path / "recipe.toml"
    path.write_text('[recipe.mix]\nrouting = "switch"\n')
    head = own_story.catalog.head()
    for job in (look_ahead, rebuild):
        with pytest.raises(Unsupported, match="granite, routing switch"):
            job(own_story, Request(recipes=read_recipes(path)))
    assert own_story.catalog.head() == head


@pytest.mark.slow
def test_another_routing_composes_experts_anew(own_story: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[recipe.mix]\nrouting = "switch"\n[recipe.tune]\nsteps = 2\n')
    assert rebuild(own_story, Request(recipes=read_recipes(path))).build == "build/2"


@pytest.mark.slow
@pytest.mark.parametrize(
    "wishes", [("--without code", "--without math"), ("--without code", "--without code")]
)
def test_of_two_rebuilds_at_once_one_waits_and_both_end_well(
    own_story: Workspace, wishes: tuple[str, str], btx: Any
) -> None:
    running = [start(own_story.root, "rebuild", *wish.split(), "--json") for wish in wishes]
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    waited = [
        number
        for number, (_, errors) in enumerate(said)
        if "waiting: btx rebuild (process" in errors
    ]
    assert len(waited) == 1, said
    assert f"process {running[1 - waited[0]].pid}" in said[waited[0]][1], "told who holds it"
    answers = [json.loads(answer) for answer, _ in said]
    first, second = answers[1 - waited[0]], answers[waited[0]]
    assert (first["build"], first["status"]) == ("build/2", "evaluated")
    assert (second["build"], second["status"]) == (
        ("build/2", "unchanged") if wishes[0] == wishes[1] else ("build/3", "evaluated")
    )
    for answer in answers:
        audited = btx(own_story.root, "audit", answer["build"], "--recompute")
        assert audited.returncode == 0, audited.stdout
    left = {
        f"expert/{wish.split()[1]}@1": answer["build"]
        for wish, answer in zip(wishes, answers, strict=True)
    }
    for expert, made in left.items():
        facts = own_story.catalog.get(made, BuildFacts).facts
        assert expert not in {member.ref for member in facts.members}
    assert "up to date" in dvc(own_story.root, "status")


@pytest.mark.slow
def test_ctrl_c_while_tuning_stops_every_process_and_the_same_command_goes_on(
    own_story: Workspace,
) -> None:
    settings = own_story.root / "btx.toml"
    settings.write_text(
        settings.read_text().replace(
            "[recipe.tune]\nsteps = 20", "[recipe.tune]\nsteps = 400\nsave_every = 10"
        )
    )
    running = start(own_story.root, "rebuild", "--json")
    saved = own_story.work / ".tuned.training"
    while not list(saved.glob("*/run.json")):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    answer, said = running.communicate()
    assert (running.returncode, json.loads(answer)["error"]["kind"]) == (130, "Interrupted"), said
    assert "Interrupted: stage tune" in said
    assert "Traceback" not in said
    assert not own_story.being_written, "nothing goes on in the background"
    assert not (own_story.root / "builds/2").exists()
    assert audit(own_story, "build/1").findings == ()
    ran = [event.read(StageRan) for event in own_story.catalog.events("build/2", "stage")]
    states = [(body.stage, body.state) for body in ran]
    assert states == [
        ("mix", "started"),
        ("mix", "ended"),
        ("tune", "started"),
        ("tune", "interrupted"),
    ]
    state = max(saved.glob("*/run.json"))
    reached = json.loads(state.read_text())["step"]
    state.write_text(
        json.dumps(json.loads(state.read_text()) | {"curve": [[reached, 99.0]]})
    )  # a mark, to be found again
    again = start(own_story.root, "rebuild", "--json")
    answer, said = again.communicate()
    assert again.returncode == 0, said
    assert json.loads(answer)["ran"] == ["tune", "evaluate"]
    assert json.loads((own_story.work / "tuned/btx-tune.json").read_text())["curve"][0] == [
        reached,
        99.0,
    ], "from where it was"
    assert audit(Workspace.find(own_story.root), "build/2", RECOMPUTE).findings == ()


def start(root: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The command as a user starts it, so that Ctrl-C reaches it.

    Tests in the background ignore the signal, and would hand that on.
    """
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("btx")), *arguments],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def expert(name: str) -> Version[ExpertFacts]:
    return Version(parse(f"expert/{name}@1"), "", "", "", "{}")


def snapshot(number: int, slots_of: dict[str, int]) -> Version[SnapshotFacts]:
    members = tuple(Member(ref=f"expert/{name}@1", slot=slot) for name, slot in slots_of.items())
    stored = SnapshotFacts(members=members).model_dump_json()
    return Version(parse(f"snapshot/main@{number}"), "", "", "", stored)


@pytest.mark.parametrize(
    ("history", "wanted", "expected"),
    [
        ([], "a b", {"a": 1, "b": 2}),
        ([{"a": 1, "b": 2}], "b c", {"b": 2, "c": 3}),
        (
            [{"a": 1, "b": 2}, {"b": 2}],
            "a b",
            {"a": 1, "b": 2},
        ),  # brought back: its old place, so its old shard
        (
            [{"a": 1, "b": 2}, {"a": 1, "c": 2}],
            "a b c",
            {"a": 1, "c": 2, "b": 3},
        ),  # its place is taken
    ],
)
def test_an_expert_keeps_the_slot_it_last_had(
    history: list[dict[str, int]], wanted: str, expected: dict[str, int]
) -> None:
    before = [snapshot(number, slots_of) for number, slots_of in enumerate(history, start=1)]
    found = slots(before, {name: expert(name) for name in wanted.split()})
    assert {member.version.ref.name: member.slot for member in found} == expected


def test_a_forecast_is_scaled_from_builds_of_its_own_seed(own_story: Workspace) -> None:
    past = own_story.catalog.get("build/1", BuildFacts)
    other = past.facts.model_copy(update={"seed": "seed/large@1", "line": "large"})
    own_story.catalog.register("", other)
    assert look_ahead(own_story, Request(without=("code",))).measured_on == "build/1"
