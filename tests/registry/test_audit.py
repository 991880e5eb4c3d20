"""Every alarm of an audit rings.

For each column of each table, each row of the log, each stored byte; and for the chain against a
pinned head. Whatever the rows hold, an audit ends with an answer.
"""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from registry.catalogue import insert_only
from registry.catalogue.audit_log import Link, check_signed_head, sign_head
from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, audit
from registry.catalogue.store import Store
from registry.digest import sha256_bytes
from registry.errors import BtxError, Damaged, NotFound
from registry.governance import approving, gaps, gate, keys, people
from registry.records.answers.auditing import AuditAnswer, Finding
from registry.records.events import BODIES, AnyBody, Judged, Progress, Released
from registry.records.facts import (
    FACTS,
    BuildFacts,
    DataFacts,
    ExpertFacts,
    Facts,
    SeedFacts,
    SnapshotFacts,
)
from registry.records.kinds import Mode, Status
from registry.records.references import Reference, parse
from registry.records.results import Result
from registry.records.version import Event, FileFact, Version

COLUMNS = {
    "version": ("id", "kind", "name", "number", "digest", "registered_at", "actor", "facts"),
    "file": ("version_id", "path", "bytes", "sha256", "linked", "md5"),
    "edge": ("from_id", "to_id", "relation"),
    "label": ("version_id", "key", "value", "number"),
    "document": ("digest", "body"),
    "event": ("seq", "at", "actor", "kind", "subject", "body", "prev", "digest"),
    "alembic_version": ("version_num",),
}


def checkpoint(folder: Path, tensors: dict[str, bytes], name: str = "model.safetensors") -> None:
    header, start = {}, 0
    for tensor, content in tensors.items():
        header[tensor] = {
            "dtype": "U8",
            "shape": [len(content)],
            "data_offsets": [start, start + len(content)],
        }
        start += len(content)
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))


@dataclass
class Made:
    """A whole small registry: seed, data, expert, snapshot, build and a verdict.

    Its files are in the store and, as copies, in folders.

    Attributes:
        events: as they were written.
    """

    catalog: Catalog
    store: Store
    folders: dict[Reference, Path]
    events: Sequence[Event]

    def audit(
        self,
        subject: str = "build/1",
        pinned: str | None = None,
        judge: Callable[..., str] | None = None,
    ) -> AuditAnswer:
        sources = {
            parse("build/1"): {
                "moe.expert.1": ("expert/math@1", "dense.up"),
                "moe.expert.0": ("seed/base@1", "dense.up"),
            }
        }
        tensors = {
            parse("build/1"): {
                "moe.expert.1": sha256_bytes(b"math"),
                "moe.shared": sha256_bytes(b"shared"),
            }
        }
        given = AuditContext(
            store=self.store, folders=self.folders, sources=sources, tensors=tensors, judge=judge
        )
        return audit(self.catalog, subject, given, pinned=pinned)


def build_registry(catalog: Catalog, root: Path) -> Made:
    store, folders = Store(root / "store"), {}

    def register(
        ref: str,
        facts: Facts,
        parents: Sequence[tuple[str, str]] = (),
        documents: Sequence[dict[str, object]] = (),
    ) -> Version[Facts]:
        folder = root / ref.replace("/", "-")
        paths = sorted(folder.rglob("*")) if folder.exists() else []
        taken = [
            FileFact(
                path.relative_to(folder).as_posix(),
                path.stat().st_size,
                store.put(path, copy=True),
                md5="d" * 32,
            )
            for path in paths
            if path.is_file()
        ]
        version = catalog.register(
            parse(ref).name, facts, files=taken, parents=parents, documents=documents
        )
        assert str(version.ref) == ref
        if taken:
            folders[version.ref] = folder
        return version

    checkpoint(root / "seed-base@1", {"dense.up": b"seed"})
    register("seed/base@1", SeedFacts(license="MIT"))
    (root / "data-math@1").mkdir()
    (root / "data-math@1" / "a.jsonl").write_text('{"text": "1+1=2"}\n')
    register("data/math@1", DataFacts(license="CC0-1.0", holder="Acme"))
    checkpoint(root / "expert-math@1", {"dense.up": b"math", "dense.norm": b"n"})
    measured = Result(data="data/math@1", domain="math", bits_per_byte=0.5)
    register(
        "expert/math@1",
        ExpertFacts(mode=Mode.ANCHORED, results=(measured,)),
        parents=[("seed/base", "branched_from"), ("data/math", "trained_on")],
        documents=[{"recipe": {"steps": 1}}],
    )
    register(
        "snapshot/main@1",
        SnapshotFacts(mode=Mode.ANCHORED),
        parents=[("seed/base", "seed"), ("expert/math", "member")],
    )
    checkpoint(root / "build-1", {"moe.shared": b"shared"}, "model-shared.safetensors")
    checkpoint(root / "build-1", {"moe.expert.1": b"math"}, "model-expert-math.safetensors")
    checkpoint(root / "build-1", {"moe.expert.0": b"seed"}, "model-expert-seed.safetensors")
    register(
        "build/1", BuildFacts(status=Status.EVALUATED), parents=[("snapshot/main", "composed_from")]
    )
    verdict = Judged(gate="build", outcome="allowed", kind="build", at="2026-03-01T00:00:00Z")
    catalog.event(verdict, "build/1", documents=[{"policy": 1}])
    catalog.event(Released(), "build/1")
    return Made(catalog, store, folders, catalog.events())


@pytest.fixture
def made(catalog: Catalog, tmp_path: Path) -> Made:
    return build_registry(catalog, tmp_path / "files")


@pytest.fixture
def lite_made(lite: Catalog, tmp_path: Path) -> Made:
    return build_registry(lite, tmp_path / "files")


@pytest.fixture
def beyond(url: str) -> Iterator[Callable[..., list[tuple[object, ...]]]]:
    """Return a function that runs SQL as an owner of the database could.

    No trigger fires, and all of them are back in place at once.
    """
    lite = url.startswith("sqlite")
    if lite:
        connection: sqlite3.Connection | psycopg.Connection[tuple[object, ...]] = sqlite3.connect(
            url[10:], isolation_level=None
        )
        connection.execute("PRAGMA synchronous = OFF")
    else:
        connection = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        connection.execute("SET session_replication_role = replica")

    def run(sql: str, *values: object) -> list[tuple[object, ...]]:
        connection.execute("BEGIN")
        for name in insert_only.triggers("sqlite") if lite else ():
            connection.execute(f"DROP TRIGGER {name}")
        try:
            found = connection.execute(sql if lite else sql.replace("?", "%s"), values)
            return found.fetchall() if found.description else []
        finally:
            for text in insert_only.triggers("sqlite").values() if lite else ():
                connection.execute(text)
            connection.execute("COMMIT")

    yield run
    connection.close()


def test_a_whole_registry_has_no_finding_and_says_how_much_it_looked_at(made: Made) -> None:
    report = made.audit(pinned=made.catalog.head(), judge=lambda event: "allowed")
    assert report.findings == ()
    assert all(check.ok for check in report.checks)
    examined = {check.name: check.examined for check in report.checks}
    assert examined == {"schema": 20 if made.catalog.database.engine == "sqlite" else 22} | {
        "log": 7,
        "rows": 7,
        "standing": 5,
        "files": 6,
        "tensors": 2,
        "verdicts": 1,
    }
    assert report.head == made.catalog.head()


def other(value: object, column: str = "") -> object:
    """Return another value of the column's type, and of no other row's."""
    if value is None:
        return 0.25 if column == "number" else "e" * 32
    if isinstance(value, int | float):
        return value + 1000
    text = str(value)
    return text[:-2] + chr(ord(text[-2]) ^ 1) + text[-1] if len(text) > 1 else text + "x"


def test_no_table_and_no_column_escapes_the_tests_below(lite: Catalog) -> None:
    with lite.database.read() as rows:
        tables = [
            name
            for (name,) in rows(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        there = {
            table: tuple(row[1] for row in rows(f"PRAGMA table_info({table})")) for table in tables
        }
    assert there == COLUMNS


def named(findings: Iterable[Finding], made: Made, table: str, *states: tuple[object, ...]) -> bool:
    """Whether a finding says which row was changed.

    That is the event or document, by what it was or is now, or the version and its kind of rows.
    """
    odd = [one for one in findings if one.check in ("rows", "log", "schema")]
    if table in ("event", "document", "alembic_version"):
        return bool(
            {one.subject for one in odd}
            & {table if table == "alembic_version" else f"{table} {state[0]}" for state in states}
        )
    ref = next(event.subject for event in made.events if event.seq == states[0][0])
    return any(f"{table} row" in one.subject and ref in one.subject + one.expected for one in odd)


@pytest.mark.parametrize("table", sorted(COLUMNS))
def test_every_change_of_every_column_of_every_row_is_found(
    made: Made, beyond: Callable[..., list[tuple[object, ...]]], table: str
) -> None:
    columns = COLUMNS[table]
    rows = beyond(f"SELECT {', '.join(columns)} FROM {table}")
    assert rows
    for row in rows:
        for position, column in enumerate(columns):
            changed = (*row[:position], other(row[position], column), *row[position + 1 :])
            here = " AND ".join(
                f"{name} {'= ?' if value is not None else 'IS NULL'}"
                for name, value in zip(columns, row, strict=True)
            )
            beyond(
                f"UPDATE {table} SET {column} = ? WHERE {here}",
                changed[position],
                *(value for value in row if value is not None),
            )
            findings = made.audit().findings
            assert named(findings, made, table, row, changed), (
                f"{table}.{column}: {row} -> {changed}: {findings}"
            )
            there = here.replace(f"{column} IS NULL", f"{column} = ?")
            back = [value for value in changed if value is not None]
            beyond(f"UPDATE {table} SET {column} = ? WHERE {there}", row[position], *back)
    assert made.audit().findings == ()


WHATEVER = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=8),
    st.just(...),
)


EXAMPLES = settings(
    max_examples=int(os.environ.get("BTX_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
PLACES = st.sampled_from(
    [(table, column) for table, columns in COLUMNS.items() for column in columns]
)


@contextmanager
def tampered(
    path: str, place: tuple[str, str], value: object, data: st.DataObject
) -> Iterator[bool]:
    """Write a value into one column of a row that is drawn, and put everything back at the end.

    As the owner of the file can: no trigger is in the way. Where `...` is drawn, the value is the
    same words as bytes. What the table's own rules refuse is not looked at.

    Yields:
        Whether the row is another one now.
    """
    table, column = place
    key = COLUMNS[table][:3]
    look = f"SELECT {', '.join(key)}, {column} FROM {table} ORDER BY {', '.join(key)}"
    here = " AND ".join(f"{name} IS ?" for name in key)
    with (
        closing(sqlite3.connect(":memory:")) as whole,
        closing(sqlite3.connect(path, isolation_level=None)) as connection,
    ):
        connection.backup(whole)
        before = connection.execute(look).fetchall()
        row = data.draw(st.sampled_from(before))
        for name in insert_only.triggers("sqlite"):
            connection.execute(f"DROP TRIGGER {name}")
        try:
            changed = str(row[-1]).encode() if value is ... else value
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE {here}", (changed, *row[:-1])
            )
            after = connection.execute(look).fetchall()
            for text in insert_only.triggers("sqlite").values():
                connection.execute(text)
            yield [*map(repr, after)] != [*map(repr, before)]
        # The table's own rules, or no text at all.
        except (sqlite3.IntegrityError, UnicodeEncodeError):
            assume(False)
        finally:
            whole.backup(connection)


@EXAMPLES
@given(PLACES, WHATEVER, st.data())
def test_whatever_else_stands_in_any_column_is_found(
    lite_made: Made, place: tuple[str, str], value: object, data: st.DataObject
) -> None:
    path = lite_made.catalog.database.path or ""
    with tampered(path, place, value, data) as is_changed:
        findings = lite_made.audit().findings
        found = [one for one in findings if one.check in ("rows", "log", "schema")]
        assert bool(found) == is_changed, place


KEYS = (
    "gate",
    "kind",
    "outcome",
    "at",
    "rules",
    "waivers",
    "reasons",
    "documents",
    "act",
    "status",
)
BODIES_OF_ANY_FORM = st.dictionaries(
    st.sampled_from([*KEYS, "envelope", "evaluation", "results", "members", "data", "shapes"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["", "register", "refused"]),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2)
        ),
        max_leaves=6,
    ),
    max_size=5,
)


def whole_audit(governed: Any, store: Store) -> AuditAnswer:
    """Audit build/1 with the judge of the gates."""
    catalog = governed.as_("ann")
    given = AuditContext(
        store=store,
        stored=frozenset(),
        judge=lambda event: gate.judge_again(catalog, event).outcome,
    )
    return audit(catalog, "build/1", given)


def questions(catalog: Catalog) -> list[Callable[[], object]]:
    """Return what commands and pages ask of a registry, its damaged parts included."""
    return [
        lambda: gaps.ungated(catalog, "build/1"),
        lambda: catalog.impact("data/law@1"),
        lambda: catalog.lineage("build/1"),
        lambda: [version.facts for version in catalog.lineage("build/1").nodes],
        lambda: [catalog.status(ref) for ref in ("build/1", "expert/law@1", "data/law@1")],
        lambda: [catalog.versions(record) for record in FACTS.values()],
        lambda: catalog.versions(ExpertFacts, metric="law.bits_per_byte<1", license="CC0-1.0"),
        lambda: [event.body for event in catalog.events()],
        lambda: [gate.judge_again(catalog, event) for event in catalog.events(kind="verdict")],
        lambda: people.roll(catalog),
        lambda: approving.approvals(catalog, catalog.get("build/1")),
        lambda: approving.waivers(catalog, "data/law@1", None),
        catalog.needed,
        catalog.head,
    ]


def answers_or_names_the_damage(governed: Any, store: Store) -> None:
    """Check that an audit ends with an answer, and other questions at worst with a known error."""
    assert whole_audit(governed, store).head
    for ask in questions(governed.as_("ann")):
        with suppress(BtxError):
            ask()


@pytest.fixture
def told(governed: Any) -> Any:
    """Return a whole story, approved and waived in part, by people on a closed list."""
    governed.story()
    approving.approve(governed.as_("ben"), "build/1", governed.person("ben", "approver"))
    until = (governed.at + timedelta(days=9)).date().isoformat()
    ben = keys.signer("ben", governed.keys / "ben.pem")
    governed.waive(ben, "licence/allowed", governed.data_candidate(), until)
    return governed


@EXAMPLES
@given(PLACES, WHATEVER | BODIES_OF_ANY_FORM.map(json.dumps), st.data())
def test_whatever_stands_in_any_column_an_audit_ends_with_an_answer(
    told: Any, store: Store, place: tuple[str, str], value: object, data: st.DataObject
) -> None:
    path = told.as_("ann").database.path or ""
    with tampered(path, place, value, data):
        answers_or_names_the_damage(told, store)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@EXAMPLES
@given(
    kind=st.sampled_from([*sorted(set(BODIES) - {"registered", "kept"}), "invented"]),
    subject=st.sampled_from(["build/1", "expert/law@1", "data/law@1", "actor/ben", "actor/x", ""]),
    body=BODIES_OF_ANY_FORM,
)
def test_whatever_an_event_holds_an_audit_ends_with_an_answer(
    told: Any, store: Store, kind: str, subject: str, body: dict[str, Any]
) -> None:
    """The event is logged as any other, so that rows and chain are whole."""
    path = Path(told.as_("ann").database.path or "")
    with closing(sqlite3.connect(":memory:")) as whole:
        with closing(sqlite3.connect(path)) as connection:
            connection.backup(whole)
        try:
            event = AnyBody.model_construct(**body)
            told.as_("ben").event(event, subject, kind=kind)
            answers_or_names_the_damage(told, store)
        finally:
            with closing(sqlite3.connect(path)) as connection:
                whole.backup(connection)


@pytest.mark.parametrize("table", sorted(set(COLUMNS) - {"alembic_version"}))
def test_every_row_removed_or_added_is_found(
    made: Made, beyond: Callable[..., list[tuple[object, ...]]], table: str
) -> None:
    head = made.catalog.head()
    columns = COLUMNS[table]
    places = ", ".join("?" * len(columns))
    for row in beyond(f"SELECT {', '.join(columns)} FROM {table}"):
        here = " AND ".join(
            f"{name} {'= ?' if value is not None else 'IS NULL'}"
            for name, value in zip(columns, row, strict=True)
        )
        beyond(f"DELETE FROM {table} WHERE {here}", *(value for value in row if value is not None))
        assert made.audit(pinned=head).findings, f"removed from {table}: {row}"
        beyond(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", *row)
        forged = (
            (*(other(value) for value in row[:3]), *row[3:])
            if table != "event"
            else (*(other(value) for value in row[:7]), "e" * 64)
        )
        beyond(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", *forged)
        assert made.audit().findings, f"added to {table}: {forged}"
        beyond(
            f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in columns[:2])}",
            *forged[:2],
        )
    assert made.audit(pinned=head).findings == ()


def test_findings_name_the_table_and_the_subject(
    made: Made, beyond: Callable[..., list[tuple[object, ...]]]
) -> None:
    beyond("UPDATE file SET bytes = bytes + 1 WHERE path = 'a.jsonl'")
    assert [finding.subject for finding in made.audit().findings if finding.check == "rows"] == [
        "data/math@1, file rows"
    ]


def test_a_missing_or_changed_trigger_is_found(lite_made: Made) -> None:
    connection = sqlite3.connect(lite_made.catalog.database.path or "", isolation_level=None)
    for name, text in insert_only.triggers("sqlite").items():
        for instead in (
            "SELECT 1",
            text.replace("RAISE(ABORT", "coalesce('ABORT'").replace("CREATE", "CREATE"),
        ):
            connection.execute(f"DROP TRIGGER {name}")
            connection.execute(instead)
            assert [finding.subject for finding in lite_made.audit().findings] == [
                f"trigger {name}"
            ]
            if instead == "SELECT 1":
                connection.execute(text)
        connection.execute(f"DROP TRIGGER {name}")
        connection.execute(text)
    connection.close()
    assert lite_made.audit().findings == ()


def rewrite_chain(beyond: Callable[..., list[tuple[object, ...]]]) -> None:
    """Compute every link again, as a patient owner of the database can do."""
    prev = "0" * 64
    for seq, at, actor, kind, subject, body in beyond(
        "SELECT seq, at, actor, kind, subject, body FROM event ORDER BY seq"
    ):
        digest = Link(seq, at, actor, kind, subject, body, prev).digest()
        beyond("UPDATE event SET prev = ?, digest = ? WHERE seq = ?", prev, digest, seq)
        prev = digest


def test_a_chain_rewritten_from_end_to_end_is_caught_by_the_pinned_head_alone(
    made: Made, beyond: Callable[..., list[tuple[object, ...]]]
) -> None:
    pinned, key = made.catalog.head(), Ed25519PrivateKey.generate()
    with made.catalog.database.read() as rows:
        signed = sign_head(rows, key, "2026-03-01")
    beyond("UPDATE event SET actor = 'eve' WHERE kind = 'released'")
    rewrite_chain(beyond)
    assert made.audit().findings == ()
    assert [(finding.check, finding.subject) for finding in made.audit(pinned=pinned).findings] == [
        ("log", "log")
    ]
    with made.catalog.database.read() as rows:
        assert [one.subject for one in check_signed_head(rows, signed, key.public_key())] == [
            "event 7"
        ]


def test_a_tail_that_was_cut_off_is_caught_by_the_pinned_head_alone(
    made: Made, beyond: Callable[..., list[tuple[object, ...]]]
) -> None:
    pinned = made.catalog.head()
    beyond("DELETE FROM event WHERE kind = 'released'")
    assert made.audit().findings == ()
    assert made.audit(pinned=pinned).findings
    made.catalog.event(AnyBody(), "x", kind="note")
    assert made.audit(pinned=pinned).findings


def test_a_head_that_was_true_once_stays_a_link(made: Made) -> None:
    early = made.catalog.events()[2].digest
    assert made.audit(pinned=early).findings == ()
    assert made.audit(pinned="0" * 64).findings == ()
    assert made.audit(pinned="f" * 64).findings


def test_a_signed_head_holds_for_its_key_and_words_only(made: Made) -> None:
    key = Ed25519PrivateKey.generate()
    with made.catalog.database.read() as rows:
        signed = sign_head(rows, key, "2026-03-01")
        assert check_signed_head(rows, signed, key.public_key()) == []
        assert check_signed_head(rows, signed, Ed25519PrivateKey.generate().public_key())
        for name, value in (
            ("head", "f" * 64),
            ("seq", 1),
            ("at", "2027-01-01"),
            ("signature", "AAAA"),
            ("signature", "not base64 ä"),
        ):
            other = signed.model_copy(update={name: value})
            assert check_signed_head(rows, other, key.public_key())
        unsigned = signed.model_copy(update={"signature": None})
        assert check_signed_head(rows, unsigned, key.public_key())
    made.catalog.event(AnyBody(), "x", kind="note")
    with made.catalog.database.read() as rows:
        assert check_signed_head(rows, signed, key.public_key()) == []


def test_every_stored_and_every_visible_byte_is_watched(lite_made: Made) -> None:
    """XOR 0xFF, always a real change, at every offset of every file."""
    made, flipped = lite_made, 0
    stored = [
        made.store.path(sha256)
        for sha256 in made.store.objects()
        if sha256 not in data_digests(made)
    ]
    visible = [
        path for folder in made.folders.values() for path in folder.rglob("*") if path.is_file()
    ]
    step = int(os.environ.get("BTX_BYTE_STEP", "17"))
    for path in stored + visible:
        path.chmod(0o644)
        whole = path.read_bytes()
        for offset in {*range(0, len(whole), step), len(whole) - 1}:
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :])
            found = [finding for finding in made.audit().findings if finding.check == "files"]
            assert found, f"{path} at {offset}"
            assert all(str(path) in finding.subject for finding in found)
            flipped += 1
        path.write_bytes(whole)
    assert flipped > len(stored + visible)
    assert made.audit().findings == ()


def data_digests(made: Made) -> set[str]:
    return {file.sha256 for version in made.catalog.versions(DataFacts) for file in version.files}


def test_findings_name_the_file_and_the_tensor(lite_made: Made) -> None:
    path = lite_made.folders[parse("build/1")] / "model-expert-math.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0xFF]))
    findings = lite_made.audit().findings
    assert [(one.check, one.subject) for one in findings] == [
        ("files", f"build/1, {path}, moe.expert.1"),
        ("tensors", "build/1, moe.expert.1"),
    ]
    assert "expert/math@1 dense.up" in findings[1].expected
    path.write_bytes(whole)
    stored = lite_made.store.path(lite_made.catalog.get("build/1").files[0].sha256)
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    assert [one.subject for one in lite_made.audit().findings] == [
        f"build/1, {stored}, moe.expert.1"
    ]


def test_a_file_that_is_missing_or_not_registered_is_named(lite_made: Made) -> None:
    folder = lite_made.folders[parse("build/1")]
    (folder / "model.safetensors").write_bytes(b"beats the index silently")
    assert [one.subject for one in lite_made.audit().findings] == [
        f"build/1, {folder / 'model.safetensors'}"
    ]
    (folder / "model.safetensors").unlink()
    (lite_made.folders[parse("data/math@1")] / "a.jsonl").unlink()
    assert [one.found for one in lite_made.audit().findings] == ["nothing"]
    shutil.rmtree(lite_made.store.root)
    assert len([one for one in lite_made.audit().findings if one.found == "nothing"]) == 5


def test_what_was_withdrawn_stands_out_in_all_that_was_made_from_it(made: Made) -> None:
    made.catalog.withdraw("data/math", "consent ended")
    assert [(one.check, one.subject) for one in made.audit().findings] == [
        ("standing", "data/math@1")
    ]
    assert made.audit("seed/base").findings == ()


def test_a_verdict_that_cannot_be_given_again_is_found(made: Made) -> None:
    assert [one.check for one in made.audit(judge=lambda event: "refused").findings] == ["verdicts"]

    def lost(event: object) -> str:
        raise NotFound("document", found="nothing", expected="the policy")

    assert "no verdict" in made.audit(judge=lost).findings[0].found
    refusal = Judged(gate="register", outcome="refused", kind="expert")
    made.catalog.event(refusal, "expert/math@1", kind="refused")
    assert [one.subject for one in made.audit().findings] == ["expert/math@1, gate register"]


def test_an_audit_writes_nothing(lite_made: Made, tmp_path: Path) -> None:
    before = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }
    lite_made.audit(pinned=lite_made.catalog.head())
    assert {path: path.read_bytes() for path in before} == before
    assert set(before) == {
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_what_is_not_registered_is_not_found(made: Made) -> None:
    report = made.audit("build/9")
    assert [(one.check, one.subject) for one in report.findings] == [("lineage", "build/9")]


def test_a_status_that_rests_on_no_event_of_its_own_is_found(lite_made: Made) -> None:
    assert lite_made.audit().findings == ()
    lite_made.catalog.event(Progress(status="released"), "expert/math@1")
    with pytest.raises(Damaged, match="expert/math@1, status"):
        lite_made.catalog.status("expert/math@1")
    (found,) = lite_made.audit().findings
    assert (found.check, found.subject) == ("standing", "expert/math@1, status")
    assert "released" in found.found
