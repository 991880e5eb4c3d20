"""One tiny story, told once per test process.

A seed that knows prose, the experts math and code, and build/1.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SETTINGS = """\
[registry]
url = "sqlite:///.btx/registry.db"
[recipe.train]
steps = 60
batch = 4
sequence = 64
[recipe.tune]
steps = 20
batch = 4
sequence = 64
[recipe.evaluate]
max_tokens = 2000
"""


@dataclass(frozen=True)
class Story:
    """A workspace's root and how to go on in it; every test that writes takes a copy."""

    root: Path
    corpora: Path
    seed: Path


@pytest.fixture(scope="session", autouse=True)
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for heads that acts write down outside of their registry."""
    folder = tmp_path_factory.mktemp("heads")
    os.environ["BTX_HEADS"] = str(folder)
    return folder


@contextmanager
def silent(label: str):
    yield lambda done, total, text: None


@pytest.fixture(scope="session")
def quiet() -> Callable[[str], AbstractContextManager[Callable[[int, int, str], None]]]:
    return silent


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that one of the processes that run the tests makes, and none changes."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = shared / name, shared / f"{name}.made"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipelines.story import corpora

    def make(root: Path) -> None:
        for text in (corpora.prose, corpora.math, corpora.code, corpora.units):
            text(root / text.__name__, size=60_000, heldout=6_000)

    return made_once(tmp_path_factory, "corpora", make)


@pytest.fixture(scope="session")
def tiny_seed(tiny_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real small Llama: two layers, hidden 32, trained a little on prose."""
    from btx_core.training.recipes import TrainRecipe
    from pipelines.story.small_seed import PretrainConfig, pretrain

    size = PretrainConfig(vocabulary=384, hidden=32, feed_forward=64, layers=2, heads=2)
    recipe = TrainRecipe(mode="full", steps=60, batch=4, sequence=64)
    return made_once(
        tmp_path_factory, "tiny", lambda out: pretrain(size, [tiny_corpora / "prose"], recipe, out)
    )


@pytest.fixture(scope="session")
def story(tiny_corpora: Path, tiny_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """data/prose, data/math, data/code; seed/base; expert/math, expert/code; build/1.

    Read only: see `own_story`.
    """
    told = made_once(tmp_path_factory, "story", lambda root: tell(root, tiny_corpora, tiny_seed))
    return Story(copied(told, tmp_path_factory.mktemp("story")), tiny_corpora, tiny_seed)


def copied(workspace: Path, folder: Path) -> Path:
    """Return a copy of a workspace, whose files are linked as in the first one."""
    subprocess.run(["cp", "-a", str(workspace), f"{folder}/workspace"], check=True)
    return folder / "workspace"


def tell(root: Path, corpora: Path, seed: Path) -> None:
    from pipelines.jobs.add_data import add_data
    from pipelines.jobs.add_seed import add_seed
    from pipelines.jobs.rebuild import rebuild
    from pipelines.jobs.register import register
    from pipelines.jobs.train import train
    from pipelines.workspace.workspace import Workspace, create
    from registry.records.facts import DataStatement

    create(root)
    (root / "btx.toml").write_text(SETTINGS)
    workspace = Workspace.find(root)
    statement = DataStatement(
        license="CC0-1.0", source="the test", holder="nobody", purpose="testing", pii="none"
    )
    for name in ("prose", "math", "code"):
        add_data(workspace, name, corpora / name, statement)
    add_seed(workspace, "base", seed, data=["data/prose"], license="CC0-1.0")
    for name, branch in train(workspace, {"math": "data/math", "code": "data/code"}).items():
        register(
            workspace,
            name,
            branch.folder,
            data=[str(branch.data.ref)],
            seed=str(branch.seed.ref),
            show=silent,
        )
    assert rebuild(workspace).build == "build/1"
