"""The registry as a whole.

It is carried out and in again, cleaned up, searched, and its head is kept outside.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.add_data import add_data
from pipelines.jobs.archive import collect, dump, load
from pipelines.jobs.audit import AuditRequest, audit
from pipelines.jobs.withdraw import withdraw
from pipelines.workspace.workspace import Workspace, create
from registry.catalogue import insert_only, pins
from registry.catalogue.audit_log import Link
from registry.errors import Invalid
from registry.governance import changes, keys
from registry.records.answers.upkeep import CollectAnswer
from registry.records.facts import BuildFacts, DataFacts, DataStatement, SnapshotFacts
from registry.records.kinds import Mode

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_workspace_comes_back_from_plain_files_alone(
    own_story: Workspace, tmp_path: Path
) -> None:
    about = dump(own_story, tmp_path / "out")
    assert about.missing == ()
    again = create(tmp_path / "again")
    (again.root / "btx.toml").write_text((own_story.root / "btx.toml").read_text())
    load(again, tmp_path / "out")
    assert again.catalog.head() == own_story.catalog.head()
    assert audit(again, "build/1", AuditRequest(recompute=True)).findings == ()
    for kind in ("data", "seeds", "experts", "builds"):
        for path in (
            path
            for path in (own_story.root / kind).rglob("*")
            if path.is_file() and path.name != ".gitignore"
        ):
            assert (again.root / path.relative_to(own_story.root)).read_bytes() == path.read_bytes()
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "data", "status", "--json"],
        cwd=again.root,
        capture_output=True,
        text=True,
    )
    assert "uncommitted" not in json.loads(status.stdout or "{}"), status.stdout


EDITED = {
    "provenance.json": (
        "[]",
        '{"tensors": []}',
        '{"tensors": {"a": {}}}',
        '{"tensors": {"a": {"file": 1, "rule": "take", "sources": []}}}',
        "null",
        "[" * 100_000,
        "9" * 6000,
    ),
    "config.json": ("[]", '{"num_hidden_layers": "two"}', "{", '{"a":' * 100_000),
    "model.safetensors.index.json": ("[]", '{"weight_map": {"a": "../../x"}}', "null"),
}


def test_an_edited_file_of_a_build_is_a_finding_whatever_is_in_it(own_story: Workspace) -> None:
    for name, texts in EDITED.items():
        path = own_story.root / "builds/1" / name
        whole = path.read_bytes()
        path.unlink()
        for text in texts:
            path.write_text(text)
            named = [one.subject for one in audit(own_story, "build/1").findings]
            assert any(name in subject for subject in named), (name, text[:40], named)
        path.write_bytes(whole)
    assert audit(own_story, "build/1").findings == ()


def cached(root: Path) -> set[str]:
    return {path.parent.name + path.name for path in (root / ".dvc/cache/files/md5").glob("*/*")}


def test_cleaning_up_takes_what_nothing_needs_and_guards_dvcs_own(
    own_story: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "stray").write_bytes(b"stray")
    stray = own_story.store.put(tmp_path / "stray")
    withdraw(own_story, "data/code@1", "test")
    (
        own_story.root / "data/math/1.dvc"
    ).unlink()  # DVC alone would now collect the bytes of data/math@1
    needed, stored = own_story.catalog.needed(), set(own_story.store.objects())
    expected = CollectAnswer(deleted=(stray,), restored=("data/math@1",))
    # What was put there a moment ago may be a registration's that is under way.
    assert collect(own_story, dry_run=True).deleted == ()
    assert collect(own_story, dry_run=True, grace_s=0) == expected
    assert own_story.store.has(stray)
    assert collect(own_story, grace_s=0) == expected
    assert set(own_story.store.objects()) == stored - {stray}
    assert needed.md5 <= cached(own_story.root)
    subprocess.run(
        [sys.executable, "-m", "dvc", "gc", "--workspace", "--force", "--quiet"],
        cwd=own_story.root,
        check=True,
    )
    assert needed.md5 <= cached(own_story.root)
    assert {finding.check for finding in audit(own_story, "build/1").findings} == {"standing"}


def rewritten(root: Path) -> None:
    """What a patient owner of the file can do.

    Change an event, compute every link again, put the guards back.
    """
    connection = sqlite3.connect(root / ".btx/registry.db", isolation_level=None)
    for name in insert_only.triggers("sqlite"):
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(
        "UPDATE event SET actor = 'eve' "
        "WHERE seq = (SELECT MAX(seq) FROM event WHERE kind <> 'registered')"
    )
    prev = "0" * 64
    for seq, at, actor, kind, subject, body in connection.execute(
        "SELECT seq, at, actor, kind, subject, body FROM event ORDER BY seq"
    ).fetchall():
        digest = Link(seq, at, actor, kind, subject, body, prev).digest()
        connection.execute(
            "UPDATE event SET prev = ?, digest = ? WHERE seq = ?", (prev, digest, seq)
        )
        prev = digest
    for text in insert_only.triggers("sqlite").values():
        connection.execute(text)
    connection.close()


def test_a_log_written_anew_is_caught_by_each_kept_head(
    own_story: Workspace, btx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTX_ACTOR", "dora")
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "dora.pem"))
    pem = keys.public_pem(keys.new_key("dora"))
    (tmp_path / "dora.pub").write_text(pem)
    changes.change_actor(own_story.catalog, changes.Change("dora", ("auditor",), pem))
    for options in (["-o", "plain.json"], ["--sign", "-o", "signed.json"]):
        assert btx(own_story.root, "registry", "head", *options).returncode == 0
    subprocess.run(
        [
            "git",
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "commit",
            "-q",
            "--allow-empty",
            "-m",
            "x",
        ],
        cwd=own_story.root,
        check=True,
    )
    note = btx(own_story.root, "registry", "head", "--json").stdout
    for _ in range(2):
        noted = ["notes", "--ref=btx", "append", "-m", note]
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", *noted],
            cwd=own_story.root,
            check=True,
            capture_output=True,
        )
    shown = subprocess.run(
        ["git", "notes", "--ref=btx", "show"],
        cwd=own_story.root,
        capture_output=True,
        text=True,
        check=True,
    )
    (own_story.root / "noted.json").write_text(shown.stdout)
    digest = json.loads(note)["head"]
    kept = [
        ["plain.json"],
        ["signed.json", "--key", str(tmp_path / "dora.pub")],
        ["signed.json"],
        ["noted.json"],
        [digest],
    ]
    for words in kept:
        assert btx(own_story.root, "audit", "build/1", "--head", *words).returncode == 0, words
    own_story.catalog.close()
    rewritten(own_story.root)
    for words in kept:
        done = btx(own_story.root, "audit", "build/1", "--head", *words, "--json")
        assert "log" in {finding["check"] for finding in json.loads(done.stdout)["findings"]}, (
            words,
            done.stderr,
        )
    newest = "SELECT digest FROM event ORDER BY seq DESC LIMIT 1"
    ((head,),) = sqlite3.connect(own_story.root / ".btx/registry.db").execute(newest).fetchall()
    forged = json.loads((own_story.root / "signed.json").read_text()) | {"head": head}
    (own_story.root / "forged.json").write_text(json.dumps(forged))
    assert "signed head" in btx(own_story.root, "audit", "build/1", "--head", "forged.json").stdout
    done = btx(own_story.root, "audit", "build/1", "--head", "nothing")
    assert (done.returncode, "btx registry head" in done.stderr) == (2, True)


def test_a_withdrawal_reaches_what_was_exported(
    own_story: Workspace, btx: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert btx(own_story.root, "export", "build/1", str(out), "--draft").returncode == 0
    assert btx(own_story.root, "audit", "export/build-1@1").returncode == 0
    done = btx(own_story.root, "withdraw", "data/code@1", "--why", "the holder withdrew consent")
    assert f"reached export/build-1@1   in {out}" in done.stdout
    assert "reached build/1   removal: rebuild" in done.stdout
    (row,) = json.loads(
        btx(own_story.root, "list", "exports", "--data", "data/code", "--json").stdout
    )
    assert (row["status"], row["folder"]) == ("tainted", str(out))
    weights = max(out.iterdir(), key=lambda path: path.stat().st_size)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    assert str(weights) in btx(own_story.root, "audit", "export/build-1@1").stdout


def test_a_withdrawal_names_the_rebuild_of_each_line_that_cures_it(own_story: Workspace) -> None:
    catalog = own_story.catalog
    first = catalog.get("build/1", BuildFacts).facts
    for content, line in (("2", "support"), ("3", "main")):
        facts = first.model_copy(update={"line": line, "content": content})
        catalog.register("", facts, parents=[(first.snapshot or "", "composed_from")])
    empty = SnapshotFacts(mode=Mode.ANCHORED, members=())
    clean = catalog.register("eu", empty, parents=[("seed/base", "seed")])
    facts = first.model_copy(update={"line": "eu", "members": ()})
    catalog.register("", facts, parents=[(clean.ref, "composed_from")])
    cure = withdraw(own_story, "data/code@1", "test").next
    assert cure == "btx rebuild && btx rebuild --line support"
    facts = first.model_copy(update={"content": "5"})
    catalog.register("", facts, parents=[(clean.ref, "composed_from")])
    cure = withdraw(own_story, "data/code@1", "test").next
    assert cure == "btx rebuild --line support", "main has a clean build since"
    cure = withdraw(own_story, "expert/math@1", "test").next
    assert cure is not None
    assert cure.startswith("no usable expert is left: btx train")


FOUND: list[tuple[list[str], list[str]]] = [
    (["experts", "--domain", "math"], ["expert/math@1"]),
    (["builds", "--domain", "math"], ["build/1"]),
    (["experts", "--license", "cc0-1.0"], ["expert/code@1", "expert/math@1"]),
    (["experts", "--license", "MIT"], []),
    (["experts", "--holder", "nobody"], ["expert/code@1", "expert/math@1"]),
    (["experts", "--data", "data/code"], ["expert/code@1"]),
    (["experts", "--seed", "seed/base@1", "--name", "math"], ["expert/math@1"]),
    (["experts", "--metric", "bits_per_byte<100"], ["expert/code@1", "expert/math@1"]),
    (["experts", "--metric", "math.bits_per_byte<100"], ["expert/math@1"]),
    (["experts", "--metric", "math@1.bits_per_byte<100"], ["expert/math@1"]),
    (["builds", "--metric", "bits_per_byte<100"], ["build/1"]),
    (["builds", "--metric", "math.bits_per_byte<100"], ["build/1"]),
    (["builds", "--metric", "math@1.bits_per_byte<100"], ["build/1"]),
    (["builds", "--metric", "math@2.bits_per_byte<100"], []),
    (["builds", "--metric", "math.bits_per_byte<0.001"], []),
    (["data", "--since", "2020-01-01", "--until", "2020-01-02"], []),
    (["data", "--since", "2020-01-01"], ["data/code@1", "data/math@1", "data/prose@1"]),
]


@pytest.mark.parametrize(("words", "refs"), FOUND, ids=[" ".join(words) for words, _ in FOUND])
def test_list_finds_by_what_a_version_is_made_of(
    story: Any, btx: Run, words: list[str], refs: list[str]
) -> None:
    done = btx(story.root, "list", *words, "--json")
    assert done.returncode == 0, done.stderr
    assert [row["ref"] for row in json.loads(done.stdout)] == refs


def test_list_finds_the_version_that_holds_a_file(story: Any, btx: Run) -> None:
    digest = Workspace.find(story.root).catalog.get("data/math").files[0].sha256
    assert [
        row["ref"]
        for row in json.loads(
            btx(story.root, "list", "data", "--digest", digest[:12], "--json").stdout
        )
    ] == ["data/math@1"]
    assert btx(story.root, "list", "experts", "--metric", "about 7").returncode == 2


@pytest.mark.slow
def test_a_head_stays_its_signers_though_they_have_another_key_by_now(
    btx: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = create(tmp_path / "w").root
    monkeypatch.setenv("BTX_ACTOR", "dora")
    for name in ("old", "new", "other"):
        keys.new_key("dora", tmp_path / f"{name}.pem")

    def does(key: str, *arguments: str) -> int:
        monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / f"{key}.pem"))
        return btx(root, *arguments).returncode

    old, new = (str(tmp_path / f"{name}.pub") for name in ("old", "new"))
    assert does("old", "actor", "add", "dora", "--role", "auditor", "--public-key", old) == 0
    for key in ("old", "other"):
        assert does(key, "registry", "head", "--sign", "-o", f"{key}.json") == 0
    assert does("old", "actor", "rotate", "dora", "--public-key", new, "--why", "a new laptop") == 0
    assert does("new", "registry", "head", "--sign", "-o", "new.json") == 0
    statuses = {name: does("new", "audit", "--head", f"{name}.json") for name in ("old", "new")}
    assert statuses == {"old": 0, "new": 0}
    assert does("new", "audit", "--head", "other.json") == 4


def test_of_what_was_withdrawn_an_audit_tells_no_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = create(tmp_path / "w")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("a letter\n" * 50)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    stated = DataStatement(license="MIT", source="s", pii="none", retain_until=tomorrow)
    add_data(workspace, "letters", tmp_path / "letters", stated)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=3)

    monkeypatch.setattr("pipelines.jobs.audit.datetime", Later)
    (found,) = audit(workspace, None).findings
    assert (found.check, found.next) == ("due", "btx withdraw data/letters@1")
    withdraw(workspace, "data/letters@1", "its date came")
    assert {one.check for one in audit(workspace, None).findings} == {"standing"}


def test_a_head_of_a_registry_that_was_at_this_address_before_says_where_it_is_kept(
    tmp_path: Path, btx: Run
) -> None:
    def made(text: str) -> Workspace:
        workspace = create(tmp_path / "w")
        folder = tmp_path / text
        folder.mkdir()
        (folder / "a.txt").write_text(f"{text}\n" * 50)
        stated = DataStatement(license="MIT", source="s", pii="none")
        add_data(workspace, "letters", folder, stated)
        return workspace

    first = made("one")
    withdraw(first, "data/letters@1", "a mistake")
    kept = pins.file_of(first.catalog)
    first.catalog.close()
    shutil.rmtree(first.root)
    second = made("two")
    (found,) = audit(second, None).findings
    assert (found.check, found.subject) == ("log", "log")
    assert f"in {kept}" in found.expected
    kept.unlink()
    assert audit(second, None).findings == ()


def test_a_head_that_was_half_written_is_told_and_the_next_one_has_a_line_of_its_own(
    tmp_path: Path,
) -> None:
    workspace = create(tmp_path / "w")
    catalog = workspace.catalog
    for name in ("law", "art"):
        catalog.register(name, DataFacts(license="MIT"))

    def found() -> set[tuple[str, str]]:
        findings = audit(workspace, None).findings
        return {(one.check, one.subject) for one in findings if one.check in ("heads", "log")}

    withdraw(workspace, "data/law@1", "a crash comes")
    path, head = pins.file_of(catalog), catalog.head()
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    assert found() == {("heads", f"{path}, line 2")}
    path.write_text(whole.replace(head, "1" * 64) + whole[:40])
    assert found() == {("heads", f"{path}, line 2"), ("log", "log")}, "the whole line is used"
    path.write_text(whole + whole[:40])
    withdraw(workspace, "data/art@1", "after the crash")
    assert [one.head for one in pins.pinned(catalog)] == [head, catalog.head()]
    assert found() == set()
    path.write_text(path.read_text().removesuffix("\n"))
    pins.pin(catalog)
    assert len(pins.pinned(catalog)) == 3, "all but the end of the line was written"
    assert found() == set()


def test_a_given_file_of_heads_is_read_as_the_pinned_ones_are(tmp_path: Path) -> None:
    workspace = create(tmp_path / "w")
    workspace.catalog.register("law", DataFacts(license="MIT"))
    whole = json.dumps({"seq": 1, "head": workspace.catalog.head()}, indent=1) + "\n"
    wrong = whole.replace(workspace.catalog.head(), "1" * 64)
    file = tmp_path / "heads.json"

    def found(text: str) -> set[tuple[str, str]]:
        file.write_text(text)
        findings = audit(workspace, None, AuditRequest(head=str(file))).findings
        return {(one.check, one.subject) for one in findings if one.check in ("heads", "log")}

    torn = whole[:2] + whole[3:30]
    assert found(whole + whole.rstrip() + whole) == set(), "heads end where they end"
    for half in ('{"seq": 2, "he', "\0\0\0", '"head"', "[" * 100_000):
        assert found(f"{whole}\n{half}") == {("heads", f"{file}, line 6")}
    assert found(half + "\n" + wrong) == {("heads", f"{file}, line 1"), ("log", "log")}
    for text in ("", torn, "no head"):
        with pytest.raises(Invalid, match="64 hexadecimal digits, or a file of heads"):
            found(text)


def test_a_second_withdrawal_tells_the_reason_that_stands(tmp_path: Path) -> None:
    workspace = create(tmp_path / "w")
    workspace.catalog.register("law", DataFacts(license="MIT"))
    for why in ("consent ended", "another reason"):
        assert withdraw(workspace, "data/law@1", why).why == "consent ended"
