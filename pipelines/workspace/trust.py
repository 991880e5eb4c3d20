"""What a workspace may have done to this machine only once its user has said so here.

In:  a workspace's folder and settings.
Out: statements, one for each server, file outside the workspace or command that they name; and
     whether the user of this machine has confirmed exactly these, by `btx trust`.
A workspace is often somebody else's: cloned, unpacked, shared. Reading it must not send a password
to a server, write outside it or run a program. What `btx init` lays down names nothing of the kind.
"""

import configparser
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from btx_core.files import any_json, replace_text
from pipelines.workspace.git import git
from registry.digest import digest
from registry.errors import Refused
from registry.urls import without_secrets

# The stages' own commands, with and without Python's switch against imports from here.
_OWN_COMMAND = re.compile(r"python( -P)? -m pipelines\.stages (train \$\{key\}|mix|tune|evaluate)")
_OWN_STAGES = ("train", "mix", "tune", "evaluate")
# Where a link may lie that would be followed in writing.
_WRITTEN = (
    *(".", ".btx", ".btx/store", ".btx/private"),
    *(".dvc", ".dvc/cache", ".dvc/cache/files", ".dvc/cache/files/md5", ".dvc/tmp"),
    *("builds", "data", "experts", "seeds", "ledger", "work", "work/branches"),
)
# Where else files are read as they lie there.
_READ = ("policies", "policies/examples", "policies/tests", ".git", ".btx/private")
# What git's settings take in, section and path, as git reads them.
_INCLUDE = re.compile(r"^\s*\[\s*include(?:if\b[^\]]*)?\s*\]", re.IGNORECASE | re.MULTILINE)
_INCLUDED = re.compile(r"^\s*(?:\[[^\]]*\]\s*)?path\s*=\s*(.*)", re.IGNORECASE | re.MULTILINE)
# Of DVC's settings, those that name a folder to write to.
_DVC_FOLDERS = (("cache", "dir"), ("core", "site_cache_dir"), ("state", "dir"), ("index", "dir"))


def statements(root: Path, template: Path, settings: Mapping[str, str]) -> list[str]:
    """Return what a workspace names of servers, files outside and commands, one line each.

    Args:
        root: the workspace.
        template: the dvc.yaml that `btx init` lays down.
        settings: what btx.toml says of the kind, by key.
    """
    lines = [f"btx.toml, {key}: {value}" for key, value in settings.items()]
    lines += _links(root)
    lines += _special(root)
    lines += _dvc_folders(root)
    lines += _git_includes(root)
    lines += _commands(root / "dvc.yaml", template)
    return sorted(set(lines))


def require(root: Path, named: list[str]) -> None:
    """Require that the user of this machine has confirmed what a workspace names.

    Raises:
        Refused: with every statement.
    """
    if not named or _confirmed().get(str(root)) == digest(named):
        return
    raise Refused(
        str(root),
        found="what nobody on this machine has confirmed: " + "; ".join(named),
        expected="a workspace that names no server, no file outside it and no command of its own",
        next=f"read these, and if they are meant: btx trust {shlex.quote(str(root))}",
    )


def confirm(root: Path, named: list[str]) -> None:
    """Keep that the user of this machine has confirmed these statements, and no others."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    confirmed = {**_confirmed(), str(root): digest(named)}
    replace_text(path, json.dumps(confirmed, indent=1, sort_keys=True) + "\n")


def outside(root: Path, url: str) -> bool:
    """Say whether a registry's URL names a server, or a file outside the workspace."""
    prefix = "sqlite:///"
    if not url.startswith(prefix):
        return True
    return not (root / url.removeprefix(prefix)).resolve().is_relative_to(root)


def visible(key: str, value: object) -> str:
    """Return a setting as a statement shows it."""
    return without_secrets(str(value)) if key == "url" else str(value)


def _path() -> Path:
    """Return the file of what was confirmed: outside every workspace."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "btx" / "trusted.json"


def _confirmed() -> dict[str, str]:
    try:
        confirmed = any_json(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return confirmed if isinstance(confirmed, dict) else {}


def _links(root: Path) -> Iterator[str]:
    """Yield the links that lead out of the workspace from where commands write."""
    for name in _WRITTEN:
        folder = root / name
        if not folder.is_dir():
            continue
        for path in folder.iterdir():
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                yield f"{path.relative_to(root)}: a link to {os.readlink(path)}"


def _special(root: Path) -> Iterator[str]:
    """Yield what is neither file nor folder where commands read: a pipe would be waited for."""
    for name in (*_WRITTEN, *_READ):
        folder = root / name
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.exists() and not path.is_file() and not path.is_dir():
                yield f"{path.relative_to(root)}: no file and no folder"


def _dvc_folders(root: Path) -> Iterator[str]:
    """Yield the folders outside the workspace that DVC's settings in it name."""
    for name in ("config", "config.local"):
        path = root / ".dvc" / name
        if not path.is_file():
            continue
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, configparser.Error):
            # DVC itself refuses what it cannot read.
            continue
        for section, key in _DVC_FOLDERS:
            value = parser.get(section, key, fallback=None)
            # Relative to the file that says it.
            if value and not (path.parent / value).resolve().is_relative_to(root):
                yield f".dvc/{name}, [{section}] {key}: {value}"


def _git_includes(root: Path) -> Iterator[str]:
    """Yield what git's settings here take in that is no settings: DVC's error shows its lines."""
    for name in ("config", "config.worktree"):
        path = root / ".git" / name
        try:
            text = path.read_text(errors="replace", encoding="utf-8") if path.is_file() else ""
        except OSError:
            # Git itself refuses what it cannot read.
            continue
        section = _INCLUDE.search(text)
        if section is None:
            continue
        done = git(root, "config", "--local", "--includes", "--list", "--name-only", "--null")
        # Git takes a line in front of every section for a setting too.
        if done.returncode or not all("." in name for name in done.stdout.split("\0")[:-1]):
            paths = ", ".join(_INCLUDED.findall(text[section.start() :]))
            yield f".git/{name}, [include] of what is no settings: {paths}"


def _commands(path: Path, template: Path) -> Iterator[str]:
    """Yield what stages of ours would run or overwrite otherwise than `btx init` laid down."""
    if not path.is_file():
        return
    text = path.read_bytes()
    if text == template.read_bytes():
        return
    # Imported here: few commands find another dvc.yaml.
    import yaml

    try:
        stages = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        named = {name: stages[name] for name in _OWN_STAGES if name in stages}
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError):
        # DVC itself refuses what it cannot read.
        return
    for name, stage in named.items():
        body = stage.get("do", stage) if isinstance(stage, dict) else {}
        command = body.get("cmd") if isinstance(body, dict) else body
        if not isinstance(command, str) or not _OWN_COMMAND.fullmatch(command):
            yield f"dvc.yaml, stage {name} runs: {command}"
        for where in _elsewhere(body if isinstance(body, dict) else {}):
            yield f"dvc.yaml, stage {name} writes: {where}"


# Any: a stage as somebody wrote it.
def _elsewhere(stage: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a stage writes outside work/, and the folder that it runs in."""
    if "wdir" in stage:
        yield str(stage["wdir"])
    for kind in ("outs", "metrics", "plots"):
        entries = stage.get(kind) or []
        for entry in entries if isinstance(entries, list | dict) else [entries]:
            paths = list(entry) if isinstance(entry, dict) else [entry]
            for where in map(str, paths):
                if not where.startswith("work/") or ".." in where.split("/"):
                    yield where
