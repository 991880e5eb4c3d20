"""Times never run backwards, and heads that acts wrote down outside show a log rewritten whole."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.catalogue import audit_log, insert_only, pins
from registry.catalogue.audit_log import GENESIS, Link
from registry.catalogue.catalog import Catalog
from registry.errors import Refused
from registry.governance import contesting
from registry.records.events import Withdrawn
from registry.records.facts import DataFacts

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize("act", ["event", "register", "withdraw", "document"])
def test_nothing_is_logged_at_a_time_before_the_newest_event(url: str, act: str) -> None:
    clock = Clock()
    catalog = Catalog(url, actor="ann", clock=clock)
    catalog.register("x", DataFacts(domain="x"))
    clock.now = START - timedelta(days=30)
    head = catalog.head()
    with pytest.raises(Refused, match="set the clock"):
        {
            "event": lambda: catalog.event(Withdrawn(why="w"), "data/x@1"),
            "register": lambda: catalog.register("y", DataFacts(domain="y")),
            "withdraw": lambda: catalog.withdraw("data/x@1", "w"),
            "document": lambda: catalog.put_document({"a": 1}),
        }[act]()
    assert catalog.head() == head
    catalog.close()


def test_a_clock_that_is_a_little_behind_another_machines_does_no_harm(url: str) -> None:
    clock = Clock()
    catalog = Catalog(url, actor="ann", clock=clock)
    catalog.register("x", DataFacts(domain="x"))
    clock.now = START - timedelta(seconds=30)
    version = catalog.register("y", DataFacts(domain="y"))
    assert version.registered_at == catalog.events()[0].at
    with catalog.database.read() as rows:
        assert audit_log.verify(rows)[1] == []
    catalog.close()


def rechained(path: Path, change: Any) -> None:
    """Rewrite the whole log consistently: what an administrator can do."""
    with sqlite3.connect(path) as connection:
        for name in insert_only.triggers("sqlite"):
            connection.execute(f"DROP TRIGGER {name}")
        rows = connection.execute("SELECT * FROM event ORDER BY seq").fetchall()
        columns = [row[1] for row in connection.execute("PRAGMA table_info(event)")]
        prev = GENESIS
        for row in rows:
            event = change(dict(zip(columns, row, strict=True)))
            named = (event[name] for name in ("seq", "at", "actor", "kind", "subject", "body"))
            digest = Link(*named, prev).digest()
            connection.execute(
                "UPDATE event SET at = ?, kind = ?, subject = ?, body = ?, prev = ?, digest = ? "
                "WHERE seq = ?",
                (
                    event["at"],
                    event["kind"],
                    event["subject"],
                    event["body"],
                    prev,
                    digest,
                    event["seq"],
                ),
            )
            prev = digest
        for text in insert_only.triggers("sqlite").values():
            connection.execute(text)


def test_a_time_that_runs_backwards_in_a_sound_chain_is_found(
    lite: Catalog, tmp_path: Path
) -> None:
    for name in "xyz":
        lite.register(name, DataFacts(domain=name))
    lite.close()

    def back_dated(event: dict[str, Any]) -> dict[str, Any]:
        return event | ({"at": "2025-01-01T00:00:00.000000Z"} if event["seq"] == 2 else {})

    rechained(tmp_path / "registry.db", back_dated)
    with Catalog(f"sqlite:///{tmp_path}/registry.db", actor="ann").database.read() as rows:
        (found,) = audit_log.verify(rows)[1]
    assert (found.subject, found.found) == ("event 2", "the time 2025-01-01T00:00:00.000000Z")


def test_a_withdrawal_writes_the_head_down_outside_and_a_rewritten_log_is_seen(
    governed: Any, tmp_path: Path
) -> None:
    governed.data("law")
    catalog = governed.as_("ann")
    assert pins.pinned(catalog) == []
    contesting.withdraw(catalog, "data/law@1", "consent ended")
    (kept,) = pins.pinned(catalog)
    assert kept.head == catalog.head()
    governed.data("more")
    with catalog.database.read() as rows:
        assert audit_log.check_kept(rows, kept, None) == []
    catalog.close()

    def forgotten(event: dict[str, Any]) -> dict[str, Any]:
        if event["kind"] != "withdrawn":
            return event
        body = json.dumps({"stage": "mix", "state": "ended"}, separators=(",", ":"))
        return event | {"kind": "stage", "body": body}

    rechained(tmp_path / "registry.db", forgotten)
    again = Catalog(governed.url, actor="ann")
    assert again.status("data/law@1") == "registered", "the withdrawal is gone"
    with again.database.read() as rows:
        assert audit_log.verify(rows)[1] == [], "and the chain is sound"
        (found,) = audit_log.check_kept(rows, kept, None)
    assert "no link" in found.found
    again.close()


def test_an_act_stands_where_no_head_can_be_written_down(
    governed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BTX_HEADS", str(tmp_path / "file"))
    governed.data("law")
    assert pins.pin(governed.as_("ann")) is None
    contesting.withdraw(governed.as_("ann"), "data/law@1", "consent ended")
    assert governed.as_("ann").status("data/law@1") == "withdrawn"
