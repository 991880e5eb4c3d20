"""The triggers that make every table insert-only, as SQL text for either engine.

In:  the engine's name.  Out: trigger name -> statements.  INSERT OR REPLACE deletes without firing a DELETE trigger, so an INSERT over
any existing key is refused too; the event table takes only the next link of its chain. Who owns the file can drop triggers:
audit.py notices, and a head pinned outside notices what was done meanwhile.
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
CHAIN = (
    "NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM event) OR "
    "NEW.prev <> COALESCE((SELECT digest FROM event ORDER BY seq DESC LIMIT 1), '" + "0" * 64 + "')"
)


def triggers(engine: str) -> dict[str, str]:
    """Trigger name -> the statement that makes it; what `sqlite_master` or `pg_get_triggerdef` says is compared with this."""
    return _sqlite() if engine == "sqlite" else _postgresql()


def functions() -> dict[str, str]:
    """PostgreSQL only: function name -> its body."""
    return {
        "btx_append_only": "BEGIN RAISE EXCEPTION 'append-only table %', TG_TABLE_NAME; END",
        "btx_chain": _chain_function(),
    }


def _chain_function() -> str:
    return f"BEGIN IF {CHAIN} THEN RAISE EXCEPTION 'not the next event'; END IF; RETURN NEW; END"


def _sqlite() -> dict[str, str]:
    made = {}
    for table, keys in KEYS.items():
        refuse = f"BEGIN SELECT RAISE(ABORT, 'append-only table {table}'); END"
        for verb in ("UPDATE", "DELETE"):
            name = f"{table}_no_{verb.lower()}"
            made[name] = f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {refuse}"
        taken = " OR ".join(
            "(" + " AND ".join(f"{column} = NEW.{column}" for column in key) + ")" for key in keys
        )
        name = f"{table}_no_replace"
        condition = f"EXISTS (SELECT 1 FROM {table} WHERE {taken})"
        made[name] = f"CREATE TRIGGER {name} BEFORE INSERT ON {table} WHEN {condition} {refuse}"
    refuse = "BEGIN SELECT RAISE(ABORT, 'not the next event'); END"
    made["event_chain"] = f"CREATE TRIGGER event_chain BEFORE INSERT ON event WHEN {CHAIN} {refuse}"
    return made


def _postgresql() -> dict[str, str]:
    made = {}
    for table in KEYS:
        for verb, each in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            name = f"{table}_no_{verb.lower()}"
            made[name] = (
                f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH {each} EXECUTE FUNCTION btx_append_only()"
            )
    made["event_chain"] = (
        "CREATE TRIGGER event_chain BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION btx_chain()"
    )
    return made


def installed(rows: "Rows") -> dict[str, str]:
    """Trigger and function name -> its text as the database has it, in the form of triggers() and functions()."""
    if rows.engine == "sqlite":
        return dict(rows("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
    of_tables = (
        "SELECT t.tgname, pg_get_triggerdef(t.oid, true), t.tgenabled::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"
    )
    made = {
        name: f"{text}{'' if state == 'O' else ' DISABLED'}"
        for name, text, state in rows(of_tables)
    }
    return made | dict(
        rows(
            "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
        )
    )
