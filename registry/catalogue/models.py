"""The tables, one class each.

In:  nothing.
Out: classes whose instances are rows to insert. Rows are never changed: triggers refuse it
     (`insert_only`). Only writing and migrating import this module; reading goes by SQL text, since
     importing SQLModel takes longer than most answers.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, Text
from sqlmodel import Field, SQLModel

# A hidden rowid would be one more key for INSERT OR REPLACE to go through.
NO_ROWID = {"sqlite_with_rowid": False}


def _number(primary_key: bool = False) -> Column[int]:
    return Column(
        BigInteger().with_variant(Integer, "sqlite"),
        autoincrement=False,
        nullable=False,
        primary_key=primary_key,
    )


def _text(primary_key: bool = False, nullable: bool = False) -> Column[str]:
    return Column(Text, nullable=nullable, primary_key=primary_key)


class VersionRow(SQLModel, table=True):
    """One registered version.

    Attributes:
        id: the seq of the event that registered it.
        kind: of the version.
        name: of the version; "" for a build.
        number: of the version, from 1 for each name.
        digest: of its content.
        registered_at: when, in UTC.
        actor: who registered it.
        facts: what is recorded of it, as canonical JSON.
    """

    __tablename__ = "version"
    __table_args__ = (
        Index("version_name", "kind", "name", "number", unique=True),
        Index("version_digest", "digest"),
    )
    id: int = Field(sa_column=_number(primary_key=True))
    kind: str = Field(sa_column=_text())
    name: str = Field(sa_column=_text())
    number: int = Field(sa_column=_number())
    digest: str = Field(sa_column=_text())
    registered_at: str = Field(sa_column=_text())
    actor: str = Field(sa_column=_text())
    facts: str = Field(sa_column=_text())


class FileRow(SQLModel, table=True):
    """One file of a version.

    Attributes:
        version_id: the version's id.
        path: its path inside the version's folder.
        bytes: its size.
        sha256: of its bytes.
        linked: 1 where it shares its bytes with another version's file, else 0.
        md5: what DVC addresses it by, where DVC holds it.
    """

    __tablename__ = "file"
    __table_args__ = (Index("file_sha256", "sha256"), NO_ROWID)
    version_id: int = Field(sa_column=_number(primary_key=True))
    path: str = Field(sa_column=_text(primary_key=True))
    bytes: int = Field(sa_column=_number())
    sha256: str = Field(sa_column=_text())
    linked: int = Field(sa_column=_number())
    md5: str | None = Field(sa_column=_text(nullable=True))


class EdgeRow(SQLModel, table=True):
    """One version was made from another.

    Attributes:
        from_id: the version that was made.
        to_id: the version that it was made from.
        relation: how.
    """

    __tablename__ = "edge"
    __table_args__ = (Index("edge_to", "to_id", "from_id"), NO_ROWID)
    from_id: int = Field(sa_column=_number(primary_key=True))
    to_id: int = Field(sa_column=_number(primary_key=True))
    relation: str = Field(sa_column=_text(primary_key=True))


class LabelRow(SQLModel, table=True):
    """A search term, derived from a version's facts.

    Attributes:
        version_id: the version's id.
        key: what is searched for.
        value: its value, as text.
        number: its value, where it is a number.
    """

    __tablename__ = "label"
    __table_args__ = (
        Index("label_value", "key", "value", "version_id"),
        Index("label_number", "key", "number", "version_id"),
        NO_ROWID,
    )
    version_id: int = Field(sa_column=_number(primary_key=True))
    key: str = Field(sa_column=_text(primary_key=True))
    value: str = Field(sa_column=_text(primary_key=True))
    number: float | None = None


class DocumentRow(SQLModel, table=True):
    """A JSON document.

    Attributes:
        digest: of its canonical form.
        body: its canonical form.
    """

    __tablename__ = "document"
    __table_args__ = (NO_ROWID,)
    digest: str = Field(sa_column=_text(primary_key=True))
    body: str = Field(sa_column=_text())


class EventRow(SQLModel, table=True):
    """One entry of the audit log.

    Attributes:
        seq: its number, from 1.
        at: when, in UTC.
        actor: who acted.
        kind: what happened.
        subject: to what.
        body: the rest, as canonical JSON.
        prev: the digest of the entry before; 64 zeros for the first.
        digest: over every other field.
    """

    __tablename__ = "event"
    __table_args__ = (
        Index("event_prev", "prev", unique=True),
        Index("event_digest", "digest", unique=True),
        Index("event_subject", "subject"),
        Index("event_kind", "kind"),
    )
    seq: int = Field(sa_column=_number(primary_key=True))
    at: str = Field(sa_column=_text())
    actor: str = Field(sa_column=_text())
    kind: str = Field(sa_column=_text())
    subject: str = Field(sa_column=_text())
    body: str = Field(sa_column=_text())
    prev: str = Field(sa_column=_text())
    digest: str = Field(sa_column=_text())
