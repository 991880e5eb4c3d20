"""The triggers that make every table insert-only, as SQL text for either engine.

In:  the engine's name.
Out: trigger name -> statement. INSERT OR REPLACE deletes without firing a DELETE trigger, so an
     INSERT over any existing key is refused too; the event table takes only the next link of its
     chain.
Who owns the file can drop triggers. That this happened, and what was done meanwhile, is left to
`checks.py` and to a head that was noted outside.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.catalogue.database import Rows

# Each table's keys: any one of them equal means that a row would be replaced.
KEYS = {
    "version": (("id",), ("kind", "name", "number")),
    "file": (("version_id", "path"),),
    "edge": (("from_id", "to_id", "relation"),),
    "label": (("version_id", "key", "value"),),
    "document": (("digest",),),
    "event": (("seq",), ("prev",), ("digest",)),
}
GENESIS = "0" * 64
CHAIN = (
    "NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM event) OR "
    "NEW.prev <> COALESCE((SELECT digest FROM event ORDER BY seq DESC LIMIT 1), "
    f"'{GENESIS}')"
)
INSTALLED_IN_SQLITE = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
INSTALLED_IN_POSTGRESQL = (
    "SELECT t.tgname, pg_get_triggerdef(t.oid, true), t.tgenabled::text "
    "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
    "WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"
)
FUNCTIONS_IN_POSTGRESQL = (
    "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
)


def triggers(engine: str) -> dict[str, str]:
    """Return the statements that make the triggers.

    What `sqlite_master` or `pg_get_triggerdef` says is compared with these.

    Args:
        engine: "sqlite" or "postgresql".

    Returns:
        Trigger name -> statement.
    """
    return _sqlite() if engine == "sqlite" else _postgresql()


def functions() -> dict[str, str]:
    """Return the bodies of the functions that PostgreSQL's triggers call, by name."""
    return {
        "btx_append_only": "BEGIN RAISE EXCEPTION 'append-only table %', TG_TABLE_NAME; END",
        "btx_chain": (
            f"BEGIN IF {CHAIN} THEN RAISE EXCEPTION 'not the next event'; END IF; RETURN NEW; END"
        ),
    }


def installed(rows: "Rows") -> dict[str, str]:
    """Return the triggers and functions that a database has.

    Args:
        rows: reads the database.

    Returns:
        Name -> text, in the form of `triggers` and `functions`.
    """
    if rows.engine == "sqlite":
        return dict(rows(INSTALLED_IN_SQLITE))
    statements = {}
    for name, text, state in rows(INSTALLED_IN_POSTGRESQL):
        # The letter for a trigger that fires.
        statements[name] = text if state == "O" else f"{text} DISABLED"
    return statements | dict(rows(FUNCTIONS_IN_POSTGRESQL))


def _sqlite() -> dict[str, str]:
    statements = {}
    for table, keys in KEYS.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, 'append-only table {table}'); END"
        for verb in ("UPDATE", "DELETE"):
            name = f"{table}_no_{verb.lower()}"
            statements[name] = f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {refuse}"
        name = f"{table}_no_replace"
        condition = f"EXISTS (SELECT 1 FROM {table} WHERE {_any_key_taken(keys)})"
        statements[name] = (
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} WHEN {condition} {refuse}"
        )
    refuse = "BEGIN SELECT RAISE(ABORT, 'not the next event'); END"
    statements["event_chain"] = (
        f"CREATE TRIGGER event_chain BEFORE INSERT ON event WHEN {CHAIN} {refuse}"
    )
    return statements


def _any_key_taken(keys: tuple[tuple[str, ...], ...]) -> str:
    """A condition that holds for a row that the new one would replace."""
    tests = []
    for key in keys:
        equal = " AND ".join(f"{column} = NEW.{column}" for column in key)
        tests.append(f"({equal})")
    return " OR ".join(tests)


def _postgresql() -> dict[str, str]:
    statements = {}
    for table in KEYS:
        for verb, each in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            name = f"{table}_no_{verb.lower()}"
            statements[name] = (
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} "
                f"FOR EACH {each} EXECUTE FUNCTION btx_append_only()"
            )
    statements["event_chain"] = (
        "CREATE TRIGGER event_chain BEFORE INSERT ON event "
        "FOR EACH ROW EXECUTE FUNCTION btx_chain()"
    )
    return statements
