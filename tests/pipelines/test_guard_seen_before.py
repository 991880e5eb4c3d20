"""What was withdrawn does not come back: not under another name, not inside something else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from btx_core import texts
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.annotate import retire
from pipelines.jobs.audit import audit
from pipelines.jobs.register import register
from pipelines.jobs.withdraw import withdraw
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Refused
from registry.governance import seen_before
from registry.records.evidence import SeenBefore
from registry.records.facts import DataFacts, DataStatement, ExpertFacts, Sketch
from registry.records.version import FileFact
from registry.web import relations

STATED = DataStatement(
    license="CC0-1.0", source="the test", holder="the state", purpose="tests", pii="none"
)


@pytest.fixture(scope="module")
def shared(tiny_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with data/code@1, withdrawn, and data/prose@1."""
    workspace = create(tmp_path_factory.mktemp("seen") / "workspace")
    for name in ("code", "prose"):
        add_data(workspace, name, tiny_corpora / name, STATED)
    withdraw(workspace, "data/code@1", "the holder withdrew consent")
    return workspace


def edited(corpus: Path, folder: Path, change: Callable[[str], str]) -> Path:
    """Return a copy of a corpus with every file's text changed."""
    shutil.copytree(corpus, folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_text(change(path.read_text()))
    return folder


def beside(corpus: Path, other: Path, folder: Path) -> Path:
    """Return a corpus of other text with this one somewhere inside one of its files."""
    shutil.copytree(other, folder)
    inside = [document.text for document in texts.every(corpus)]
    (folder / "more.txt").write_text("\n".join(["Some words first.", *inside, "And some last."]))
    return folder


def as_it_was(corpus: Path, other: Path, folder: Path) -> Path:
    return Path(shutil.copytree(corpus, folder))


def with_a_word_in_every_line(corpus: Path, other: Path, folder: Path) -> Path:
    def change(text: str) -> str:
        return "\n".join(
            line + " indeed" if i % 9 == 0 else line for i, line in enumerate(text.splitlines())
        )

    return edited(corpus, folder, change)


def in_capitals_with_other_spaces(corpus: Path, other: Path, folder: Path) -> Path:
    if any(path.suffix == ".jsonl" for path in corpus.rglob("*")):
        return as_it_was(corpus, other, folder)
    return edited(corpus, folder, lambda text: text.upper().replace("\n", "\n\n"))


@pytest.mark.parametrize(
    "disguise", [as_it_was, beside, with_a_word_in_every_line, in_capitals_with_other_spaces]
)
@pytest.mark.parametrize("name", ["code", "snippets"])
def test_withdrawn_text_is_refused_under_any_name_and_in_any_disguise(
    shared: Workspace, tiny_corpora: Path, tmp_path: Path, name: str, disguise: Any
) -> None:
    source = disguise(tiny_corpora / "code", tiny_corpora / "units", tmp_path / "corpus")
    with pytest.raises(Refused, match="seen-before/withdrawn") as refused:
        add_data(shared, name, source, STATED)
    assert "data/code@1" in refused.value.found


@pytest.mark.parametrize(
    ("change", "rule"),
    [({"license": "MIT"}, "seen-rights/licence"), ({"holder": "us"}, "seen-rights/holder")],
)
def test_registered_text_is_refused_under_another_licence_or_holder(
    shared: Workspace, tiny_corpora: Path, tmp_path: Path, change: dict[str, str], rule: str
) -> None:
    other = STATED.model_copy(update=change)
    source = beside(tiny_corpora / "prose", tiny_corpora / "units", tmp_path / "corpus")
    with pytest.raises(Refused, match=rule):
        add_data(shared, "tales", source, other)


def test_one_licence_in_two_spellings_is_no_other_licence(
    tiny_corpora: Path, tmp_path: Path
) -> None:
    workspace = create(tmp_path / "workspace")
    for name, licence in (("sums", "MIT OR Apache-2.0"), ("again", "(apache-2.0 or mit)")):
        stated = STATED.model_copy(update={"license": licence, "license_choice": "MIT"})
        assert add_data(workspace, name, tiny_corpora / "math", stated).created
    other = STATED.model_copy(update={"license": "MIT OR ISC", "license_choice": "MIT"})
    with pytest.raises(Refused, match="seen-rights/licence"):
        add_data(workspace, "third", tiny_corpora / "math", other)


def test_other_text_is_not_taken_for_what_was_withdrawn(
    shared: Workspace, tiny_corpora: Path
) -> None:
    """The corpora of the demonstration hold no tenth of each other."""
    for name in ("math", "units"):
        version = add_data(shared, name, tiny_corpora / name, STATED)
        assert version.created
        sketch = seen_before.sketch_of(shared.catalog, version.facts)
        lines = seen_before.of_data(shared.catalog, version.files, sketch)
        assert [line for line in lines if line.ref != str(version.ref) and line.share > 0.1] == []


def test_a_sketch_tells_the_share_whatever_its_density() -> None:
    hashes = [f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for number in range(4000)]
    whole = Sketch(bits=0, hashes=tuple(sorted(hashes)))
    half = Sketch(bits=0, hashes=tuple(sorted(hashes[:2000])))
    other = Sketch(bits=0, hashes=tuple(sorted(hashes[2000:])))
    thin = Sketch(bits=3, hashes=tuple(sorted(whole.thinned(3))))
    assert seen_before.common(whole, half) == 1.0
    assert seen_before.common(half, other) == 0.0
    assert seen_before.common(thin, half) == 1.0
    mixed = Sketch(bits=0, hashes=tuple(sorted(hashes[1000:3000])))
    assert seen_before.common(mixed, half) == pytest.approx(0.5, abs=0.05)
    assert seen_before.common(Sketch(bits=0, hashes=()), half) == 0.0


@pytest.fixture
def tainted(own_story: Workspace) -> Workspace:
    """The story, with data/code@1 withdrawn, and so expert/code@1 tainted."""
    withdraw(own_story, "data/code@1", "the holder withdrew consent")
    return own_story


def moved(folder: Path, to: Path, factor: float) -> Path:
    """Return a copy of a checkpoint with one tensor scaled."""
    shutil.copytree(folder, to, copy_function=shutil.copyfile)
    tensors = load_file(to / "model.safetensors")
    name = next(name for name in tensors if "down_proj" in name)
    tensors[name] = tensors[name] * factor
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def test_tainted_weights_come_back_neither_whole_nor_moved_a_little_nor_as_a_seed(
    tainted: Workspace, tmp_path: Path, quiet: Any
) -> None:
    whole = tainted.root / "experts/code/1"
    changed = load_file(whole / "model.safetensors")
    for name, tensor in changed.items():
        if "mlp" in name:
            changed[name] = tensor * 1.0001
    every = tmp_path / "every"
    shutil.copytree(whole, every, copy_function=shutil.copyfile)
    save_file(changed, every / "model.safetensors", metadata={"format": "pt"})
    for source in (whole, moved(whole, tmp_path / "moved", 0.999), every):
        for name in ("helper", "code"):
            with pytest.raises(Refused, match="seen-before/withdrawn"):
                register(tainted, name, source, data=["data/math"], seed="seed/base@1", show=quiet)
    with pytest.raises(Refused, match="seen-before/withdrawn"):
        add_seed(tainted, "fresh", whole, license="CC0-1.0")
    assert add_seed(tainted, "again", tainted.root / "seeds/base/1", license="CC0-1.0").created
    math = tainted.catalog.get("expert/math@1", ExpertFacts)
    seen = seen_before.of_weights(tainted.catalog, math.facts.tensors)
    assert {line.ref for line in seen} == {"expert/math@1"}, "branches share only their seed"


def test_a_copy_that_was_registered_before_the_withdrawal_is_named_then_and_found_later(
    tiny_corpora: Path, tmp_path: Path
) -> None:
    workspace = create(tmp_path / "workspace")
    add_data(workspace, "code", tiny_corpora / "code", STATED)
    add_data(workspace, "snippets", tiny_corpora / "code", STATED)
    assert audit(workspace, "data/snippets@1").findings == ()
    page = relations.impact(workspace.catalog, "data/code@1").twins
    answer = withdraw(workspace, "data/code@1", "consent ended")
    (twin,) = [reached for reached in answer.reached if reached.ref == "data/snippets@1"]
    assert "holds the same files, 100 %" in (twin.why or "")
    assert page == (twin,), "the page says before what the command says"
    (finding,) = audit(workspace, "data/snippets@1").findings
    assert finding.found == "holds files of data/code@1, which is withdrawn"


def test_what_the_lineage_of_a_withdrawal_names_is_not_named_again_as_a_copy(
    tmp_path: Path,
) -> None:
    workspace = create(tmp_path / "workspace")
    catalog = workspace.catalog
    catalog.register("law", DataFacts(license="MIT", bytes=1))
    for name, data in (("a", ["data/law@1"]), ("b", ["data/law@1"]), ("copy", [])):
        facts = ExpertFacts(domain=name, tensors={"w": "1" * 64})
        catalog.register(name, facts, parents=[(ref, "trained_on") for ref in data])
    ahead = withdraw(workspace, "data/law@1", "asked", dry_run=True)
    assert [one.ref for one in ahead.reached] == ["expert/a@1", "expert/b@1", "expert/copy@1"]
    assert relations.impact(catalog, "data/law@1").twins == ahead.reached[2:]
    assert withdraw(workspace, "data/law@1", "asked") == ahead


def test_what_the_gate_was_shown_is_kept_as_evidence(shared: Workspace, tiny_corpora: Path) -> None:
    with pytest.raises(Refused):
        add_data(shared, "excerpts", tiny_corpora / "code", STATED)
    event = shared.catalog.events("data/excerpts@1", "refused")[-1]
    evidence = shared.catalog.document(json.loads(event.stored)["documents"][1])
    lines = [SeenBefore.from_json(line, "test") for line in evidence["seen_before"]]
    assert [(line.ref, line.by, line.share, line.status) for line in lines] == [
        ("data/code@1", "files", 1.0, "withdrawn")
    ]


def test_an_empty_file_is_not_taken_for_a_part_of_another_corpus(shared: Workspace) -> None:
    empty = FileFact("a.txt", 0, "e" * 64)
    assert seen_before.of_data(shared.catalog, [empty], None) == ()


def test_one_file_of_what_was_withdrawn_is_refused_and_a_notice_that_both_hold_is_not(
    tiny_corpora: Path, tmp_path: Path
) -> None:
    workspace = create(tmp_path / "workspace")
    notice = "Take it, and blame nobody.\n"
    for name in ("code", "math"):
        shutil.copytree(tiny_corpora / name, tmp_path / name)
        (tmp_path / name / "NOTICE.txt").write_text(notice)
    kept = tmp_path / "code" / "kept.txt"
    kept.write_text("".join(f"{number} words of the holder's own\n" for number in range(100)))
    add_data(workspace, "code", tmp_path / "code", STATED)
    withdraw(workspace, "data/code@1", "the holder withdrew consent")
    add_data(workspace, "math", tmp_path / "math", STATED)
    assert audit(workspace, "data/math@1").findings == ()
    shutil.copy(kept, tmp_path / "math")
    with pytest.raises(Refused, match="seen-before/withdrawn"):
        add_data(workspace, "math", tmp_path / "math", STATED)


def test_an_expert_out_of_use_is_no_answer_to_who_registers_it_again(
    own_story: Workspace, checkpoint: Path, quiet: Any
) -> None:
    def again(name: str, folder: Path) -> Any:
        data = [f"data/{name}@1"]
        return register(own_story, name, folder, data=data, seed="seed/base", show=quiet)

    mistaken = again("math", checkpoint)
    retire(own_story, str(mistaken.ref), "too early")
    anew = again("math", checkpoint)
    assert (str(anew.ref), anew.created) == ("expert/math@3", True)
    assert not again("math", checkpoint).created
    withdraw(own_story, "expert/code@1", "it was trained on a stolen laptop")
    with pytest.raises(Refused, match="seen-before/withdrawn"):
        again("code", own_story.root / "experts/code/1")


def test_a_file_that_both_hold_hides_no_text_that_stands_in_other_files(
    tiny_corpora: Path, tmp_path: Path
) -> None:
    workspace = create(tmp_path / "workspace")
    source = tmp_path / "code"
    shutil.copytree(tiny_corpora / "code", source)
    notice = "Take it, and blame nobody.\n"
    (source / "NOTICE.txt").write_text(notice)
    add_data(workspace, "code", source, STATED)
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "NOTICE.txt").write_text(notice)
    inside = [document.text for document in texts.every(source)]
    (rows / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in inside))
    other = STATED.model_copy(update={"license": "MIT"})
    with pytest.raises(Refused, match="seen-rights/licence"):
        add_data(workspace, "snippets", rows, other)
    twin = add_data(workspace, "snippets", rows, STATED)
    assert audit(workspace, str(twin.ref)).findings == ()
    answer = withdraw(workspace, "data/code@1", "consent ended")
    (reached,) = [one for one in answer.reached if one.ref == "data/snippets@1"]
    assert "holds the same text, " in (reached.why or "")
    with pytest.raises(Refused, match="seen-before/withdrawn"):
        add_data(workspace, "excerpts", rows, STATED)
