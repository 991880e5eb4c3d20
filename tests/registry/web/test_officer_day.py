"""The officer's day in Chromium: waive, review, sign, hand over, look ahead, withdraw, erase."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, Served, launched, look_at, serious, serving
from playwright.sync_api import Browser, Download, Locator, Page, expect

from pipelines.jobs.add_data import add_data
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Refused
from registry.governance import adoption, changes, gaps, keys, people
from registry.governance.policy_files import load
from registry.records.events import Released
from registry.records.facts import DataFacts, DataStatement
from registry.records.version import Version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
AUTHOR, WHY = "A. Smith", "A. Smith takes consent back"
LETTERS = "data/letters@1"
ROLES = {"ann": ("registrar",), "dora": ("approver",), "max": ("auditor",), "eve": ("viewer",)}
PASSPHRASE = "a long one"


@dataclass
class Office:
    """A company's registry: build/1 is released, and letters of which nobody states the source."""

    served: Served
    governed: Any
    letters: Path

    def as_registrar(self) -> pytest.MonkeyPatch:
        """Act at ann's own machine: her key lies there, and never where the server is."""
        environment = pytest.MonkeyPatch()
        environment.setenv("BTX_KEY_FILE", str(self.served.key("ann")))
        return environment

    def add_letters(self) -> Version[DataFacts]:
        stated = DataStatement(
            license="CC-BY-4.0", holder="Acme Archive", purpose="answers about letters", pii="none"
        )
        environment = self.as_registrar()
        try:
            return add_data(self.served.workspace.acting_as("ann"), "letters", self.letters, stated)
        finally:
            environment.undo()

    def build_on(self, letters: Version[DataFacts]) -> None:
        environment = self.as_registrar()
        try:
            law = self.governed.as_("ann").get("expert/law@1")
            self.governed.build(law, self.governed.expert(letters, "letters"))
        finally:
            environment.undo()


@pytest.fixture
def office(governed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    # Where nobody's key lies: a server has none.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "btx.toml").write_text(f'[registry]\nurl = "{governed.url}"\n')
    workspace = create(tmp_path)
    governed.seed()
    # Its text lies on another disk, and says of no author.
    law = governed.data(counts={"documents": 9, "text_bytes": 900})
    governed.build(governed.expert(law))
    governed.as_("ann").event(Released(verdict="allowed"), "build/1")
    auditor = governed.person("max", "auditor")
    for name in ("dora", "ann"):
        governed.person(name, *ROLES[name], by="max")
    adoption.adopt(governed.as_("max"), load(workspace.policies), auditor, "as agreed")
    letters = tmp_path / "letters"
    (letters / "heldout").mkdir(parents=True)
    for number, name in enumerate(("a.jsonl", "b.jsonl", "heldout/c.jsonl")):
        lines = [
            {
                "text": f"Letter {number}{line}: "
                + " ".join(f"w{number}{line}{k}" for k in range(60)),
                "id": f"{number}-{line}",
                "author": AUTHOR if (number + line) % 3 == 0 else "B. Jones",
            }
            for line in range(9)
        ]
        (letters / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with serving(Workspace.find(tmp_path), ROLES, Path(governed.keys)) as served:
        yield Office(served, governed, letters)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def sign(page: Page, served: Served, name: str, button: str) -> None:
    page.get_by_label("Your key file").set_input_files(served.key(name))
    page.get_by_role("button", name=button).click()


def region(page: Page, name: str) -> Locator:
    """A part of the page by its heading, or by the name of its table."""
    return page.get_by_role("region", name=name, exact=True).first


def downloaded(page: Page, link: str) -> str:
    with page.expect_download() as waiting:
        page.get_by_role("link", name=link, exact=True).click()
    file: Download = waiting.value
    return Path(file.path()).read_text()


def seen(page: Page, name: str) -> None:
    """Look at a page as its user does: axe finds nothing, nothing is cut off."""
    assert serious(page) == [], name
    width = page.evaluate("document.documentElement.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    look_at(page, f"officer-{name}")


def test_an_officers_day(office: Office, browser: Browser) -> None:
    served, catalog = office.served, office.served.workspace.catalog
    registrar, officer, auditor, viewer = (served.enter(browser, name) for name in ROLES)

    # Nobody states where the letters come from: refused, until the officer waives that for a time.
    with pytest.raises(Refused, match="provenance/source"):
        office.add_letters()
    officer.get_by_role("link", name="Waivers").click()
    refused = region(officer, "Refused")
    expect(refused).to_contain_text("data/letters@1")
    seen(officer, "refused")
    refused.get_by_role("link", name="waive").click()
    expect(officer.get_by_role("region", name="What the rule judged")).to_contain_text("source")
    soon = officer.evaluate("new Date(Date.now() + 20 * 86400e3).toISOString().slice(0, 10)")
    officer.get_by_label("Last day").fill(soon)
    officer.get_by_label("Why").fill("the archive looks for its register of 1990")
    seen(officer, "waive")
    sign(officer, served, "dora", "Sign the waiver")
    expect(region(officer, "Waivers")).to_contain_text(soon)
    seen(officer, "waivers")
    viewer.goto(f"{served.base}/waive?ref={LETTERS}&rule=provenance/source")
    expect(viewer.get_by_role("button", name="Sign the waiver")).to_have_count(0)
    letters = office.add_letters()
    office.build_on(letters)

    # The officer reviews a build that stands on it: all that they must know is on the page.
    officer.goto(served.base + "/approve/2")
    know = region(officer, "To know before signing")
    expect(know).to_contain_text("the archive looks for its register of 1990")
    expect(know).to_contain_text(soon)
    expect(know).to_contain_text("CC-BY-4.0")
    data = region(officer, "Data")
    for words in ("Acme Archive", "not stated", "answers about letters", "CC-BY-4.0"):
        expect(data).to_contain_text(words)
    since = region(officer, "Since the last release")
    expect(since).to_contain_text("expert/letters@1")
    officer.get_by_label("Why").fill("read")
    seen(officer, "review")
    sign(officer, served, "dora", "Sign build/2")
    expect(officer.get_by_text("You have signed")).to_be_visible()
    expect(officer.get_by_role("button", name="Sign build/2")).to_have_count(0)

    # They think again and take it back, and sign anew.
    officer.get_by_role("link", name="Take it back").click()
    region(officer, "Approvals").get_by_role("link", name="take back").click()
    officer.get_by_label("Why").fill("one more look")
    seen(officer, "retract")
    sign(officer, served, "dora", "Sign and take back")
    expect(region(officer, "Approvals")).to_contain_text("None counts now")
    officer.goto(served.base + "/approve/2")
    sign(officer, served, "dora", "Sign build/2")
    expect(officer.get_by_text("You have signed")).to_be_visible()
    registrar.goto(served.base + "/approve/2")
    sign(registrar, served, "ann", "Release build/2")
    expect(registrar.get_by_role("heading", name="build/2 released")).to_be_visible()
    registrar.goto(served.base)
    expect(region(registrar, "Released")).to_contain_text("by ann")
    events = region(registrar, "Newest events")
    expect(events).to_contain_text("released")
    seen(registrar, "overview")

    # An internal report for the board, a public one for everybody.
    officer.goto(served.base + "/build/2")
    internal = downloaded(officer, "Report (to read and to print), internal")
    public = downloaded(officer, "Report (to read and to print), public")
    for name in ("dora", "the archive looks for its register"):
        assert name in internal
        assert name not in public
    assert "CC-BY-4.0" in public
    seen(officer, "build")

    # What ends soon.
    officer.get_by_role("link", name="Ends soon").click()
    expect(region(officer, "What ends")).to_contain_text(soon)
    seen(officer, "due")

    # An author takes consent back: who holds the letters, what it reaches, out of use.
    officer.get_by_role("link", name="Search", exact=True).click()
    officer.get_by_label("Author").fill(AUTHOR)
    officer.get_by_role("button", name="Find who holds it").click()
    holders = officer.get_by_role("heading", name="1 data version, 9 documents")
    expect(holders).to_be_visible()
    assert AUTHOR.split()[1] not in officer.url
    seen(officer, "documents")
    officer.get_by_role("link", name="what it reaches, withdraw").click()
    expect(region(officer, "What it reaches")).to_contain_text("build/2")
    officer.get_by_label("Why").fill("consent of one author ended")
    officer.get_by_label("It cannot be taken back").check()
    sign(officer, served, "dora", "Sign and withdraw")
    expect(officer.get_by_text("was withdrawn")).to_contain_text("by dora: consent of one author")
    seen(officer, "impact")
    for path in ("/build/2", "/expert/letters/1"):
        officer.goto(served.base + path)
        expect(officer.get_by_text("Made from data/letters@1, withdrawn")).to_contain_text(
            "by dora: consent of one author ended"
        )
        seen(officer, path.strip("/").replace("/", "-") + "-tainted")
    officer.goto(served.base)
    expect(region(officer, "Released")).to_contain_text("is tainted now")

    # The bytes go too: the officer asks, the auditor confirms.
    officer.get_by_role("link", name="Search", exact=True).click()
    officer.get_by_label("Author").fill(AUTHOR)
    officer.get_by_role("button", name="Find who holds it").click()
    officer.get_by_role("button", name="Erase these documents").click()
    expect(region(officer, "What it costs")).to_contain_text("9 documents")
    officer.get_by_label("Why").fill(WHY)
    seen(officer, "erase")
    sign(officer, served, "dora", "Ask that it be erased")
    expect(region(officer, "Waiting for a second person")).to_contain_text(WHY)
    auditor.goto(served.base + "/erase")
    auditor.get_by_label("The bytes do not come back").check()
    seen(auditor, "erase-confirm")
    sign(auditor, served, "max", "Confirm erasure")
    expect(auditor.get_by_text("Nothing waits.")).to_be_visible(timeout=60_000)
    auditor.goto(served.base + "/data/letters/1")
    expect(auditor.get_by_role("heading", name="letters@1 erased")).to_be_visible()
    seen(auditor, "erased")
    folder = served.workspace.root / "data" / "letters" / "1"
    left = "".join(path.read_text() for path in folder.rglob("*.jsonl"))
    assert AUTHOR not in left

    # The auditor takes a leaver off the list, puts a new officer on it, and looks at the policies.
    auditor.get_by_role("link", name="People").click()
    new = keys.new_key("nora", served.keys / "nora.pem")
    auditor.get_by_label("Name").fill("nora")
    auditor.get_by_label("approver").check()
    auditor.get_by_label("Their public key").set_input_files(served.keys / "nora.pub")
    auditor.get_by_label("Why").fill("new officer")
    seen(auditor, "people")
    sign(auditor, served, "max", "Sign the change")
    expect(region(auditor, "People")).to_contain_text("nora")
    auditor.goto(served.base + "/people?name=dora")
    auditor.get_by_label("approver").uncheck()
    auditor.get_by_label("Why").fill("left the company")
    sign(auditor, served, "max", "Sign the change")
    expect(auditor.get_by_role("row", name="dora")).to_contain_text("left")
    listed = people.roll(catalog)
    assert (listed["nora"].roles, listed["dora"].roles) == (("approver",), ())
    assert listed["nora"].public_key == keys.public_pem(new)
    auditor.get_by_role("link", name="Policies").click()
    expect(region(auditor, "History")).to_contain_text("as agreed")
    seen(auditor, "policies")

    # The log, without the steps of trainings, of one kind and as a file.
    auditor.goto(served.base + "/audit?kind=withdrawn")
    expect(region(auditor, "Events")).to_contain_text("dora")
    assert "consent of one author ended" in downloaded(auditor, "CSV")
    seen(auditor, "log")
    assert gaps.unsigned(catalog)[1] == []
    assert served.errors == []


def test_an_encrypted_key_signs_with_its_passphrase_and_with_no_other(
    office: Office, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BTX_KEY_PASSPHRASE", PASSPHRASE)
    nora = keys.new_key("nora", office.served.keys / "nora.pem")
    monkeypatch.delenv("BTX_KEY_PASSPHRASE")
    auditor = keys.signer("max", office.served.key("max"))
    changes.change_actor(
        office.governed.as_("max"),
        changes.Change("nora", ("approver",), keys.public_pem(nora)),
        auditor,
    )
    site = office.served
    tokens = serving(site.workspace, {"nora": ("approver",)}, site.keys)
    with tokens as own:
        page = own.enter(browser, "nora")
        page.goto(own.base + "/approve/1")
        for passphrase, said in (
            ("", "expected its passphrase"),
            ("another", "another passphrase"),
        ):
            page.get_by_label("Its passphrase").fill(passphrase)
            sign(page, own, "nora", "Sign build/1")
            expect(page.get_by_role("alert")).to_contain_text(said)
        page.get_by_label("Its passphrase").fill(PASSPHRASE)
        sign(page, own, "nora", "Sign build/1")
        expect(page.get_by_text("You have signed")).to_be_visible()
