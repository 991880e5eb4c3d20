"""What the catalogue hands out: versions, files and events, as values that are never written back.

In:  the columns of a row, already checked to be of their types.
Out: values whose facts and bodies are read into records when somebody asks for them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from registry.digest import digest
from registry.errors import Invalid
from registry.records.events import EventBody, read_body
from registry.records.facts import FACTS, Facts
from registry.records.kinds import Kind
from registry.records.references import Reference

F = TypeVar("F", bound=Facts, covariant=True)
G = TypeVar("G", bound=Facts)
B = TypeVar("B", bound=EventBody)


@dataclass(frozen=True)
class FileFact:
    """One file of a version.

    Attributes:
        path: its path inside the version's folder.
        bytes: its size.
        sha256: the digest of its bytes.
        linked: whether it shares its bytes with another version's file.
        md5: what DVC addresses it by, where it is held by DVC.
    """

    path: str
    bytes: int
    sha256: str
    linked: bool = False
    md5: str | None = None


def content_digest(files: Iterable[FileFact]) -> str:
    """Return one digest for the content of a folder: its paths and their SHA-256.

    The order of the files does not count: a folder's and a database's are not the same.
    """
    return digest(sorted([file.path, file.sha256] for file in files))


def older_content_digest(files: Iterable[FileFact]) -> str:
    """Return the digest that older verdicts name: of the paths in order folder by folder.

    It differs from today's where a folder has the start of a file's name, as `docs` of `docs.txt`.
    """
    in_order = sorted(files, key=lambda file: file.path.split("/"))
    return digest([[file.path, file.sha256] for file in in_order])


@dataclass(frozen=True)
class Version(Generic[F]):
    """One registered thing.

    Attributes:
        ref: its name and number.
        digest: over kind, name, facts, files, parents and documents.
        registered_at: when, in UTC.
        actor: who registered it.
        stored: its facts as the row holds them: canonical JSON, which digests are computed over.
        files: its files, by path.
        created: False where the version was there already.
    """

    ref: Reference
    digest: str
    registered_at: str
    actor: str
    stored: str
    files: tuple[FileFact, ...] = ()
    created: bool = True

    @cached_property
    def facts(self) -> F:
        """The facts, in today's shape. Raises Damaged where the row holds something else."""
        facts = FACTS[Kind(self.ref.kind)].from_text(self.stored, f"{self.ref}, facts")
        return facts  # type: ignore[return-value]  # the kind of the reference decides the type

    def of(self, kind: type[G]) -> "Version[G]":
        """Return this version as one of a kind. Raises Invalid for a version of another kind."""
        if self.ref.kind != kind.kind:
            article = "an" if kind.kind[0] in "aeiou" else "a"
            raise Invalid(
                str(self.ref),
                found=f"a version of kind {self.ref.kind}",
                expected=f"{article} {kind.kind}",
                next=kind.kind.look_up,
            )
        return self  # type: ignore[return-value]

    @property
    def written_bytes(self) -> int:
        """Bytes of the files that no earlier version held."""
        return sum(file.bytes for file in self.files if not file.linked)

    @property
    def linked_bytes(self) -> int:
        """Bytes of the files that share their content with an earlier version's."""
        return sum(file.bytes for file in self.files if file.linked)


@dataclass(frozen=True)
class Event:
    """One entry of the audit log.

    Attributes:
        stored: its body as the row holds it: canonical JSON.
        prev: the digest of the event before.
        digest: over every other field.
    """

    seq: int
    at: str
    actor: str
    kind: str
    subject: str
    stored: str
    prev: str
    digest: str

    @cached_property
    def body(self) -> EventBody:
        """The body as a record. Raises Damaged where the row holds something else."""
        return read_body(self.kind, self.stored, f"event {self.seq}, body")

    def read(self, kind: type[B]) -> B:
        """Return the body as a record of this kind."""
        body = self.body
        if isinstance(body, kind):
            return body
        return kind.from_text(self.stored, f"event {self.seq}, body")
