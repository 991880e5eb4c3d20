"""The first schema."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from registry.catalogue.insert_only import functions, triggers

revision = "0001"
down_revision = None

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _table(name: str, key: str, columns: str, *, rowid: bool = False) -> None:
    """columns: names; `#` a whole number, `~` a number, `?` may be empty, else text."""
    made: list[sa.Column[Any]] = []
    for column in columns.split():
        kind = Number if column[0] == "#" else sa.Float() if column[0] == "~" else sa.Text()
        made.append(
            sa.Column(column.strip("#~?"), kind, nullable=column[0] in "~?", autoincrement=False)
        )
    op.create_table(name, *made, sa.PrimaryKeyConstraint(*key.split()), sqlite_with_rowid=rowid)


def upgrade() -> None:
    """Make the tables and indexes, and the triggers that let rows only be added."""
    _table("version", "id", "#id kind name #number digest registered_at actor facts", rowid=True)
    _table("file", "version_id path", "#version_id path #bytes sha256 #linked ?md5")
    _table("edge", "from_id to_id relation", "#from_id #to_id relation")
    _table("label", "version_id key value", "#version_id key value ~number")
    _table("document", "digest", "digest body")
    _table("event", "seq", "#seq at actor kind subject body prev digest", rowid=True)
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
            quoted = body.replace("'", "''")
            made = f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS '{quoted}'"
            op.execute(sa.text(made))
    for statement in triggers(engine).values():
        op.get_bind().exec_driver_sql(statement)
