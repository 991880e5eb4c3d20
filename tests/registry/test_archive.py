"""A registry goes out as plain files and comes back the same, from either engine into either."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.catalogue import catalog as catalog_module
from registry.catalogue import dump as archive
from registry.catalogue import rows as rows_module
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, audit
from registry.catalogue.store import Store
from registry.errors import Conflict, Damaged, Invalid, NotFound
from registry.records import facts as facts_module
from registry.records.events import AnyBody
from registry.records.facts import BuildFacts, DataFacts, DvcFolder, ExpertFacts
from registry.records.results import Result
from registry.records.version import FileFact


def fill(catalog: Catalog, store: Store, folder: Path) -> None:
    (folder / "weights").write_bytes(b"weights")
    files = [FileFact("weights", 7, store.put(folder / "weights", copy=True), md5="e" * 32)]
    dvc = {"path": "data/math/1", "md5": "d" * 32 + ".dir"}
    data = {"license": "MIT", "text": "ä\U0001f600\n", "dvc": dvc}
    catalog.register(
        "math",
        DataFacts.from_json(data, "test"),
        files=[FileFact("elsewhere", 1, "e" * 64)],
    )
    catalog.register(
        "math",
        ExpertFacts(results=(Result(data="data/math@1", domain="math", bits_per_byte=0.3),)),
        files=files,
        parents=[("data/math", "trained_on")],
        documents=[{"a": 1}],
    )
    catalog.event(AnyBody.from_json({"n": 1e21}, "test"), "expert/math@1", kind="approved")
    catalog.withdraw("data/math", "consent ended")


@pytest.fixture(params=["sqlite", "postgresql"])
def second(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    made: Callable[[], str] = (
        request.getfixturevalue("postgresql")
        if request.param == "postgresql"
        else lambda: f"sqlite:///{tmp_path}/second.db"
    )
    return Catalog(made(), actor="bob")


def test_a_registry_comes_back_the_same(
    catalog: Catalog, store: Store, second: Catalog, tmp_path: Path
) -> None:
    fill(catalog, store, tmp_path)
    about = archive.dump(catalog, store, tmp_path / "out")
    assert about.objects == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["objects", "registry.json", *(f"{table}.jsonl" for table in archive.TABLES)]
    )
    other = Store(tmp_path / "other")
    archive.load(tmp_path / "out", second, other)
    assert second.head() == catalog.head()
    assert second.events() == catalog.events()
    assert second.get("expert/math") == catalog.get("expert/math")
    assert second.status("expert/math") == "tainted"
    report = audit(second, "expert/math", AuditContext(store=other), pinned=catalog.head())
    assert [finding.check for finding in report.findings] == ["standing"]
    archive.dump(second, other, tmp_path / "again")
    for path in (tmp_path / "out").rglob("*"):
        assert (
            path.is_dir()
            or path.read_bytes()
            == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes()
        )
    assert second.register("code", DataFacts()).created


def test_only_an_empty_registry_is_filled_and_only_a_new_folder_written(
    lite: Catalog, store: Store, tmp_path: Path
) -> None:
    fill(lite, store, tmp_path)
    archive.dump(lite, store, tmp_path / "out")
    with pytest.raises(Conflict):
        archive.dump(lite, store, tmp_path / "out")
    with pytest.raises(Conflict):
        archive.load(tmp_path / "out", lite, store)
    with pytest.raises(NotFound):
        archive.load(tmp_path, lite, store)


@pytest.mark.parametrize("name", [*(f"{table}.jsonl" for table in archive.TABLES), "registry.json"])
def test_a_changed_line_is_found_and_no_row_is_taken(
    lite: Catalog, store: Store, tmp_path: Path, name: str
) -> None:
    fill(lite, store, tmp_path)
    archive.dump(lite, store, tmp_path / "out")
    path = tmp_path / "out" / name
    lines = path.read_text().splitlines()
    changed = json.loads(lines[-1])
    key = next(
        key
        for key in ("actor", "facts", "sha256", "relation", "value", "body", "head")
        if key in changed
    )
    changed[key] = {"x": 1} if isinstance(changed[key], dict) else changed[key] + "x"
    second = Catalog(f"sqlite:///{tmp_path}/second.db", actor="bob")
    for content in (
        "\n".join([*lines[:-1], json.dumps(changed)]) + "\n",
        "\n".join(lines[:-1]),
        "{\n",
    ):
        path.write_text(content)
        with pytest.raises((Damaged, Invalid)):
            archive.load(tmp_path / "out", second, Store(tmp_path / "other"))
        assert second.events() == []
        assert second.versions(DataFacts) == []


@pytest.mark.parametrize(
    "hostile",
    [
        {"path": "/tmp/over-there"},
        {"path": "a/../../../over-there"},
        {"path": "sub/./x"},
        {"dvc": "../elsewhere"},
        {"dvc": "/var/elsewhere"},
        {"folder": "builds/../../elsewhere"},
        {"folder": "/"},
    ],
)
def test_a_dump_that_names_a_path_outside_is_refused_before_anything_is_written(
    lite: Catalog,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hostile: dict[str, str],
) -> None:
    # Whoever makes such a dump has no check of paths.
    with monkeypatch.context() as patched:
        patched.setattr(catalog_module, "stays_inside", lambda path: True)
        patched.setattr(facts_module, "stays_inside", lambda path: True)
        patched.setattr(rows_module, "stays_inside", lambda path: True)
        (tmp_path / "weights").write_bytes(b"weights")
        sha256 = store.put(tmp_path / "weights", copy=True)
        files = [FileFact(hostile.get("path", "weights"), 7, sha256)]
        dvc = DvcFolder(path=hostile.get("dvc", "data/math/1"), md5="d" * 32 + ".dir")
        lite.register("math", DataFacts(dvc=dvc), files=files)
        facts = BuildFacts(folder=hostile.get("folder", "builds/1"))
        lite.register("", facts)
        archive.dump(lite, store, tmp_path / "out")
    second, other = Catalog(f"sqlite:///{tmp_path}/second.db", actor="bob"), Store(tmp_path / "o")
    with pytest.raises(Damaged):
        archive.load(tmp_path / "out", second, other)
    assert (second.events(), list(other.objects())) == ([], [])


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("version", {"name": "../../x"}),
        ("version", {"name": "Math"}),
        ("version", {"number": 10**12}),
        ("version", {"number": 10**30}),
        ("version", {"actor": "\ud800"}),
        ("version", {"actor": ["a"]}),
        ("label", {"number": {"a": 1}}),
        ("label", {"number": "<script>alert(1)</script>"}),
        ("label", {"number": True}),
        ("label", {"number": float("nan")}),
        ("label", {"value": 7}),
        ("edge", {"from_id": "1"}),
        ("file", {"bytes": 1 << 70}),
    ],
)
def test_a_row_of_another_form_is_damaged_and_no_error_of_the_program(
    lite: Catalog, store: Store, tmp_path: Path, table: str, value: dict[str, Any]
) -> None:
    fill(lite, store, tmp_path)
    archive.dump(lite, store, tmp_path / "out")
    path = tmp_path / "out" / f"{table}.jsonl"
    first, *lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | value), *lines]) + "\n")
    second = Catalog(f"sqlite:///{tmp_path}/second.db", actor="bob")
    with pytest.raises(Damaged):
        archive.load(tmp_path / "out", second, Store(tmp_path / "other"))
    assert second.events() == []


@pytest.mark.parametrize("line", ["[" * 200_000, '{"seq": ' + "9" * 6000 + "}", "\ud83d", "\0"])
def test_a_line_of_any_depth_and_any_digits_is_damaged(
    lite: Catalog, store: Store, tmp_path: Path, line: str
) -> None:
    fill(lite, store, tmp_path)
    archive.dump(lite, store, tmp_path / "out")
    (tmp_path / "out/event.jsonl").write_bytes(line.encode(errors="surrogatepass") + b"\n")
    second = Catalog(f"sqlite:///{tmp_path}/second.db", actor="bob")
    with pytest.raises(Damaged, match="line 1"):
        archive.load(tmp_path / "out", second, Store(tmp_path / "other"))
    (tmp_path / "out/registry.json").write_bytes(line.encode(errors="surrogatepass"))
    with pytest.raises(Damaged, match=r"registry\.json"):
        archive.load(tmp_path / "out", second, Store(tmp_path / "other"))


def test_a_dump_takes_nothing_in_from_elsewhere(
    lite: Catalog, store: Store, tmp_path: Path
) -> None:
    fill(lite, store, tmp_path)
    archive.dump(lite, store, tmp_path / "out")
    private = tmp_path / "private"
    private.write_bytes(b"weights")
    private.chmod(0o600)
    (object_,) = (tmp_path / "out" / "objects").glob("[0-9a-f]*/*")
    object_.unlink()
    object_.symlink_to(private)
    second, other = Catalog(f"sqlite:///{tmp_path}/second.db", actor="bob"), Store(tmp_path / "o")
    with pytest.raises(Damaged, match="a link"):
        archive.load(tmp_path / "out", second, other)
    object_.unlink()
    private.rename(object_)
    (tmp_path / "out/label.jsonl").unlink()
    (tmp_path / "out/label.jsonl").symlink_to("/dev/zero")
    with pytest.raises(Damaged, match="a table of the dump"):
        archive.load(tmp_path / "out", second, other)
    assert (second.events(), list(other.objects())) == ([], [])


def test_a_changed_object_is_found(lite: Catalog, store: Store, tmp_path: Path) -> None:
    fill(lite, store, tmp_path)
    archive.dump(lite, store, tmp_path / "out")
    (object_,) = (tmp_path / "out" / "objects").glob("[0-9a-f]*/*")
    object_.chmod(0o644)
    object_.write_bytes(b"weightz")
    assert store.verify(object_.name)
    with pytest.raises(Damaged, match="sha256"):
        archive.load(
            tmp_path / "out",
            Catalog(f"sqlite:///{tmp_path}/second.db", actor="bob"),
            Store(tmp_path / "other"),
        )


def test_a_collection_keeps_all_that_is_registered_also_what_is_withdrawn(
    lite: Catalog, store: Store, tmp_path: Path
) -> None:
    fill(lite, store, tmp_path)
    (tmp_path / "stray").write_bytes(b"stray")
    stray = store.put(tmp_path / "stray")
    needed = lite.needed()
    assert needed.md5 == {"e" * 32, "d" * 32 + ".dir"}
    assert store.sweep(lambda: lite.needed().sha256, grace_s=0) == [stray]
    assert all(store.verify(file.sha256) for file in lite.get("expert/math").files)
