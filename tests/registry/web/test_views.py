"""What the pages tell of versions: each data version by itself, and the same as the commands."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from pipelines.jobs.serve import Address, site
from pipelines.workspace.workspace import Workspace
from registry.catalogue.catalog import Catalog
from registry.formats.dossier import collect, compute
from registry.records.answers.shown import Change
from registry.records.events import (
    Act,
    Acted,
    AnyBody,
    Exported,
    Judged,
    Registered,
    Released,
    StageRan,
    Withdrawn,
)
from registry.records.facts import (
    BuildFacts,
    DataFacts,
    ExpertFacts,
    ExportFacts,
    Member,
    SeedFacts,
)
from registry.records.results import Result, Specialist
from registry.web import api, charts, comparing, history, relations, rendering, views
from registry.web.application import application
from registry.web.middleware import Limits
from registry.web.requests import LogQuery

Web = Any  # conftest.py's
HOST = "127.0.0.1:8765"
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.sql"))
NEW, OLD = "data/legal@2", "data/legal@1"


def figures(data: str, bits: float, *specialists: Specialist) -> Result:
    return Result(
        data=data,
        domain="legal",
        bits_per_byte=bits,
        seed_bits_per_byte=2.0,
        specialists=specialists,
    )


def build(catalog: Catalog, *results: Result, **facts: Any) -> str:
    return str(catalog.register("", BuildFacts(results=results, **facts)).ref)


def test_two_versions_of_one_data_name_are_two_lines(lite: Catalog) -> None:
    build(lite, figures(OLD, 1.5))
    build(lite, figures(NEW, 0.5), figures(OLD, 1.0))
    gains = views.overview(lite).gains
    assert [(row.data, row.domain, row.label) for row in gains] == [
        (OLD, "legal", "legal@1"),
        (NEW, "legal", "legal@2"),
    ]
    assert [[point.gain for point in row.builds] for row in gains] == [[0.5, 1.0], [None, 1.5]]
    chart = charts.gains(gains)
    assert chart
    assert [(line.name, len(line.points)) for line in chart.lines] == [
        ("legal@1", 2),
        ("legal@2", 1),
    ]


def test_one_version_of_a_data_name_is_called_by_its_domain(lite: Catalog) -> None:
    build(lite, figures(OLD, 1.5))
    assert [row.label for row in views.overview(lite).gains] == ["legal"]


def test_builds_of_two_product_lines_are_not_set_beside_each_other(lite: Catalog) -> None:
    for name in ("law", "math"):
        lite.register(name, ExpertFacts(seed="seed/base@1"))
    build(lite, members=(Member(ref="expert/law@1", slot=1),))
    build(lite, members=(Member(ref="expert/math@1", slot=1),), line="small")
    build(lite, figures(OLD, 1.5), members=(Member(ref="expert/law@1", slot=1),))
    lite.event(Released(), "build/2")
    seen = views.overview(lite)
    assert [(step.added, step.left_out) for step in seen.builds] == [
        (("expert/law@1",), ()),
        (("expert/math@1",), ()),
        ((), ()),
    ]
    assert [one.ref for one in seen.waiting] == ["build/1", "build/3"]


def test_a_mean_gain_says_over_how_many_data_versions(lite: Catalog) -> None:
    unmeasured = Result(data="data/math@1", domain="math", bits_per_byte=1.0)
    build(lite, figures(OLD, 1.5), figures(NEW, 1.0), unmeasured)
    step = views.overview(lite).builds[0]
    assert (step.mean_gain, step.measured) == (0.75, 2)


def test_the_specialist_of_a_page_is_the_best_member(web: Web) -> None:
    weak = Specialist(ref="expert/weak@1", bits_per_byte=1.9)
    best = Specialist(ref="expert/best@1", bits_per_byte=0.8764)
    ref = build(web.site.catalog, figures(OLD, 1.5, weak, best))
    page = web.client.get(f"/{ref}", headers=web.as_("eve")).text
    assert "0.876" in page
    assert "best@1" in page
    assert "1.90" not in page
    told = web.client.get(f"/api/{ref.replace('build', 'builds')}", headers=web.as_("eve")).json()
    assert told["facts"]["evaluation"]["legal"]["specialist"] == "expert/best@1"


def test_a_build_says_how_it_routes_and_where_its_seed_is(web: Web) -> None:
    catalog = web.site.catalog
    members = (Member(ref="expert/law@1", slot=3),)
    for seed_expert, slot in ((True, 0), (False, None)):
        recipe = {"mix": {"routing": "switch", "seed_expert": seed_expert}}
        ref = build(catalog, seed="seed/base@1", members=members, recipe=recipe)
        page = views.build_page(catalog, ref)
        assert [(one.ref, one.slot) for one in page.members] == [
            ("seed/base@1", slot),
            ("expert/law@1", 3),
        ]
        shown = web.client.get(f"/{ref}", headers=web.as_("eve")).text
        assert "switch, 1 expert on each token" in shown


def test_training_of_an_expert_counts_once_and_only_where_it_was_reported(lite: Catalog) -> None:
    lite.register("a", ExpertFacts(train={"tokens": 10, "flops": 100, "wall_s": 1.5}))
    lite.register("b", ExpertFacts())
    members = [Member(ref="expert/a@1", slot=1), Member(ref="expert/b@1", slot=2)]
    cost = {"tune": {"tokens": 1, "flops": 10, "wall_s": 0.5}}
    build(lite, members=members, cost=cost)
    build(lite, members=members, cost=cost, registrar="again")
    new = [step.new for step in views.overview(lite).builds]
    assert [(one.tokens, one.flops, one.wall_s) for one in new] == [(11, 110, 2.0), (1, 10, 0.5)]


def test_what_a_grown_build_took_in_all_is_one_figure_on_pages_and_in_its_report(
    lite: Catalog,
) -> None:
    trained = {"tokens": 100, "flops": 1e3, "wall_s": 2.0}
    lite.register("a", ExpertFacts(train=trained))
    facts = BuildFacts(cost={"tune": {"tokens": 7, "flops": 50.0, "wall_s": 1.0}})
    facts = facts.model_copy(update={"members": (Member(ref="expert/a@1", slot=1),)})
    lite.register("", facts, parents=[("expert/a@1", "member")])
    parents = [("expert/a@1", "member"), ("build/1", "grown_from")]
    lite.register("", facts.model_copy(update={"folder": "builds/2"}), parents=parents)
    spent = views.build_page(lite, "build/2").spent
    assert (spent.tokens, spent.flops, spent.wall_s) == (114, 1100.0, 4.0)
    assert compute(collect(lite, "build/2")) == spent
    assert views.overview(lite).builds[-1].spent == spent
    assert views.overview(lite).builds[0].spent.tokens == 107


def test_the_lineage_page_and_the_command_tell_one_status(lite: Catalog) -> None:
    """The alarm: a build whose row says `evaluated` is no longer merely registered."""
    ref = build(lite, figures(OLD, 1.5), status="evaluated")
    nodes = {node.ref: node.status for node in relations.around(lite, ref).nodes}
    assert nodes == {ref: "evaluated"}
    assert lite.status(ref) == "evaluated"


def test_the_cure_rebuilds_every_product_line_that_holds_something_of_it(lite: Catalog) -> None:
    lite.register("base", SeedFacts())
    lite.register("other", ExpertFacts())
    for line in ("main", "support"):
        lite.register("", BuildFacts(line=line), parents=[("seed/base@1", "seed")])
    cure = relations.impact(lite, "seed/base@1").cure
    assert cure
    assert cure.build == "build/2"
    assert cure.commands == (
        'btx withdraw seed/base@1 --why "..."',
        "btx rebuild",
        "btx rebuild --line support",
    )
    lite.register("", BuildFacts(line="support"))
    cure = relations.impact(lite, "seed/base@1").cure
    assert cure
    assert cure.commands[1:] == ("btx rebuild",)
    lite.register("", BuildFacts(line="main"))
    assert relations.impact(lite, "seed/base@1").cure is None
    facts = BuildFacts(line="main", registrar="again")
    lite.register("", facts, parents=[("seed/base@1", "seed")])
    for mistake in ("build/4", "build/5"):
        lite.retire(mistake, "the wrong recipe")
    lite.withdraw("seed/base@1", "test")
    cure = relations.impact(lite, "seed/base@1").cure
    assert cure
    assert (cure.build, cure.commands) == ("build/1", ("btx rebuild",)), "mistakes are no builds"


def test_where_no_expert_is_left_the_cure_begins_with_another_one(lite: Catalog) -> None:
    lite.register("law", DataFacts(license="MIT"))
    lite.register("law", ExpertFacts(), parents=[("data/law@1", "trained_on")])
    members = (Member(ref="expert/law@1", slot=1),)
    lite.register("", BuildFacts(members=members), parents=[("expert/law@1", "member")])
    lite.withdraw("data/law@1", "test")
    cure = relations.impact(lite, "data/law@1").cure
    assert cure
    assert (cure.keeps, cure.drops) == ((), ("expert/law@1",))
    assert cure.commands == (relations.TRAIN, "btx rebuild")
    lite.register("tax", ExpertFacts())
    cure = relations.impact(lite, "data/law@1").cure
    assert cure
    assert cure.commands == ("btx rebuild",)


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("registered", Registered(digest="d", rows={}), ""),
        ("withdrawn", Withdrawn(why="the holder took it back"), "the holder took it back"),
        (
            "refused",
            Judged(
                gate="register",
                kind="data",
                outcome="refused",
                at="",
                rules={"licence/stated": "refused", "licence/known": "allowed"},
            ),
            "register refused: licence/stated",
        ),
        ("verdict", Judged(gate="build", kind="build", outcome="allowed", at=""), "build allowed"),
        ("stage", StageRan(stage="tune", state="ended", seconds=33.31), "tune ended 33.3 s"),
        ("stage", StageRan(stage="tune", state="running", done=3, total=9), "tune running 3 of 9"),
        ("stage", StageRan(state="started"), "started"),
        ("exported", Exported(folder="/srv/out"), "/srv/out"),
        (
            "approved",
            Acted(act=Act(act="approved", subject="build/1", at="", why="read it")),
            "read it",
        ),
        (
            "waived",
            Acted(
                act=Act(
                    act="waived",
                    subject="build/1",
                    at="",
                    rule="quality/beats-seed",
                    until="2026-05-01T23:59:59Z",
                    why="small",
                )
            ),
            "quality/beats-seed until 2026-05-01: small",
        ),
        (
            "actor",
            Acted(act=Act(act="actor", subject="actor/a", at="", roles=("auditor",))),
            "auditor",
        ),
        (
            "actor",
            Acted(act=Act(act="actor", subject="actor/a", at="", roles=())),
            "taken off the list of actors",
        ),
        ("of-a-later-version", AnyBody(), ""),
    ],
)
def test_an_event_says_its_own_words(kind: str, body: Any, said: str) -> None:
    assert history.words(kind, body) == said


def test_an_event_whose_body_was_changed_is_still_shown(lite: Catalog) -> None:
    lite.event(Withdrawn(why="asked to"), "data/law@1")
    event = lite.events()[-1]
    assert history.logged(event).words == "asked to"
    for stored in ('{"why": 3}', "no JSON"):
        shown = history.logged(replace(event, stored=stored))
        assert shown.words.startswith("unreadable")
        assert shown.body == {"unreadable": stored}


@pytest.mark.parametrize("reported", [None, {}, [[1, 2.0]], [[1, "x"], [2, "y"]], [1, 2], "curve"])
def test_what_is_no_curve_is_not_drawn(reported: object) -> None:
    assert charts.curve([[1, 2.0], [2, 1.0]])
    assert charts.curve(reported) is None


def test_who_acts_in_a_workspace_leaves_it_as_it_was(web: Web, tmp_path: Path) -> None:
    workspace = Workspace.find(tmp_path)
    own = workspace.catalog.actor
    other = workspace.acting_as("dora")
    assert (other.catalog.actor, workspace.catalog.actor) == ("dora", own)
    assert other.registry_url == workspace.registry_url


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestClient]:
    """Serve a registry that an earlier version of the program wrote."""
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.executescript(request.param.read_text())
    (tmp_path / "btx.toml").write_text(f'[registry]\nurl = "sqlite:///{tmp_path}/registry.db"\n')
    shutil.copytree(Path(__file__).parents[3] / "policies", tmp_path / "policies")
    served = site(Workspace.find(tmp_path), Address(), Limits(reads=1e6, strangers=1e6))
    secret, _ = served.tokens.issue("eve", ["viewer"], keep=False)
    headers = {"authorization": f"Bearer {secret}"}
    with TestClient(application(served), base_url=f"http://{HOST}", headers=headers) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/builds",
        "/experts",
        "/build/1",
        "/expert/math/1",
        "/data/math/1",
        "/seed/base/1",
        "/snapshot/main/1",
        "/lineage?ref=data/math",
        "/impact?ref=data/math@1",
        "/audit",
        "/approve",
        "/api/overview",
        "/api/builds/1",
        "/api/experts/math/1",
    ],
)
def test_every_page_of_an_old_registry_opens(old: TestClient, path: str) -> None:
    answer = old.get(path, follow_redirects=False)
    assert answer.status_code == 200, answer.text[-900:]


def test_every_kind_has_a_list_whose_versions_open(web: Web) -> None:
    catalog = web.site.catalog
    catalog.register(
        "build-1",
        ExportFacts(folder="out/one", target="vllm", draft=True),
        parents=[("build/1", "exported_from")],
    )
    web.login("eve")
    for plural, kind in api.KINDS.items():
        page = web.client.get(f"/{plural}")
        assert page.status_code == 200, plural
        newest = views.listing(catalog, kind).versions[0]
        assert newest.ref in page.text
        assert web.client.get(rendering.address(newest.ref)).status_code == 200, newest.ref
    exports = web.client.get("/exports").text
    assert "out/one" in exports
    assert "build/1" in exports
    assert web.client.get("/api/versions/exports").json()["versions"][0]["build"] == "build/1"


def test_a_product_line_tells_its_newest_build_and_its_newest_release(lite: Catalog) -> None:
    first = build(lite, line="support")
    lite.event(Released(), first)
    build(lite)
    second = build(lite, figures(OLD, 1.5), line="support")
    rows = {line.line: line for line in views.lines(lite)}
    assert {name: (row.builds, row.newest.ref) for name, row in rows.items()} == {
        "main": (1, "build/2"),
        "support": (2, second),
    }
    assert rows["support"].released == first
    assert rows["main"].released is None


def test_a_comparison_says_what_the_command_says(web: Web) -> None:
    catalog = web.site.catalog
    members = (Member(ref="expert/law@1", slot=1),)
    before = build(catalog, figures(OLD, 1.5), tuned_on=("data/law@1",))
    after = build(catalog, figures(OLD, 1.25), members=members, tuned_on=("data/law@1",))
    web.login("eve")
    pair = {"left": before, "right": after}
    told = web.client.get("/api/compare", params=pair).json()
    assert told == web.site.jobs.compare(before, after).to_json()
    page = web.client.get("/compare", params=pair).text
    assert "+0.250" in page
    assert "1.25" in page
    changes = [Change(**change) for change in told["changes"]]
    shown = [change.what.rpartition(".")[2] for change in changes if not change.for_programs]
    assert {"bits_per_byte", "slot"} <= {*shown}
    for name in shown:
        assert name in comparing.NO_FIGURES or name.replace("_", " ") in page
    # Without names the two newest builds; two kinds are refused by name.
    assert f'value="{after}"' in web.client.get("/compare").text
    wrong = web.client.get("/compare", params={"left": before, "right": "data/law@1"})
    assert wrong.status_code == 422


def test_the_log_until_a_day_ends_with_it_however_the_database_orders_text(lite: Catalog) -> None:
    start = datetime(2026, 2, 27, tzinfo=UTC)
    hours = iter(range(0, 96, 12))
    catalog = Catalog(
        lite.database.url, actor="ada", clock=lambda: start + timedelta(hours=next(hours))
    )
    for name in ("a", "b", "c", "d", "e"):
        catalog.register(name, SeedFacts(license="MIT"))
    shown = history.events(catalog, LogQuery(until="2026-02-28")).events
    assert [one.subject for one in shown] == ["seed/d@1", "seed/c@1", "seed/b@1", "seed/a@1"]

    def by_language(text: str) -> str:
        # As en_US orders: marks and what is no character count last.
        return re.sub(r"\W", "", text)

    bound = str(history._conditions(LogQuery(until="2026-02-28"))[1]["until"])
    last, first = "2026-02-28T23:59:59.999999Z", "2026-03-01T00:00:00.000000Z"
    assert by_language(last) < by_language(bound) < by_language(first)
