"""The database: one URL, SQLite or PostgreSQL; reading by SQL text, writing by SQLModel session.

In:  a URL, `sqlite:///PATH` or `postgresql+psycopg://...`.  Out: `read()`, a consistent view of all rows, and `write()`, the one writer.
Opening brings the schema up to date (migrations/). Reads use the driver alone: importing SQLModel costs more than most answers take.
What the rows mean is catalog.py's.
"""

import errno
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btx_core.problems import BtxError
from registry.errors import Conflict, Damaged, Invalid, Unavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlmodel import Session

BUSY_S = 60.0  # eight writers at the default of 5 s saw "database is locked"
SCHEMA = "0001"  # the newest migration
LITTLE_BYTES = 1 << 20
_PLACEHOLDER = re.compile(r"(?<!:):([a-z_]+)")  # not a `::cast`


class Rows:
    """Runs one SQL text with `:name` placeholders on a driver's connection; every row is a tuple."""

    def __init__(self, connection: Any, engine: str) -> None:
        self.connection, self.engine = connection, engine

    def __call__(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        if self.engine == "sqlite":
            return self.connection.execute(sql, values).fetchall()  # type: ignore[no-any-return]
        return self.connection.execute(_psycopg(sql), values).fetchall()  # type: ignore[no-any-return]


class Writer:
    """One write transaction. `session` takes SQLModel rows; `rows` reads what is written so far, on the same connection."""

    def __init__(self, session: "Session", engine: str) -> None:
        self.session = session
        self.rows = Rows(session.connection().connection.driver_connection, engine)


class Database:
    """Opened, and migrated if it was not up to date. One read connection a thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine_name(url)
        self.path = Path(url.removeprefix("sqlite:///")) if self.engine == "sqlite" else None
        self._local = threading.local()
        self._writing = threading.Lock()
        self._made: Engine | None = None
        if self._schema() != SCHEMA:
            self._migrate()

    @contextmanager
    def read(self) -> Iterator[Rows]:
        """All reads inside see one state, whatever others write meanwhile. Nested, the outermost counts."""
        depth = getattr(self._local, "depth", 0)
        with _in_our_words(self.url):
            rows = self._rows()
            if depth == 0:
                rows.connection.execute(
                    "BEGIN"
                    if self.engine == "sqlite"
                    else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
                )
            self._local.depth = depth + 1
            try:
                yield rows
            finally:
                self._local.depth = depth
                if depth == 0:
                    self._end(rows)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """One transaction, alone: other writers wait for it. Nothing of it is seen unless the block ends well."""
        from sqlmodel import Session  # here, since reading must not pay for it

        with _in_our_words(self.url), Session(self._sqlalchemy()) as session, session.begin():
            writer = Writer(session, self.engine)
            if (
                self.engine == "postgresql"
            ):  # a lock that a role with INSERT and SELECT alone may take
                writer.rows("SELECT pg_advisory_xact_lock(hashtext('btx event chain'))")
            yield writer

    def close(self) -> None:
        """Close this thread's connection and the writer's."""
        if connection := getattr(self._local, "connection", None):
            connection.close()
            self._local.connection = None
        if self._made is not None:
            self._made.dispose()
            self._made = None

    def _rows(self) -> Rows:
        connection = getattr(self._local, "connection", None)
        if connection is None or (self.engine == "postgresql" and connection.closed):
            connection = self._local.connection = self._connect()
        return Rows(connection, self.engine)

    def _end(self, rows: Rows) -> None:
        try:
            rows.connection.execute("ROLLBACK")
        except Exception:  # a connection that cannot even roll back is replaced, and the first error is the one to tell
            self._local.connection = None

    def _connect(self) -> Any:
        if self.path is not None:
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
            connection.execute("PRAGMA query_only = ON")
            return connection
        import psycopg  # here, since SQLite must not pay for it

        return psycopg.connect(self.url.replace("+psycopg", "", 1), autocommit=True)

    def _schema(self) -> str | None:
        """The schema's revision, None where there is none yet."""
        if self.path is not None and (not self.path.exists() or self.path.stat().st_size == 0):
            return None
        with self.read() as rows:
            if self.engine == "sqlite":
                there = rows("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
            else:
                there = rows("SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL")
            found = rows("SELECT version_num FROM alembic_version") if there else []
        return str(found[0][0]) if found else None

    def _migrate(self) -> None:
        from registry.catalogue.migrations import (
            upgrade,  # here, since an up-to-date schema needs no Alembic
        )

        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _set_wal(self.path)
        with _in_our_words(self.url):
            upgrade(self._sqlalchemy(), SCHEMA)

    def _sqlalchemy(self) -> "Engine":
        with self._writing:
            if self._made is None:
                self._made = _make_engine(self.url)
            return self._made


def _engine_name(url: str) -> str:
    if url.startswith("sqlite:///"):
        return "sqlite"
    if url.startswith("postgresql+psycopg://"):
        return "postgresql"
    raise Invalid(
        "registry URL",
        found=url.split("@")[-1],
        expected="sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME",
    )


@lru_cache(maxsize=256)
def _psycopg(sql: str) -> str:
    return _PLACEHOLDER.sub(r"%(\1)s", sql.replace("%", "%%"))


def _make_engine(url: str) -> "Engine":
    from sqlalchemy import create_engine, event

    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=1, max_overflow=7, pool_pre_ping=True)
    # One connection, kept: closing the last one makes SQLite fold its log into the file, twice the cost of a registration.
    options = {"timeout": BUSY_S, "check_same_thread": False}
    engine = create_engine(
        url, connect_args=options, pool_size=1, max_overflow=0, pool_timeout=BUSY_S
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver would begin a transaction only at the first write, too late to be alone
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _set_wal(path: Path) -> None:
    """Write-ahead logging, kept in the file itself. SQLite does not wait for the lock that this takes, so we do."""
    until = time.monotonic() + BUSY_S
    while True:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise _told(error, str(path)) from error
        finally:
            connection.close()
        time.sleep(0.02)


def _full(text: str, where: str) -> bool:
    """SQLite calls it an I/O error where there is no room even for its shared memory."""
    path = Path(where.removeprefix("sqlite:///"))
    no_room = (
        "disk I/O" in text
        and path.parent.is_dir()
        and shutil.disk_usage(path.parent).free < LITTLE_BYTES
    )
    return no_room or "full" in text or "No space" in text


@contextmanager
def _in_our_words(url: str) -> Iterator[None]:
    """Driver errors become BtxErrors that say what to do; ours pass."""
    try:
        yield
    except BtxError:
        raise
    except Exception as error:
        driver = getattr(error, "orig", None) or error
        if isinstance(driver, sqlite3.Error | OSError) or type(driver).__module__.startswith(
            "psycopg"
        ):
            raise _told(driver, url.split("@")[-1]) from error
        raise


def _told(error: BaseException, where: str) -> BtxError:
    """The driver's error as ours."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if (
        "append-only" in text
        or "not the next event" in text
        or "UNIQUE" in text
        or "unique" in text
    ):
        return Conflict(
            where,
            found=text,
            expected="a new row",
            next="run the command again; rows are never changed",
        )
    if _full(text, where) or getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
    ):
        return Unavailable(
            where,
            found=text,
            expected="room to write",
            next="make room and run the command again; nothing was changed",
        )
    if "malformed" in text or "not a database" in text:
        return Damaged(
            where,
            found=text,
            expected="a registry database",
            next="restore it from a copy, or import an exported registry",
        )
    advice = "see that it runs and can be written, then run the command again"
    return Unavailable(where, found=text, expected="a database that answers", next=advice)
