"""What `btx status` says waits: the newest build of every product line."""

from pathlib import Path

from pipelines.jobs.status import status
from pipelines.workspace.settings_file import Settings
from pipelines.workspace.workspace import Workspace
from registry.records.events import Released
from registry.records.facts import BuildFacts
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
