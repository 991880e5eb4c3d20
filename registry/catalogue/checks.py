"""The audit: look at everything that is recorded of a subject and of what it was made from.

In:  an open catalogue and store, the folders that people see, what each build says of its tensors,
     a head noted outside, a judge of verdicts.
Out: checks (what was examined) and findings (where something disagrees, with the next step).
Nothing is changed. Composing a build again to compare bytes is left to whoever can compose.
"""

import json
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from btx_core.problems import BtxError
from registry.catalogue import audit_log, insert_only, lineage, tombstones
from registry.catalogue.audit_log import Break
from registry.catalogue.catalog import Catalog, rows_digests
from registry.catalogue.common_files import LEAST_SHARE, common_share, sizes
from registry.catalogue.database import SCHEMA, Rows
from registry.catalogue.reading import references_by_id, statuses_of, with_files
from registry.catalogue.rows import (
    EVENT_COLUMNS,
    FILE_COLUMNS,
    VERSION_COLUMNS,
    Row,
)
from registry.catalogue.store import Store
from registry.catalogue.tombstones import Tombstones
from registry.digest import TensorDigest, sha256_bytes, sha256_file, tensor_digests
from registry.records.answers.auditing import AuditAnswer, Check, Finding
from registry.records.events import Judged
from registry.records.facts import FACTS, Facts
from registry.records.kinds import KINDS, Gate, Kind, Outcome
from registry.records.references import Reference
from registry.records.version import Event, FileFact, Version

RESTORE = "restore the registry from a copy, or import an exported one"
REPAIR = "btx repair restores it from any whole copy"


def finding(check: str, subject: str, found: str, expected: str, next_step: str) -> Finding:
    """Describe one place where the audit disagrees."""
    return Finding(check=check, subject=subject, found=found, expected=expected, next=next_step)


@dataclass(frozen=True, kw_only=True)
class AuditContext:
    """What an audit is given beside the rows.

    Attributes:
        store: the content store.
        folders: where each version's files are visible.
        stored: the kinds whose files must be in the store.
        sources: for each build, a tensor's name to the version that it was taken from and its
            name there.
        tensors: for each version, a tensor's name to its recorded SHA-256.
        judge: returns the outcome that a verdict's recorded policies, evidence and time give now.
    """

    store: Store
    folders: Mapping[Reference, Path] = field(default_factory=dict)
    stored: frozenset[str] = frozenset({Kind.EXPERT, Kind.BUILD})
    sources: Mapping[Reference, Mapping[str, tuple[str, str]]] = field(default_factory=dict)
    tensors: Mapping[Reference, Mapping[str, str]] = field(default_factory=dict)
    judge: Callable[[Event], str] | None = None


class Tally:
    """Collects what the checks examined and found, and says so as they go on.

    Args:
        on_check: called with each check, as far as it has come.
    """

    def __init__(self, on_check: Callable[[Check], None]) -> None:
        self.findings: dict[str, list[Finding]] = {}
        self._examined: dict[str, int] = {}
        self._on_check = on_check

    def note(self, name: str, examined: int, findings: Iterable[Finding]) -> None:
        """Add to what a check has examined and found."""
        self.findings.setdefault(name, []).extend(findings)
        self._examined[name] = self._examined.get(name, 0) + examined
        self._on_check(self._check(name))

    def checks(self) -> tuple[Check, ...]:
        """Return every check, in the order in which they began."""
        return tuple(map(self._check, self._examined))

    def _check(self, name: str) -> Check:
        return Check(name=name, ok=not self.findings[name], examined=self._examined[name])


def audit(
    catalog: Catalog,
    subject: str | Reference | None,
    context: AuditContext,
    *,
    pinned: str | None = None,
    signed: Iterable[Callable[[Rows], list[Break]]] = (),
    on_check: Callable[[Check], None] = lambda check: None,
) -> AuditAnswer:
    """Check the subject and its ancestors; and schema, log and rows of the whole registry.

    Args:
        catalog: the registry.
        subject: a version; None for everything that is registered.
        context: what is looked at beside the rows.
        pinned: a head that was noted outside the registry.
        signed: checks of signed heads, each bound to its head and key.
        on_check: called with each check, as far as it has come.
    """
    tally = Tally(on_check)
    with catalog.database.read() as rows:
        tally.note("schema", *_schema(rows))
        tally.note("log", *_log(rows, pinned, signed))
        tally.note("rows", *row_findings(rows))
        versions: Sequence[Version[Facts]] = ()
        try:
            versions = everything(catalog) if subject is None else _made_from(catalog, subject)
        except BtxError as error:
            # The rows are too damaged to walk; their own findings say why.
            advice = error.next or RESTORE
            broken = finding("lineage", error.subject, error.found, error.expected, advice)
            tally.note("lineage", 1, [broken])
        erased = _tombstones(rows)
        tally.note("standing", len(versions), _withdrawn(rows, versions, erased))
        tally.note("standing", 0, _without_status(rows, versions))
        if subject is not None:
            tally.note("standing", 0, _made_from_erased(versions, erased))
        gone = tombstones.files(erased)
        for version in versions:
            own = gone.get(str(version.ref), frozenset())
            tally.note("files", len(version.files), _files(version, context, own))
        tally.note("tensors", *_tensors(versions, context))
        tally.note("verdicts", *_verdicts(catalog, versions, context.judge))
        head = audit_log.head(rows)
    return AuditAnswer(
        subject=_named(versions, subject),
        checks=tally.checks(),
        findings=tuple(one for findings in tally.findings.values() for one in findings),
        head=head,
    )


def everything(catalog: Catalog) -> list[Version[Facts]]:
    """Return every version that is registered."""
    versions: list[Version[Facts]] = []
    for kind in FACTS.values():
        versions += catalog.versions(kind)
    return versions


def _made_from(catalog: Catalog, subject: str | Reference) -> list[Version[Facts]]:
    return catalog.lineage(catalog.get(subject).ref).nodes


def _named(versions: Sequence[Version[Facts]], subject: str | Reference | None) -> str:
    if subject is None:
        return "everything"
    return str(versions[0].ref if versions else subject)


def _schema(rows: Rows) -> tuple[int, list[Finding]]:
    """Check the schema's revision, and every trigger that keeps the tables insert-only."""
    expected = insert_only.triggers(rows.engine)
    if rows.engine == "postgresql":
        expected = {**expected, **insert_only.functions()}
    installed = insert_only.installed(rows)
    findings = []
    for name, text in expected.items():
        if installed.get(name) != text:
            now = installed.get(name, "nothing")
            advice = "see who could drop it; compare the log with a pinned head"
            findings.append(finding("schema", f"trigger {name}", now, text, advice))
    # On PostgreSQL the documented roles bring triggers of their own.
    foreign = sorted(installed.keys() - expected.keys()) if rows.engine == "sqlite" else []
    for name in foreign:
        advice = "see who could make it; compare the log with a pinned head"
        findings.append(finding("schema", f"trigger {name}", installed[name], "nothing", advice))
    revision = rows("SELECT version_num FROM alembic_version")
    if revision != [(SCHEMA,)]:
        findings.append(finding("schema", "alembic_version", str(revision), SCHEMA, RESTORE))
    return len(expected) + 1, findings


def _log(
    rows: Rows, pinned: str | None, signed: Iterable[Callable[[Rows], list[Break]]]
) -> tuple[int, list[Finding]]:
    """Check the hash chain, and that it still holds every head that was kept outside."""
    examined, breaks = audit_log.verify(rows, pinned)
    for check in signed:
        breaks += check(rows)
        examined += 1
    advice = "compare with a copy made while the head was good"
    return examined, [finding("log", *broken, advice) for broken in breaks]


def row_findings(rows: Rows) -> tuple[int, list[Finding]]:
    """Check that every row is what its event says, and every event's row is there, and no other.

    Returns:
        The number of rows and documents that were examined, and the findings.
    """
    query = f"SELECT {EVENT_COLUMNS} FROM event WHERE kind = 'registered'"
    registered = {row[0]: row for row in rows(query)}
    belongings = {table: _grouped(rows, table) for table in ("file", "edge", "label")}
    versions = rows(f"SELECT {VERSION_COLUMNS} FROM version v ORDER BY v.id")
    findings: list[Finding] = []
    for row in versions:
        own = {table: groups.pop(row[0], []) for table, groups in belongings.items()}
        findings += _row(row, own, registered.pop(row[0], None))
    for seq, row in registered.items():
        expected = f"the row that event {seq} registered"
        findings.append(_damaged(f"{row[4]}, version row", "nothing", expected))
    for table, groups in belongings.items():
        for version_id, lost in groups.items():
            subject = f"{table} row of version row {version_id}"
            found, expected = str(lost[0])[:200], "no row without its version"
            findings.append(_damaged(subject, found, expected))
    documents, damaged = _documents(rows)
    return len(versions) + documents, findings + damaged


def _grouped(rows: Rows, table: str) -> dict[int, list[Row]]:
    """Return a table's rows by the version that they belong to."""
    columns = {
        "file": f"version_id, {FILE_COLUMNS}",
        "edge": "from_id, to_id, relation",
        "label": "version_id, key, value, number",
    }[table]
    groups: dict[int, list[Row]] = {}
    for version_id, *rest in rows(f"SELECT {columns} FROM {table}"):
        groups.setdefault(version_id, []).append(tuple(rest))
    return groups


def _subject(row: Row) -> str:
    """Name the version of a row that may hold anything."""
    kind, name, number = row[1:4]
    if kind in KINDS:
        return str(Reference(Kind(kind), name, number))
    return f"{kind}/{name}@{number}"


def _row(row: Row, own: Mapping[str, list[Row]], logged: Row | None) -> Iterator[Finding]:
    """Compare a version's rows with the event that registered it."""
    subject = _subject(row)
    if logged is None:
        found, expected = "a row that no event registered", "an event for each row"
        yield _damaged(f"{subject}, version row", found, expected)
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
        found = f"unreadable: {error!r:.120}"
        yield _damaged(f"{subject}, its rows or its event", found, "what was registered")
        return
    now = {"subject": subject, "at": row[5], "actor": row[6], "digest": row[4], **computed}
    for part, value in recorded.items():
        if now.get(part) != value:
            what = f"{part} rows" if part in computed else f"version row, {part}"
            expected = f"{value}, as event {logged[0]} recorded"
            yield _damaged(f"{subject}, {what}", str(now.get(part)), expected)


def _documents(rows: Rows) -> tuple[int, list[Finding]]:
    """Check that every kept document has its digest, and that an event names it."""
    named: set[str] = set()
    for (body,) in rows("SELECT body FROM event"):
        try:
            documents = json.loads(body).get("documents", ())
        except Exception:  # unreadable: the check of the log names the event
            continue
        # Whoever may log events may log a list of anything; only a text can name a document.
        if isinstance(documents, list):
            named.update(key for key in documents if isinstance(key, str))
    findings, present = [], set()
    kept = rows("SELECT digest, body FROM document")
    for key, body in kept:
        present.add(key)
        # Bytes in the place of text are not what was written; they still have a digest.
        computed = sha256_bytes(str(body).encode("utf-8", "surrogatepass"))
        subject = f"document {key}"
        if computed != key:
            found = f"content of digest {computed}"
            findings.append(_damaged(subject, found, f"content of digest {key}"))
        if key not in named:
            found = "a document that no event names"
            findings.append(_damaged(subject, found, "an event for each document"))
    for key in sorted(named - present):
        expected = "the document that an event names"
        findings.append(_damaged(f"document {key}", "nothing", expected))
    return len(kept), findings


def _damaged(subject: str, found: str, expected: str) -> Finding:
    return finding("rows", subject, found, expected, RESTORE)


def _tombstones(rows: Rows) -> Tombstones:
    """Return what was erased; nothing where the check of the log finds a damaged tombstone."""
    try:
        return tombstones.read(rows)
    except BtxError:
        return {}


def _made_from_erased(versions: Sequence[Version[Facts]], erased: Tombstones) -> Iterator[Finding]:
    """Check that the subject was made from nothing that was erased; of itself a note says it."""
    for version in versions[1:]:
        if str(version.ref) in erased:
            subject, expected = str(version.ref), "nothing erased in it"
            yield finding("standing", subject, "erased", expected, "btx rebuild")


def _withdrawn(
    rows: Rows, versions: Iterable[Version[Facts]], erased: Tombstones
) -> Iterator[Finding]:
    """Check that nothing which the subject was made from is withdrawn."""
    query = (
        "SELECT w.subject, w.at, w.actor FROM event w "
        f"JOIN version v ON {lineage.IS_SUBJECT} WHERE w.kind = 'withdrawn'"
    )
    withdrawals = {subject: (at, actor) for subject, at, actor in rows(query)}
    gone = lineage.withdrawn(rows)
    made_of_it = references_by_id(rows, lineage.walk(rows, gone, down=True) - gone)
    tainted = {str(ref) for ref in made_of_it}
    for version in versions:
        subject = str(version.ref)
        if subject in erased:
            continue
        if subject in withdrawals:
            at, actor = withdrawals[subject]
            found = f"withdrawn by {actor} at {at}{_contested(rows, subject)}"
            yield finding("standing", subject, found, "nothing withdrawn in it", "btx rebuild")
        elif not _waived(rows, subject, "seen-before/withdrawn"):
            unusable = withdrawals.keys() if subject in tainted else withdrawals.keys() | tainted
            for holder in _same_bytes(rows, version, unusable):
                state = "withdrawn" if holder in withdrawals else "tainted"
                found = f"holds files of {holder}, which is {state}"
                advice = f"btx withdraw {subject}"
                yield finding("standing", subject, found, "nothing withdrawn in it", advice)


def _without_status(rows: Rows, versions: Sequence[Version[Facts]]) -> Iterator[Finding]:
    """Check that no row and no report says a status that rests on an event of its own."""
    with suppress(BtxError):
        statuses_of(rows, versions)
        return
    named: set[str] = set()
    for version in versions:
        try:
            statuses_of(rows, [version])
        except BtxError as error:
            if error.subject not in named:
                advice = f"find out who wrote it; btx withdraw {version.ref}"
                yield finding("standing", error.subject, error.found, error.expected, advice)
            named.add(error.subject)


def _contested(rows: Rows, subject: str) -> str:
    """Say who contests the withdrawal of a version; nothing where nobody does."""
    query = "SELECT actor FROM event WHERE subject = :subject AND kind = 'contested' ORDER BY seq"
    names = dict.fromkeys(str(actor) for (actor,) in rows(query, subject=subject))
    return f", contested by {', '.join(names)}" if names else ""


def _waived(rows: Rows, subject: str, rule: str) -> bool:
    """Say whether a verdict on the subject made an exception to the rule."""
    query = "SELECT body FROM event WHERE subject = :subject AND kind = 'verdict'"
    return any(f'"{rule}":"waived"' in str(body) for (body,) in rows(query, subject=subject))


def _same_bytes(rows: Rows, version: Version[Facts], unusable: Collection[str]) -> list[str]:
    """Return those of some versions that hold weights of this one, or a share of its corpus.

    Weights that a seed holds as well are not counted: they come from there.
    """
    if version.ref.kind not in (Kind.DATA, Kind.SEED, Kind.EXPERT):
        return []
    # What an expert has from an older seed comes from there, and every branch of it has it.
    of_a_seed = (
        "SELECT 1 FROM file s JOIN version b ON b.id = s.version_id "
        "WHERE b.kind = 'seed' AND s.sha256 = f.sha256 AND b.id < v.id"
    )
    weights = (
        ""
        if version.ref.kind == Kind.DATA
        else f"AND f.path LIKE '%.safetensors' AND NOT (v.kind = 'expert' AND EXISTS ({of_a_seed}))"
    )
    query = (
        f"SELECT DISTINCT {VERSION_COLUMNS} FROM file f JOIN file g ON g.sha256 = f.sha256 "
        "JOIN version v ON v.id = g.version_id JOIN version own ON own.id = f.version_id "
        "WHERE own.kind = :kind AND own.name = :name AND own.number = :number "
        f"AND v.id != own.id AND f.bytes > 0 {weights}"
    )
    ref = version.ref
    found = rows(query, kind=str(ref.kind), name=ref.name, number=ref.version)
    others = [row for row in found if _subject(row) in unusable]
    if ref.kind != Kind.DATA:
        return sorted(map(_subject, others))
    own = sizes(version.files)
    return sorted(
        str(one.ref)
        for one in with_files(rows, others)
        if common_share(own, sizes(one.files)) >= LEAST_SHARE
    )


def _files(
    version: Version[Facts], given: AuditContext, erased: frozenset[str]
) -> Iterator[Finding]:
    """Check every file against its digest, in the store and in the visible folder.

    The folder must hold nothing else. Files that were erased are left to whoever knows the disk.
    """
    folder = given.folders.get(version.ref)
    if erased and (folder is None or not folder.exists()):
        return
    if folder is not None and not folder.exists():
        found, expected = "not on this disk", f"{len(version.files)} files in {folder}"
        pointer = shlex.quote(f"{folder}.dvc")
        advice = f"dvc pull {pointer} (after git pull, where that file is missing too)"
        yield finding("files", str(version.ref), found, expected, advice)
        folder = None
    if folder is not None and folder.is_symlink():
        subject, found = f"{version.ref}, {folder}", f"a link to {folder.readlink()}"
        yield finding("files", subject, found, "the folder itself", "btx repair")
    for file in version.files:
        if file.sha256 in erased:
            continue
        stored = given.store.path(file.sha256)
        if version.ref.kind in given.stored or stored.exists():
            yield from _file(version, file, stored, None, given)
        if folder is not None:
            yield from _file(version, file, folder / file.path, stored, given)
    if folder is None or not folder.is_dir():
        return
    known = {file.path for file in version.files}
    for path in sorted(folder.rglob("*")):
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder and path.relative_to(folder).as_posix() not in known:
            subject = f"{version.ref}, {path}"
            found, expected = "a file that is not registered", "registered files only"
            yield finding("files", subject, found, expected, f"remove {path}")


def _file(
    version: Version[Facts], file: FileFact, path: Path, good: Path | None, given: AuditContext
) -> Iterator[Finding]:
    """Check one file against its digest.

    Args:
        version: what the file belongs to.
        file: what is registered of it.
        path: where it should be.
        good: another copy, which may be whole.
        given: what is recorded of its tensors.
    """
    subject = f"{version.ref}, {path}"
    if leads_out(path):
        found, expected = f"a link to {path.readlink()}", "the file itself"
        yield finding("files", subject, found, expected, REPAIR)
        return
    if not path.is_file():
        expected = f"{file.bytes} bytes, sha256 {file.sha256}"
        yield finding("files", subject, "nothing", expected, REPAIR)
        return
    sha256 = sha256_file(path)
    if sha256 != file.sha256:
        changed = _changed_tensors(path, good, given.tensors.get(version.ref, {}))
        where = ", ".join([subject, *changed])
        found = f"sha256 {sha256}, {path.stat().st_size} bytes"
        expected = f"sha256 {file.sha256}, {file.bytes} bytes"
        yield finding("files", where, found, expected, REPAIR)


def leads_out(path: Path) -> bool:
    """Whether a path is a link whose target others may exchange: any but one of DVC's cache."""
    return path.is_symlink() and path.resolve().parts[-4:-2] != ("files", "md5")


def _changed_tensors(path: Path, good: Path | None, recorded: Mapping[str, str]) -> list[str]:
    """Return the tensors that differ from an undamaged copy, or from recorded digests."""
    if path.suffix != ".safetensors" and not (good is None and recorded):
        return []
    try:
        now = {name: tensor.sha256 for name, tensor in tensor_digests(path).items()}
        if good is not None and good.is_file() and not good.samefile(path):
            recorded = {name: tensor.sha256 for name, tensor in tensor_digests(good).items()}
    except BtxError:
        return ["header"]
    changed = [name for name, sha256 in now.items() if recorded.get(name, sha256) != sha256]
    return sorted(changed)


def _tensors(versions: Iterable[Version[Facts]], given: AuditContext) -> tuple[int, list[Finding]]:
    """Check that every tensor which a build took from a version equals that version's.

    Names, shapes, dtypes and bytes are compared.
    """
    by_ref = {str(version.ref): version for version in versions}
    cache: dict[str, Mapping[str, TensorDigest]] = {}

    def digests(ref: str) -> Mapping[str, TensorDigest]:
        if ref not in cache:
            cache[ref] = _digests(by_ref[ref], given) if ref in by_ref else {}
        return cache[ref]

    findings, examined = [], 0
    for ref, version in by_ref.items():
        for name, (source, source_name) in given.sources.get(version.ref, {}).items():
            examined += 1
            now, taken = digests(ref).get(name), digests(source).get(source_name)
            if now is None or now != taken:
                expected = f"{_tensor(taken)}, as {source} {source_name}"
                subject = f"{ref}, {name}"
                findings.append(finding("tensors", subject, _tensor(now), expected, "btx rebuild"))
    return examined, findings


def _digests(version: Version[Facts], given: AuditContext) -> dict[str, TensorDigest]:
    """Digest every tensor: from the visible folder where there is one, else from the store."""
    digests: dict[str, TensorDigest] = {}
    folder = given.folders.get(version.ref)
    for file in version.files:
        if not file.path.endswith(".safetensors"):
            continue
        path = folder / file.path if folder is not None else given.store.path(file.sha256)
        if leads_out(path):
            continue
        try:
            digests |= tensor_digests(path)
        except (BtxError, OSError):
            # The check of files names it; its tensors are then missing.
            continue
    return digests


def _tensor(digest: TensorDigest | None) -> str:
    if digest is None:
        return "nothing"
    return f"{digest.dtype} {list(digest.shape)} sha256 {digest.sha256}"


def _verdicts(
    catalog: Catalog, versions: Iterable[Version[Facts]], judge: Callable[[Event], str] | None
) -> tuple[int, list[Finding]]:
    """Check that every recorded verdict is given again, and that none which counts is a refusal."""
    findings: list[Finding] = []
    examined = 0
    for version in versions:
        subject = str(version.ref)
        newest: dict[str, Judged] = {}
        try:
            logged = [*catalog.events(subject, "verdict"), *catalog.events(subject, "refused")]
            for event in sorted(logged, key=lambda event: event.seq):
                body = event.read(Judged)
                newest[body.gate] = body
                examined += 1
                findings += _judged(event, body, judge) if judge else []
        except BtxError as error:
            # An event that cannot be read.
            where = f"{subject}, {error.subject}"
            findings.append(finding("verdicts", where, error.found, error.expected, RESTORE))
            continue
        for gate, body in newest.items():
            if gate in (Gate.REGISTER, Gate.BUILD) and body.outcome == Outcome.REFUSED:
                where, found = f"{subject}, gate {gate}", "registered after a refusal"
                advice = f"btx withdraw {subject}"
                findings.append(finding("verdicts", where, found, "no row for it", advice))
    return examined, findings


def _judged(event: Event, body: Judged, judge: Callable[[Event], str]) -> list[Finding]:
    """Compare a recorded verdict with the one that is given now."""
    try:
        now = judge(event)
    except BtxError as error:
        now = f"no verdict: {error.subject}, {error.found}"
    if now == body.outcome:
        return []
    subject = f"{event.subject}, event {event.seq}, gate {body.gate}"
    expected = f"{body.outcome}, as recorded"
    advice = "btx policy check, and see which document or engine changed"
    return [finding("verdicts", subject, now, expected, advice)]
