"""Folders are taken as trainers and download tools leave them: what counts, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.contents import contents_of
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.problems import Unsafe

Save = Callable[..., Path]
BESIDE = (
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "trainer_state.json",
    "pytorch_model.bin",
    "consolidated.safetensors",
    "events.out.tfevents.1",
    "modeling_own.py",
    "tokenizer_own.py",
    "tf_model.h5",
    ".gitattributes",
)
TOKENS = ("tokenizer.json", "special_tokens_map.json", "chat_template.jinja", "LICENSE")


@pytest.fixture
def trained(tiny: Save, tmp_path: Path) -> Path:
    """What a trainer leaves: the model, and all that it needs to go on."""
    folder = tmp_path / "trained"
    shutil.copytree(tiny("a"), folder)
    for name in (*BESIDE, *TOKENS):
        (folder / name).write_text("{}")
    for name in ("global_step3/state.pt", "runs/a.txt", "additional_chat_templates/tool.jinja"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("x")
    os.mkfifo(folder / "pipe")
    os.symlink("/etc/passwd", folder / "notes.txt")
    return folder


def test_what_counts_is_taken_and_all_else_is_listed(trained: Path) -> None:
    contents = contents_of(trained)
    assert set(contents.taken) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "additional_chat_templates/tool.jinja",
        *TOKENS,
    }
    assert set(contents.left_out) == {*BESIDE, "global_step3/", "runs/", "pipe", "notes.txt"}
    assert Checkpoint.open(trained).tensors


def test_a_folder_is_mixed_as_its_trainer_left_it(
    tiny: Save, trained: Path, tmp_path: Path
) -> None:
    (trained / "tokenizer.json").unlink()
    mix(tiny("seed"), [Member("e", 1, trained)], MixRecipe(), tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert not written & {*BESIDE, "pipe", "notes.txt"}


@pytest.fixture
def snapshot(tiny: Save, tmp_path: Path) -> Path:
    """A model as the Hugging Face cache keeps it: links to blobs."""
    repository = tmp_path / "models--our--model"
    folder = repository / "snapshots/0123abcd"
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(tiny("a").iterdir())):
        shutil.copy(path, repository / f"blobs/{number}")
        os.symlink(f"../../blobs/{number}", folder / path.name)
    return folder


def test_a_snapshot_of_the_hugging_face_cache_is_taken(snapshot: Path, tiny: Save) -> None:
    assert Checkpoint.open(snapshot).tensors.keys() == Checkpoint.open(tiny("a")).tensors.keys()
    assert all(path.is_file() for path in contents_of(snapshot).taken.values())


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../other/blobs/0", "../../refs/main"])
def test_a_snapshots_link_to_anywhere_else_is_refused(target: str, snapshot: Path) -> None:
    other = snapshot.parents[2] / "other/blobs"
    other.mkdir(parents=True)
    (other / "0").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("{}")
    (snapshot / "config.json").unlink()
    os.symlink(target, snapshot / "config.json")
    with pytest.raises(Unsafe, match=r"config\.json"):
        Checkpoint.open(snapshot)


def test_an_adapter_is_no_checkpoint_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(Unsafe, match="an adapter") as caught:
        Checkpoint.open(tmp_path)
    assert "btx register" in caught.value.next
