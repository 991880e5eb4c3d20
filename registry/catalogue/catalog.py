"""The catalogue: the only writer of rows, and every question about them.

In:  facts about a version, or an event.  Out: versions, events, lineage, status.
A registration is one transaction: row, files, edges, labels, documents and the event that carries
their digest. Rows are only ever added; what is true now (released, withdrawn) is read from the
log. Bytes are the store's, verdicts are governance's.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, overload

from btx_core.files import stays_inside
from registry.catalogue import audit_log, lineage, reading, search, tombstones
from registry.catalogue.database import Database, Rows, Writer
from registry.catalogue.lineage import Edge, Graph, Impact
from registry.catalogue.rows import EVENT_COLUMNS, VERSION_COLUMNS, event, version
from registry.catalogue.tombstones import Tombstones
from registry.digest import canonical_json, digest, sha256_bytes
from registry.errors import Conflict, Invalid, NotFound, Refused
from registry.licences import spelled
from registry.records.base import JsonObject, read_object
from registry.records.events import Envelope, EventBody, Kept, Registered, Retired, Withdrawn
from registry.records.facts import BuildFacts, DataFacts, ExpertFacts, Facts, Held, SeedFacts
from registry.records.kinds import UNUSABLE, Kind, Status
from registry.records.references import Reference, parse
from registry.records.results import Result
from registry.records.version import Event, FileFact, Version

F = TypeVar("F", bound=Facts)

# Values that one query names.
MOST_NAMES = 500

# A parent of a version, and how the version was made from it.
ParentLine = tuple[str | Reference, str]


class Needed(NamedTuple):
    """Digests of objects that must be kept.

    Attributes:
        sha256: in the store.
        md5: in DVC's cache and remotes; a folder's ends in `.dir` and lists its files' digests.
    """

    sha256: frozenset[str]
    md5: frozenset[str]


class Parent(NamedTuple):
    """A registered version that another is made from."""

    id: int
    ref: Reference
    relation: str


@dataclass(frozen=True)
class Content:
    """What is registered, before it has a number."""

    kind: Kind
    name: str
    facts: Facts
    stored: str  # the facts as canonical JSON
    files: tuple[FileFact, ...]
    parents: Sequence[Parent]
    documents: Mapping[str, str]  # digest to canonical JSON

    @property
    def digest(self) -> str:
        """Digest over everything that makes this version what it is."""
        return digest(
            {
                "kind": self.kind,
                "name": self.name,
                "facts": json.loads(self.stored),
                "files": [[file.path, file.bytes, file.sha256] for file in self.files],
                "parents": sorted([str(parent.ref), parent.relation] for parent in self.parents),
                "documents": sorted(self.documents),
            }
        )


class Catalog:
    """An open registry; it is made or migrated when that is needed.

    Args:
        url: the database, as SQLAlchemy names it.
        actor: who is named in every row and event that is written here.
        clock: gives the time of what is written.
        after_write: called with the catalogue after each transaction that wrote.
    """

    def __init__(
        self,
        url: str,
        *,
        actor: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        after_write: "Callable[[Catalog], None] | None" = None,
    ) -> None:
        self.database = Database(url)
        if after_write is not None:
            self.database.after_write = partial(after_write, self)
        self.actor = actor
        self._clock = clock

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    # Writing

    def register(
        self,
        name: str,
        facts: F,
        *,
        files: Sequence[FileFact] = (),
        parents: Sequence[ParentLine] = (),
        version: int | None = None,
        documents: Sequence[JsonObject] = (),
    ) -> Version[F]:
        """Register one version in one transaction.

        Identical content under the same name is not registered again: the existing version is
        returned, with `created` False.

        Args:
            name: its name; empty for a build.
            facts: what is recorded of it; their type is its kind.
            files: its files.
            parents: what it was made from, and how.
            version: its number; the next one unless it is given.
            documents: JSON documents to keep with it.

        Raises:
            NotFound: for an unknown parent.
            Refused: for a parent that was withdrawn, or made from something withdrawn.
            Conflict: when the number holds something else.
        """
        kind = facts.kind
        ref = parse(kind if kind == Kind.BUILD else name, kind)
        facts = _with_spdx(facts)
        with self.database.write() as writer:
            known = [_parent(writer.rows, parent, relation) for parent, relation in parents]
            content = Content(
                kind=kind,
                name=ref.name,
                facts=facts,
                stored=canonical_json(facts.to_json()).decode(),
                files=_sorted_files(files),
                parents=known,
                documents=dict(map(_document, documents)),
            )
            existing = _existing(writer.rows, content, version)
            if existing is not None:
                return existing.of(type(facts))
            _refuse_withdrawn(writer.rows, f"{kind}/{ref.name}", known)
            number = version or reading.next_number(writer.rows, kind, ref.name)
            return self._insert(writer, content, number).of(type(facts))

    def event(
        self,
        body: EventBody,
        subject: str | Reference,
        *,
        kind: str | None = None,
        documents: Sequence[JsonObject] = (),
    ) -> Event:
        """Append an event.

        Args:
            body: what happened.
            subject: to what.
            kind: the kind in the log, where the body's own is not meant.
            documents: kept, and named in the body, in the same transaction.
        """
        logged_as = kind or body.logged_as
        if logged_as in (Registered.logged_as, Kept.logged_as):
            raise Invalid(
                "event kind",
                found=logged_as,
                expected="any other; registering and keeping log themselves",
            )
        with self.database.write() as writer:
            kept = [_keep(writer, *_document(value)) for value in documents]
            if kept:
                body = body.model_copy(update={"documents": tuple(kept)})
            return self._log(writer, logged_as, str(subject), body)

    def withdraw(self, ref: str | Reference, why: str, envelope: Envelope | None = None) -> Event:
        """Mark a version as withdrawn, for good; a second time changes nothing.

        What was made from it is tainted from now on.
        """
        with self.database.write() as writer:
            found = reading.version_of(writer.rows, ref)
            subject = str(found.ref)
            before = writer.rows(
                f"SELECT {EVENT_COLUMNS} FROM event "
                "WHERE subject = :subject AND kind = 'withdrawn'",
                subject=subject,
            )
            if before:
                return event(before[0])
            body = Withdrawn(why=why, digest=found.digest).with_envelope(envelope)
            return self._log(writer, body.logged_as, subject, body)

    def retire(self, ref: str | Reference, why: str, envelope: Envelope | None = None) -> Event:
        """Mark a version as registered by mistake, for good, before anything was made from it.

        Raises:
            Conflict: where something was made from it, or it was released or withdrawn.
        """
        with self.database.write() as writer:
            found = reading.version_of(writer.rows, ref)
            subject = str(found.ref)
            _refuse_relied_on(writer.rows, found)
            body = Retired(why=why, digest=found.digest).with_envelope(envelope)
            return self._log(writer, body.logged_as, subject, body)

    def put_document(self, value: JsonObject) -> str:
        """Keep a JSON document and return its digest; logged when new, so its loss is noticed."""
        key, body = _document(value)
        with self.database.read() as rows:
            if _has_document(rows, key):
                return key
        with self.database.write() as writer:
            if not _has_document(writer.rows, key):
                _keep(writer, key, body)
                self._log(writer, Kept.logged_as, "", Kept(documents=(key,)))
        return key

    # Reading

    def document(self, digest: str) -> dict[str, Any]:
        """Return a kept document, parsed; its form is its writer's.

        Raises:
            NotFound: where none of this digest is kept.
            Damaged: where its text is no JSON object.
        """
        with self.database.read() as rows:
            found = rows("SELECT body FROM document WHERE digest = :digest", digest=digest)
        if not found:
            raise NotFound(f"document {digest}", found="nothing", expected="a kept document")
        return read_object(found[0][0], f"document {digest}")

    def next_version(self, kind: Kind, name: str) -> int:
        """Return the number that the next version of this name gets."""
        with self.database.read() as rows:
            return reading.next_number(rows, kind, "" if kind == Kind.BUILD else name)

    @overload
    def get(self, ref: str | Reference) -> Version[Facts]: ...

    @overload
    def get(self, ref: str | Reference, kind: type[F]) -> Version[F]: ...

    def get(self, ref: str | Reference, kind: type[Facts] | None = None) -> Version[Facts]:
        """Return a version; without a number, the newest.

        Args:
            ref: its name.
            kind: the facts that it must have.

        Raises:
            NotFound: naming what there is.
            Invalid: for a version of another kind.
        """
        with self.database.read() as rows:
            found = reading.version_of(rows, ref)
        return found.of(kind) if kind else found

    def get_usable(self, ref: str | Reference, kind: type[F]) -> Version[F]:
        """Return a version that is to be used; without a number, the newest that is in use.

        Where none of that name is in use it is the newest, so that whoever asks refuses it by name.

        Args:
            ref: its name.
            kind: the facts that it must have.

        Raises:
            NotFound: naming what there is.
            Invalid: for a version of another kind.
        """
        newest = self.get(ref, kind)
        with self.database.read() as rows:
            named = parse(reading.behind_alias(rows, ref))
        if named.version is not None:
            return newest
        versions = self.versions(kind, files=False, name=named.name)
        statuses = self.statuses(versions)
        usable = [one.ref for one in versions if statuses[one.ref] not in UNUSABLE]
        return self.get(usable[-1], kind) if usable else newest

    def find(self, ref: str | Reference) -> Version[Facts] | None:
        """Return a version as `get` does; None where nothing of that name is registered."""
        with suppress(NotFound):
            return self.get(ref)
        return None

    def newest_in_use(self, kind: type[F], name: str) -> Version[F] | None:
        """Return the newest version of a name, where it is in use.

        Where it is out of use it answers nothing: whether the same may come in again is a question
        for the gate, which is shown what the candidate holds.
        """
        newest = self.find(f"{kind.kind}/{name}")
        if newest is None or self.status(newest.ref) in UNUSABLE:
            return None
        return newest.of(kind)

    def versions(
        self, kind: type[F], *, files: bool = True, **filters: str | None
    ) -> Sequence[Version[F]]:
        """Return the versions of a kind by name and number.

        Args:
            kind: the facts that they have.
            files: whether their files are read too, which takes as long again.
            filters: all of which must hold: name, license, data, seed, holder, domain,
                digest (a version's or a file's, or its start), metric
                ("math.bits_per_byte<1.2"), after and before (dates, UTC). Licence, holder,
                domain and data also match what a version was made of.
        """
        tests: list[str] = ["v.kind = :kind"]
        values: dict[str, str | float] = {"kind": kind.kind}
        for key, value in filters.items():
            if value is not None:
                test, more = search.condition(kind.kind, key, value)
                tests.append(test)
                values |= more
        query = f"SELECT {VERSION_COLUMNS} FROM version v WHERE {' AND '.join(tests)}"
        with self.database.read() as rows:
            found = rows(query, **values)
            read = reading.with_files(rows, found) if files else [version(row) for row in found]
        # Not by the database, which may order text by the rules of a language.
        return sorted((one.of(kind) for one in read), key=attrgetter("ref.name", "ref.version"))

    def status(self, ref: str | Reference) -> Status:
        """Return what a version is good for now; of a subject that a gate refused, `refused`."""
        with self.database.read() as rows:
            try:
                found = reading.version_of(rows, ref)
            except NotFound:
                query = "SELECT 1 FROM event WHERE subject = :subject AND kind = 'refused'"
                if rows(query, subject=str(ref)):
                    return Status.REFUSED
                raise
            return reading.statuses_of(rows, [found])[found.ref]

    def statuses(self, versions: Iterable[Version[Facts]]) -> dict[Reference, Status]:
        """Return the status of many, in a few queries."""
        with self.database.read() as rows:
            return reading.statuses_of(rows, versions)

    def reference(self, text: str, kind: Kind) -> Reference:
        """Return the reference to a version of one kind that a text names.

        Args:
            text: a reference, its name alone, or an alias of a version of this kind. An alias
                that is called like something else of this kind does not hide it.
            kind: the kind.

        Raises:
            Invalid: for what is no reference to this kind.
        """
        with self.database.read() as rows:
            is_name = reading.next_number(rows, kind, text) > 1
            behind = str(reading.behind_alias(rows, text))
        if not behind.startswith(f"{kind}/"):
            return parse(text, kind)
        found = parse(behind, kind)
        return parse(text, kind) if is_name and found.name != text else found

    def retired(self) -> set[str]:
        """Return the references that were registered by mistake."""
        with self.database.read() as rows:
            return reading.retired(rows)

    def aliases(self) -> dict[str, str]:
        """Return the reference that each alias stands for now, by alias."""
        with self.database.read() as rows:
            return reading.aliases(rows)

    def events(
        self, subject: str | Reference | None = None, kind: str | None = None
    ) -> Sequence[Event]:
        """Return the events on a subject, or of a kind, or all; oldest first."""
        tests = []
        if subject is not None:
            tests.append("subject = :subject")
        if kind is not None:
            tests.append("kind = :kind")
        where = f"WHERE {' AND '.join(tests)}" if tests else ""
        query = f"SELECT {EVENT_COLUMNS} FROM event {where} ORDER BY seq"
        with self.database.read() as rows:
            return [event(row) for row in rows(query, subject=str(subject), kind=kind)]

    def holders(self, digests: Iterable[str]) -> dict[Reference, tuple[FileFact, ...]]:
        """Return the versions that hold a file of one of these digests, with all their files."""
        known = sorted(set(digests))
        holders: dict[Reference, tuple[FileFact, ...]] = {}
        with self.database.read() as rows:
            for start in range(0, len(known), MOST_NAMES):
                part = known[start : start + MOST_NAMES]
                names = {f"d{number}": one for number, one in enumerate(part)}
                query = (
                    f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.id IN (SELECT f.version_id "
                    f"FROM file f WHERE f.sha256 IN ({', '.join(f':{name}' for name in names)}))"
                )
                for found in reading.with_files(rows, rows(query, **names)):
                    holders[found.ref] = found.files
        return holders

    def with_own(self) -> list[Reference]:
        """Return the versions that were registered with facts of the company's own."""
        with self.database.read() as rows:
            return [one.ref for one in reading.with_own(rows)]

    def attached(self) -> dict[str, set[str]]:
        """Return the digest of every file that was ever attached, with what it was attached to."""
        with self.database.read() as rows:
            return reading.attached(rows)

    def needed(self) -> Needed:
        """Return what no garbage collection may delete: the bytes of every registered version.

        Withdrawn versions are among them: what was built from them must stay provable. What was
        erased is not.
        """
        with self.database.read() as rows:
            gone = tombstones.read(rows)
            gone_files = tombstones.every_file(gone)
            files = rows(
                "SELECT DISTINCT f.sha256, f.md5, v.kind FROM file f "
                "JOIN version v ON v.id = f.version_id"
            )
            query = f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.facts LIKE '%\"dvc\":%'"
            held = [version(row) for row in rows(query)]
            attached = reading.attached(rows)
        folders = [
            one.facts.dvc
            for one in held
            if isinstance(one.facts, Held) and str(one.ref) not in gone
        ]
        # Text alone is erased: a seed's file of the same bytes stays.
        kept = [row for row in files if row[2] != Kind.DATA or row[0] not in gone_files]
        md5 = {folder.md5 for folder in folders if folder} | {row[1] for row in kept}
        return Needed(
            frozenset({row[0] for row in kept} | attached.keys()),
            frozenset(one for one in md5 if one is not None),
        )

    def tombstones(self) -> Tombstones:
        """Return what was erased, by the version that it was erased of."""
        with self.database.read() as rows:
            return tombstones.read(rows)

    def results(self, build: Version[BuildFacts]) -> tuple[Result, ...]:
        """Return a build's results, each with the data version that it was measured on.

        Rows written before results were a list may name the domain alone: what was measured then
        is the newest version of that name which a member was trained on.
        """
        results = build.facts.results
        if all(parse(result.data).version for result in results):
            return results
        newest: dict[str, Reference] = {}
        for member in build.facts.members:
            for data in self.get(member.ref, ExpertFacts).facts.data:
                ref = parse(data)
                newest[ref.name] = max(ref, newest.get(ref.name, ref))
        found = []
        for result in results:
            ref = parse(result.data)
            whole = ref if ref.version else newest.get(ref.name, ref)
            found.append(result.model_copy(update={"data": str(whole)}))
        return tuple(found)

    def head(self) -> str:
        """Return the digest of the newest event.

        Pin it outside, and an audit can show that nothing before it was changed.
        """
        with self.database.read() as rows:
            return audit_log.head(rows)

    def last(self) -> int:
        """Return the number of the newest event; 0 where nothing has happened yet."""
        with self.database.read() as rows:
            return int(rows("SELECT COALESCE(MAX(seq), 0) FROM event")[0][0])

    def lineage(self, ref: str | Reference, *, down: bool = False) -> Graph:
        """Return what a version was made from, to the last ancestor; or what was made from it."""
        with self.database.read() as rows:
            start = reading.row_of(rows, ref)
            ids, edges = lineage.closure(rows, start[0], down=down)
            nodes = reading.versions_by_id(rows, ids)
        return Graph(
            [nodes[version_id] for version_id in ids],
            [Edge(nodes[a].ref, nodes[b].ref, relation) for a, b, relation in edges],
        )

    def impact(self, ref: str | Reference) -> Impact:
        """Return what withdrawing a version reaches, and the class of removal of every build."""
        with self.database.read() as rows:
            start = reading.row_of(rows, ref)
            reached = lineage.walk(rows, [start[0]], down=True)
            composed = rows("SELECT id FROM version WHERE kind IN ('build', 'snapshot')")
            looked_at = sorted(reached | {row[0] for row in composed})
            versions = reading.versions_by_id(rows, looked_at, files=False)
            return lineage.impact(start[0], reached, versions, _build_edges(rows))

    def _insert(self, writer: Writer, content: Content, number: int) -> Version[Facts]:
        # Imported here: reading must not pay for it.
        from registry.catalogue.models import EdgeRow, FileRow, LabelRow, VersionRow

        version_id = (writer.rows("SELECT MAX(seq) FROM event")[0][0] or 0) + 1
        at = audit_log.moment(writer, self._clock())
        own = content.digest
        kind, name = str(content.kind), content.name
        row = (version_id, kind, name, number, own, at, self.actor, content.stored)
        files = [
            (file.path, file.bytes, file.sha256, int(file.linked), file.md5)
            for file in content.files
        ]
        edges = sorted({(parent.id, str(parent.relation)) for parent in content.parents})
        terms = search.labels(content.name, content.facts)
        session = writer.session
        session.add(
            VersionRow(
                id=version_id,
                kind=kind,
                name=name,
                number=number,
                digest=own,
                registered_at=at,
                actor=self.actor,
                facts=content.stored,
            )
        )
        for file in content.files:
            session.add(
                FileRow(
                    version_id=version_id,
                    path=file.path,
                    bytes=file.bytes,
                    sha256=file.sha256,
                    linked=int(file.linked),
                    md5=file.md5,
                )
            )
        for to, relation in edges:
            session.add(EdgeRow(from_id=version_id, to_id=to, relation=relation))
        for term in terms:
            session.add(
                LabelRow(version_id=version_id, key=term.key, value=term.value, number=term.number)
            )
        for key, document in content.documents.items():
            _keep(writer, key, document)
        body = Registered(
            digest=own,
            rows=rows_digests(row, files, edges, terms),
            documents=tuple(sorted(content.documents)),
        )
        subject = str(Reference(content.kind, name, number))
        self._log(writer, Registered.logged_as, subject, body, at)
        return version(row, content.files)

    def _log(
        self, writer: Writer, kind: str, subject: str, body: EventBody, at: str | None = None
    ) -> Event:
        return audit_log.append(
            writer,
            at=at or audit_log.moment(writer, self._clock()),
            actor=self.actor,
            kind=kind,
            subject=subject,
            body=body.to_json(),
        )


def rows_digests(
    row: Sequence[Any],
    files: Sequence[Sequence[Any]],
    edges: Sequence[Sequence[Any]],
    labels: Sequence[Sequence[Any]],
) -> dict[str, str]:
    """Digest every column of the rows that a registration writes, table by table.

    The columns are the database's own values, whatever their types. The event of the registration
    carries these digests.
    """
    tables = {"version": [row], "file": files, "edge": edges, "label": labels}
    return {
        table: digest(sorted(some, key=lambda item: item[:3])) for table, some in tables.items()
    }


def _with_spdx(facts: F) -> F:
    """Return the facts as they are stored: the licence in its SPDX spelling."""
    if isinstance(facts, DataFacts | SeedFacts) and facts.license is not None:
        stored = {"license": spelled(facts.license)}
        return facts.model_copy(update=stored)  # type: ignore[return-value]
    return facts


def _sorted_files(files: Sequence[FileFact]) -> tuple[FileFact, ...]:
    for file in files:
        if not stays_inside(file.path):
            raise Invalid(
                "files",
                found=repr(file.path)[:160],
                expected="paths inside the version's folder",
                next="name the file by its path from that folder",
            )
    if len({file.path for file in files}) != len(files):
        raise Invalid("files", found="one path twice", expected="each path once")
    return tuple(sorted(files, key=lambda file: file.path))


def _document(value: JsonObject) -> tuple[str, str]:
    body = canonical_json(value)
    return sha256_bytes(body), body.decode()


def _has_document(rows: Rows, key: str) -> bool:
    return bool(rows("SELECT 1 FROM document WHERE digest = :key", key=key))


def _keep(writer: Writer, key: str, body: str) -> str:
    # Imported here: reading must not pay for it.
    from registry.catalogue.models import DocumentRow

    if not _has_document(writer.rows, key):
        writer.session.add(DocumentRow(digest=key, body=body))
        writer.session.flush()
    return key


def _existing(rows: Rows, content: Content, number: int | None) -> Version[Facts] | None:
    """Return the version that has this content already.

    Raises Conflict when the wanted number holds other content.
    """
    wanted = content.digest
    found = rows(
        f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.kind = :kind AND v.name = :name "
        "AND (v.digest = :digest OR v.number = :number) ORDER BY v.number",
        kind=content.kind,
        name=content.name,
        digest=wanted,
        number=number or 0,
    )
    same, mistaken = [], reading.retired(rows)
    for row in found:
        candidate = version(row)
        if number is not None and candidate.ref.version == number and candidate.digest != wanted:
            raise Conflict(
                str(candidate.ref),
                found=f"digest {candidate.digest}",
                expected=f"digest {wanted}",
                next="register it as the next version",
            )
        if str(candidate.ref) in mistaken and number is None:
            continue
        if candidate.digest == wanted and number in (None, candidate.ref.version):
            same.append(row)
    if not same:
        return None
    return version(same[0], reading.files_of(rows, same[0][0]), created=False)


def _refuse_withdrawn(rows: Rows, subject: str, parents: Sequence[Parent]) -> None:
    ancestors = lineage.walk(rows, [parent.id for parent in parents], down=False)
    withdrawn = ancestors & lineage.withdrawn(rows)
    mistaken = reading.retired(rows) & {
        str(ref) for ref in reading.references_by_id(rows, ancestors)
    }
    names = [str(one.ref) for one in reading.versions_by_id(rows, sorted(withdrawn)).values()]
    for refs, status in ((sorted(mistaken), Status.RETIRED), (names, Status.WITHDRAWN)):
        if refs:
            raise Refused(
                subject,
                found=f"made from {', '.join(refs)}, {status}",
                expected="parents that may be used",
                next="leave it out, or name another version",
            )


def _refuse_relied_on(rows: Rows, version: Version[Facts]) -> None:
    """Check that nothing was made from a version, and that it is not handed on or out of use."""
    row = reading.row_of(rows, version.ref)
    made = reading.references_by_id(rows, lineage.walk(rows, [row[0]], down=True) - {row[0]})
    # A snapshot by itself is a plan: a rebuild that was interrupted leaves one, one that goes on
    # stops at what was retired, and a build that was composed from it is among the others.
    above = {ref for ref in made if ref.kind != Kind.SNAPSHOT}
    status = reading.statuses_of(rows, [version])[version.ref]
    found = ", ".join(f"{ref} was made from it" for ref in sorted(above)[:5])
    if status in (Status.RELEASED, *UNUSABLE):
        found = f"it is {status}"
    if found:
        raise Conflict(
            str(version.ref),
            found=found,
            expected="a version that nothing stands on",
            next=f"btx withdraw {version.ref} --why TEXT",
        )


def _parent(rows: Rows, ref: str | Reference, relation: str) -> Parent:
    row = reading.row_of(rows, ref)
    return Parent(row[0], version(row).ref, relation)


def _build_edges(rows: Rows) -> list[lineage.EdgeRow]:
    """Return the edges from every build and every snapshot."""
    from_ids = "SELECT id FROM version WHERE kind IN ('build', 'snapshot')"
    query = f"SELECT from_id, to_id, relation FROM edge WHERE from_id IN ({from_ids})"
    return [lineage.edge_row(row) for row in rows(query)]
