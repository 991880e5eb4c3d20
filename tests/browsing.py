"""A registry served to Chromium: pages, keys, axe, and pictures to look at."""

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from pipelines.jobs.serve import Address, site
from pipelines.workspace.workspace import Workspace
from registry.web.application import application
from registry.web.middleware import Limits

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 60_000  # a busy machine is slow, and no test is about that


@dataclass
class Served:
    base: str
    workspace: Workspace
    secrets: dict[str, str]
    keys: Path
    errors: list[str] = field(default_factory=list)

    def enter(self, browser: Browser, name: str, **settings: Any) -> Page:
        """Enter by the printed link; whatever the browser's console complains of is kept."""
        page = browser.new_context(**settings).new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on(
            "console",
            lambda message: (
                self.errors.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{self.base}/login#{self.secrets[name]}")
        expect(page.get_by_role("navigation")).to_be_visible()
        return page

    def key(self, name: str) -> Path:
        """Return the file of a person's private key."""
        return self.keys / f"{name}.pem"


@contextmanager
def serving(workspace: Workspace, roles: dict[str, Sequence[str]], keys: Path) -> Iterator[Served]:
    """Serve a workspace on a free port, with a token for each person."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = site(workspace, Address(port=port), Limits())
    secrets = {name: running.tokens.issue(name, list(held))[0] for name, held in roles.items()}
    server = uvicorn.Server(uvicorn.Config(application(running), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield Served(f"http://127.0.0.1:{port}", workspace, secrets, keys)
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def launched() -> Iterator[Browser]:
    """Start Chromium without a window."""
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        expect.set_options(timeout=PATIENCE_MS)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        try:
            yield browser
        finally:
            browser.close()


def serious(page: Page) -> list[str]:
    """Return what axe calls serious or critical on a page."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['target']}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def look_at(page: Page, name: str) -> None:
    """Keep a picture of the page, where BTX_SHOTS names a folder."""
    if shots := os.environ.get("BTX_SHOTS"):
        page.screenshot(path=f"{shots}/{name}.png", full_page=True)
