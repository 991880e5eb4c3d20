"""A withdrawal can be contested: that is shown wherever it is, and it stands."""

import json
from pathlib import Path

import pytest

from pipelines.jobs.archive import shred
from pipelines.jobs.audit import audit
from pipelines.jobs.show import shown
from pipelines.jobs.withdraw import contest, withdraw
from pipelines.jobs.write_report import report
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Invalid, NotFound, Refused, Unavailable
from registry.governance import acts, changes, gaps, keys
from registry.records.events import Contested
from registry.records.facts import DataFacts

REF, WHY = "data/law@1", "consent covers this use, see contract 4711"


@pytest.fixture
def withdrawn(tmp_path: Path) -> Workspace:
    """A workspace with data/law@1, withdrawn, and data/art@1."""
    workspace = create(tmp_path / "workspace")
    for name in ("law", "art"):
        workspace.catalog.register(name, DataFacts(domain=name, license="CC0-1.0", bytes=1))
    withdraw(workspace, REF, "the holder withdrew consent")
    return workspace


def test_a_contested_withdrawal_stands_and_says_so_wherever_it_is_shown(
    withdrawn: Workspace,
) -> None:
    def said() -> list[str]:
        standing = [one.found for one in audit(withdrawn, REF).findings if one.check == "standing"]
        texts = [str(report(withdrawn, REF, form).text) for form in ("md", "html")]
        return [*standing, *texts, json.dumps(shown(withdrawn, REF).to_json())]

    assert not any("ontested" in text for text in said()[:-1])
    answer = contest(withdrawn.acting_as("ben"), REF, WHY)
    assert (answer.ref, answer.contested_by) == (REF, "ben")
    assert str(withdrawn.catalog.status(REF)) == "withdrawn"
    for text in said():
        assert "ontested" in text
        assert "ben" in text


def test_only_a_withdrawal_is_contested_and_with_a_reason(withdrawn: Workspace) -> None:
    with pytest.raises(Invalid, match="a version that was withdrawn"):
        contest(withdrawn, "data/art@1", WHY)
    with pytest.raises(Invalid, match="no reason"):
        contest(withdrawn, REF, " ")
    assert withdrawn.catalog.events(kind="contested") == []
    assert not withdrawn.private.exists()


def test_on_a_closed_list_a_contest_is_signed_by_a_person_with_a_role(
    withdrawn: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ida = keys.new_key("ida", tmp_path / "ida.pem")
    pem = keys.public_pem(ida)
    added = changes.Change("ida", ("auditor",), pem)
    changes.change_actor(withdrawn.acting_as("ida").catalog, added)
    keys.new_key("mal", tmp_path / "mal.pem")
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "mal.pem"))
    with pytest.raises(Refused, match="mal would contest"):
        contest(withdrawn.acting_as("mal"), REF, WHY)
    with pytest.raises(Refused, match="not ida's"):
        contest(withdrawn.acting_as("ida"), REF, WHY)
    assert list(withdrawn.private.glob("*")) == [], "what is refused leaves no words"
    withdrawal = withdrawn.catalog.events(REF, "withdrawn")[0].digest
    forged = Contested(withdrawal=withdrawal, private="0" * 64)
    withdrawn.acting_as("ida").catalog.event(forged, REF)
    assert "contested" not in shown(withdrawn, REF).to_json() or not shown(withdrawn, REF).contested
    monkeypatch.setenv("BTX_KEY_FILE", str(tmp_path / "ida.pem"))
    contest(withdrawn.acting_as("ida"), REF, WHY)
    assert [line.by for line in shown(withdrawn, REF).contested] == ["ida"]


def test_words_go_where_the_act_was_interrupted_and_stay_where_it_was_logged(
    withdrawn: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def unreachable(*_: object) -> None:
        raise Unavailable("ledger", found="no answer", expected="one")

    # Ctrl-C where the passphrase is asked for.
    monkeypatch.setattr(acts, "vouched", interrupted)
    with pytest.raises(KeyboardInterrupt):
        contest(withdrawn, REF, WHY)
    assert list(withdrawn.private.glob("*")) == []
    monkeypatch.undo()
    monkeypatch.setattr(Workspace, "write_ledger", unreachable)
    with pytest.raises(Unavailable):
        contest(withdrawn.acting_as("ben"), REF, WHY)
    assert [(line.by, line.why) for line in shown(withdrawn, REF).contested] == [("ben", WHY)]


def test_why_it_is_contested_lies_outside_the_log_and_can_be_shredded(
    withdrawn: Workspace,
) -> None:
    contest(withdrawn.acting_as("ben"), REF, WHY)
    (event,) = withdrawn.catalog.events(REF, "contested")
    assert "4711" not in event.stored
    assert [line.why for line in shown(withdrawn, REF).contested] == [WHY]
    shred(withdrawn, event.seq)
    assert [line.why for line in shown(withdrawn, REF).contested] == [None]
    with pytest.raises(NotFound):
        shred(withdrawn, event.seq)
    assert gaps.unsigned(withdrawn.catalog)[1] == []
