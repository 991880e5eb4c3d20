"""Bytes are proven at every door, and restored from any whole copy."""

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import gates
from pipelines.jobs.add_data import add_data
from pipelines.jobs.archive import dump
from pipelines.jobs.audit import AuditRequest, audit
from pipelines.jobs.build_plan import Request
from pipelines.jobs.explain import explain
from pipelines.jobs.export import ExportRequest, export
from pipelines.jobs.rebuild import look_ahead, rebuild
from pipelines.jobs.release import release
from pipelines.jobs.repair import repair
from pipelines.jobs.train import look_ahead as train_ahead
from pipelines.jobs.train import train
from pipelines.jobs.withdraw import withdraw
from pipelines.jobs.write_report import report
from pipelines.stages.dvc_runs import StageFailed
from pipelines.workspace.given_facts import GivenFacts
from pipelines.workspace.workspace import Workspace, create
from registry.digest import sha256_file
from registry.errors import Conflict, Damaged, Invalid, Refused
from registry.governance import changes, keys
from registry.records.facts import DataStatement
from registry.records.kinds import Gate, Kind

SHARD = "builds/1/model-expert-math.safetensors"


def flip(path: Path) -> None:
    """Change one byte in place: every hard link of the file changes with it."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(mode)


def cut(path: Path) -> None:
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-1])


def remove(path: Path) -> None:
    path.unlink()


def another(path: Path) -> None:
    """Put a file there that nobody registered: a loader may prefer it."""
    shutil.copyfile(path, path.with_name("model.safetensors"))


def lead_out(path: Path) -> None:
    """Put a link to the same bytes there, whose target somebody exchanges later."""
    outside = path.parents[2] / "outside.safetensors"
    shutil.copyfile(path, outside)
    path.unlink()
    path.symlink_to(outside)


@pytest.fixture
def keyed(own_story: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    path = tmp_path / "own.pem"
    keys.new_key(own_story.catalog.actor, path)
    monkeypatch.setenv("BTX_KEY_FILE", str(path))
    return own_story


@pytest.mark.parametrize("damage", [flip, cut, remove, another, lead_out])
def test_a_damaged_build_goes_through_no_door_and_a_repair_opens_them(
    keyed: Workspace, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    doors: dict[str, Callable[[], object]] = {
        "export": lambda: export(keyed, "build/1", tmp_path / "out", ExportRequest(draft=True)),
        "release": lambda: release(keyed, "build/1"),
        "explain": lambda: explain(keyed, "build/1", "2 + 2 = 4"),
        "report": lambda: report(keyed, "build/1", "in-toto", sign=True),
    }
    damage(keyed.root / SHARD)
    assert {one.check for one in audit(keyed, "build/1").findings} & {"files"}
    head = keyed.catalog.head()
    for name, door in doors.items():
        with pytest.raises(Damaged) as refused:
            door()
        assert "build" in refused.value.subject, name
        assert refused.value.next == "btx repair"
    assert (keyed.catalog.head(), (tmp_path / "out").exists()) == (head, False)
    if damage is another:
        (keyed.root / SHARD).with_name("model.safetensors").unlink()
    elif damage is flip:
        # The inode is shared by the store and DVC's cache: no other copy of these bytes is left.
        assert repair(keyed, "build/1").lost
        return
    else:
        assert [file.path for file in repair(keyed, "build/1").repaired] == [
            str(keyed.root / SHARD)
        ]
    with pytest.raises(Refused, match="release/second-person"):
        doors.pop("release")()
    for door in doors.values():
        door()
    assert audit(keyed, "build/1").findings == ()


@pytest.mark.parametrize("part", ["data/code/1", "seeds/base/1", "experts/math/1"])
def test_a_flipped_byte_is_in_nothing_that_is_trained_or_built(
    own_story: Workspace, part: str
) -> None:
    files = sorted(path for path in (own_story.root / part).rglob("*") if path.is_file())
    flip(max(files, key=lambda path: path.stat().st_size))
    ref = part.replace("s/", "/").rpartition("/")[0]
    use: Callable[[], object] = partial(train, own_story, {"again": "data/code"})
    if part.startswith("experts"):
        use = partial(rebuild, own_story, Request(without=("code",)))
    with pytest.raises((Damaged, StageFailed), match=ref):
        use()
    assert own_story.catalog.next_version(Kind.EXPERT, "again") == 1
    assert not (own_story.root / "builds/2").exists()


def test_a_flipped_byte_is_restored_everywhere_from_one_whole_copy(
    own_story: Workspace, btx: Any, tmp_path: Path
) -> None:
    """Store, folder, build and DVC's cache share the inode; the copy lies in another build."""
    shard = own_story.root / SHARD
    wanted = sha256_file(shard)
    copy = tmp_path / "copy"
    shutil.copyfile(shard, copy)
    flip(shard)
    assert {finding.check for finding in audit(own_story, "build/1").findings} >= {"files"}
    # A colleague brings the object back into the store.
    stored = own_story.store.path(wanted)
    stored.unlink()
    shutil.copyfile(copy, stored)
    done = btx(own_story.root, "repair", "build/1", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["lost"]) == (0, [])
    assert answer["repaired"]
    assert sha256_file(shard) == wanted
    for path in (own_story.root / ".dvc/cache/files/md5").glob("*/*"):
        if not path.name.endswith(".dir"):
            import hashlib

            md5 = hashlib.md5(path.read_bytes()).hexdigest()
            assert md5 == path.parent.name + path.name
    assert audit(own_story, None).findings == ()
    again = json.loads(btx(own_story.root, "repair", "--json").stdout)
    assert (again["repaired"], again["lost"]) == ([], [])


def test_data_is_restored_from_dvcs_remote_and_what_has_no_copy_is_named(
    own_story: Workspace, btx: Any, tmp_path: Path
) -> None:
    import subprocess
    import sys

    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        subprocess.run(command, cwd=own_story.root, check=True, capture_output=True)

    dvc("remote", "add", "--default", "elsewhere", str(tmp_path / "remote"))
    dvc("push", "data/math/1.dvc")
    path = next(
        path for path in sorted((own_story.root / "data/math/1").rglob("*")) if path.is_file()
    )
    wanted = sha256_file(path)
    flip(path)
    answer = repair(own_story, "data/math@1")
    assert (len(answer.lost), sha256_file(path)) == (0, wanted)
    other = next(
        path for path in sorted((own_story.root / "data/code/1").rglob("*")) if path.is_file()
    )
    flip(other)
    done = btx(own_story.root, "repair")
    assert done.returncode == 1
    assert "register it again from its source: btx data add" in done.stdout
    assert {finding.check for finding in audit(own_story, None).findings} == {"files"}


def test_a_dump_says_what_it_left_out(tiny_corpora: Path, tmp_path: Path, btx: Any) -> None:
    workspace = create(tmp_path / "workspace")
    stated = DataStatement(license="CC0-1.0", source="s", holder="h", purpose="p", pii="none")
    (lost, *_) = add_data(workspace, "math", tiny_corpora / "math", stated).files
    assert dump(workspace, tmp_path / "whole").missing == ()
    (workspace.root / "data/math/1" / lost.path).unlink()
    done = btx(workspace.root, "registry", "dump", str(tmp_path / "out"))
    assert "left out   1 file that nothing here holds" in done.stdout
    assert lost.sha256 in (tmp_path / "out/registry.json").read_text()


def test_an_export_wants_a_released_build_or_says_that_it_is_a_draft(
    own_story: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="export-released/released"):
        export(own_story, "build/1", tmp_path / "out")
    export(own_story, "build/1", tmp_path / "draft", ExportRequest(draft=True))
    assert "not released" in (tmp_path / "draft/DRAFT").read_text()
    row = own_story.catalog.get("export/build-1@1")
    assert json.loads(row.stored)["draft"] is True


@pytest.mark.parametrize("part", ["builds/1", "data/math/1", "experts/math/1"])
def test_a_link_in_the_place_of_a_versions_folder_is_refused_found_and_replaced(
    own_story: Workspace, tmp_path: Path, part: str
) -> None:
    """Its bytes are equal until somebody exchanges them."""
    folder, outside = own_story.root / part, tmp_path / "outside"
    shutil.move(folder, outside)
    folder.symlink_to(outside)
    ref = part.replace("builds", "build").replace("experts", "expert").replace("math/", "math@")
    assert [one.check for one in audit(own_story, ref).findings] == ["files"]
    if part == "builds/1":
        with pytest.raises(Damaged, match="link"):
            export(own_story, ref, tmp_path / "out", ExportRequest(draft=True))
    shutil.rmtree(outside)
    assert repair(own_story, ref).lost == ()
    assert not folder.is_symlink()
    assert audit(own_story, ref).findings == ()


@pytest.mark.parametrize("part", ["seeds/base/1/merges.txt", "data/math/1/more.txt"])
def test_a_pipe_among_registered_files_is_waited_for_by_nobody(
    own_story: Workspace, part: str
) -> None:
    pipe = own_story.root / part
    os.mkfifo(pipe)
    found = audit(own_story, "expert/math@1").findings
    assert [one.subject.rpartition(", ")[2] for one in found] == [str(pipe)]
    for use in (
        lambda: train_ahead(own_story, {"math": "data/math"}),
        lambda: train(own_story, {"math": "data/math"}),
        lambda: train_ahead(own_story, {"again": "data/math"}),
    ):
        with pytest.raises(Damaged, match=pipe.name):
            use()


def test_an_audit_reads_nothing_through_a_link_that_leads_out(
    own_story: Workspace, tmp_path: Path
) -> None:
    """Equal bytes there would pass for the seed's, had they been read."""
    weights, pointer = own_story.root / "seeds/base/1/model.safetensors", "data/math/1.dvc"
    for path in (weights, own_story.root / pointer):
        shutil.copyfile(path, tmp_path / path.name)
        path.unlink()
        path.symlink_to(tmp_path / path.name)
    found = audit(own_story, "build/1", AuditRequest(recompute=True)).findings
    assert {one.check for one in found} == {"files", "tensors", "dvc", "recompute"}
    (dvc,) = [one for one in found if one.check == "dvc"]
    assert dvc.found == f"a link to {tmp_path / '1.dvc'}"


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("md5: {md5}", "md5: 00000000000000000000000000000000.dir"),
        ("md5: {md5}", "etag: {md5}"),
        ("  hash: md5", "  hash: etag"),
        ("  path: '1'", "  path: ../../elsewhere"),
        ("  path: '1'", "  path: '1'\n  remote: a-strangers"),
        ("  path: '1'", "  path: '1'\n  push: false"),
        ("  path: '1'", "  path: '1'\n- md5: 0123\n  path: ../../.ssh"),
        ("outs:", "deps:\n- path: https://elsewhere.example/corpus\nouts:"),
        ("outs:", "cmd: touch pwned\nouts:"),
        ("outs:", "wdir: ../../..\nouts:"),
        ("outs:", "\x80 no text"),
        ("outs:", "outs: " + "[" * 100_000),
        (None, None),
    ],
)
def test_a_dvc_file_that_leads_other_machines_to_other_bytes_is_found(
    own_story: Workspace, line: str | None, instead: str | None
) -> None:
    path = own_story.root / "data/math/1.dvc"
    whole = path.read_text()
    (md5,) = re.findall(r"md5: (\S{32}\.dir)", whole)
    path.unlink()
    if line is not None and instead is not None:
        changed = whole.replace(line.format(md5=md5), instead.format(md5=md5))
        assert changed != whole
        path.write_bytes(changed.encode("latin-1"))
    (finding,) = audit(own_story, "data/math@1").findings
    assert (finding.check, finding.subject) == ("dvc", "data/math@1, data/math/1.dvc")
    path.unlink(missing_ok=True)
    path.write_text(whole + "desc: looked at by us\n")
    assert audit(own_story, "data/math@1").findings == ()


def test_a_plan_says_what_the_gate_would_refuse(own_story: Workspace) -> None:
    assert look_ahead(own_story, Request(without=("code",))).refused_by == ()
    withdraw(own_story, "data/code@1", "consent ended")
    for request in (Request(with_=("code@1",)), Request(to="build/1")):
        rules = plan_and_gate(own_story, request)
        assert rules == ["standing/members", "standing/data"]


def test_a_plan_asks_about_the_build_that_the_rebuild_asks_about(
    own_story: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    question = gates.question

    def noted(workspace: Workspace, of: Gate, subject: str, *rest: Any) -> Any:
        asked.append(subject)
        return question(workspace, of, subject, *rest)

    monkeypatch.setattr(gates, "question", noted)
    # A number that lies here, with or without a row, is given to no other build.
    (own_story.root / "builds/4").mkdir()
    withdraw(own_story, "data/code@1", "consent ended")
    plan_and_gate(own_story, Request(to="build/1"))
    assert asked == ["build/5", "build/5"]


def test_a_plan_checks_the_facts_that_are_stated_as_the_rebuild_does(own_story: Workspace) -> None:
    unknown = own_story.stating(GivenFacts(("colour=red",)))
    other = own_story.stating(GivenFacts(("model_name=Ada",)))
    for run in (look_ahead, rebuild):
        with pytest.raises(Invalid, match="colour"):
            run(unknown)
        with pytest.raises(Conflict, match="btx fact set build/1 model_name"):
            run(other)
        assert run(own_story).status == "unchanged"
    for run in (train_ahead, train):
        with pytest.raises(Invalid, match="colour"):
            run(unknown, {"math": "data/math"}, anyway=True)


def test_a_plan_says_who_may_not_and_by_which_policies(
    own_story: Workspace, tmp_path: Path
) -> None:
    request = Request(without=("code",))
    policy = own_story.policies / "standing.yaml"
    whole = policy.read_text()
    policy.write_text(whole.replace("validations:", "waivable: true\nvalidations:"))
    assert plan_and_gate(own_story, request) == ["gate/adopted"]
    policy.write_text(whole)
    pem = keys.public_pem(keys.new_key("ida", tmp_path / "ida.pem"))
    changes.change_actor(own_story.catalog, changes.Change("ida", ("auditor",), pem))
    assert plan_and_gate(own_story, request) == ["people/registrar", "people/key"]


def plan_and_gate(workspace: Workspace, request: Request) -> list[str]:
    """Return the rules that a plan names; the gate itself names the same."""
    named = [rule.partition(":")[0] for rule in look_ahead(workspace, request).refused_by]
    with pytest.raises(Refused) as refused:
        rebuild(workspace, request)
    lines = [line.strip().partition(":")[0] for line in str(refused.value).splitlines()[2:]]
    assert [line for line in lines if line != "next"] == named
    return named


def test_only_a_key_on_a_closed_list_signs_a_report(
    own_story: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = own_story.catalog.actor
    mine = keys.new_key(name, tmp_path / "mine.pem")
    pem = keys.public_pem(mine)
    changes.change_actor(own_story.catalog, changes.Change(name, ("auditor", "registrar"), pem))
    keys.new_key(name, tmp_path / "any.pem")
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "any.pem"))
    with pytest.raises(Refused, match="on the list of actors"):
        report(own_story, "data/math@1", "in-toto", sign=True)
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "mine.pem"))
    assert report(own_story, "data/math@1", "in-toto", sign=True).text


@pytest.mark.parametrize(
    "address",
    ["xx{elsewhere}", "../../../../../../..{elsewhere}", "[" * 100_000, "null"],
    ids=["absolute", "relative", "deep", "none"],
)
def test_a_repair_goes_nowhere_that_a_list_in_the_cache_names(tmp_path: Path, address: str) -> None:
    workspace = create(tmp_path / "workspace")
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a sentence of this corpus\n" * 40)
    said = DataStatement(license="MIT", source="s", pii="none")
    version = add_data(workspace, "math", source, said)
    kept = tmp_path / "kept.txt"
    kept.write_text("nothing of the workspace")
    assert version.facts.dvc is not None
    md5 = version.facts.dvc.md5 or ""
    listing = workspace.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    listing.unlink()
    named = address.format(elsewhere=kept) if "{" in address else None
    entries = json.dumps([{"relpath": "a.txt", "md5": named}]) if named else address
    listing.write_text(entries)
    flip(workspace.root / "data/math/1/a.txt")
    answer = repair(workspace)
    assert kept.read_text() == "nothing of the workspace"
    assert [Path(one.path).name for one in answer.lost] == ["a.txt"]
