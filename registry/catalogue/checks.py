"""Audit: look at everything that is recorded of a subject and of what it was made from; say where it disagrees. Nothing is changed.

In:  an open catalogue and store, the visible folders, what the build says of its tensors, a head pinned outside, a judge of verdicts.
Out: checks (what was examined) and findings (subject, found, expected, next step).
Composing a build again to compare bytes is left to whoever can compose.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from btx_core.problems import BtxError
from registry.catalogue import audit_log, insert_only, lineage
from registry.catalogue.audit_log import Break
from registry.catalogue.catalog import Catalog, rows_digests
from registry.catalogue.database import SCHEMA, Rows
from registry.catalogue.rows import (
    EVENT_COLUMNS,
    FILE_COLUMNS,
    VERSION_COLUMNS,
    Row,
)
from registry.catalogue.store import Store
from registry.digest import sha256_bytes, sha256_file, tensor_digests
from registry.records.answers import AuditAnswer, Check, Finding
from registry.records.events import Judged
from registry.records.facts import Facts
from registry.records.kinds import Gate, Kind, Outcome
from registry.records.references import Reference
from registry.records.version import Event, FileFact, Version

RESTORE = "restore the registry from a copy, or import an exported one"


def finding(check: str, subject: str, found: str, expected: str, next_step: str) -> Finding:
    """Describe one place where the audit disagrees."""
    return Finding(check=check, subject=subject, found=found, expected=expected, next=next_step)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the audit is given beside the rows.

    folders: where each version's files are visible. stored: kinds whose files must be in the store.
    sources: build -> {tensor in the build: (version it was taken from, tensor there)}. tensors: version -> {tensor: recorded SHA-256}.
    judge: a verdict event -> the outcome that its recorded policy, evidence and time give now.
    """

    store: Store
    folders: Mapping[Reference, Path] = field(default_factory=dict)
    stored: frozenset[str] = frozenset({"expert", "build"})
    sources: Mapping[Reference, Mapping[str, tuple[str, str]]] = field(default_factory=dict)
    tensors: Mapping[Reference, Mapping[str, str]] = field(default_factory=dict)
    judge: Callable[[Event], str] | None = None


def audit(
    catalog: Catalog,
    subject: str | Reference,
    surroundings: Surroundings,
    *,
    pinned: str | None = None,
    signed: Iterable[Callable[[Rows], list[Break]]] = (),
    on_check: Callable[[Check], None] = lambda check: None,
) -> AuditAnswer:
    """Every check over the subject and its ancestors; schema, log and rows over the whole registry.

    pinned: a head noted earlier outside the registry. signed: checks of signed heads, such as audit_log.check_signed_head bound to a key.
    on_check: called with each check, as far as it has come.
    """
    with catalog.database.read() as rows:
        findings: dict[str, list[Finding]] = {}
        examined: dict[str, int] = {}

        def note(name: str, count: int, found: Iterable[Finding]) -> None:
            findings.setdefault(name, []).extend(found)
            examined[name] = examined.get(name, 0) + count
            on_check(_check(name, findings[name], examined[name]))

        note("schema", *_schema(rows))
        note("log", *_log(rows, pinned, signed))
        note("rows", *row_findings(rows))
        try:
            versions = [catalog.get(subject)]
            versions = catalog.lineage(versions[0].ref).nodes
        except BtxError as error:  # rows too damaged to walk: the row findings say why
            note(
                "lineage",
                1,
                [
                    finding(
                        "lineage", error.subject, error.found, error.expected, error.next or RESTORE
                    )
                ],
            )
            versions = []
        note("standing", len(versions), _standing(rows, versions))
        for version in versions:
            note("files", len(version.files), _files(version, surroundings))
        note("tensors", *_tensors(versions, surroundings))
        note("verdicts", *_verdicts(catalog, versions, surroundings.judge))
        head = audit_log.head(rows)
    checks = [_check(name, findings[name], count) for name, count in examined.items()]
    return AuditAnswer(
        subject=str(versions[0].ref if versions else subject),
        checks=tuple(checks),
        findings=tuple(one for some in findings.values() for one in some),
        head=head,
    )


def _check(name: str, findings: Sequence[Finding], examined: int) -> Check:
    return Check(name=name, ok=not findings, examined=examined)


def _schema(rows: Rows) -> tuple[int, list[Finding]]:
    """The schema's revision and every trigger that keeps the tables insert-only."""
    expected = {
        **insert_only.triggers(rows.engine),
        **(insert_only.functions() if rows.engine == "postgresql" else {}),
    }
    there = insert_only.installed(rows)
    made = [
        finding(
            "schema",
            f"trigger {name}",
            there.get(name, "nothing"),
            text,
            "see who could drop it; compare the log with a pinned head",
        )
        for name, text in expected.items()
        if there.get(name) != text
    ]
    revision = rows("SELECT version_num FROM alembic_version")
    if revision != [(SCHEMA,)]:
        made.append(finding("schema", "alembic_version", str(revision), SCHEMA, RESTORE))
    return len(expected) + 1, made


def _log(
    rows: Rows, pinned: str | None, signed: Iterable[Callable[[Rows], list[Break]]]
) -> tuple[int, list[Finding]]:
    examined, breaks = audit_log.verify(rows, pinned)
    for check in signed:
        breaks += check(rows)
        examined += 1
    advice = "compare with a copy made while the head was good"
    return examined, [
        finding("log", one.subject, one.found, one.expected, advice) for one in breaks
    ]


def row_findings(rows: Rows) -> tuple[int, list[Finding]]:
    """Every row is what its event says, every event's row is there, and nothing else is."""
    registered = {
        row[0]: row for row in rows(f"SELECT {EVENT_COLUMNS} FROM event WHERE kind = 'registered'")
    }
    belongings = {table: _grouped(rows, table) for table in ("file", "edge", "label")}
    versions = rows(f"SELECT {VERSION_COLUMNS} FROM version v ORDER BY v.id")
    made: list[Finding] = []
    for row in versions:
        own = {table: some.pop(row[0], []) for table, some in belongings.items()}
        made += _row(row, own, registered.pop(row[0], None))
    made += [
        _odd(f"{row[4]}, version row", "nothing", f"the row that event {seq} registered")
        for seq, row in registered.items()
    ]
    for table, some in belongings.items():
        made += [
            _odd(
                f"{table} row of version row {id_}",
                str(lost[0])[:200],
                "no row without its version",
            )
            for id_, lost in some.items()
        ]
    documents, odd = _documents(rows)
    return len(versions) + documents, made + odd


def _grouped(rows: Rows, table: str) -> dict[int, list[Row]]:
    columns = {
        "file": f"version_id, {FILE_COLUMNS}",
        "edge": "from_id, to_id, relation",
        "label": "version_id, key, value, number",
    }[table]
    made: dict[int, list[Row]] = {}
    for id_, *rest in rows(f"SELECT {columns} FROM {table}"):
        made.setdefault(id_, []).append(tuple(rest))
    return made


def _subject(row: Row) -> str:
    """Name the version of a row that may hold anything."""
    kind, name, number = row[1:4]
    if kind in set(Kind):
        return str(Reference(Kind(kind), name, number))
    return f"{kind}/{name}@{number}"


def _row(row: Row, own: Mapping[str, list[Row]], logged: Row | None) -> Iterator[Finding]:
    subject = _subject(row)
    if logged is None:
        yield _odd(
            f"{subject}, version row", "a row that no event registered", "an event for each row"
        )
        return
    try:
        body = json.loads(logged[5])
        computed = rows_digests(row, own["file"], own["edge"], own["label"])
        recorded = {
            "subject": logged[4],
            "at": logged[1],
            "actor": logged[2],
            "digest": body["digest"],
            **body["rows"],
        }
    except Exception as error:  # a tampered field may hold anything
        yield _odd(
            f"{subject}, its rows or its event",
            f"unreadable: {error!r:.120}",
            "what was registered",
        )
        return
    now = {"subject": subject, "at": row[5], "actor": row[6], "digest": row[4], **computed}
    for part, value in recorded.items():
        if now.get(part) != value:
            what = f"{part} rows" if part in computed else f"version row, {part}"
            yield _odd(
                f"{subject}, {what}", str(now.get(part)), f"{value}, as event {logged[0]} recorded"
            )


def _documents(rows: Rows) -> tuple[int, list[Finding]]:
    named: set[str] = set()
    for (body,) in rows("SELECT body FROM event"):
        try:
            named.update(json.loads(body).get("documents", ()))
        except Exception:  # unreadable: the log check names the event
            continue
    made, there = [], set()
    kept = rows("SELECT digest, body FROM document")
    for key, body in kept:
        there.add(key)
        computed = sha256_bytes(
            str(body).encode("utf-8", "surrogatepass")
        )  # bytes in a text's place are not what was written
        if computed != key:
            made.append(
                _odd(f"document {key}", f"content of digest {computed}", f"content of digest {key}")
            )
        if key not in named:
            made.append(
                _odd(
                    f"document {key}",
                    "a document that no event names",
                    "an event for each document",
                )
            )
    made += [
        _odd(f"document {key}", "nothing", "the document that an event names")
        for key in sorted(named - there)
    ]
    return len(kept), made


def _odd(subject: str, found: str, expected: str) -> Finding:
    return finding("rows", subject, found, expected, RESTORE)


def _standing(rows: Rows, versions: Iterable[Version[Facts]]) -> Iterator[Finding]:
    """Nothing that it was made from is withdrawn."""
    gone = rows(
        f"SELECT w.subject, w.at, w.actor FROM event w JOIN version v ON {lineage.IS_SUBJECT} WHERE w.kind = 'withdrawn'"
    )
    by_subject = {row[0]: row for row in gone}
    for version in versions:
        if withdrawal := by_subject.get(str(version.ref)):
            _, at, actor = withdrawal
            yield finding(
                "standing",
                str(version.ref),
                f"withdrawn by {actor} at {at}",
                "nothing withdrawn in it",
                "btx rebuild",
            )


def _files(version: Version[Facts], given: Surroundings) -> Iterator[Finding]:
    """Every file equals its recorded digest in the store and in its visible folder, and the folder holds nothing else."""
    folder = given.folders.get(version.ref)
    for file in version.files:
        stored = given.store.path(file.sha256)
        if version.ref.kind in given.stored or stored.exists():
            yield from _file(version, file, stored, None, given)
        if folder is not None:
            yield from _file(version, file, folder / file.path, stored, given)
    if folder is not None and folder.is_dir():
        known = {file.path for file in version.files}
        for path in sorted(folder.rglob("*")):
            if (path.is_file() or path.is_symlink()) and path.relative_to(
                folder
            ).as_posix() not in known:
                yield finding(
                    "files",
                    f"{version.ref}, {path}",
                    "a file that is not registered",
                    "registered files only",
                    f"remove {path}",
                )


def _file(
    version: Version[Facts], file: FileFact, path: Path, good: Path | None, given: Surroundings
) -> Iterator[Finding]:
    subject = f"{version.ref}, {path}"
    if not path.is_file():
        yield finding(
            "files", subject, "nothing", f"{file.bytes} bytes, sha256 {file.sha256}", _cure(good)
        )
        return
    found = sha256_file(path)
    if found != file.sha256:
        where = "".join(
            f", {name}" for name in _changed_tensors(path, good, given.tensors.get(version.ref, {}))
        )
        size = path.stat().st_size
        yield finding(
            "files",
            subject + where,
            f"sha256 {found}, {size} bytes",
            f"sha256 {file.sha256}, {file.bytes} bytes",
            _cure(good),
        )


def _changed_tensors(path: Path, good: Path | None, recorded: Mapping[str, str]) -> list[str]:
    """Which tensors differ from an undamaged copy, or from recorded digests."""
    if path.suffix != ".safetensors" and not (good is None and recorded):
        return []
    try:
        now = {name: one.sha256 for name, one in tensor_digests(path).items()}
        if good is not None and good.is_file() and not good.samefile(path):
            recorded = {name: one.sha256 for name, one in tensor_digests(good).items()}
    except BtxError:
        return ["header"]
    return sorted(
        name for name, sha256 in now.items() if name in recorded and recorded[name] != sha256
    )


def _cure(good: Path | None) -> str:
    return (
        "restore the store from a copy or a remote"
        if good is None
        else f"copy it back from {good}, if that is whole, or dvc checkout"
    )


def _tensors(versions: Iterable[Version[Facts]], given: Surroundings) -> tuple[int, list[Finding]]:
    """Every tensor that a build took from a version equals that version's, by name, shape, dtype and bytes."""
    by_ref = {str(version.ref): version for version in versions}
    cache: dict[str, dict[str, Any]] = {}

    def digests(ref: str) -> dict[str, Any]:
        if ref not in cache:
            cache[ref] = _digests(by_ref[ref], given) if ref in by_ref else {}
        return cache[ref]

    made, examined = [], 0
    for version in by_ref.values():
        for name, (source, source_name) in given.sources.get(version.ref, {}).items():
            examined += 1
            found, expected = digests(str(version.ref)).get(name), digests(source).get(source_name)
            if found is None or found != expected:
                wanted = f"{_tensor(expected)}, as {source} {source_name}"
                made.append(
                    finding(
                        "tensors", f"{version.ref}, {name}", _tensor(found), wanted, "btx rebuild"
                    )
                )
    return examined, made


def _digests(version: Version[Facts], given: Surroundings) -> dict[str, Any]:
    """Of every tensor, from its visible folder where there is one, else from the store."""
    made: dict[str, Any] = {}
    folder = given.folders.get(version.ref)
    for file in version.files:
        if file.path.endswith(".safetensors"):
            path = folder / file.path if folder is not None else given.store.path(file.sha256)
            try:
                made |= tensor_digests(path)
            except (BtxError, OSError):
                continue  # the file check names it; its tensors are then missing
    return made


def _tensor(found: Any) -> str:
    return (
        "nothing" if found is None else f"{found.dtype} {list(found.shape)} sha256 {found.sha256}"
    )


def _verdicts(
    catalog: Catalog, versions: Iterable[Version[Facts]], judge: Callable[[Event], str] | None
) -> tuple[int, list[Finding]]:
    """Every recorded verdict is given again by its policy, evidence and time; and none that stands is a refusal."""
    made: list[Finding] = []
    examined = 0
    for version in versions:
        newest: dict[str, Judged] = {}
        try:
            past = [
                *catalog.events(version.ref, kind="verdict"),
                *catalog.events(version.ref, kind="refused"),
            ]
        except BtxError as error:
            made.append(_unreadable_verdict(version, error))
            continue
        for verdict in sorted(past, key=lambda event: event.seq):
            examined += 1
            try:
                body = verdict.read(Judged)
            except BtxError as error:
                made.append(_unreadable_verdict(version, error))
                continue
            newest[body.gate] = body
            made += _judged(version, verdict, judge) if judge else []
        for gate, body in newest.items():
            let_in = gate in (Gate.REGISTER, Gate.BUILD)
            if let_in and body.outcome == Outcome.REFUSED:
                subject = f"{version.ref}, gate {gate}"
                made.append(
                    finding(
                        "verdicts",
                        subject,
                        "registered after a refusal",
                        "no row for it",
                        f"btx withdraw {version.ref}",
                    )
                )
    return examined, made


def _unreadable_verdict(version: Version[Facts], error: BtxError) -> Finding:
    subject = f"{version.ref}, {error.subject}"
    return finding("verdicts", subject, error.found, error.expected, RESTORE)


def _judged(
    version: Version[Facts], verdict: Event, judge: Callable[[Event], str]
) -> list[Finding]:
    body = verdict.read(Judged)
    recorded = str(body.outcome)
    try:
        now = judge(verdict)
    except BtxError as error:
        now = f"no verdict: {error.subject}, {error.found}"
    if now == recorded:
        return []
    subject = f"{version.ref}, event {verdict.seq}, gate {body.gate}"
    return [
        finding(
            "verdicts",
            subject,
            now,
            f"{recorded}, as recorded",
            "btx policy check, and see which document or engine changed",
        )
    ]
