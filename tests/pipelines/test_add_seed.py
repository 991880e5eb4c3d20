"""A seed that is registered from a GGUF file, or refused with nothing left behind."""

import hashlib
import json
from pathlib import Path

import pytest
from tiny_gguf import tiny, write_gguf

from btx_core.problems import BtxError
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.annotate import retire
from pipelines.jobs.train import newest_seed
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Conflict, Invalid


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "workspace")


def files(root: Path) -> set[str]:
    """Every path but those of the database, git and the lock."""
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    apart = (".btx/registry", ".btx/lock", ".git/")
    return {path for path in paths if not path.startswith(apart)}


def test_a_gguf_file_becomes_a_seed_that_names_it(workspace: Workspace, tmp_path: Path) -> None:
    file = write_gguf(tiny(), tmp_path / "tiny.gguf", quantise=True)
    seed = add_seed(workspace, "base", file, license="Apache-2.0")

    source = workspace.catalog.get("seed/base@1").facts.to_json()["converted_from"]
    assert source == {
        "name": "tiny.gguf",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "format": "gguf",
        "quantisation": "Q8_0",
    }
    assert seed.facts.parameters == sum(p.numel() for p in tiny().parameters())
    assert (workspace.root / "seeds/base/1/model.safetensors").exists()
    assert not list((workspace.root / ".btx").glob(".gguf*"))
    assert not add_seed(workspace, "base", file, license="Apache-2.0").created


def test_a_refused_gguf_file_leaves_nothing_behind(workspace: Workspace, tmp_path: Path) -> None:
    file = write_gguf(tiny(), tmp_path / "tiny.gguf")
    whole = file.read_bytes()
    head, before = workspace.catalog.head(), files(workspace.root)

    broken = {
        "torn": whole[:-100],
        "no-tokenizer": write_gguf(tiny(), tmp_path / "none.gguf", tokenizer=False).read_bytes(),
        "a-tensor-short": write_gguf(
            tiny(), tmp_path / "short.gguf", left_out="blk.0.attn_v.weight"
        ).read_bytes(),
    }
    for name, content in broken.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        with pytest.raises(BtxError) as refused:
            add_seed(workspace, "base", path, license="Apache-2.0")
        assert str(path) in str(refused.value)
        assert files(workspace.root) == before
    assert workspace.catalog.head() == head


def test_show_names_the_file_that_a_seed_was_converted_from(
    workspace: Workspace, tmp_path: Path
) -> None:
    from pipelines.jobs.show import shown

    add_seed(workspace, "base", write_gguf(tiny(), tmp_path / "tiny.gguf"), license="Apache-2.0")
    answer = json.loads(json.dumps(shown(workspace, "seed/base").to_json()))
    assert answer["converted_from"]["quantisation"] == "F32"


@pytest.mark.parametrize("first", [None, "MIT"])
def test_a_licence_that_is_stated_later_is_not_dropped(
    tiny_seed: Path, tmp_path: Path, first: str | None
) -> None:
    workspace = create(tmp_path / "workspace")
    registered = add_seed(workspace, "base", tiny_seed, license=first)
    with pytest.raises(Conflict, match="registered already") as refusal:
        add_seed(workspace, "base", tiny_seed, license="Apache-2.0")
    assert "--license Apache-2.0" in refusal.value.next
    for same in (None, first):
        again = add_seed(workspace, "base", tiny_seed, license=same)
        assert (again.ref, again.created) == (registered.ref, False)


def test_a_seed_that_was_registered_by_mistake_is_registered_again_as_it_should_be(
    workspace: Workspace, tiny_seed: Path
) -> None:
    first = add_seed(workspace, "base", tiny_seed, license="CC-BY-NC-4.0")
    retire(workspace, str(first.ref), "the wrong licence")
    with pytest.raises(Invalid, match="0 seeds") as none:
        newest_seed(workspace)
    assert none.value.next.startswith("btx seed add")
    second = add_seed(workspace, "base", tiny_seed, license="Apache-2.0")
    assert (str(second.ref), second.created) == ("seed/base@2", True)
    mistaken = add_seed(workspace, "test", tiny_seed, license="Apache-2.0")
    retire(workspace, str(mistaken.ref), "only a test")
    assert newest_seed(workspace) == "seed/base@2"
