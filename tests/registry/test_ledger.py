"""Rows and log as text files: the same registry again, a fork told, no row from a damaged file."""

import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from registry.catalogue import audit_log, ledger
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import row_findings
from registry.catalogue.database import Rows
from registry.errors import Conflict, Damaged, NotFound
from registry.records.facts import DataFacts, SeedFacts
from registry.records.version import FileFact

FILES = [FileFact("a b/ü.txt", 3, "b" * 64, md5="c" * 32), FileFact("x", 2, "a" * 64, linked=True)]


def opened(folder: Path, actor: str = "ada") -> Catalog:
    folder.mkdir(exist_ok=True)
    kept = partial(ledger.append, folder / "ledger")
    return Catalog(f"sqlite:///{folder}/registry.db", actor=actor, after_write=kept)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A registry of two versions, documents and other events, with its ledger."""
    (tmp_path / "here/ledger").mkdir(parents=True)
    catalog = opened(tmp_path / "here")
    catalog.register("base", SeedFacts(license="Apache-2.0"), files=FILES)
    catalog.put_document({"of": "a gate", "number": 1.5})
    register(catalog, "law", "Ada \u2028 & co")
    catalog.withdraw("data/law", "a mistake")
    return tmp_path / "here"


def register(catalog: Catalog, name: str, holder: str = "Acme") -> str:
    facts = DataFacts(license="MIT", holder=holder)
    version = catalog.register(
        name, facts, parents=[("seed/base", "trained_on")], documents=[{"sketch": [name]}]
    )
    return str(version.ref)


def cloned(source: Path, name: str) -> Path:
    """Copy what git carries."""
    shutil.copytree(source / "ledger", source.parent / name / "ledger")
    return source.parent / name


def merged(source: Path, target: Path) -> None:
    """Bring another clone's files, as git does: none of them has another's name."""
    shutil.copytree(source / "ledger", target / "ledger", dirs_exist_ok=True)


def everything(catalog: Catalog) -> list[list[tuple[object, ...]]]:
    tables = ("event", "version", "file", "edge", "label", "document")
    with catalog.database.read() as rows:
        return [sorted(rows(f"SELECT * FROM {table}"), key=str) for table in tables]


def checked(catalog: Catalog) -> None:
    def check(rows: Rows) -> None:
        assert audit_log.verify(rows)[1] == []
        assert row_findings(rows)[1] == []

    with catalog.database.read() as rows:
        check(rows)


def found(folder: Path) -> list[audit_log.Break]:
    with opened(folder).database.read() as rows:
        return ledger.breaks(folder / "ledger", rows, shared=False)[1]


def test_a_clone_has_the_same_rows_and_the_same_head(here: Path) -> None:
    there = cloned(here, "there")
    restored = ledger.restore(there / "ledger", opened(there))
    assert everything(opened(there)) == everything(opened(here))
    assert restored.head == opened(here).head()
    checked(opened(there))
    assert found(there) == found(here) == []
    assert ledger.restore(there / "ledger", opened(there)).rows["event"] == 0
    ledger.require_one_history(there / "ledger", opened(there))


def test_a_registry_that_is_behind_is_told_and_reads_the_rest(here: Path) -> None:
    there = cloned(here, "there")
    ledger.restore(there / "ledger", opened(there))
    register(opened(here), "code")
    register(opened(here), "code", "another")
    merged(here, there)
    with pytest.raises(Conflict, match="btx registry restore reads the others"):
        ledger.require_one_history(there / "ledger", opened(there))
    assert ledger.restore(there / "ledger", opened(there)).rows["version"] == 2
    assert everything(opened(there)) == everything(opened(here))


@pytest.mark.parametrize("longer", ["ours", "theirs", "neither"])
@pytest.mark.parametrize("kept", ["ours", "theirs"])
def test_a_fork_is_told_with_both_heads_and_either_side_can_be_kept(
    here: Path, longer: str, kept: str
) -> None:
    there = cloned(here, "there")
    ledger.restore(there / "ledger", opened(there))
    sides = {"theirs": opened(here, "tom"), "ours": opened(there, "olga")}
    refs: dict[str, list[str]] = {"theirs": [], "ours": []}
    for side, catalog in sides.items():
        for number in range(3 if side == longer else 1):
            refs[side].append(register(catalog, f"{side}-{number}"))
    merged(here, there)
    heads = {side: catalog.head() for side, catalog in sides.items()}
    for act in (ledger.require_one_history, ledger.restore):
        with pytest.raises(Conflict) as told:
            act(there / "ledger", sides["ours"])
        assert all(head[:12] in told.value.next for head in heads.values())
        assert "data/ours-0@1" in told.value.found
        assert "data/theirs-0@1" in told.value.found
        assert "server" in told.value.next
    other = {"ours": "theirs", "theirs": "ours"}[kept]
    catalog = sides["ours"] if kept == "ours" else opened(there.parent / "anew")
    assert ledger.has_other(there / "ledger", sides["ours"], heads["theirs"])
    assert not ledger.has_other(there / "ledger", sides["ours"], heads["ours"])
    restored = ledger.restore(there / "ledger", catalog, heads[kept][:12])
    assert restored.again == tuple(refs[other])
    assert restored.head == heads[kept]
    ledger.require_one_history(there / "ledger", catalog)
    checked(catalog)


def test_a_registry_of_other_events_than_its_ledger_is_a_fork(here: Path) -> None:
    (here / "registry.db").rename(here / "before.db")
    other = Catalog(f"sqlite:///{here}/registry.db", actor="mallory")
    for number in range(9):
        other.put_document({"number": number})
    with pytest.raises(Conflict, match="a fork"):
        ledger.require_one_history(here / "ledger", other)
    with pytest.raises(Conflict, match="a fork"):
        ledger.restore(here / "ledger", other)


@pytest.mark.parametrize(
    "damage", ["changed", "cut", "gone", "link", "renamed", "binary", "no document", "more rows"]
)
def test_no_row_is_taken_from_a_damaged_ledger(here: Path, damage: str) -> None:
    there = cloned(here, "there")
    event = ledger.entries(there / "ledger")[2].path
    written = event.read_bytes()
    match damage:
        case "changed":
            event.write_bytes(written.replace(b"MIT", b"BSD"))
        case "cut":
            event.write_bytes(written[:-40])
        case "gone":
            event.unlink()
        case "link":
            event.rename(there / "elsewhere")
            event.symlink_to(there / "elsewhere")
        case "renamed":
            event.rename(event.with_name(event.name.replace("3-", "3-0")[:22] + ".jsonl"))
        case "binary":
            event.write_bytes(b"\xff\x00\n" + written)
        case "more rows":
            event.write_bytes(written + b'{"label":{"key":"a","number":1,"value":"b"}}\n')
        case _:
            shutil.rmtree(there / "ledger/documents")
    catalog = opened(there)
    with pytest.raises((Damaged, Conflict)) as told:
        ledger.restore(there / "ledger", catalog)
    assert told.value.next
    assert catalog.last() == 0


def test_what_is_missing_or_changed_is_found_and_written_again(here: Path) -> None:
    first, second, *_ = ledger.entries(here / "ledger")
    first.path.write_bytes(first.path.read_bytes().replace(b"ada", b"eve"))
    second.path.unlink()
    changed, missing = sorted(found(here))
    assert (changed.subject, missing.subject) == tuple(
        f"ledger/000/{one.path.name}" for one in (first, second)
    )
    assert missing.found == "nothing"
    register(opened(here), "more")
    assert [one.subject for one in found(here)] == [changed.subject]


def test_without_the_folder_nothing_is_kept_and_without_events_nothing_read(
    tmp_path: Path,
) -> None:
    catalog = opened(tmp_path / "w")
    catalog.put_document({"a": 1})
    assert [path.name for path in (tmp_path / "w").iterdir() if path.is_dir()] == []
    with pytest.raises(NotFound, match="git pull"):
        ledger.restore(tmp_path / "w/ledger", catalog)
    ledger.require_one_history(tmp_path / "w/ledger", catalog)


def test_a_database_that_orders_text_by_a_language_tells_the_same(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = opened(here)
    catalog.register("base-x", SeedFacts(license="MIT"), files=FILES)
    before = [(one.ref, one.files) for one in catalog.versions(SeedFacts)]
    assert found(here) == []
    # Text in another order than that of its code points; numbers in theirs.
    read = Rows.__call__

    def by_language(self: Rows, sql: str, **values: object) -> list[tuple[object, ...]]:
        rows = read(self, sql, **values)
        return rows if re.search(r"ORDER BY (\w\.)?(seq|id|number)\b", sql) else rows[::-1]

    monkeypatch.setattr(Rows, "__call__", by_language)
    assert [(one.ref, one.files) for one in catalog.versions(SeedFacts)] == before
    assert catalog.get("seed/base").files == before[0][1]
    assert found(here) == []


def test_a_ledger_whose_lines_a_database_ordered_by_a_language_is_whole(here: Path) -> None:
    first, *_ = sorted((here / "ledger").rglob("000000001-*"))
    event, *others = first.read_bytes().splitlines(keepends=True)
    first.write_bytes(event + b"".join(reversed(others)))
    assert found(here) == []


@pytest.mark.parametrize("stopped_after", [None, 0, 1, 2])
def test_what_people_did_on_the_other_side_of_a_fork_is_told_and_not_lost_without_a_word(
    here: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int | None
) -> None:
    there = cloned(here, "there")
    ours = opened(there, "olga")
    ledger.restore(there / "ledger", ours)
    register(ours, "code")
    theirs = opened(here, "tom")
    register(theirs, "news")
    theirs.put_document({"of": "a gate"})
    theirs.withdraw("seed/base", "consent ended")
    merged(here, there)
    head = ours.head()
    if stopped_after is not None:
        unlink, left = Path.unlink, iter(range(stopped_after))

        def stopping(path: Path, missing_ok: bool = False) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", stopping)
            with pytest.raises(KeyboardInterrupt):
                ledger.restore(there / "ledger", ours, head)
        with pytest.raises(Conflict, match="a fork"):
            ledger.require_one_history(there / "ledger", ours)
    restored = ledger.restore(there / "ledger", ours, head)
    assert restored.again == ("data/news@1",)
    if not stopped_after:
        assert restored.acts == ("withdrawn seed/base@1, by tom",)
    ledger.require_one_history(there / "ledger", ours)
    assert found(there) == []
