"""Where the code to be measured comes from, and how it is read.

In: a folder, a git revision, or a requirement for the package index. Out: a `CodeBase` of parsed
modules. Tests and database migrations are left out here, so no measure has to think of them.
What is counted is decided in `figures`, `cycles` and `string_keys`.
"""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


class SourceError(Exception):
    """A code base could not be read; the message names it and says what to try next."""


@dataclass(frozen=True)
class Module:
    """One Python file, read and parsed once.

    Attributes:
        path: the file's path inside its code base, with forward slashes.
        name: the dotted name by which other modules import it.
        lines: the physical lines, without their line ends.
        tree: the syntax tree.
        tokens: every token, comments and line ends included.
    """

    path: str
    name: str
    lines: tuple[str, ...]
    tree: ast.Module
    tokens: tuple[tokenize.TokenInfo, ...]

    @property
    def is_package(self) -> bool:
        """Return whether the file is the `__init__.py` of a package."""
        return PurePosixPath(self.path).name == "__init__.py"


@dataclass(frozen=True)
class CodeBase:
    """The modules of one project, in the order of their paths, under a heading for the table."""

    heading: str
    modules: tuple[Module, ...]

    @property
    def lines(self) -> int:
        """Return the number of physical lines."""
        return sum(len(module.lines) for module in self.modules)


def parsed(path: str, text: str) -> Module:
    """Parse one file.

    Args:
        path: the file's path inside its code base, with forward slashes.
        text: what the file holds.

    Returns:
        The parsed module.

    Raises:
        SourceError: naming the file, if this Python cannot parse it.
    """
    parts = PurePosixPath(path).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    try:
        tree = ast.parse(text, filename=path)
        tokens = tuple(tokenize.generate_tokens(io.StringIO(text).readline))
    except (SyntaxError, tokenize.TokenError) as error:
        version = sys.version.split()[0]
        raise SourceError(
            f"{path}: Python {version} cannot parse it ({error}); run the script with a newer one"
        ) from error
    lines = tuple(text.splitlines())
    return Module(path=path, name=".".join(parts), lines=lines, tree=tree, tokens=tokens)


def from_folder(heading: str, folder: Path) -> CodeBase:
    """Read the packages of a project as its files are now, whether or not they are committed.

    Args:
        heading: the heading for the table.
        folder: the project's folder, which holds its `pyproject.toml`.

    Returns:
        The code base.

    Raises:
        SourceError: if the folder names no packages, or if a file cannot be parsed.
    """
    settings = folder / "pyproject.toml"
    if not settings.is_file():
        raise SourceError(f"{folder}: no pyproject.toml found; give a project's root folder")
    texts = {}
    for package in _packages(settings.read_text(encoding="utf-8")):
        for file in (folder / package).rglob("*.py"):
            texts[file.relative_to(folder).as_posix()] = file.read_text(encoding="utf-8")
    return _code_base(heading, texts)


def from_revision(heading: str, folder: Path, revision: str) -> CodeBase:
    """Read the packages of a project as they were at a revision, through `git archive`.

    Args:
        heading: the heading for the table.
        folder: a folder of the repository's working tree.
        revision: any name of a commit that git understands.

    Returns:
        The code base.

    Raises:
        SourceError: if git does not know the revision, if it names no packages, or if a file
            cannot be parsed.
    """
    command = ["git", "-C", str(folder), "archive", "--format=zip", revision]
    archived = subprocess.run(command, capture_output=True, check=False)
    if archived.returncode:
        reason = archived.stderr.decode().strip()
        raise SourceError(f"revision {revision}: {reason}; `git log` lists those there are")
    texts = _texts(archived.stdout, (".py", "pyproject.toml"))
    roots = tuple(f"{package}/" for package in _packages(texts.get("pyproject.toml", "")))
    inside = {path: text for path, text in texts.items() if path.startswith(roots)}
    return _code_base(heading, inside)


def from_index(requirement: str, cache: Path) -> CodeBase:
    """Read a distribution from the package index, as its wheel carries it.

    Args:
        requirement: name and exact version, such as `tuf==7.0.1`.
        cache: the folder that keeps the wheel; one that is already there is not fetched again.

    Returns:
        The code base, headed by the distribution's name and version.

    Raises:
        SourceError: if pip cannot download the wheel, or if a file cannot be parsed.
    """
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version or '*'}-*.whl"
    if not any(cache.glob(pattern)):
        _download(requirement, cache)
    wheels = sorted(cache.glob(pattern))
    if not wheels:
        raise SourceError(f"{requirement}: no {pattern} in {cache}; state it as NAME==VERSION")
    wheel = wheels[-1]
    heading = " ".join(wheel.name.split("-")[:2])
    return _code_base(heading, _texts(wheel.read_bytes(), (".py",)))


def _download(requirement: str, cache: Path) -> None:
    """Download one wheel, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":none:", "--only-binary", ":all:"]
    command += ["--dest", str(cache), requirement]
    downloaded = subprocess.run(command, capture_output=True, text=True, check=False)
    if downloaded.returncode:
        reason = downloaded.stderr.strip()
        raise SourceError(
            f"{requirement}: pip cannot download it; without a network leave it out with --beside"
            f"\n{reason}"
        )


def _packages(settings: str) -> list[str]:
    """Return the packages that the text of a `pyproject.toml` puts into the wheel."""
    table = tomllib.loads(settings)
    for key in ("tool", "hatch", "build", "targets", "wheel"):
        table = table.get(key, {})
    packages: list[str] = table.get("packages", [])
    if not packages:
        raise SourceError("pyproject.toml: tool.hatch.build.targets.wheel names no packages")
    return packages


def _texts(zipped: bytes, endings: tuple[str, ...]) -> dict[str, str]:
    """Return the text of each file of a zip archive whose path has one of the endings."""
    texts = {}
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        for path in archive.namelist():
            if path.endswith(endings):
                texts[path] = archive.read(path).decode("utf-8")
    return texts


def _code_base(heading: str, texts: Mapping[str, str]) -> CodeBase:
    """Parse every file that counts."""
    modules = [parsed(path, texts[path]) for path in _counted(texts)]
    return CodeBase(heading=heading, modules=tuple(modules))


def _counted(paths: Iterable[str]) -> list[str]:
    """Return the paths that are neither a test nor a database migration, sorted."""
    counted = []
    for path in sorted(paths):
        folders = PurePosixPath(path).parts[:-1]
        file = PurePosixPath(path).name
        is_test = "tests" in folders or file.startswith("test_") or file == "conftest.py"
        is_migration = "migrations/versions/" in path
        if not is_test and not is_migration:
            counted.append(path)
    return counted
