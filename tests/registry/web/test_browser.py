"""A story clicked through by three roles in Chromium; axe looks at every page in three forms."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import CHROMIUM, Served, launched, look_at, serious, serving
from playwright.sync_api import Browser, expect

from pipelines.jobs.policy import adopt
from pipelines.jobs.serve import Address, site
from pipelines.jobs.withdraw import contest
from pipelines.workspace.bars import Note, note_of
from pipelines.workspace.metrics import metrics_file
from pipelines.workspace.workspace import Workspace
from registry.governance import approving, changes, gaps, keys
from registry.web.middleware import Limits

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
SIZES = {"light": (1280, 900), "dark": (1280, 900), "narrow": (390, 844)}
PAGES = (
    "/",
    "/builds",
    "/experts",
    "/expert/math/1",
    "/build/1",
    "/data/math/1",
    "/seeds",
    "/seed/base/1",
    "/snapshots",
    "/lines",
    "/exports",
    "/runs",
    "/runs/tune",
    "/compare",
    "/compare?left=expert/code&right=expert/math",
    "/search?q=math",
    "/lineage?ref=data/math",
    "/impact?ref=data/math@1",
    "/audit",
    "/approve",
    "/approve/1",
    "/waivers",
    "/due",
    "/policies",
    "/people?name=dora",
    "/erase",
    "/search?q=kind%3Dbuild",
)


@pytest.fixture(scope="module")
def served(story: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A copy of the story: `ann` registers, `dora` approves, `max` audits.

    Its policies ask only for a second person, since the tiny build is poor.
    """
    root = tmp_path_factory.mktemp("web") / "workspace"
    subprocess.run(["cp", "-a", str(story.root), str(root)], check=True)
    for policy in (root / "policies").glob("release-*.yaml"):
        policy.unlink()
    workspace, folder = Workspace.find(root), tmp_path_factory.mktemp("keys")
    adopt(workspace)
    made = {name: keys.new_key(name, folder / f"{name}.pem") for name in ("max", "dora", "ann")}
    for name, role, by in (
        ("max", "auditor", None),
        ("dora", "approver", "max"),
        ("ann", "registrar", "max"),
    ):
        acting = made[by] if by else None
        catalog = site(workspace, Address(), Limits()).acting(by or "max")
        added = changes.Change(name, (role,), keys.public_pem(made[name]))
        changes.change_actor(catalog, added, acting)
    roles = {"ann": ("registrar",), "dora": ("approver",), "max": ("auditor",)}
    with serving(workspace, roles, folder) as served, pytest.MonkeyPatch.context() as environment:
        # Where nobody's key lies: a server has none.
        environment.setenv("HOME", str(folder / "home"))
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.mark.parametrize(
    "look",
    ["light", *(pytest.param(look, marks=pytest.mark.slow) for look in ("dark", "narrow"))],
)
def test_every_page_passes_axe_and_fits_its_window(
    served: Served, browser: Browser, look: str
) -> None:
    width, height = SIZES[look]
    page = served.enter(
        browser,
        "max",
        color_scheme="dark" if look == "dark" else "light",
        viewport={"width": width, "height": height},
    )
    for path in PAGES:
        page.goto(served.base + path)
        assert serious(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        if shots := os.environ.get("BTX_SHOTS"):
            name = re.sub(r"[/?=&]+", "-", path.strip("/")) or "overview"
            page.screenshot(path=f"{shots}/{name}-{look}.png", full_page=True)
    assert served.errors == []


def test_a_curve_grows_while_it_is_looked_at(served: Served, browser: Browser) -> None:
    root = served.workspace.root
    metrics = metrics_file(root, "growing")
    with served.workspace.writing("rebuild"):
        Note(1, 40, "").write(note_of(root, "growing"))
        metrics.write_text("".join(map(line_of_step, range(1, 6))))
        page = served.enter(browser, "max")
        page.goto(served.base + "/runs")
        expect(page.get_by_role("region", name="Now")).to_contain_text("btx rebuild")
        page.get_by_role("link", name="growing").click()
        expect(page.get_by_text("step 5 of 40")).to_be_visible()
        drawn = page.locator("path.curve").first.get_attribute("d")
        with metrics.open("a") as file:
            file.write("".join(map(line_of_step, range(6, 21))))
        expect(page.get_by_text("step 20 of 40")).to_be_visible(timeout=30_000)
        assert page.locator("path.curve").first.get_attribute("d") != drawn
        assert serious(page) == []
        look_at(page, "run-growing")
    # The command has ended: the page says so, and asks no more.
    expect(page.get_by_text("ended")).to_be_visible(timeout=30_000)
    expect(page.locator("#run[hx-trigger]")).to_have_count(0)
    assert served.errors == []


def line_of_step(step: int) -> str:
    looked = {"heldout_loss": 4.2 / step} if step % 5 == 0 else {}
    return json.dumps({"step": step, "time": time.time(), "loss": 4 / step, **looked}) + "\n"


def test_axe_would_see_a_field_without_a_name(served: Served, browser: Browser) -> None:
    page = served.enter(browser, "max")
    page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert any("label" in found for found in serious(page))


def test_the_story_is_told_by_three_roles(served: Served, browser: Browser) -> None:
    registrar, approver, auditor = (served.enter(browser, name) for name in ("ann", "dora", "max"))

    # The registrar sees what waits; nobody releases alone.
    expect(registrar.get_by_role("region", name="Waiting for approval")).to_contain_text("build/1")
    registrar.goto(served.base + "/approve/1")
    expect(registrar.get_by_text("release/second-person")).to_be_visible()
    expect(registrar.get_by_role("button", name="Release build/1")).to_be_disabled()

    # The approver walks from the build to its data, asks what a text was computed with, and signs
    # with a key that stays here.
    approver.get_by_role("link", name="Lineage").click()
    approver.get_by_role("link", name="data/math@1, registered").click()
    expect(approver.get_by_role("heading", name="data/math@1")).to_be_visible()
    assert approver.url.endswith("/lineage?ref=data/math%401")
    approver.get_by_role("link", name="Explain").click()
    approver.get_by_label("Text").fill("1 + 2 = 3")
    approver.get_by_role("button", name="Explain").click()
    expect(approver.get_by_role("region", name="Shares", exact=True)).to_contain_text(
        "data/math@1", timeout=60_000
    )
    assert "".join(approver.locator(".token").all_text_contents()) == "1 + 2 = 3"
    assert serious(approver) == []
    approver.goto(served.base + "/approve/1")
    approver.get_by_label("Why").fill("read and found good")
    approver.get_by_label("Your key file").set_input_files(served.keys / "ann.pem")
    approver.get_by_role("button", name="Sign build/1").click()
    expect(approver.get_by_role("alert")).to_contain_text("Not done")  # another person's key
    approver.get_by_label("Your key file").set_input_files(served.keys / "dora.pem")
    approver.get_by_role("button", name="Sign build/1").click()
    expect(approver.get_by_role("region", name="Verdict")).to_contain_text("approved dora")
    catalog = served.workspace.catalog
    assert approving.approvals(catalog, catalog.get("build/1"))[0].actor == "dora"

    # The registrar releases.
    registrar.reload()
    registrar.get_by_label("Your key file").set_input_files(served.keys / "dora.pem")
    registrar.get_by_role("button", name="Release build/1").click()
    expect(registrar.get_by_role("alert")).to_contain_text("no fresh signature by ann")
    registrar.get_by_label("Your key file").set_input_files(served.keys / "ann.pem")
    look_at(registrar, "release")
    registrar.get_by_role("button", name="Release build/1").click()
    expect(registrar.get_by_role("heading", name="build/1 released")).to_be_visible()
    registrar.get_by_role("link", name="Overview").click()
    expect(registrar.get_by_role("region", name="Released")).to_contain_text("build/1")

    # The auditor runs an audit, looks away and comes back.
    auditor.get_by_role("link", name="Audit").click()
    auditor.get_by_role("button", name="Start").click()
    expect(auditor.get_by_role("heading", name="Audit of build/1")).to_be_visible()
    where = auditor.url
    context = auditor.context
    # Not a goto: the page reloads itself when the audit ends, and one would abort the other.
    auditor.close()
    auditor = context.new_page()
    auditor.goto(where)
    expect(auditor.get_by_role("heading", name="No findings")).to_be_visible(timeout=60_000)

    # The holder takes the corpus back: reach and cure first, then the registrar withdraws, and the
    # auditor finds it in the log.
    auditor.goto(served.base + "/impact?ref=data/code@1")
    expect(auditor.get_by_role("region", name="The cure")).to_contain_text("btx rebuild")
    expect(auditor.get_by_role("button", name="Sign and withdraw")).to_be_visible()
    registrar.goto(served.base + "/impact?ref=data/code@1")
    registrar.get_by_label("Why").fill("the holder withdrew consent")
    registrar.get_by_label("Your key file").set_input_files(served.keys / "ann.pem")
    registrar.get_by_label("It cannot be taken back").check()
    assert serious(registrar) == []
    look_at(registrar, "withdraw")
    registrar.get_by_role("button", name="Sign and withdraw").click()
    expect(registrar.get_by_role("heading", name="data/code@1 withdrawn")).to_be_visible()
    registrar.goto(served.base)
    expect(registrar.get_by_role("region", name="Released")).to_contain_text(
        "build/1 was released, and is tainted now"
    )
    registrar.goto(served.base + "/data/code/1")
    expect(registrar.get_by_text("by ann: the holder withdrew consent")).to_be_visible()
    auditor.goto(served.base + "/audit")
    auditor.get_by_label("Kind").select_option("withdrawn")
    auditor.get_by_role("button", name="Filter").click()
    expect(auditor).to_have_url(re.compile("kind=withdrawn"))
    expect(auditor.get_by_role("region", name="Events")).to_contain_text("ann")
    assert [error for error in served.errors if "403" not in error] == []

    # Both carry ann's signature, made in her browser; who contests it is named beside it.
    assert gaps.unsigned(catalog)[1] == []
    max_acting = served.workspace.acting_as("max")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BTX_KEY_FILE", str(served.keys / "max.pem"))
        contest(max_acting, "data/code@1", "consent covers this use")
    for path in ("/data/code/1", "/impact?ref=data/code@1"):
        registrar.goto(served.base + path)
        expect(registrar.get_by_text("Contested by max")).to_be_visible()
        assert serious(registrar) == []
        look_at(registrar, path.strip("/").replace("/", "-").replace("?ref=", "-"))


def test_the_keyboard_reaches_the_content_and_every_page(served: Served, browser: Browser) -> None:
    page = served.enter(browser, "max")
    page.goto(served.base + "/builds")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Name holds")).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
