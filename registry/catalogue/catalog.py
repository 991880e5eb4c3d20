"""The catalogue: the only writer of rows, and every question about them.

In:  facts about a version, or an event.  Out: versions, events, lineage, status.
A registration is one transaction: row, files, edges, labels, documents and the event that carries their digest. Rows are only ever
added; what is true now (released, withdrawn) is read from the log. Bytes are store.py's, verdicts gate.py's.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from registry.catalogue import audit_log, lineage, search
from registry.catalogue.database import Database, Rows, Writer
from registry.catalogue.lineage import BuildImpact, Edge, Graph, Impact
from registry.catalogue.rows import (
    EVENT_COLUMNS,
    FILE_COLUMNS,
    VERSION_COLUMNS,
    Event,
    FileFact,
    Version,
    event,
    file_fact,
    read_json,
    version,
)
from registry.digest import canonical_json, digest, sha256_bytes
from registry.errors import Conflict, Damaged, Invalid, NotFound, Refused
from registry.records.references import Reference, parse

__all__ = [
    "BuildImpact",
    "Catalog",
    "Edge",
    "Event",
    "FileFact",
    "Graph",
    "Impact",
    "Reference",
    "Version",
]


Versions = list[Version]
Events = list[Event]


class Needed(NamedTuple):
    """Digests of objects: in the store, and in DVC's cache and remotes (a folder's ends in .dir, and lists its files' digests)."""

    sha256: frozenset[str]
    md5: frozenset[str]


class Parent(NamedTuple):
    id: int
    ref: Reference
    relation: str


class Content(NamedTuple):
    """What is registered, before it has a number."""

    kind: str
    name: str
    facts: dict[str, Any]
    files: tuple[FileFact, ...]
    parents: list[Parent]
    documents: dict[str, str]  # digest -> canonical JSON


class Catalog:
    """Open a registry by URL; it is made or migrated when needed. actor: who is named in every row and event written here."""

    def __init__(
        self, url: str, *, actor: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.database = Database(url)
        self.actor = actor
        self._clock = clock

    def close(self) -> None:
        self.database.close()

    # Writing

    def register(
        self,
        kind: str,
        name: str,
        facts: Mapping[str, Any],
        *,
        files: Sequence[FileFact] = (),
        parents: Sequence[tuple[str | Reference, str]] = (),
        version: int | None = None,
        documents: Sequence[Mapping[str, Any]] = (),
    ) -> Version:
        """Register one version in one transaction; its number is the next one unless given.

        Identical content under the same name is not registered again: the existing version is returned, with created False.
        Raises NotFound for an unknown parent, Refused for a withdrawn or tainted one, Conflict when the number holds something else.
        """
        ref = parse(name if kind != "build" else kind, kind)
        with self.database.write() as writer:
            known = [_parent(writer.rows, parent, relation) for parent, relation in parents]
            content = Content(
                kind,
                ref.name,
                _plain(kind, facts),
                _sorted_files(files),
                known,
                dict(map(_document, documents)),
            )
            existing = _existing(writer.rows, content, version)
            if existing is not None:
                return existing
            _refuse_withdrawn(writer.rows, f"{kind}/{ref.name}", known)
            return self._insert(writer, content, version or _next(writer.rows, kind, ref.name))

    def event(
        self,
        kind: str,
        subject: str | Reference,
        body: Mapping[str, Any] | None = None,
        *,
        documents: Sequence[Mapping[str, Any]] = (),
    ) -> Event:
        """Append an event. documents are kept, and named in the body under "documents", in the same transaction."""
        if kind in ("registered", "kept"):
            raise Invalid(
                "event kind",
                found=kind,
                expected="any other; registering and keeping log themselves",
            )
        with self.database.write() as writer:
            kept = [_keep(writer, *_document(value)) for value in documents]
            return self._log(
                writer,
                kind,
                str(subject),
                {**(body or {}), **({"documents": kept} if kept else {})},
            )

    def withdraw(self, ref: str | Reference, why: str) -> Event:
        """Mark a version as withdrawn, for good; what was made from it is tainted from now on. A second time changes nothing."""
        with self.database.write() as writer:
            subject = str(_get(writer.rows, ref).ref)
            before = writer.rows(
                f"SELECT {EVENT_COLUMNS} FROM event WHERE subject = :subject AND kind = 'withdrawn'",
                subject=subject,
            )
            return (
                event(before[0])
                if before
                else self._log(writer, "withdrawn", subject, {"why": why})
            )

    def put_document(self, value: Mapping[str, Any]) -> str:
        """Keep a JSON document; returns its digest. Logged when new, so that its loss is noticed."""
        key, body = _document(value)
        with self.database.read() as rows:
            if rows("SELECT 1 FROM document WHERE digest = :key", key=key):
                return key
        with self.database.write() as writer:
            if not writer.rows("SELECT 1 FROM document WHERE digest = :key", key=key):
                _keep(writer, key, body)
                self._log(writer, "kept", "", {"documents": [key]})
        return key

    # Reading

    def document(self, digest: str) -> Any:
        with self.database.read() as rows:
            found = rows("SELECT body FROM document WHERE digest = :digest", digest=digest)
        if not found:
            raise NotFound(f"document {digest}", found="nothing", expected="a kept document")
        return json.loads(found[0][0])

    def next_version(self, kind: str, name: str) -> int:
        with self.database.read() as rows:
            return _next(rows, kind, "" if kind == "build" else name)

    def get(self, ref: str | Reference) -> Version:
        """The version, or without a number the newest. NotFound names what there is."""
        with self.database.read() as rows:
            return _get(rows, ref)

    def list(self, kind: str, *, files: bool = True, **filters: str | None) -> "Versions":
        """Versions of a kind by name and number; without their files where the caller asks for none, which halves the time.

        Filters, all of which must hold: name=, license=, data=, seed=, holder=, domain=, digest= (a version's or a file's, or its start),
        metric= ("math.bits_per_byte<1.2"), after= and before= (dates, UTC). Licence, holder, domain and data also match what the
        version was made of.
        """
        tests, values = ["v.kind = :kind"], {"kind": kind}
        for key, value in filters.items():
            if value is not None:
                test, more = search.condition(kind, key, value)
                tests.append(test)
                values |= more
        with self.database.read() as rows:
            where = " AND ".join(tests)
            found = rows(
                f"SELECT {VERSION_COLUMNS} FROM version v WHERE {where} ORDER BY v.kind, v.name, v.number",
                **values,
            )
            return _with_files(rows, found) if files else [version(row) for row in found]

    def status(self, ref: str | Reference) -> str:
        """What the log says of it: withdrawn, tainted (made from something withdrawn), released; else the newest progress.

        For a subject that was refused and so has no row: refused.
        """
        with self.database.read() as rows:
            try:
                found = _get(rows, ref)
            except NotFound:
                if rows(
                    "SELECT 1 FROM event WHERE subject = :subject AND kind = 'refused'",
                    subject=str(ref),
                ):
                    return "refused"
                raise
            return _statuses(rows, [found])[found.ref]

    def statuses(self, versions: Iterable[Version]) -> dict[Reference, str]:
        """The status of many in a few queries."""
        with self.database.read() as rows:
            return _statuses(rows, list(versions))

    def events(self, subject: str | Reference | None = None, kind: str | None = None) -> "Events":
        tests = [
            f"{key} = :{key}"
            for key, value in (("subject", subject), ("kind", kind))
            if value is not None
        ]
        where = f"WHERE {' AND '.join(tests)}" if tests else ""
        with self.database.read() as rows:
            return [
                event(row)
                for row in rows(
                    f"SELECT {EVENT_COLUMNS} FROM event {where} ORDER BY seq",
                    subject=str(subject),
                    kind=kind,
                )
            ]

    def needed(self) -> "Needed":
        """What no garbage collection may delete: the bytes of every registered version, withdrawn ones too."""
        with self.database.read() as rows:
            files = rows("SELECT DISTINCT sha256, md5 FROM file")
            held = [
                json.loads(row[0])
                for row in rows("SELECT facts FROM version WHERE facts LIKE '%\"dvc\":%'")
            ]
        dvc = {facts["dvc"].get("md5") for facts in held if isinstance(facts.get("dvc"), dict)}
        return Needed(
            frozenset(row[0] for row in files),
            frozenset(md5 for md5 in dvc | {row[1] for row in files} if md5),
        )

    def head(self) -> str:
        """Digest of the newest event: pin it outside, and an audit can show that nothing before it was changed."""
        with self.database.read() as rows:
            return audit_log.head(rows)

    def lineage(self, ref: str | Reference, *, down: bool = False) -> Graph:
        """What it was made from, to the last ancestor; with `down` what was made from it."""
        with self.database.read() as rows:
            start = _row(rows, ref)
            ids, edges = lineage.closure(rows, start[0], down=down)
            nodes = _by_id(rows, ids)
        return Graph(
            [nodes[id_] for id_ in ids],
            [Edge(nodes[a].ref, nodes[b].ref, relation) for a, b, relation in edges],
        )

    def impact(self, ref: str | Reference) -> Impact:
        """What withdrawing it reaches, and the class of removal of every build."""
        with self.database.read() as rows:
            start = _row(rows, ref)
            reached = lineage.walk(rows, [start[0]], down=True)
            return lineage.impact(
                start[0], reached, _by_id(rows, _impact_ids(rows, reached)), _build_edges(rows)
            )

    def _insert(self, writer: Writer, content: Content, number: int) -> Version:
        from registry.catalogue.models import (  # here, since reading must not pay for it
            EdgeRow,
            FileRow,
            LabelRow,
            VersionRow,
        )

        id_ = (writer.rows("SELECT MAX(seq) FROM event")[0][0] or 0) + 1
        at = self._now()
        row = (
            id_,
            content.kind,
            content.name,
            number,
            _content_digest(content),
            at,
            self.actor,
            canonical_json(content.facts).decode(),
        )
        files = [
            (file.path, file.bytes, file.sha256, int(file.linked), file.md5)
            for file in content.files
        ]
        edges = sorted({(parent.id, parent.relation) for parent in content.parents})
        found = search.labels(content.kind, content.name, content.facts)
        session = writer.session
        session.add(
            VersionRow(
                id=id_,
                kind=row[1],
                name=row[2],
                number=number,
                digest=row[4],
                registered_at=at,
                actor=self.actor,
                facts=row[7],
            )
        )
        session.add_all(
            FileRow(version_id=id_, path=f[0], bytes=f[1], sha256=f[2], linked=f[3], md5=f[4])
            for f in files
        )
        session.add_all(EdgeRow(from_id=id_, to_id=to, relation=relation) for to, relation in edges)
        session.add_all(
            LabelRow(version_id=id_, key=label.key, value=label.value, number=label.number)
            for label in found
        )
        for key, document in content.documents.items():
            _keep(writer, key, document)
        body = {
            "digest": row[4],
            "rows": rows_digests(row, files, edges, found),
            "documents": sorted(content.documents),
        }
        self._log(
            writer, "registered", str(Reference(content.kind, content.name, number)), body, at
        )
        return version(row, content.files)

    def _log(
        self,
        writer: Writer,
        kind: str,
        subject: str,
        body: Mapping[str, Any],
        at: str | None = None,
    ) -> Event:
        return audit_log.append(
            writer, at=at or self._now(), actor=self.actor, kind=kind, subject=subject, body=body
        )

    def _now(self) -> str:
        return self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rows_digests(
    row: Sequence[Any],
    files: Sequence[Sequence[Any]],
    edges: Sequence[Sequence[Any]],
    found: Sequence[Sequence[Any]],
) -> dict[str, str]:
    """Table -> digest over every column of the rows that a registration writes there; its event carries them."""
    tables = {"version": [row], "file": files, "edge": edges, "label": found}
    return {
        table: digest(sorted(some, key=lambda item: item[:3])) for table, some in tables.items()
    }


def _content_digest(content: Content) -> str:
    return digest(
        {
            "kind": content.kind,
            "name": content.name,
            "facts": content.facts,
            "files": [[file.path, file.bytes, file.sha256] for file in content.files],
            "parents": sorted([str(parent.ref), parent.relation] for parent in content.parents),
            "documents": sorted(content.documents),
        }
    )


def _plain(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as they will be read back, the licence in its SPDX spelling."""
    if kind in ("data", "seed") and facts.get("license") is not None:
        facts = {**facts, "license": spdx(facts["license"])}
    return json.loads(canonical_json(facts))  # type: ignore[no-any-return]


def spdx(text: str) -> str:
    """A licence expression in SPDX's spelling. Raises Invalid."""
    from packaging.licenses import (  # here: only writing needs the list
        InvalidLicenseExpression,
        canonicalize_license_expression,
    )

    try:
        return str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, AttributeError):
        advice = "write LicenseRef-NAME for a licence that SPDX does not list"
        raise Invalid(
            "licence",
            found=repr(text),
            expected="an SPDX identifier or expression, such as Apache-2.0",
            next=advice,
        ) from None


def _sorted_files(files: Sequence[FileFact]) -> tuple[FileFact, ...]:
    if len({file.path for file in files}) != len(files):
        raise Invalid("files", found="one path twice", expected="each path once")
    return tuple(sorted(files, key=lambda file: file.path))


def _document(value: Mapping[str, Any]) -> tuple[str, str]:
    body = canonical_json(value)
    return sha256_bytes(body), body.decode()


def _keep(writer: Writer, key: str, body: str) -> str:
    from registry.catalogue.models import DocumentRow  # here, since reading must not pay for it

    if not writer.rows("SELECT 1 FROM document WHERE digest = :key", key=key):
        writer.session.add(DocumentRow(digest=key, body=body))
        writer.session.flush()
    return key


def _next(rows: Rows, kind: str, name: str) -> int:
    found = rows(
        "SELECT MAX(number) FROM version WHERE kind = :kind AND name = :name", kind=kind, name=name
    )
    return int(found[0][0] or 0) + 1


def _existing(rows: Rows, content: Content, number: int | None) -> Version | None:
    """The version that has this content already. Raises Conflict when the wanted number holds other content."""
    wanted = _content_digest(content)
    found = rows(
        f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.kind = :kind AND v.name = :name "
        "AND (v.digest = :digest OR v.number = :number) ORDER BY v.number",
        kind=content.kind,
        name=content.name,
        digest=wanted,
        number=number or 0,
    )
    for row in found:
        if number is not None and row[3] == number and row[4] != wanted:
            ref = Reference(content.kind, content.name, number)
            raise Conflict(
                str(ref),
                found=f"digest {row[4]}",
                expected=f"digest {wanted}",
                next="register it as the next version",
            )
    same = [row for row in found if row[4] == wanted and number in (None, row[3])]
    return version(same[0], _files(rows, same[0][0]), created=False) if same else None


def _refuse_withdrawn(rows: Rows, subject: str, parents: Sequence[Parent]) -> None:
    bad = lineage.walk(rows, [parent.id for parent in parents], down=False) & lineage.withdrawn(
        rows
    )
    if bad:
        names = ", ".join(str(found.ref) for found in _by_id(rows, sorted(bad)).values())
        advice = "leave it out, or name another version"
        raise Refused(
            subject,
            found=f"made from {names}, withdrawn",
            expected="parents that stand",
            next=advice,
        )


def _parent(rows: Rows, ref: str | Reference, relation: str) -> Parent:
    row = _row(rows, ref)
    return Parent(row[0], Reference(*row[1:4]), relation)


def _row(rows: Rows, ref: str | Reference) -> tuple[Any, ...]:
    wanted = parse(ref)
    found = rows(
        f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.kind = :kind AND v.name = :name AND v.number = COALESCE(:number, "
        "(SELECT MAX(number) FROM version WHERE kind = :kind AND name = :name))",
        kind=wanted.kind,
        name=wanted.name,
        number=wanted.version,
    )
    if not found:
        raise NotFound(
            str(wanted),
            found="nothing",
            expected=_what_there_is(rows, wanted),
            next=f"btx list {_plural(wanted.kind)}",
        )
    return found[0]


def _what_there_is(rows: Rows, wanted: Reference) -> str:
    newest = "SELECT number FROM version WHERE kind = :kind AND name = :name ORDER BY number DESC LIMIT 5"
    if numbers := rows(newest, kind=wanted.kind, name=wanted.name):
        return "one of " + ", ".join(
            str(Reference(wanted.kind, wanted.name, row[0])) for row in reversed(numbers)
        )
    names = rows(
        "SELECT DISTINCT name FROM version WHERE kind = :kind ORDER BY name LIMIT 20",
        kind=wanted.kind,
    )
    if not names:
        return f"a registered {wanted.kind}; there is none yet"
    return "one of " + ", ".join(str(Reference(wanted.kind, row[0])) for row in names)


def _plural(kind: str) -> str:
    return kind if kind == "data" else f"{kind}s"


def _get(rows: Rows, ref: str | Reference) -> Version:
    row = _row(rows, ref)
    return version(row, _files(rows, row[0]))


def _files(rows: Rows, id_: int) -> list[FileFact]:
    return [
        file_fact(row)
        for row in rows(
            f"SELECT {FILE_COLUMNS} FROM file WHERE version_id = :id ORDER BY path", id=id_
        )
    ]


def _with_files(rows: Rows, found: Sequence[tuple[Any, ...]]) -> list[Version]:
    files: dict[int, list[FileFact]] = {}
    for start in range(0, len(found), 1000):
        ids = ", ".join(str(row[0]) for row in found[start : start + 1000])
        for id_, *rest in rows(
            f"SELECT version_id, {FILE_COLUMNS} FROM file WHERE version_id IN ({ids}) ORDER BY version_id, path"
        ):
            files.setdefault(id_, []).append(file_fact(rest))
    return [version(row, files.get(row[0], ())) for row in found]


def _by_id(rows: Rows, ids: Sequence[int]) -> dict[int, Version]:
    made: dict[int, Version] = {}
    for start in range(0, len(ids), 1000):
        some = ", ".join(map(str, ids[start : start + 1000])) or "NULL"
        found = rows(f"SELECT {VERSION_COLUMNS} FROM version v WHERE v.id IN ({some})")
        made |= {
            row[0]: found_version
            for row, found_version in zip(found, _with_files(rows, found), strict=True)
        }
    if missing := [id_ for id_ in ids if id_ not in made]:
        raise Damaged(
            "lineage",
            found=f"an edge to missing row {missing[0]}",
            expected="a registered version",
            next="btx audit",
        )
    return made


def _statuses(rows: Rows, versions: Sequence[Version]) -> dict[Reference, str]:
    gone = lineage.withdrawn(rows)
    tainted = _references(rows, lineage.walk(rows, gone, down=True) - gone) if gone else set()
    withdrawn = _references(rows, gone)
    newest: dict[str, str] = {}
    for subject, kind, body in rows(
        "SELECT subject, kind, body FROM event WHERE kind IN ('progress', 'released') ORDER BY seq"
    ):
        if kind == "released" or newest.get(subject) != "released":
            newest[subject] = (
                "released"
                if kind == "released"
                else str(read_json(body, f"{subject}, progress").get("status", "registered"))
            )
    return {
        found.ref: "withdrawn"
        if found.ref in withdrawn
        else "tainted"
        if found.ref in tainted
        else newest.get(str(found.ref)) or str(found.facts.get("status") or "registered")
        for found in versions
    }


def _references(rows: Rows, ids: Iterable[int]) -> set[Reference]:
    made: set[Reference] = set()
    ordered = sorted(ids)
    for start in range(0, len(ordered), 1000):
        some = ", ".join(map(str, ordered[start : start + 1000]))
        made |= {
            Reference(*row)
            for row in rows(f"SELECT kind, name, number FROM version WHERE id IN ({some})")
        }
    return made


def _build_edges(rows: Rows) -> list[tuple[int, int, str]]:
    """Edges from every build and every snapshot."""
    from_ids = "SELECT id FROM version WHERE kind IN ('build', 'snapshot')"
    return [
        (a, b, relation)
        for a, b, relation in rows(
            f"SELECT from_id, to_id, relation FROM edge WHERE from_id IN ({from_ids})"
        )
    ]


def _impact_ids(rows: Rows, reached: set[int]) -> list[int]:
    """What impact looks at: all that is reached, every build and snapshot, and the reached snapshots' members."""
    return sorted(
        reached
        | {row[0] for row in rows("SELECT id FROM version WHERE kind IN ('build', 'snapshot')")}
    )
