"""Many processes write to one registry.

Nothing is lost, nothing is there twice, there is one chain, and nobody hears that it is locked.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from registry.catalogue.catalog import Catalog
from registry.catalogue.checks import AuditContext, audit
from registry.catalogue.store import Store
from registry.records.facts import ExpertFacts, SeedFacts

PROCESSES = 8
EACH = int(os.environ.get("BTX_REGISTRATIONS", "15"))  # 250 for 2,000 in all

WRITER = """
import sys, json, time
from registry.catalogue.catalog import Catalog
from registry.records.facts import ExpertFacts
from registry.records.version import FileFact
url, writer, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
catalog, done, slowest = Catalog(url, actor=f"writer{writer}"), [], 0.0
for number in range(each):
    started = time.monotonic()
    files, parents = [FileFact("a", 1, "a" * 64)], [("seed/base", "branched_from")]
    own = ExpertFacts.from_json({"writer": writer, "number": number}, "test")
    made = catalog.register("shared", own, files=files, parents=parents)
    same = catalog.register("same", ExpertFacts.from_json({"number": number}, "test"))
    slowest = max(slowest, time.monotonic() - started)
    done.append([str(made.ref), made.digest, str(same.ref)])
    catalog.versions(ExpertFacts, name="same")
print(json.dumps({"done": done, "slowest": slowest}))
"""


def test_eight_writers_lose_nothing_and_keep_one_chain(
    url: str, catalog: Catalog, tmp_path: Path
) -> None:
    catalog.register("base", SeedFacts())
    command = [sys.executable, "-c", WRITER, url]
    running = [
        subprocess.Popen(
            [*command, str(writer), str(EACH)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for writer in range(PROCESSES)
    ]
    ended = [process.communicate() for process in running]
    assert [error for _, error in ended] == [b""] * PROCESSES
    answers = [json.loads(out) for out, _ in ended]
    done = [one for answer in answers for one in answer["done"]]
    print("slowest pair of registrations", max(answer["slowest"] for answer in answers), "s")
    versions = catalog.versions(ExpertFacts, name="shared")
    assert [version.ref.version for version in versions] == list(range(1, PROCESSES * EACH + 1))
    assert {(str(version.ref), version.digest) for version in versions} == {
        (ref, digest) for ref, digest, _ in done
    }
    assert (
        len(catalog.versions(ExpertFacts, name="same"))
        == len({same for _, _, same in done})
        == EACH
    )
    events = catalog.events(kind="registered")
    assert len(events) == 1 + PROCESSES * EACH + EACH
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len({event.prev for event in events}) == len(events)
    report = audit(catalog, "seed/base", AuditContext(store=Store(tmp_path / "store")))
    assert report.findings == ()
