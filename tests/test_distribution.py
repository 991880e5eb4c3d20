"""The wheel holds all that the program needs, and most of it works without torch."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("btx_core", "registry", "pipelines")
# What `btx init` lays down: the wheel has its own copy.
LAID_DOWN = ("dvc.yaml", "policies")
# What the extras `train`, `web`, `postgresql` and `s3` bring.
EXTRAS = (
    *("torch", "transformers", "safetensors", "accelerate", "peft", "gguf", "sentencepiece"),
    *("fastapi", "uvicorn", "starlette", "psycopg", "dvc_s3"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built by its own backend."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip lays it down; nothing of the checkout is beside it."""
    folder = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder that belongs to the program, by path."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    own = [path for path in paths if "__pycache__" not in path.parts and path.suffix != ".pyc"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in own}


def btx(code: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command from `code` alone; a folder `without` beside it goes before everything."""
    paths = [str(path) for path in (code.parent / "without", code) if path.is_dir()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-P", "-m", "pipelines.cli.app", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_wheel_holds_every_file_of_a_package(unpacked: Path, package: str) -> None:
    expected = files_below(ROOT / package)
    assert len(expected) > 20
    held = files_below(unpacked / package)
    assert {path: held.get(path) for path in expected} == expected


def test_a_workspace_made_by_the_wheel_has_the_checkouts_stages_and_policies(
    unpacked: Path, tmp_path: Path
) -> None:
    done = btx(unpacked, tmp_path, "init", "w")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "w/dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert files_below(tmp_path / "w/policies") == files_below(ROOT / "policies")


def test_the_wheel_holds_the_licence_and_nothing_that_is_not_the_programs(unpacked: Path) -> None:
    (metadata,) = unpacked.glob("*.dist-info")
    assert (metadata / "licenses/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert {path.name for path in unpacked.iterdir()} == {*PACKAGES, metadata.name}


def test_a_wheel_that_lacks_a_file_is_noticed(unpacked: Path, tmp_path: Path) -> None:
    expected = files_below(ROOT / "registry")
    held = files_below(unpacked / "registry")
    del held["formats/texts/annex-iv.yaml"]
    assert {path: held.get(path) for path in expected} != expected


@pytest.fixture
def without_extras(unpacked: Path) -> Path:
    """The wheel on a machine without extras: what they bring cannot be imported."""
    for name in EXTRAS:
        package = unpacked.parent / "without" / name
        package.mkdir(parents=True, exist_ok=True)
        text = f"raise ModuleNotFoundError('No module named {name}', name={name!r})\n"
        (package / "__init__.py").write_text(text)
    return unpacked


def test_without_extras_data_is_registered_searched_reported_and_audited(
    without_extras: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").mkdir()
    for number in range(30):
        (tmp_path / "text" / f"{number}.txt").write_text(f"document {number} of a corpus\n")
    assert btx(without_extras, tmp_path, "init", "w").returncode == 0
    statement = [
        "--license",
        "MIT",
        "--source",
        "test",
        "--holder",
        "us",
        "--purpose",
        "test",
        "--pii",
        "none",
    ]
    for command in (
        ["data", "add", "notes", "../text", *statement],
        ["list", "data"],
        ["search", "license=MIT"],
        ["policy", "test", "licence"],
        ["report", "data/notes", "-o", "report.html"],
        ["status"],
        ["token", "list"],
        ["audit"],
    ):
        done = btx(without_extras, tmp_path / "w", *command)
        assert done.returncode == 0, (command, done.stderr)
    assert "<html" in (tmp_path / "w/report.html").read_text()


@pytest.fixture(scope="module")
def workspace(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty workspace."""
    folder = tmp_path_factory.mktemp("workspace")
    assert btx(unpacked, folder, "init", ".").returncode == 0
    return folder


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("train", ["demo"]),
        ("train", ["train", "notes", "--data", "data/notes"]),
        ("web", ["serve"]),
        ("postgresql", ["list", "data"]),
        ("s3", ["data", "add", "x", "s3://bucket/x", "--license", "MIT"]),
    ],
)
def test_a_command_that_needs_an_extra_says_which_brings_it(
    without_extras: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
    command: list[str],
) -> None:
    if extra == "postgresql":
        monkeypatch.setenv("BTX_REGISTRY_URL", "postgresql+psycopg://btx@127.0.0.1:1/models")
    done = btx(without_extras, workspace, *command)
    assert done.returncode in (1, 2)
    assert f"next: pip install 'btx-registry[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
