"""A governed registry, served: ann registers, dora approves, max audits, eve only looks."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.jobs.serve import Address, site
from pipelines.workspace.workspace import Workspace
from registry.governance import approving, keys, people
from registry.web.application import application
from registry.web.middleware import Limits
from registry.web.site import Site

HOST = "127.0.0.1:8765"
ROLES = {"ann": ("registrar",), "dora": ("approver",), "max": ("auditor",), "eve": ("viewer",)}
POLICIES = Path(__file__).parents[3] / "policies"


@dataclass
class Web:
    """The served registry; secrets and keys by name."""

    site: Site
    client: TestClient
    secrets: dict[str, str]
    keys: dict[str, keys.Signer]

    def as_(self, name: str, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secrets[name]}", **more}

    def login(self, name: str) -> str:
        """Begin a session for the client, and return its CSRF token."""
        answer = self.client.post(
            "/login", data={"token": self.secrets[name]}, follow_redirects=False
        )
        assert answer.status_code == 303
        found = self.site.sessions.person(bearer=None, cookie=self.client.cookies["btx"])
        assert found is not None
        assert found.csrf
        return found.csrf

    def signed(
        self,
        name: str,
        ref: str = "build/1",
        why: str = "reviewed",
        key: str | None = None,
        **changed: Any,
    ) -> dict[str, Any]:
        """An approval as a browser makes it: drafted by the server, signed here."""
        from registry.governance import attestations

        act = approving.drafted(self.site.catalog, ref, name, why).to_json() | changed
        return attestations.sign(act, self.keys[key or name].key, people.ACT)

    def statements(self, name: str, path: str) -> list[dict[str, Any]]:
        """The acts that the server drafts for a person to sign."""
        answer = self.client.get(path, headers=self.as_(name))
        assert answer.status_code == 200, answer.text
        return [statement["act"] for statement in answer.json()["acts"]]

    def sealed(self, acts: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        """Envelopes over acts, signed with a person's key, as a browser makes them."""
        from registry.governance import attestations

        return [attestations.sign(act, self.keys[key].key, people.ACT) for act in acts]


@pytest.fixture
def web(governed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    # Where nobody's key lies: a server has none.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    governed.story()
    made = {"max": governed.person("max", "auditor")}
    made |= {name: governed.person(name, *ROLES[name], by="max") for name in ("dora", "ann")}
    made["mallory"] = keys.new_key("mallory", tmp_path / "mallory.pem")
    (tmp_path / "btx.toml").write_text(f'[registry]\nurl = "{governed.url}"\n')
    shutil.copytree(POLICIES, tmp_path / "policies")
    (tmp_path / ".btx").mkdir()
    served = site(Workspace.find(tmp_path), Address(), Limits(reads=1e6, writes=1e6, strangers=1e6))
    secrets = {name: served.tokens.issue(name, roles)[0] for name, roles in ROLES.items()}
    with TestClient(
        application(served), base_url=f"http://{HOST}", raise_server_exceptions=False
    ) as client:
        yield Web(served, client, secrets, made)
