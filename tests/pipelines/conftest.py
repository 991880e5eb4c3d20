"""A copy of the story for each test that writes: git, DVC's cache, store and database included."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.workspace.workspace import Workspace


@pytest.fixture
def own_story(story, tmp_path: Path) -> Workspace:
    root = tmp_path / "workspace"
    subprocess.run(
        ["cp", "-a", str(story.root), str(root)], check=True
    )  # -a keeps hard links among the copied files
    return Workspace.find(root)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, a core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False}
    )
    made.add_node(**node)
    yield made
    made.shutdown()


@pytest.fixture(scope="session")
def checkpoint(story: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Expert math with one tensor moved a little: a second version of it."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("checkpoint") / "math"
    shutil.copytree(story.root / "experts/math/1", folder, copy_function=shutil.copyfile)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "down_proj" in name)
    tensors[name] = tensors[name] * 0.999
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def btx() -> Run:
    """Run the command as a user does: btx(folder, "list", "experts")."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [str(Path(sys.executable).with_name("btx")), *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)

    return run
