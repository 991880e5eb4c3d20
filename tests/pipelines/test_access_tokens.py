"""Tokens by the job that makes them: logged, and kept where they were logged alone."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.access_tokens import issue_token, tokens
from pipelines.workspace.workspace import create
from registry.catalogue.catalog import Catalog
from registry.errors import Refused
from registry.governance import changes, keys


def test_a_token_that_was_refused_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = create(tmp_path / "workspace")
    name = workspace.catalog.actor
    pem = keys.public_pem(keys.new_key(name, tmp_path / "own.pem"))
    changes.change_actor(workspace.catalog, changes.Change(name, ("auditor",), pem))
    keys.new_key(name, tmp_path / "another.pem")
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "another.pem"))
    with pytest.raises(Refused, match="on the list of actors"):
        issue_token(workspace, "dora", ("viewer",), 30)
    assert tokens(workspace).all() == []

    def refuse(*_: Any, **__: Any) -> None:
        raise Refused("event 2", found="a time before event 1", expected="a later one")

    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "own.pem"))
    with monkeypatch.context() as patched:
        patched.setattr(Catalog, "event", refuse)
        with pytest.raises(Refused, match="event 2"):
            issue_token(workspace, "dora", ("viewer",), 30)
    assert tokens(workspace).all() == []
    secret, token = issue_token(workspace, "dora", ("viewer",), 30)
    assert tokens(workspace).all() == [token]
    assert tokens(workspace).find(secret) == token
    assert [event.subject for event in workspace.catalog.events(kind="token")] == [
        f"token/{token.id}"
    ]
