"""The first schema."""

import sqlalchemy as sa
from alembic import op

from registry.guards import functions, triggers

revision = "0001"
down_revision = None

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _columns(text: str = "", number: str = "") -> list["sa.Column[object]"]:
    made: list[sa.Column[object]] = [sa.Column(name, Number, nullable=False, autoincrement=False) for name in number.split()]
    return made + [sa.Column(name, sa.Text, nullable=False) for name in text.split()]


def _table(name: str, key: str, *columns: "sa.Column[object]", rowid: bool = False) -> None:
    op.create_table(name, *columns, sa.PrimaryKeyConstraint(*key.split()), sqlite_with_rowid=rowid)


def upgrade() -> None:
    _table("version", "id", *_columns("kind name digest registered_at actor facts", "id number"), rowid=True)
    linked_and_md5 = [sa.Column("linked", Number, nullable=False), sa.Column("md5", sa.Text, nullable=True)]
    _table("file", "version_id path", *_columns("path sha256", "version_id bytes"), *linked_and_md5)
    _table("edge", "from_id to_id relation", *_columns("relation", "from_id to_id"))
    _table("label", "version_id key value", *_columns("key value", "version_id"), sa.Column("number", sa.Float, nullable=True))
    _table("document", "digest", *_columns("digest body"))
    _table("event", "seq", *_columns("at actor kind subject body prev digest", "seq"), rowid=True)
    op.create_index("version_name", "version", ["kind", "name", "number"], unique=True)
    op.create_index("version_digest", "version", ["digest"])
    op.create_index("file_sha256", "file", ["sha256"])
    op.create_index("edge_to", "edge", ["to_id", "from_id"])
    op.create_index("label_value", "label", ["key", "value", "version_id"])
    op.create_index("label_number", "label", ["key", "number", "version_id"])
    op.create_index("event_prev", "event", ["prev"], unique=True)
    op.create_index("event_digest", "event", ["digest"], unique=True)
    op.create_index("event_subject", "event", ["subject"])
    op.create_index("event_kind", "event", ["kind"])
    engine = op.get_bind().dialect.name
    if engine == "postgresql":
        for name, body in functions().items():
            op.execute(sa.text(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS '{body.replace(chr(39), chr(39) * 2)}'"))
    for statement in triggers(engine).values():
        op.get_bind().exec_driver_sql(statement)
