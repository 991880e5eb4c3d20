"""The database: one URL, SQLite or PostgreSQL; reading by SQL text, writing by SQLModel session.

In:  a URL, `sqlite:///PATH` or `postgresql+psycopg://...`.
Out: `read()`, a consistent view of all rows, and `write()`, the one writer.
Opening brings the schema up to date (`migrations`). Reads use the driver alone: importing SQLModel
costs more than most answers take. What the rows mean is left to `catalog.py`.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

# The two drivers' connections share no type, and a column's value may be of any.
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from btx_core.problems import BtxError
from registry.catalogue import insert_only
from registry.errors import Conflict, Damaged, Invalid, Unavailable
from registry.urls import without_secrets

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine
    from sqlmodel import Session

# Eight writers at the default of 5 s saw "database is locked".
BUSY_S = 60.0
# Between two looks at a lock that SQLite does not wait for.
PAUSE_S = 0.02
# How long a server that did answer is waited for: a restart takes seconds.
PATIENCE_S = 60.0
# Where the advisory locks of names begin on PostgreSQL, beside the one of the event chain.
LOCKS = 1 << 40
# The newest migration.
SCHEMA = "0001"
# With less room than this, SQLite's I/O errors mean a full disk.
LITTLE_BYTES = 1 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A name behind one colon; two colons are a cast.
PLACEHOLDER = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")
# What the triggers and the unique keys say of a row that is there already.
REFUSED_ROW = ("append-only", "not the next event", "UNIQUE", "unique")
NO_DATABASE = ("malformed", "not a database")


T = TypeVar("T")


class Rows:
    """Reads rows by SQL text on a driver's connection.

    Attributes:
        connection: the driver's connection.
        engine: "sqlite" or "postgresql".
    """

    def __init__(self, connection: Any, engine: str) -> None:
        """Read on this connection of this engine."""
        self.connection = connection
        self.engine = engine

    def __call__(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Run one statement.

        Args:
            sql: its text, with `:name` placeholders.
            values: a value for each placeholder.

        Returns:
            Every row, as a tuple of its columns.
        """
        text = sql if self.engine == "sqlite" else _psycopg(sql)
        rows: list[tuple[Any, ...]] = self.connection.execute(text, values).fetchall()
        return rows


class Writer:
    """One write transaction.

    Attributes:
        session: takes SQLModel rows.
        rows: reads what is written so far, on the same connection.
    """

    def __init__(self, session: "Session", engine: str) -> None:
        """Write through a session of SQLModel."""
        self.session = session
        self.rows = Rows(session.connection().connection.driver_connection, engine)


class Database:
    """An open database; each thread reads on a connection of its own.

    Attributes:
        url: where it is.
        engine: "sqlite" or "postgresql".
        path: the file of an SQLite database, else None.
        after_write: called after each transaction that wrote.
    """

    def __init__(self, url: str) -> None:
        """Open a database, and bring its schema up to date.

        Args:
            url: `sqlite:///PATH` or `postgresql+psycopg://...`.

        Raises:
            Invalid: for another kind of URL.
            Damaged: for a file that is no database.
            Unavailable: when the database does not answer.
        """
        self.url = url
        self.engine = _engine_name(url)
        self.path = Path(url.removeprefix("sqlite:///")) if self.engine == "sqlite" else None
        self.after_write: Callable[[], None] | None = None
        self._local = threading.local()
        self._writing = threading.Lock()
        self._sqlalchemy_engine: Engine | None = None
        self._answered = False
        self._foreign_triggers: tuple[str, ...] = ()
        revision = self._schema()
        if revision is not None and not re.fullmatch(r"(?!0000)\d{4}", revision):
            raise Damaged(
                without_secrets(url),
                found=f"schema {revision[:40]!r}",
                expected=f"schema {SCHEMA}",
                next="restore it from a copy, or import an exported registry",
            )
        if revision is not None and revision > SCHEMA:
            raise Unavailable(
                without_secrets(url),
                found=f"schema {revision}, which a newer btx made",
                expected=f"schema {SCHEMA} or older",
                next="pip install --upgrade btx-registry, as on the machine that made it",
            )
        if revision != SCHEMA:
            self.migrate()
        self._answered = True

    @contextmanager
    def read(self) -> Iterator[Rows]:
        """Let all reads inside see one state, whatever others write meanwhile.

        Nested, the outermost counts.

        Yields:
            What reads rows.

        Raises:
            Damaged: for a file that is no database any more.
            Unavailable: when the database does not answer.
        """
        depth = getattr(self._local, "depth", 0)
        with _errors_in_words(self.url):
            rows = self._rows() if depth else self._waited_for(self._begun)
            self._local.depth = depth + 1
            try:
                yield rows
            finally:
                self._local.depth = depth
                if depth == 0:
                    self._end(rows)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """Write in one transaction, alone: other writers wait for it.

        Nothing of it is seen unless the block ends well.

        Yields:
            What takes rows.

        Raises:
            Conflict: for a row that is there already.
            Unavailable: when the disk is full or the database does not answer.
        """
        # Here, since reading must not pay for it.
        from sqlmodel import Session

        if self._foreign_triggers:
            raise _foreign(self.url, self._foreign_triggers)
        with _errors_in_words(self.url), Session(self._writer_engine()) as session, session.begin():
            writer = self._waited_for(lambda: Writer(session, self.engine))
            if self.engine == "postgresql":
                # A lock that a role with INSERT and SELECT alone may take.
                writer.rows("SELECT pg_advisory_xact_lock(hashtext('btx event chain'))")
            yield writer
        if self.after_write is not None:
            self.after_write()

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let nobody else on this registry, on whatever machine, hold the lock of this name.

        Others wait. It ends with the process that holds it.

        Raises:
            Unavailable: when the database does not answer.
        """
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1
        if self.path is not None:
            with self.path.with_name(f"{self.path.name}.locks").open("ab") as file:
                # Of one byte that need not exist; another name is another byte.
                fcntl.lockf(file, fcntl.LOCK_EX, 1, number)
                yield
            return
        with _errors_in_words(self.url):
            connection = self._waited_for(self._connect)
            connection.execute("SELECT pg_advisory_lock(%s)", (LOCKS + number,))
        try:
            yield
        finally:
            connection.close()

    def close(self) -> None:
        """Close this thread's connection and the writer's."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None
        if self._sqlalchemy_engine is not None:
            self._sqlalchemy_engine.dispose()
            self._sqlalchemy_engine = None

    def _rows(self) -> Rows:
        connection = getattr(self._local, "connection", None)
        if connection is None or (self.engine == "postgresql" and connection.closed):
            connection = self._local.connection = self._connect()
        return Rows(connection, self.engine)

    def _begun(self) -> Rows:
        """Begin a transaction that reads."""
        rows = self._rows()
        isolation = " ISOLATION LEVEL REPEATABLE READ READ ONLY"
        try:
            rows.connection.execute(f"BEGIN{'' if self.engine == 'sqlite' else isolation}")
        except Exception:
            self._local.connection = None
            raise
        return rows

    def _waited_for(self, ask: Callable[[], T]) -> T:
        """Ask a server that answered before until it answers again: it may be restarting."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = ask()
            except Exception as error:
                if not _is_lost_connection(error):
                    raise
                if not self._answered or time.monotonic() >= until:
                    # Who was waited for in vain is not waited for again.
                    self._answered = False
                    raise
            else:
                self._answered = True
                return answer
            time.sleep(PAUSE_S)

    def _end(self, rows: Rows) -> None:
        try:
            rows.connection.execute("ROLLBACK")
        # A connection that cannot even roll back is replaced; the first error is the one to report.
        except Exception:
            self._local.connection = None

    def _connect(self) -> Any:
        if self.path is not None:
            return _sqlite_reader(self.path)
        try:
            # Here, since SQLite must not pay for it.
            import psycopg
        except ImportError as error:
            raise Unavailable(
                without_secrets(self.url),
                found=str(error),
                expected="the packages of extra postgresql",
                next="pip install 'btx-registry[postgresql]'",
            ) from None
        return psycopg.connect(self.url.replace("+psycopg", "", 1), autocommit=True)

    def _schema(self) -> str | None:
        """The schema's revision, None where there is none yet."""
        if self.path is not None and (not self.path.exists() or self.path.stat().st_size == 0):
            return None
        with self.read() as rows:
            if self.engine == "sqlite":
                self._require_own(rows)
                tables = rows("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
            else:
                tables = rows("SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL")
            revisions = rows("SELECT version_num FROM alembic_version") if tables else []
        return str(revisions[0][0]) if revisions else None

    def _require_own(self, rows: Rows) -> None:
        """Require that a file computes nothing by itself but what this program wrote.

        A view answers in place of a table, with whatever it likes and without end. A trigger runs
        when rows are written: of a foreign one an audit can still tell.
        """
        own = frozenset(insert_only.triggers("sqlite").values())
        made = rows("SELECT type, name, sql FROM sqlite_master WHERE type IN ('view', 'trigger')")
        views = tuple(f"view {name}" for kind, name, _ in made if kind == "view")
        if views:
            raise _foreign(self.url, views)
        triggers = (name for kind, name, sql in made if kind == "trigger" and sql not in own)
        self._foreign_triggers = tuple(f"trigger {name}" for name in triggers)

    def migrate(self) -> None:
        """Bring the schema up to date, in a database that is made where there is none."""
        # Here, since an up-to-date schema needs no Alembic.
        from registry.catalogue.migrations import upgrade

        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite itself would leave out the group, whatever the umask.
            self.path.touch()
            _set_wal(self.path)
        with _errors_in_words(self.url):
            upgrade(self._writer_engine(), SCHEMA)

    def _writer_engine(self) -> "Engine":
        """SQLAlchemy's engine for the writer, made on first use."""
        with self._writing:
            if self._sqlalchemy_engine is None:
                self._sqlalchemy_engine = _make_engine(self.url)
            return self._sqlalchemy_engine


def _foreign(url: str, names: Sequence[str]) -> Damaged:
    return Damaged(
        without_secrets(url),
        found=", ".join(names)[:160],
        expected="the tables and triggers of a registry, and nothing beside them",
        next="ask whoever made the file; restore it from a backup",
    )


def _engine_name(url: str) -> str:
    if url.startswith("sqlite:///"):
        return "sqlite"
    if url.startswith("postgresql+psycopg://"):
        return "postgresql"
    raise Invalid(
        "registry URL",
        found=without_secrets(url),
        expected="sqlite:///PATH or postgresql+psycopg://USER@HOST/NAME",
    )


@lru_cache(maxsize=256)
def _psycopg(sql: str) -> str:
    return PLACEHOLDER.sub(r"%(\1)s", sql.replace("%", "%%"))


def _make_engine(url: str) -> "Engine":
    from sqlalchemy import URL, create_engine, event

    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=1, max_overflow=7, pool_pre_ping=True)
    # By its parts: a path may hold what means something in a URL.
    address = URL.create("sqlite", database=url.removeprefix("sqlite:///"))
    # One connection, kept: closing the last one makes SQLite fold its log into the file, which
    # costs twice as much as a registration.
    options = {"timeout": BUSY_S, "check_same_thread": False}
    engine = create_engine(
        address, connect_args=options, pool_size=1, max_overflow=0, pool_timeout=BUSY_S
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # The driver would begin a transaction only at the first write, too late to be alone.
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _set_wal(path: Path) -> None:
    """Switch to write-ahead logging, which is kept in the file itself.

    SQLite does not wait for the lock that this takes, so it is asked again.
    """
    until = time.monotonic() + BUSY_S
    while True:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise _translated(error, str(path)) from error
        finally:
            connection.close()
        time.sleep(PAUSE_S)


def _sqlite_reader(path: Path) -> sqlite3.Connection:
    """Connect for reading, also where this account may write neither the file nor its folder."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        connection.execute("PRAGMA query_only = ON")
        return connection
    where = f"file:{quote(str(path))}?mode=ro"
    # With the log's index of a writer that is at work, where there is one; else, with no writer and
    # nothing in the log, the file as it lies there.
    wal = path.with_name(f"{path.name}-wal")
    unused = not wal.exists() or wal.stat().st_size == 0
    return sqlite3.connect(
        f"{where}&immutable=1" if unused else where, timeout=BUSY_S, isolation_level=None, uri=True
    )


@contextmanager
def _errors_in_words(url: str) -> Iterator[None]:
    """Turn the drivers' errors into BtxErrors that say what to do; BtxErrors pass."""
    try:
        yield
    except BtxError:
        raise
    except Exception as error:
        driver_error = getattr(error, "orig", None) or error
        of_sqlite = isinstance(driver_error, sqlite3.Error | OSError)
        if not of_sqlite and not type(driver_error).__module__.startswith("psycopg"):
            raise
        raise _translated(driver_error, without_secrets(url)) from error


def _is_lost_connection(error: Exception) -> bool:
    """Whether PostgreSQL did not answer at all."""
    driver_error = getattr(error, "orig", None) or error
    if not type(driver_error).__module__.startswith("psycopg"):
        return False
    # Here, since SQLite must not pay for it.
    import psycopg

    return isinstance(driver_error, psycopg.OperationalError)


def _translated(error: BaseException, where: str) -> BtxError:
    """A driver's error as one of ours."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if any(words in text for words in REFUSED_ROW):
        return Conflict(
            where,
            found=text,
            expected="a new row",
            next="run the command again; rows are never changed",
        )
    if getattr(error, "errno", None) in NO_ROOM or _says_full(text, where):
        return Unavailable(
            where,
            found=text,
            expected="room to write",
            next="make room and run the command again; nothing was changed",
        )
    if any(words in text for words in NO_DATABASE):
        return Damaged(
            where,
            found=text,
            expected="a registry database",
            next="restore it from a copy, or import an exported registry",
        )
    return Unavailable(
        where,
        found=text,
        expected="a database that answers",
        next="see that it runs and can be written, then run the command again",
    )


def _says_full(text: str, where: str) -> bool:
    """Whether an error means a full disk.

    SQLite calls it an I/O error where there is no room even for its shared memory.
    """
    if "full" in text or "No space" in text:
        return True
    folder = Path(where.removeprefix("sqlite:///")).parent
    if "disk I/O" not in text or not folder.is_dir():
        return False
    return shutil.disk_usage(folder).free < LITTLE_BYTES
