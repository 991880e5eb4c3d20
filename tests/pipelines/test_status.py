"""What `btx status` says waits: the newest build of every product line."""

from pathlib import Path

from pipelines.jobs.status import status
from pipelines.workspace.settings_file import Settings
from pipelines.workspace.workspace import Workspace
from registry.governance import changes, erasure, keys
from registry.records.events import ErasedFile, ErasedPart, Released
from registry.records.facts import BuildFacts, DataFacts, Sketch
from registry.records.results import Result


def test_the_newest_build_of_every_product_line_waits_for_its_release(tmp_path: Path) -> None:
    (tmp_path / ".btx").mkdir()
    workspace = Workspace(tmp_path, Settings())
    catalog = workspace.catalog_to_fill
    for number, line in enumerate(("main", "small", "small")):
        result = Result(data="data/law@1", domain="law", bits_per_byte=1.0 - number / 10)
        catalog.register("", BuildFacts(line=line, results=(result,)))
    told = status(workspace)
    assert [one.what for one in told.waiting] == ["build/1", "build/3"]
    assert told.newest_build == "build/3"
    catalog.event(Released(), "build/3")
    assert [one.what for one in status(workspace).waiting] == ["build/1"]
    catalog.close()


def test_what_waits_for_a_second_person_waits_for_nobody_who_was_the_first(tmp_path: Path) -> None:
    (tmp_path / ".btx").mkdir()
    workspace = Workspace(tmp_path, Settings(), acting="ann")
    catalog = workspace.catalog_to_fill
    catalog.register("", BuildFacts(line="main"))
    law = str(catalog.register("law", DataFacts(license="MIT")).ref)
    gone = ErasedFile(path="a.txt", bytes=1, sha256="a" * 64)
    part = ErasedPart(ref=law, digest=catalog.get(law).digest, files=(gone,), whole=True)
    asked = erasure.ask(catalog, (part,), Sketch(bits=0, hashes=()), "0" * 64)

    def waits() -> list[tuple[str, str]]:
        return [(one.what, one.who) for one in status(workspace).waiting]

    erase = f"erasure {asked.seq} of {law}"
    assert waits() == [("build/1", "an approver"), (erase, "another approver or auditor")]
    for name in ("ann", "ben"):
        key = keys.public_pem(keys.new_key(name, tmp_path / f"{name}.pem"))
        changes.change_actor(catalog, changes.Change(name, ("approver",), key))
    assert waits() == [("build/1", "ben"), (erase, "ben")]
    assert status(workspace).waiting[1].next == f"btx erase --confirm {asked.seq}"
    catalog.close()
