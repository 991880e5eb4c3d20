"""Rows can only be added, on both engines; errors say what to do.

Every released schema is read, audited and brought up to date.
"""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlmodel import SQLModel

from registry.catalogue import insert_only
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, audit, row_findings
from registry.catalogue.database import SCHEMA, Database
from registry.catalogue.store import Store
from registry.errors import Damaged, Invalid, Unavailable
from registry.records.facts import DataFacts, ExpertFacts
from registry.records.kinds import Mode
from registry.records.version import FileFact

ROLES = Path(__file__).parents[2] / "docs/postgresql-roles.sql"
# What somebody with the role of a writer may try by SQL.
SLIPPED_IN = (
    "INSERT INTO label VALUES (1, 'zzz', 'x', NULL)",
    "INSERT INTO file VALUES (1, 'b', 1, 'b', 0, NULL)",
    "INSERT INTO edge VALUES (1, 2, 'trained_on')",
    "INSERT INTO document VALUES ('d', '{}')",
    "INSERT INTO version VALUES (9, 'data', 'x', 1, 'd', '2026-01-01', 'mal', '{}')",
)
GOLDEN = Path(__file__).parent / "golden"
# Noted when each golden registry was made: schema -> its head.
GOLDEN_HEADS = {"0001": (GOLDEN / "0001.head").read_text().strip()}


def fill(catalog: Catalog) -> None:
    catalog.register("math", DataFacts(license="MIT"), files=[FileFact("a", 1, "a" * 64)])
    catalog.register(
        "math",
        ExpertFacts(mode=Mode.FULL),
        parents=[("data/math", "trained_on")],
        documents=[{"a": 1}],
    )


def connect(url: str) -> "sqlite3.Connection | psycopg.Connection[tuple[object, ...]]":
    """Past the catalogue, as any other program would."""
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def columns_of(table: str) -> str:
    """Return the names of a table's columns, as SQL lists them."""
    # Imported here: it declares the tables.
    from registry.catalogue import models

    assert models
    return ", ".join(SQLModel.metadata.tables[table].columns.keys())


@pytest.mark.parametrize("table", sorted(insert_only.KEYS))
def test_no_statement_changes_or_removes_a_row(url: str, catalog: Catalog, table: str) -> None:
    fill(catalog)
    columns = columns_of(table)
    first = columns.split(",")[0]
    attacks = [f"UPDATE {table} SET {first} = {first}", f"DELETE FROM {table}"]
    if url.startswith("sqlite"):
        attacks += [f"INSERT OR REPLACE INTO {table} ({columns}) SELECT {columns} FROM {table}"]
        attacks += [f"REPLACE INTO {table} SELECT * FROM {table}"]
        attacks += [
            f"INSERT INTO {table} SELECT * FROM {table} WHERE true "
            f"ON CONFLICT DO UPDATE SET {first} = {first}"
        ]
    else:
        conflict = f"ON CONFLICT ({', '.join(insert_only.KEYS[table][0])})"
        update = f"DO UPDATE SET {first} = {table}.{first}"
        attacks += [
            f"TRUNCATE {table}",
            f"INSERT INTO {table} SELECT * FROM {table} {conflict} {update}",
        ]
    with connect(url) as connection:
        before = connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
        assert before
        for attack in attacks:
            with pytest.raises(
                (sqlite3.IntegrityError, psycopg.Error), match=r"append-only|not the next"
            ):
                connection.execute(attack)
        assert (
            connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall() == before
        )


def test_replacing_by_another_unique_key_or_by_rowid_is_refused(lite: Catalog) -> None:
    """The way by which INSERT OR REPLACE slips past triggers on UPDATE and DELETE."""
    fill(lite)
    columns = columns_of("version")
    with connect(lite.database.url) as connection:
        digest = lite.head()
        event, second = "at, actor, kind, subject, body", "FROM event WHERE seq = 2"
        attacks = [
            f"event SELECT 3, {event}, '{digest}', digest {second}",
            f"event SELECT 9, {event}, prev, '{'e' * 64}' {second}",
            f"version ({columns}) SELECT 9{columns[2:]} FROM version WHERE id = 1",
            "file (rowid, version_id, path, bytes, sha256, linked) VALUES (1, 9, 'x', 1, 'x', 0)",
        ]
        for attack in attacks:
            with pytest.raises(sqlite3.Error):
                connection.execute(f"INSERT OR REPLACE INTO {attack}")
        assert connection.execute("SELECT COUNT(*) FROM event").fetchone() == (2,)


def test_only_the_next_link_of_the_chain_is_taken(url: str, catalog: Catalog) -> None:
    fill(catalog)
    with connect(url) as connection:
        for seq, prev in ((4, catalog.head()), (3, "f" * 64), (0, "0" * 64)):
            with pytest.raises((sqlite3.IntegrityError, psycopg.Error), match="not the next"):
                connection.execute(
                    "INSERT INTO event "
                    f"VALUES ({seq}, '', '', '', '', '{{}}', '{prev}', '{'d' * 64}')"
                )


def test_the_triggers_that_are_installed_are_the_ones_that_are_written(catalog: Catalog) -> None:
    with catalog.database.read() as rows:
        expected = insert_only.triggers(rows.engine) | (
            insert_only.functions() if rows.engine == "postgresql" else {}
        )
        assert insert_only.installed(rows) == expected


def test_the_migrated_schema_is_the_one_that_the_rows_declare(catalog: Catalog) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    import registry.catalogue.models  # noqa: F401 - declares the tables

    with create_engine(catalog.database.url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []


@pytest.mark.parametrize("schema", sorted(path.stem for path in GOLDEN.glob("[0-9]*.sql")))
def test_a_registry_of_every_released_schema_is_read_and_audited(
    tmp_path: Path, schema: str
) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript((GOLDEN / f"{schema}.sql").read_text())
    connection.close()
    catalog = Catalog(f"sqlite:///{path}", actor="ada")
    report = audit(
        catalog,
        "build/1",
        AuditContext(store=Store(tmp_path / "store"), stored=frozenset()),
        pinned=GOLDEN_HEADS[schema],
    )
    assert [(finding.check, finding.subject) for finding in report.findings] == [
        ("standing", "data/math@1")
    ]
    assert {check.name: check.examined for check in report.checks}["log"] == 8
    assert catalog.status("build/1") == "tainted"
    found = catalog.versions(ExpertFacts, license="CC-BY-4.0")
    assert [str(version.ref) for version in found] == ["expert/math@1"]
    train = catalog.get("expert/math", ExpertFacts).facts.train
    assert train is not None
    assert train.flops == 1e21
    catalog.register("new", DataFacts())


def test_every_schema_has_its_golden_registry() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("[0-9]*.sql")) == sorted(GOLDEN_HEADS)
    assert sorted(GOLDEN_HEADS)[-1] == SCHEMA


def test_many_that_open_a_new_registry_at_once_make_it_once(url: str) -> None:
    script = (
        "from registry.catalogue.catalog import Catalog; "
        "from registry.records.events import AnyBody; "
        f"Catalog({url!r}, actor='a').event(AnyBody(), 'x', kind='hello')"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) for _ in range(4)
    ]
    assert [
        (process.wait(), process.stderr.read() if process.stderr else b"") for process in running
    ] == [(0, b"")] * 4
    assert [event.seq for event in Catalog(url, actor="ada").events()] == [1, 2, 3, 4]


def test_an_unknown_engine_is_wrong_usage_and_shows_no_password() -> None:
    with pytest.raises(Invalid) as caught:
        Database("mysql://me:secret@host/name")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(Unavailable) as caught:
        Database("postgresql+psycopg://me:secret@127.0.0.1:1/name")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough to look at" * 30)
    with pytest.raises(Damaged, match=r"x\.db"):
        Catalog(f"sqlite:///{tmp_path}/x.db", actor="ada")


def test_a_reader_that_cannot_write_still_reads(lite: Catalog) -> None:
    fill(lite)
    with lite.database.read() as rows, pytest.raises(sqlite3.OperationalError, match="readonly"):
        rows.connection.execute("INSERT INTO document VALUES ('a', 'b')")


def test_listing_imports_neither_sqlmodel_nor_alembic_nor_torch(lite: Catalog) -> None:
    fill(lite)
    script = (
        "import sys; from registry.catalogue.catalog import Catalog; "
        "from registry.records.facts import DataFacts; "
        f"Catalog({lite.database.url!r}, actor='a').versions(DataFacts); "
        "heavy = ('sqlmodel', 'sqlalchemy', 'alembic', 'torch', 'cryptography', 'psycopg'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


@pytest.fixture
def shared(postgresql: Callable[[], str]) -> str:
    """A registry on a server, with the documented roles."""
    url = postgresql()
    fill(Catalog(url, actor="ada"))
    with connect(url) as connection:
        for _ in range(2):  # as after an upgrade
            connection.execute(ROLES.read_text())
        for name, role in (("adder", "btx_writer"), ("looker", "btx_reader")):
            connection.execute(f"DROP ROLE IF EXISTS {name}")
            connection.execute(f"CREATE ROLE {name} LOGIN IN ROLE {role}")
    return url


@pytest.mark.parametrize("statement", SLIPPED_IN)
def test_no_row_is_slipped_in_beside_the_log(shared: str, statement: str) -> None:
    adder = shared.replace("postgres:@", "adder@")
    with connect(adder) as connection, pytest.raises(psycopg.Error, match="without its event"):
        connection.execute(statement)
    catalog = Catalog(adder, actor="bob")
    with catalog.database.read() as rows:
        assert row_findings(rows)[1] == []
    catalog.close()


def test_a_reader_on_postgresql_reads_and_writes_nothing(shared: str) -> None:
    looker = Catalog(shared.replace("postgres:@", "looker@"), actor="eve")
    assert looker.events()
    with pytest.raises(Unavailable, match="permission denied"):
        looker.withdraw("data/math@1", "no")
    looker.close()


def test_a_server_that_is_started_anew_is_waited_for(
    postgresql_server: Any, postgresql: Callable[[], str]
) -> None:
    catalog = Catalog(postgresql(), actor="ada")
    fill(catalog)
    before = len(catalog.events())
    acts = (catalog.events, lambda: catalog.register("more", DataFacts()))
    for act in acts:
        postgresql_server.stop()
        starting = threading.Timer(1, postgresql_server.start)
        starting.start()
        act()
        starting.join()
    assert len(catalog.events()) == before + 1
    catalog.close()


def test_postgresql_serves_a_role_that_may_only_read_and_add(shared: str) -> None:
    url = shared
    limited = Catalog(url.replace("postgres:@", "adder@"), actor="bob")
    assert limited.register("code", DataFacts()).created
    assert limited.events()[-1].actor == "bob"
    with pytest.raises(Unavailable, match="permission denied"), limited.database.write() as writer:
        writer.rows("DELETE FROM event RETURNING seq")
    limited.close()


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"


@pytest.mark.parametrize(
    "statement", [f"CREATE VIEW more AS {ENDLESS}", "CREATE VIEW e AS SELECT 1"]
)
def test_a_file_that_answers_by_itself_is_not_read(lite: Catalog, statement: str) -> None:
    lite.close()
    with sqlite3.connect(lite.database.path or "") as connection:
        connection.execute(statement)
    with pytest.raises(Damaged, match="view"):
        Catalog(lite.database.url, actor="ada")


def test_what_a_foreign_trigger_would_run_is_not_run(lite: Catalog, store: Store) -> None:
    lite.register("math", DataFacts())
    lite.close()
    with sqlite3.connect(lite.database.path or "") as connection:
        connection.execute(
            f"CREATE TRIGGER more AFTER INSERT ON event BEGIN SELECT max(x) FROM ({ENDLESS}); END"
        )
    again = Catalog(lite.database.url, actor="ada")
    with pytest.raises(Damaged, match="trigger more"):
        again.register("code", DataFacts())
    findings = audit(again, "data/math", AuditContext(store=store)).findings
    assert [one.subject for one in findings if one.check == "schema"] == ["trigger more"]
    again.close()


@pytest.mark.parametrize("revision", ["../../x", "0000", "00010"])
def test_a_schema_that_no_program_made_is_damaged(lite: Catalog, revision: str) -> None:
    lite.close()
    with sqlite3.connect(lite.database.path or "") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    with pytest.raises(Damaged, match="schema"):
        Catalog(lite.database.url, actor="ada")
