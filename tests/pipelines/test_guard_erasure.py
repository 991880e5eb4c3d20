"""What is erased is gone: from every file, at a known cost, by two persons, and for good."""

import base64
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from btx_core.columns import Unreadable
from pipelines.jobs import erase
from pipelines.jobs.add_data import add_data
from pipelines.jobs.archive import collect, dump, shred
from pipelines.jobs.audit import audit
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.register import register
from pipelines.jobs.repair import repair
from pipelines.jobs.train import train
from pipelines.workspace import folders
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Conflict, NotFound, Refused
from registry.governance import changes, cures, keys, people
from registry.governance.erasure import Selection
from registry.records.events import Erased, ErasureAsked
from registry.records.facts import BuildFacts, DataStatement, ExpertFacts, SeedFacts, SnapshotFacts
from registry.records.kinds import UNUSABLE

STATED = DataStatement(
    license="CC0-1.0", source="the test", holder="the state", purpose="tests", pii="none"
)
AUTHORS = ("ada", "bob", "cyd")
WHY = "consent of the person in question ended"
PIECE = 40


def text(chance: random.Random) -> str:
    """Return a document whose words no other document has."""
    words = ("".join(chance.choices("abcdefghiklmnoprstuvwy", k=6)) for _ in range(40))
    return " ".join(words)


def letters(folder: Path) -> Path:
    """Write letters of three authors: some in a file of many, some in files of their own."""
    chance = random.Random(3)
    lines: dict[str, list[str]] = {"2024.jsonl": [], "2025.jsonl": [], "heldout/some.jsonl": []}
    for number in range(24):
        for author in AUTHORS:
            line = {"text": text(chance), "id": f"{author}-{number}", "author": author}
            name = "heldout/some.jsonl" if number > 20 else f"202{4 + number % 2}.jsonl"
            if author == "ada" or name != "2025.jsonl":
                lines[name].append(json.dumps(line) + "\n")
    for name, several in lines.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(several))
    (folder / "bob.txt").write_text(text(chance))
    return folder


def of_author(folder: Path, author: str) -> list[str]:
    lines = [line for path in folder.rglob("*.jsonl") for line in path.read_text().splitlines()]
    read = [json.loads(line) for line in lines]
    return [line["text"] for line in read if line["author"] == author]


def needles(texts: list[str], tokenizer: Any = None) -> set[bytes]:
    """Return pieces of texts, as text and as the tokens that a training reads."""
    found = set()
    for whole in texts:
        pieces = [whole[start : start + PIECE] for start in range(0, len(whole) - PIECE, PIECE)]
        found |= {piece.encode() for piece in pieces}
        if tokenizer is not None:
            ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
            found.add(np.array(ids[10:30], dtype=np.uint16).tobytes())
    return found


def holding(roots: list[Path], wanted: set[bytes]) -> set[str]:
    """Return the files below some folders that hold one of these pieces of bytes."""
    found = set()
    for path in (path for root in roots for path in root.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if any(needle in content for needle in wanted):
                found.add(str(path))
    return found


@pytest.fixture
def sign_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Workspace, str], Any]:
    """Return a function that returns the workspace as a person opens it, key at hand."""

    def acting(workspace: Workspace, name: str) -> Workspace:
        monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / f"{name}.pem"))
        return workspace.acting_as(name)

    return acting


def close(workspace: Workspace, folder: Path) -> None:
    """Let ida keep the list of actors, with ann as registrar and ben as approver."""
    roles = {"ida": ("auditor",), "ann": ("registrar",), "ben": ("approver",)}
    ida = None
    for name, held in roles.items():
        signer = keys.new_key(name, folder / f"{name}.pem")
        ida = ida or signer
        catalog = workspace.acting_as("ida").catalog
        by = ida if people.is_closed(catalog) else None
        changes.change_actor(catalog, changes.Change(name, held, keys.public_pem(signer)), by)


def dvc(root: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace with data/letters@1, of which data/mail@1 holds a part, and nothing trained."""
    workspace = create(tmp_path / "workspace")
    source = letters(tmp_path / "letters")
    add_data(workspace, "letters", source, STATED)
    mail = tmp_path / "mail"
    mail.mkdir()
    lines = (source / "2024.jsonl").read_text().splitlines(keepends=True)
    (mail / "all.jsonl").write_text("".join(lines[:6]))
    (mail / "own.txt").write_text("Of these the holder knows.\n" * 20)
    add_data(workspace, "mail", mail, STATED)
    yield workspace
    workspace.catalog.close()


@pytest.mark.slow
def test_one_authors_documents_are_gone_from_every_file_at_the_cost_that_was_told(
    own_story: Workspace, tmp_path: Path, sign_as: Any, quiet: Any
) -> None:
    from transformers import AutoTokenizer

    root, remote = own_story.root, tmp_path / "remote"
    source = letters(own_story.work / "corpora/letters")
    close(own_story, tmp_path)
    ann = sign_as(own_story, "ann")
    add_data(ann, "letters", source, STATED)
    branch = train(ann, {"letters": "data/letters"})["letters"]
    register(
        ann,
        "letters",
        branch.folder,
        data=["data/letters@1"],
        seed="seed/base@1",
        show=quiet,
    )
    built = rebuild(ann).build
    dvc(root, "remote", "add", "--default", "elsewhere", str(remote))
    dvc(root, "push")
    gone, of_bob = of_author(source, "ada"), of_author(source, "bob")
    wanted = needles(gone, AutoTokenizer.from_pretrained(root / "seeds/base/1"))
    before = holding([root, remote], wanted)
    assert {path for path in before if f"/{folders.TOKENS}/" in path}
    assert {path for path in before if path.startswith(str(remote))}

    selection = Selection(ref="data/letters", author="ada")
    planned = erase.look_ahead(ann, selection)
    usable = {
        str(version.ref)
        for kind in (ExpertFacts, BuildFacts)
        for version in ann.catalog.versions(kind)
        if ann.catalog.status(version.ref) not in UNUSABLE
    }
    asked = erase.ask(ann, selection, WHY)
    assert holding([root, remote], wanted) >= before
    done = erase.confirm(sign_as(own_story, "ben"), asked.number or 0)

    assert done.cost == asked.cost == planned.cost
    lost = {ref for ref in usable if ann.catalog.status(ref) in UNUSABLE}
    assert lost == {one.ref for one in (*done.cost.experts, *done.cost.builds)}
    assert lost == {"expert/letters@1", built}
    assert done.cost.documents == len(gone)
    assert holding([root, remote], wanted) == set()
    assert [Path(path).parent for path in holding([root], {WHY.encode()})] == [own_story.private]
    answer = audit(ann, None)
    assert answer.findings == ()
    assert any("data/letters@1" in note and "ben" in note for note in answer.notes)
    assert str(ann.catalog.status("data/letters@1")) == "erased"

    again = sign_as(own_story, "ann")
    add_data(again, "letters", root / done.left[0], STATED)
    assert of_author(root / "data/letters/2", "bob") == of_bob
    answer = rebuild(again)
    assert again.catalog.status(answer.build or "") == "evaluated"
    assert holding([root, remote], wanted) == set()


def erased(workspace: Workspace, **selected: str) -> Any:
    """Let ann ask and ben confirm, on an open list of actors."""
    asked = erase.ask(workspace.acting_as("ann"), Selection(ref="data/letters@1", **selected), WHY)
    return erase.confirm(workspace.acting_as("ben"), asked.number or 0)


def test_every_version_that_holds_the_text_loses_it_and_keeps_the_rest(small: Workspace) -> None:
    gone = needles(of_author(small.root / "data/letters/1", "ada"))
    kept = needles(of_author(small.root / "data/letters/1", "cyd"))
    assert len(holding([small.root], gone)) > 4
    answer = erased(small, author="ada")
    assert answer.cost.versions == ("data/letters@1", "data/mail@1")
    assert holding([small.root], gone) == set()
    statuses = [str(small.catalog.status(ref)) for ref in answer.cost.versions]
    assert statuses == ["erased", "erased"]
    assert (small.root / "data/letters/1/bob.txt").is_file()
    assert (small.root / "data/mail/1/own.txt").is_file()
    assert answer.left == ("work/left/letters-1", "work/left/mail-1")
    places = {Path(path).relative_to(small.root).parts[:2] for path in holding([small.root], kept)}
    assert places == {("work", "left")}
    for name, folder in zip(("letters", "mail"), answer.left, strict=True):
        version = add_data(small, name, small.root / folder, STATED)
        assert str(version.ref) == f"data/{name}@2"
    assert audit(small, None).findings == ()


def build_line(workspace: Workspace, line: str, expert: str, data: str) -> None:
    """Register an expert of this data, and the build of a line that is made of it."""
    catalog = workspace.catalog
    catalog.register("base", SeedFacts(license="MIT"))
    facts = ExpertFacts(domain="letters", seed="seed/base@1", data=(data,))
    parents = [("seed/base@1", "branched_from"), (data, "trained_on")]
    ref = str(catalog.register(expert, facts, parents=parents).ref)
    parents = [("seed/base@1", "seed"), (ref, "member")]
    snapshot = catalog.register(line, SnapshotFacts(seed="seed/base@1"), parents=parents)
    built = BuildFacts(line=line, seed="seed/base@1", snapshot=str(snapshot.ref))
    catalog.register("", built, parents=[(snapshot.ref, "composed_from")])


def test_where_no_expert_is_left_no_rebuild_is_the_cure(small: Workspace) -> None:
    build_line(small, "main", "clerk", "data/letters@1")
    assert (erased(small).next or "").split("; ")[-1] == cures.NO_EXPERT_LEFT


def test_the_cure_names_each_product_line_and_each_experts_own_data(small: Workspace) -> None:
    build_line(small, "main", "clerk", "data/letters@1")
    build_line(small, "support", "post", "data/mail@1")
    said = "--license CC0-1.0 --source 'the test' --holder 'the state' --purpose tests --pii none"
    assert (erased(small, author="ada").next or "").split("; ") == [
        f"btx data add letters work/left/letters-1 {said}",
        f"btx data add mail work/left/mail-1 {said}",
        "btx train clerk --data data/letters",
        "btx train post --data data/mail",
        "btx rebuild",
        "btx rebuild --line support",
    ]


FORMS = ("csv", "tsv.gz", "json", "jsonl.zst", "ndjson", "parquet", "arrow")


def in_form(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    """Write rows as a team may keep them, by the form that the file's name says."""
    path = folder / name
    columns = list(rows[0])
    if name.endswith(("parquet", "arrow")):
        # Names as a dictionary, as pandas and `datasets` write them: it holds each name by itself.
        table = pa.table({one: [row[one] for row in rows] for one in columns})
        author = table["author"].dictionary_encode()
        table = table.set_column(columns.index("author"), "author", author)
        if name.endswith("parquet"):
            pq.write_table(table, path)
        else:
            with pa.ipc.new_stream(str(path), table.schema) as writer:
                writer.write_table(table)
        return path
    if "json" in name:
        lines = [json.dumps(row) for row in rows]
        text = f"[{','.join(lines)}]" if name.endswith(".json") else "\n".join(lines)
    else:
        mark = "\t" if "tsv" in name else ","
        text = "\n".join([mark.join(columns), *(mark.join(row.values()) for row in rows)])
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(text.encode())
    else:
        path.write_text(text)
    return path


def plain_bytes(path: Path) -> bytes:
    """Return all that a file says, decompressed where it is."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return bytes(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read())
    content = path.read_bytes()
    if path.suffix == ".parquet" and content:
        table = pq.read_table(path)
        content += str(table.to_pylist()).encode() + str(table["author"].chunks).encode()
    return content


@pytest.mark.parametrize(
    "form",
    [
        *FORMS[::3],
        *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS if form not in FORMS[::3]),
    ],
)
def test_of_any_form_of_corpus_the_other_rows_stay_and_no_byte_of_the_erased_ones(
    tmp_path: Path, form: str
) -> None:
    """Also where an unregistered copy in another form lies in the workspace."""
    workspace = create(tmp_path / "workspace")
    chance = random.Random(7)
    rows = [
        {"id": f"{author}-{number}", "author": author, "body": text(chance)}
        for number in range(8)
        for author in ("adalbert", "berthold")
    ]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    in_form(corpus, f"rows.{form}", rows)
    (corpus / "own.txt").write_text("Of these the holder knows.\n" * 20)
    add_data(workspace, "letters", corpus, STATED, text_field="body")
    drafts = workspace.work / "drafts"
    drafts.mkdir(parents=True)
    # With a row more: it is no copy by its bytes.
    other = {**rows[1], "id": "berthold-99", "body": text(chance)}
    loose = in_form(drafts, "some.csv" if form == "json" else "some.json", [*rows[:5], other])
    gone = {row["body"].encode() for row in rows if row["author"] == "adalbert"} | {b"adalbert"}
    stay = {row["body"].encode() for row in rows if row["author"] == "berthold"}

    def lying() -> set[str]:
        files = [path for path in workspace.root.rglob("*") if path.is_file()]
        texts = {str(path): plain_bytes(path) for path in files if path.parent.name != "private"}
        return {path for path, content in texts.items() if any(one in content for one in gone)}

    assert len(lying()) >= 2
    answer = erased(workspace, author="adalbert")
    assert lying() == set()
    assert answer.cost.beside == (str(loose.relative_to(workspace.root)),)
    left = workspace.root / answer.left[0]
    content = plain_bytes(left / f"rows.{form}")
    assert all(one in content for one in stay)
    assert other["body"] in loose.read_text()
    assert "--text-field body" in (answer.next or "")
    again = add_data(workspace, "letters", left, STATED, text_field="body")
    assert again.facts.counts is not None
    assert again.facts.counts.documents == 1 + len(stay)
    assert audit(workspace, None).findings == ()
    workspace.catalog.close()


def test_what_an_earlier_erasure_laid_out_loses_what_a_later_one_takes(small: Workspace) -> None:
    cyd, bob = (of_author(small.root / "data/letters/1", name) for name in ("cyd", "bob"))
    left = erased(small, author="ada").left
    add_data(small, "letters", small.root / left[0], STATED)
    (small.root / left[0] / "2024.jsonl").write_text(
        "\n".join(['{"text": "mine"}', ""]) + (small.root / left[0] / "2024.jsonl").read_text()
    )
    asked = erase.ask(small.acting_as("ann"), Selection(ref="data/letters@2", author="cyd"), WHY)
    done = erase.confirm(small.acting_as("ben"), asked.number or 0)
    assert done.cost == asked.cost
    assert f"{left[0]}/2024.jsonl" in done.cost.beside
    assert holding([small.root], needles(cyd)) == set()
    assert holding([small.root], needles(bob)) != set()


def test_what_stands_beside_unreadable_rows_of_an_unregistered_file_goes_and_they_are_told(
    small: Workspace,
) -> None:
    texts = of_author(small.root / "data/letters/1", "ada")
    row, behind = (json.dumps({"text": one}) for one in texts[:2])
    drafts = small.work / "drafts"
    drafts.mkdir(parents=True)
    array, lines, others = drafts / "a.json", drafts / "b.jsonl", drafts / "c.jsonl"
    array.write_text(f'[{row},\n{{"text": "cut ')
    lines.write_text(f'{row}\nno row\n{behind}\n{{"text": "mine"}}\n')
    others.write_text('{"text": "mine"}\n' + "no row\n" * 11)
    (drafts / "no-corpus.csv").write_text("day,price\n1,2\n")
    ann, ben = small.acting_as("ann"), small.acting_as("ben")
    asked = erase.ask(ann, Selection(ref="data/letters@1", author="ada"), WHY)
    assert asked.cost.beside == ("work/drafts/a.json", "work/drafts/b.jsonl")
    assert asked.cost.unreached == (
        "work/drafts/a.json, item 2: cannot be read from here on",
        "work/drafts/b.jsonl:2: cannot be read",
        *(f"work/drafts/c.jsonl:{line}: cannot be read" for line in range(2, 10)),
        "work/drafts/c.jsonl: 3 more rows cannot be read",
    )
    with pytest.raises(Unreadable, match=r"a\.json, item 2"):
        erase.confirm(ben, asked.number or 0)
    assert lines.read_text() == 'no row\n{"text": "mine"}\n'
    array.write_text(f"[{row}]")
    erase.confirm(ben, asked.number or 0)
    assert holding([small.root], needles(texts)) == set()
    assert audit(small, None).findings == ()


def test_of_what_is_left_without_text_to_train_on_it_is_said_what_it_lacks(
    small: Workspace, tmp_path: Path
) -> None:
    chance = random.Random(5)
    for name, count in (("a.jsonl", 20), ("heldout/b.jsonl", 5)):
        path = tmp_path / "pair" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text(chance)}) + "\n" for _ in range(count)))
    add_data(small, "pair", tmp_path / "pair", STATED)
    asked = erase.ask(small.acting_as("ann"), Selection(ref="data/pair@1", file="a.jsonl"), WHY)
    done = erase.confirm(small.acting_as("ben"), asked.number or 0)
    left = small.root / done.left[0]
    with pytest.raises(Unreadable, match="0 training, 5 held-out documents"):
        add_data(small, "pair", left, STATED)
    lacking = "work/left/pair-1 alone is no corpus (0 training, 5 held-out documents): add text"
    assert (done.next or "").startswith(lacking)
    (left / "more.txt").write_text(text(chance))
    assert str(add_data(small, "pair", left, STATED).ref) == "data/pair@2"


@pytest.mark.parametrize(
    ("selected", "documents", "whole"),
    [
        ({"document": "cyd-4"}, 1, False),
        ({"file": "bob.txt"}, 1, False),
        ({"file": "2025.jsonl"}, 10, False),
        ({}, 53, True),
    ],
)
def test_a_document_a_file_or_all_can_be_meant(
    small: Workspace, selected: dict[str, str], documents: int, whole: bool
) -> None:
    answer = erased(small, **selected)
    assert answer.cost.documents == documents
    assert answer.parts[0].whole is whole
    assert (small.root / "data/letters/1").exists() is not whole
    assert audit(small, None).findings == ()


def test_what_nobody_holds_cannot_be_erased(small: Workspace) -> None:
    for selected in ({"author": "eve"}, {"document": "cyd-400"}, {"file": "eve.txt"}):
        with pytest.raises(NotFound):
            erase.look_ahead(small, Selection(ref="data/letters@1", **selected))
    with pytest.raises(NotFound, match="no erasure that was asked for"):
        erase.confirm(small, 1)


def test_nobody_erases_alone_or_without_the_role(
    small: Workspace, tmp_path: Path, sign_as: Any
) -> None:
    close(small, tmp_path)
    keys.new_key("mal", tmp_path / "mal.pem")
    selection = Selection(ref="data/letters@1", author="ada")
    with pytest.raises(Refused, match="roles none"):
        erase.ask(sign_as(small, "mal"), selection, WHY)
    assert list(small.private.glob("*")) == [], "what is refused leaves no words"
    asked = erase.ask(sign_as(small, "ann"), selection, WHY).number or 0
    before = small.catalog.head()
    for name, found in (("ann", "who asked for it"), ("mal", "roles none")):
        with pytest.raises(Refused, match=found):
            erase.confirm(sign_as(small, name), asked)
    sign_as(small, "mal")
    with pytest.raises(Refused, match="not ben's on the list"):
        erase.confirm(small.acting_as("ben"), asked)
    assert small.catalog.head() == before
    assert (small.root / "data/letters/1/2024.jsonl").is_file()
    erase.confirm(sign_as(small, "ben"), asked)
    assert audit(small, None).findings == ()


def test_on_an_open_list_it_is_told_that_two_names_prove_nobody(small: Workspace) -> None:
    answer = erased(small, author="ada")
    assert answer.notes == (erase.OPEN,)
    ann = small.acting_as("ann")
    asked = erase.ask(ann, Selection(ref="data/mail@1"), WHY)
    with pytest.raises(Refused, match="a second person"):
        erase.confirm(ann, asked.number or 0)


def test_a_copy_that_came_meanwhile_needs_another_asking(small: Workspace, tmp_path: Path) -> None:
    selection = Selection(ref="data/letters@1", author="ada")
    asked = erase.ask(small.acting_as("ann"), selection, WHY).number or 0
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "one.txt").write_text(of_author(small.root / "data/letters/1", "ada")[7].upper())
    (copy / "two.txt").write_text("Of these the holder knows. " * 20)
    add_data(small, "copy", copy, STATED)
    with pytest.raises(Conflict, match="data/copy@1 too"):
        erase.confirm(small.acting_as("ben"), asked)
    assert erased(small, author="ada").cost.versions[0] == "data/copy@1"


def test_a_tombstone_is_checked_with_cryptography_alone(
    small: Workspace, tmp_path: Path, sign_as: Any
) -> None:
    """As an outsider does who has the row of the log and ben's public key, and not this program."""
    close(small, tmp_path)
    name, line = "2024.jsonl", (small.root / "data/letters/1/2024.jsonl").read_bytes()
    asked = erase.ask(sign_as(small, "ann"), Selection(ref="data/letters@1", author="ada"), WHY)
    erase.confirm(sign_as(small, "ben"), asked.number or 0)
    (event,) = small.catalog.events("data/letters@1", "erased")
    stored = json.loads(event.stored)
    key = load_pem_public_key((tmp_path / "ben.pub").read_bytes())

    def checked(body: dict[str, Any]) -> dict[str, Any]:
        payload = base64.b64decode(body["envelope"]["payload"])
        kind = body["envelope"]["payloadType"].encode()
        message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        key.verify(base64.b64decode(body["envelope"]["signatures"][0]["sig"]), message)
        act: dict[str, Any] = json.loads(payload)
        part = json.dumps(body["part"], sort_keys=True, separators=(",", ":")).encode()
        assert act["digest"] == hashlib.sha256(part).hexdigest()
        return act

    act = checked(stored)
    assert (act["act"], act["subject"], act["actor"]) == ("erased", "data/letters@1", "ben")
    digests = {file["path"]: file["sha256"] for file in stored["part"]["files"]}
    assert digests[name] == hashlib.sha256(line).hexdigest()
    stored["part"]["files"][0]["sha256"] = "0" * 64
    with pytest.raises(AssertionError):
        checked(stored)


def test_erased_text_does_not_come_in_again_whatever_the_policies_say(
    small: Workspace, tmp_path: Path
) -> None:
    texts = of_author(small.root / "data/letters/1", "ada")
    whole = (small.root / "data/letters/1/2025.jsonl").read_bytes()
    erased(small, author="ada")
    for path in (small.root / "policies").glob("seen-*.yaml"):
        path.unlink()
    small_again = Workspace.find(small.root)
    subprocess.run(
        [sys.executable, "-c", "from pipelines.cli.app import main; main()", "policy", "adopt"],
        cwd=small.root,
        env=os.environ,
        check=True,
        capture_output=True,
    )
    forms: dict[str, str | bytes] = {
        "file.jsonl": whole,
        "line.jsonl": json.dumps({"text": texts[3], "id": "new"}),
        "spaced.txt": texts[3].upper().replace(" ", "\n\n"),
    }
    for name, content in forms.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        (folder / "other.txt").write_text("Of these the holder knows. " * 20)
        with pytest.raises(Refused, match="erased of data/letters@1"):
            add_data(small_again, "notes", folder, STATED)


def test_erased_text_that_was_edited_is_refused_by_the_policies(
    small: Workspace, tmp_path: Path
) -> None:
    texts = of_author(small.root / "data/letters/1", "ada")
    erased(small, author="ada")
    folder = tmp_path / "edited"
    folder.mkdir()
    for number, words in enumerate(texts):
        (folder / f"{number}.txt").write_text(f"Dear reader, {words} Yours.")
    with pytest.raises(Refused, match="seen-before/withdrawn"):
        add_data(small, "notes", folder, STATED)


def test_collection_repair_and_dump_leave_what_is_erased_alone(
    small: Workspace, tmp_path: Path
) -> None:
    gone = needles(of_author(small.root / "data/letters/1", "ada"))
    erased(small, author="ada")
    assert repair(small).lost == ()
    assert collect(small, grace_s=0).skipped == ()
    assert dump(small, tmp_path / "dump").missing == ()
    assert holding([small.root, tmp_path / "dump"], gone) == set()
    assert audit(small, None).findings == ()


def test_bytes_that_come_back_or_stay_are_found_and_go_by_the_same_command(
    small: Workspace,
) -> None:
    path = small.root / "data/letters/1/2025.jsonl"
    whole = path.read_bytes()
    answer = erased(small, author="ada")
    path.write_bytes(whole)
    (finding,) = audit(small, "data/letters@1").findings
    assert (finding.check, finding.next) == ("erased", f"btx erase --confirm {answer.number}")
    erase.confirm(small.acting_as("ann"), answer.number)
    assert audit(small, "data/letters@1").findings == ()


def test_a_tombstone_that_one_person_wrote_alone_is_found(small: Workspace) -> None:
    """Somebody lost bytes, and would have them called erased."""
    asked = erase.ask(small.acting_as("ann"), Selection(ref="data/letters@1"), WHY)
    event = next(one for one in small.catalog.events(kind="erasure") if one.seq == asked.number)
    body = event.read(ErasureAsked)
    stone = Erased(asked=event.digest, part=body.parts[0], private=body.private)
    forged = {
        "asked for and confirmed by ann": stone,
        "without being asked for": stone.model_copy(update={"asked": "0" * 64}),
        "other files or documents": stone.model_copy(
            update={"part": body.parts[0].model_copy(update={"whole": False})}
        ),
    }
    for body_of_event in forged.values():
        small.acting_as("ann").catalog.event(body_of_event, "data/letters@1")
    found = [one.found for one in audit(small, None).findings if one.check == "erased"]
    for words in ("asked for and confirmed by ann", "without being asked for"):
        assert any(words in one for one in found)


def test_the_reason_lies_outside_the_log_and_can_be_shredded(small: Workspace) -> None:
    answer = erased(small, author="ada")
    places = holding([small.root], {WHY.encode(), b'"author": "ada"'})
    assert {Path(path).parent for path in places} == {small.private}
    shred(small, answer.number)
    assert holding([small.root], {WHY.encode(), b'"author": "ada"'}) == set()
    with pytest.raises(NotFound):
        shred(small, answer.number)
    assert audit(small, None).findings == ()


def test_a_remote_that_cannot_be_reached_is_told_before(small: Workspace) -> None:
    dvc(small.root, "remote", "add", "away", "s3://nobody/nothing")
    dvc(small.root, "remote", "modify", "away", "endpointurl", "http://127.0.0.1:9")
    planned = erase.look_ahead(small, Selection(ref="data/letters@1"))
    assert [place.split(":")[0] for place in planned.cost.unreached] == ["remote away"]
