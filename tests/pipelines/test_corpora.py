"""Corpora as teams have them: taken, refused by the path that was given, found by author and id."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from btx_core.columns import Unreadable
from btx_core.texts import every
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.suggest import suggest
from pipelines.workspace.document_index import Sought, find_documents
from pipelines.workspace.folders import opened_text, text_as_stated
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Invalid, Refused
from registry.records.facts import DataStatement

STATED = DataStatement(
    license="CC0-1.0", source="the test", holder="the state", purpose="tests", pii="none"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return create(tmp_path_factory.mktemp("corpora") / "workspace")


def written(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_documents_are_found_by_author_and_by_id_in_every_version(
    workspace: Workspace, tmp_path: Path
) -> None:
    by_ann = {"text": "A poem about the sea.", "author": "Ann", "id": "poem-1"}
    by_ben = {"text": "A letter about a house.", "authors": ["Ben", "Cy"], "id": "letter-9"}
    unsigned = {"text": "A list of things."}
    first = add_data(workspace, "poems", written(tmp_path / "1.jsonl", [by_ann, unsigned]), STATED)
    second = add_data(workspace, "poems", written(tmp_path / "2.jsonl", [by_ben, by_ann]), STATED)
    none = add_data(
        workspace,
        "lists",
        written(tmp_path / "3.jsonl", [unsigned, {"text": "Another list."}]),
        STATED,
    )
    refs = [str(version.ref) for version in (first, second, none)]
    assert find_documents(workspace, Sought(author="Ann")).versions == (refs[0], refs[1])
    assert find_documents(workspace, Sought(author="Cy")).versions == (refs[1],)
    assert find_documents(workspace, Sought(id="letter-9", author="Ann")).versions == ()
    (held,) = find_documents(workspace, Sought(id="letter-9")).documents
    assert (held.document.file, held.document.number) == ("2.jsonl", 1)
    twice = find_documents(workspace, Sought(digest=held.document.digest)).documents
    assert [one.ref for one in twice] == [refs[1]]
    counts = second.facts.counts
    assert counts is not None
    assert (counts.documents, counts.with_author, counts.with_id) == (2, 2, 2)


def test_the_licences_of_documents_are_asked_about_at_the_gate(
    workspace: Workspace, tmp_path: Path
) -> None:
    rows = [{"text": "one", "license": "mit"}, {"text": "two", "license": "cc-by-4.0"}]
    version = add_data(workspace, "mixed", written(tmp_path / "a.jsonl", rows), STATED)
    assert version.facts.document_licenses == ("CC-BY-4.0", "MIT")
    assert set(version.facts.every_license) == {"CC0-1.0", "CC-BY-4.0", "MIT"}
    for licence in ("CC-BY-NC-ND-4.0", "all rights reserved", "MIT AND SSPL-1.0"):
        refused = [*rows, {"text": "three", "license": licence}]
        with pytest.raises(Refused, match="licence/documents"):
            add_data(workspace, "refused", written(tmp_path / "b.jsonl", refused), STATED)
    assert not (workspace.root / "data/refused").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.jsonl": '{"text": ""}\n{"text": " "}\n'}, "every file is empty"),
        ({".hidden.txt": "text"}, "every file is empty"),
        ({"a.jsonl": '{"text": "one"}\n'}, "0 training, 1 held-out"),
        ({"heldout/a.txt": "one"}, "0 training, 1 held-out"),
        ({"sub/a.csv": "name,id\nx,1\n"}, "corpus/sub/a.csv:2"),
        ({"a.txt": "text", "b.bin": "\0"}, "corpus/b.bin"),
    ],
)
def test_what_training_would_die_of_is_refused_before_by_the_path_that_was_given(
    workspace: Workspace, tmp_path: Path, files: Mapping[str, str], says: str
) -> None:
    for name, text in files.items():
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(Unreadable) as refusal:
        add_data(workspace, "bad", tmp_path / "corpus", STATED)
    assert says in str(refusal.value)
    assert str(tmp_path / "corpus") in str(refusal.value), "not a temporary path"
    assert "incoming" not in str(refusal.value)
    assert not (workspace.root / "data/bad").exists()


def test_the_named_column_is_read_by_every_later_reader(
    workspace: Workspace, tmp_path: Path
) -> None:
    rows = [{"body": f"text {number}", "title": f"title {number}"} for number in range(3)]
    corpus = written(tmp_path / "a.jsonl", rows)
    version = add_data(workspace, "named", corpus, STATED, text_field="body")
    again = add_data(workspace, "named", corpus, STATED, text_field="body")
    assert (again.ref, again.created) == (version.ref, False)
    other = add_data(workspace, "named", corpus, STATED, text_field="title")
    assert other.ref != version.ref, "other text, another version"
    read = workspace.catalog.get(str(version.ref), type(version.facts))
    texts = opened_text(workspace.root, read)
    assert texts.reading.text_field == "body"


ASKED, ANSWERED = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "2 + 2?", "completion": "5", "label": False}, "label false"),
        ({"messages": [ASKED, {**ANSWERED, "weight": 0}]}, "assistant with weight 0"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "2 + 2?"},
                    {"from": "gpt", "value": "5", "train": False},
                ]
            },
            "gpt with train false",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "2 + 2?"},
                    {"from": "function_call", "value": '{"name": "add", "arguments": {}}'},
                    {"from": "observation", "value": "4"},
                    {"from": "gpt", "value": "It is 4."},
                ]
            },
            "function_call",
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "function_call": {"name": "add", "arguments": ""}}]},
            "assistant with a function_call",
        ),
        ({"messages": [ASKED, ANSWERED], "functions": [{"name": "add"}]}, "functions beside"),
    ],
)
def test_what_a_row_says_is_not_to_be_learnt_is_not_taken_in(
    workspace: Workspace, tmp_path: Path, row: dict[str, object], says: str
) -> None:
    sound = [{"text": f"row {number}", "label": False} for number in range(20)]
    learnt = {"messages": [ASKED, {**ANSWERED, "weight": 1}, {**ASKED, "weight": 0}]}
    name = f"marks{len(says)}"
    assert add_data(
        workspace, name, written(tmp_path / "a.jsonl", [*sound, learnt]), STATED
    ).created
    path = written(tmp_path / "b.jsonl", [*sound, row])
    with pytest.raises(Unreadable, match=says) as refusal:
        add_data(workspace, name, path, STATED)
    assert refusal.value.subject == f"{path}:21"


@pytest.mark.parametrize("name", ["a.jsonlines", "b.jl", "part-00000", "c.txt.gz"])
def test_rows_under_a_name_of_text_are_no_single_document(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    source, path = tmp_path / "corpus", tmp_path / "corpus" / name
    rows = "".join(json.dumps({"body": f"row {number}"}) + "\n" for number in range(20))
    source.mkdir()
    packed = gzip.compress if name.endswith(".gz") else bytes
    (source / "notes.txt").write_text('{"text": "one row"}\nand what it means')
    path.write_bytes(packed(rows.replace("body", "text").encode()))
    with pytest.raises(Unreadable, match="rows of JSON") as refusal:
        add_data(workspace, f"rows-{len(name)}", source, STATED)
    assert refusal.value.subject == str(path)
    path.write_bytes(packed(rows.encode()))
    with pytest.raises(Unreadable, match="rows of JSON"):
        add_data(workspace, f"rows-{len(name)}", source, STATED, text_field="body")
    # What is in no known form may be the records of a program.
    assert add_data(workspace, f"rows-{len(name)}", source, STATED).created


def test_nobody_is_told_to_ask_for_a_number_who_asked_for_one(tmp_path: Path, btx: Any) -> None:
    written(tmp_path / "same.jsonl", [{"text": "the same"}] * 20)
    unasked = btx(tmp_path, "data", "suggest", "same.jsonl").stdout
    assert unasked.startswith("one domain")
    assert "--domains" in unasked
    asked = btx(tmp_path, "data", "suggest", "same.jsonl", "--domains", "2").stdout
    assert asked.startswith("one domain")
    assert "--domains" not in asked


def test_domains_are_proposed_for_a_mixed_corpus_and_every_document_is_in_one(
    tmp_path: Path,
) -> None:
    kinds = {"sea": "wave salt ship tide", "bread": "flour oven crust yeast"}
    rows = [
        {"text": " ".join([kinds[kind]] * (1 + number % 3))}
        for number in range(60)
        for kind in kinds
    ]
    written(tmp_path / "mixed" / "all.jsonl", rows)
    answer = suggest(tmp_path / "mixed")
    assert len(answer.domains) == 2
    for domain in answer.domains:
        parity = {(document.number or 0) % 2 for document in domain.documents}
        assert len(parity) == 1, "one kind stands on the odd lines, the other on the even ones"
    numbers = [document.number for domain in answer.domains for document in domain.documents]
    assert sorted(number or 0 for number in numbers) == list(range(1, 121))
    with pytest.raises(Invalid, match="2 to 8"):
        suggest(tmp_path / "mixed", 1)
    (tmp_path / "folder").mkdir()
    bodies = tmp_path / "folder" / "all.jsonl"
    written(bodies, [{"body": row["text"]} for row in rows])
    for source in (bodies, bodies.parent):
        assert suggest(source, text_field="body") == answer


def test_a_version_says_that_its_rows_hold_more_only_where_they_do(
    workspace: Workspace, tmp_path: Path
) -> None:
    row = {"instruction": "Name a colour.", "output": "Red."}
    plain = written(tmp_path / "1.jsonl", [row, {"text": "A text.", "system": "linux"}])
    beside = written(tmp_path / "2.jsonl", [row | {"system": "Be brief."}, row])
    first = add_data(workspace, "turns", plain, STATED)
    second = add_data(workspace, "turns", beside, STATED)
    assert first.facts.reading is not None
    assert first.facts.reading.to_json() == {}
    assert not add_data(workspace, "turns", beside, STATED).created
    texts = [one.text for one in every(opened_text(workspace.root, second))]
    assert texts[0].startswith("Be brief.\n\nName a colour.")
    older = second.facts.model_copy(update={"reading": first.facts.reading})
    before = every(text_as_stated(opened_text(workspace.root, second).path, older))
    assert next(one.text for one in before) == texts[1], "as a version from before is read"


def test_rows_that_were_taken_without_a_column_are_refused_by_the_given_path(
    workspace: Workspace, tmp_path: Path
) -> None:
    row = {"prompt": "Name a colour. ", "completion": "Red.", "system": "Be brief."}
    given = written(tmp_path / "a.jsonl", [row, row])
    with pytest.raises(Unreadable, match="system") as caught:
        add_data(workspace, "lost", given, STATED)
    assert caught.value.subject == f"{given}:1"
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"text": "one"}, {"text": "two"}]}))
    with pytest.raises(Unreadable, match="key data holds 2 rows") as caught:
        add_data(workspace, "lost", tmp_path / "b.json", STATED)
    assert caught.value.subject == str(tmp_path / "b.json")
    assert not (workspace.root / "data/lost").exists()


@pytest.mark.parametrize("name", ["Bad Name", "words@2"])
def test_a_name_that_no_version_can_have_is_refused_as_it_was_given(
    workspace: Workspace, tmp_path: Path, name: str
) -> None:
    corpus = written(tmp_path / "a.jsonl", [{"text": "one text"}, {"text": "another text"}])
    for add in (
        lambda: add_data(workspace, name, corpus, STATED),
        lambda: add_seed(workspace, name, tmp_path),
    ):
        with pytest.raises(Invalid, match=name) as refusal:
            add()
        assert f"{name}@1" not in str(refusal.value)
