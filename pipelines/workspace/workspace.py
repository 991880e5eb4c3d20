"""Find, make and read a workspace: the folder of one registry, its data, policies and builds.

In:  a folder, its settings, the environment.
Out: paths, an open catalogue and store, the write lock.
What the rows mean is the catalogue's; what DVC does is in `folders` and in the stages' `dvc_runs`.
"""

import fcntl
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from btx_core.files import any_json
from pipelines.workspace import run_lock, trust
from pipelines.workspace.diagnostics import remark
from pipelines.workspace.environment import child_environment, is_shared, shared_as
from pipelines.workspace.existing_project import enclosing_repository, require_stages
from pipelines.workspace.git import git
from pipelines.workspace.given_facts import GivenFacts
from pipelines.workspace.placement import STAGE_NAMES
from pipelines.workspace.settings_file import (
    DEFAULT_SETTINGS,
    SETTINGS,
    Recipes,
    Settings,
    read_settings,
)
from registry.catalogue import ledger
from registry.catalogue.catalog import Catalog
from registry.catalogue.store import Store
from registry.errors import Invalid, NotFound
from registry.records.kinds import Kind
from registry.records.references import Reference, parse
from registry.urls import from_environment, has_secret, without_secrets

# The .dvc files of versions.
HELD = ("data/*/*.dvc", "seeds/*/*.dvc", "experts/*/*.dvc", "builds/*.dvc")
# What git leaves alone. Metrics belong to git, so that DVC can compare them.
IGNORED = "/.btx/\n/work/*\n!/work/evaluation.json\n/exports/\n"
# What each clone writes for itself stays its own when git merges. The first command that writes in
# a clone sets the driver there: git takes none from a repository.
DRIVER = "btx-own"
ATTRIBUTES = f"""\
dvc.lock merge={DRIVER}
snapshot.json merge={DRIVER}
branches.yaml merge={DRIVER}
work/evaluation.json merge={DRIVER}
.gitignore merge=union
ledger/** -text
"""
ABOUT_LEDGER = """\
Rows and log of this workspace's registry: one file for each event.
Commit them. After git clone or git pull, this brings the registry what it lacks:

    btx registry restore

Whoever reads this repository reads them. Without this folder nothing of the kind is kept.
"""
SHIPPED_FACTS = Path(__file__).with_name("facts.yaml")


@dataclass(frozen=True)
class Workspace:
    """An existing workspace. Paths are absolute; nothing is opened before it is asked for."""

    root: Path
    settings: Settings
    acting: str | None = None  # who writes in it; the account that runs the program, unless given
    # Own facts that are stated of what is registered through it.
    given: GivenFacts = field(default_factory=GivenFacts)
    audited: bool = False  # whether the ledger's differences are findings of an audit, not errors

    @classmethod
    def find(cls, start: Path | None = None) -> "Workspace":
        """Return the workspace that holds `start`.

        Args:
            start: BTX_WORKSPACE, or else the current folder, unless it is given.

        Raises:
            NotFound: where there is none.
            Refused: for one that names a server, a file outside it or a command of its own, unless
                the user of this machine has confirmed it.
        """
        workspace = cls.unconfirmed(start)
        trust.require(workspace.root, workspace.statements())
        return workspace

    @classmethod
    def unconfirmed(cls, start: Path | None = None) -> "Workspace":
        """Return the workspace that holds `start`, whatever it names; only to look at that."""
        start = (start or Path(os.environ.get("BTX_WORKSPACE", "."))).resolve()
        for folder in (start, *start.parents):
            if (folder / SETTINGS).is_file():
                return cls(folder, read_settings(folder / SETTINGS))
        raise NotFound(
            str(start),
            found="no workspace here or above",
            expected=f"a folder with {SETTINGS}",
            next="btx init, or cd into a workspace",
        )

    def statements(self) -> list[str]:
        """Return what this workspace names of servers, files outside it and commands."""
        settings = self.settings
        named = {f"[slurm] {key}": str(value) for key, value in settings.slurm.items()}
        if settings.ray.address is not None:
            named["[ray] address"] = settings.ray.address
        if settings.openlineage.url is not None:
            named["[openlineage] url"] = without_secrets(settings.openlineage.url)
        for stage in STAGE_NAMES:
            rendezvous = settings.resources(stage).rendezvous
            if rendezvous is not None:
                named[f"[machine] rendezvous of {stage}"] = rendezvous
        # The environment, which is the user's own, goes before the setting.
        url = settings.registry.url
        if "BTX_REGISTRY_URL" not in os.environ and trust.outside(self.root, url):
            named["[registry] url"] = without_secrets(url)
        return trust.statements(self.root, template() / "dvc.yaml", named)

    @cached_property
    def catalog(self) -> Catalog:
        """The open registry.

        Raises:
            NotFound: where there is none, and where it knows nothing of what lies here.
            Conflict: where the ledger has events that it lacks, or others.
        """
        url = self.registry_url
        path = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite:///") and not path.exists():
            raise self._no_registry(without_secrets(url), "no registry")
        catalog = self.catalog_to_fill
        known = self._known_here()
        if known and not catalog.last():
            found = f"an empty registry beside {known[0]}"
            raise self._no_registry(without_secrets(url), found)
        if not self.audited:
            ledger.require_one_history(self.ledger, catalog)
        return catalog

    @cached_property
    def catalog_to_fill(self) -> Catalog:
        """The open registry, made where there is none."""
        return Catalog(
            self.registry_url, actor=self.acting or actor(), after_write=self.write_ledger
        )

    def write_ledger(self, catalog: Catalog) -> None:
        """Write the events of a catalogue into the ledger, where the workspace keeps one."""
        with shared_as(self.root):
            ledger.append(self.ledger, catalog)

    def held_here(self) -> list[str]:
        """Return the .dvc files of all versions that lie in this workspace, relative to it."""
        paths = [path for pattern in HELD for path in self.root.glob(pattern)]
        return sorted(path.relative_to(self.root).as_posix() for path in paths)

    def _known_here(self) -> list[str]:
        """Return what lies here of a registry: .dvc files of versions, and the ledger."""
        kept = [self.ledger.name] if ledger.entries(self.ledger) else []
        return [*self.held_here(), *kept]

    def _no_registry(self, where: str, found: str) -> NotFound:
        if ledger.entries(self.ledger):
            advice = (
                "btx registry restore makes it from ledger/; or name the one that is in use: "
                "export BTX_REGISTRY_URL=..."
            )
        elif not self.held_here():
            advice = "btx init makes one; or correct the address"
        else:
            advice = (
                "name the registry that knows these versions: export BTX_REGISTRY_URL=...; or "
                "bring it here: btx registry load DIR, of btx registry dump where it is"
            )
        return NotFound(where, found=found, expected="the registry of this workspace", next=advice)

    def training_by(self, recipes: Recipes) -> "Workspace":
        """Return the same workspace, whose branches are trained by other recipes."""
        own = {"train": recipes.train, "expert": recipes.expert}
        settings = self.settings.model_copy(
            update={"recipe": self.settings.recipe.model_copy(update=own)}
        )
        return replace(self, settings=settings)

    def acting_as(self, name: str) -> "Workspace":
        """Return this workspace with a catalogue of its own, in which another person writes."""
        return replace(self, acting=name)

    def stating(self, given: GivenFacts) -> "Workspace":
        """Return this workspace, through which versions are registered with these own facts."""
        return replace(self, given=given) if given.any else self

    @cached_property
    def store(self) -> Store:
        """The content store."""
        return Store(self.root / ".btx" / "store")

    @property
    def registry_url(self) -> str:
        """The database: BTX_REGISTRY_URL, or else the settings'; SQLite's path made absolute."""
        url = os.environ.get("BTX_REGISTRY_URL") or self._registry_setting()
        prefix = "sqlite:///"
        relative = url.startswith(prefix) and not url.startswith(prefix + "/")
        return f"{prefix}{self.root / url.removeprefix(prefix)}" if relative else url

    @property
    def own_registry(self) -> Path | None:
        """The database's file, where it lies in this workspace alone."""
        path = Path(self.registry_url.removeprefix("sqlite:///"))
        return path if path.is_relative_to(self.root) else None

    def _registry_setting(self) -> str:
        """Return the settings' URL, with passwords from the environment alone."""
        url = self.settings.registry.url
        if has_secret(url):
            raise Invalid(
                f"{self.root / SETTINGS}, [registry] url",
                found="a password in a file that git keeps and others read",
                expected=(
                    "one from the environment: postgresql+psycopg://user:${NAME}@host/database"
                ),
                next="write ${NAME} in its place, or leave it out and use PGPASSWORD or ~/.pgpass",
            )
        return from_environment(url)

    @property
    def policies(self) -> Path:
        """The folder of the policies."""
        return self.root / "policies"

    @property
    def ledger(self) -> Path:
        """The folder in which git keeps rows and log; where it is missing, none are kept so."""
        return self.root / ledger.FOLDER

    @property
    def private(self) -> Path:
        """The folder of words that the log holds by digest alone."""
        return self.root / ".btx" / "private"

    @property
    def facts(self) -> Path:
        """The file that says which facts of its own the company states."""
        return self.root / "facts.yaml"

    @property
    def work(self) -> Path:
        """The folder of what the stages make."""
        return self.root / "work"

    def folder(self, ref: str | Reference) -> Path:
        """Return where a version's files are for people to read: data/math/1, builds/7."""
        version = parse(ref)
        return self.root / version.kind.plural / version.path

    @contextmanager
    def numbering(self, kind: Kind, name: str) -> Iterator[int]:
        """Hold the next number of a name while a version takes it.

        Nobody else on this registry, on whatever machine, takes the number meanwhile: whoever wants
        the same name waits.

        Args:
            kind: of the version.
            name: its name; empty for a build.

        Yields:
            The number.
        """
        with self.catalog.database.lock(f"{kind}/{name}"):
            yield self.next_number(kind, name)

    def writer(self) -> str | None:
        """Return who holds the write lock now; None where nobody does."""
        path = self.root / ".btx" / "lock"
        try:
            with path.open(encoding="utf-8") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return lock.read().strip() or "another command"
        except FileNotFoundError:
            run_lock.wait_until_gone(self.root)
        return None

    def next_number(self, kind: Kind, name: str) -> int:
        """Return the number that the next version of this name gets here.

        It is none that lies in this workspace already, with or without a row, nor one that any
        branch in git has or had: a registry may be older than the folders, and what git or DVC
        holds under a number means that for ever.
        """
        number = self.catalog.next_version(kind, name)
        parent = self.folder(Reference(kind, name, number)).parent
        there = [path.name.removesuffix(".dvc") for path in parent.glob("[0-9]*")]
        there += _numbers_in_git(parent)
        for held in sorted({int(one) for one in there if one.isdecimal()}):
            if held >= number and not unfinished_mark(self.root, parent / str(held)).exists():
                number = held + 1
        return number

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Hold the workspace's one write lock.

        Another writer waits, after a line on stderr that says who holds it. Processes that are
        started inside may inherit the lock: when this one is killed, the next writer waits for
        what it left running, here or on other machines.

        Args:
            what: the command that writes, for that line.
        """
        path = self.root / ".btx" / "lock"
        with ExitStack() as stack:
            stack.enter_context(shared_as(self.root))
            path.parent.mkdir(exist_ok=True)
            lock = stack.enter_context(path.open("a+", encoding="utf-8"))
            os.set_inheritable(lock.fileno(), True)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "another command"
                remark(f"waiting: {holder} is writing to {self.root}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            lock.truncate(0)
            lock.write(f"btx {what} (process {os.getpid()}, {self.acting or actor()})")
            lock.flush()
            run_lock.wait_until_gone(self.root)
            _forget_unfinished_notes(self.root)
            _forget_the_killed(self.root / ".dvc" / "tmp" / "rwlock")
            _set_driver(self.root)
            yield

    @property
    def being_written(self) -> bool:
        """Whether a command holds the write lock now."""
        path = self.root / ".btx" / "lock"
        if not path.exists():
            return False
        with path.open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def unfinished_mark(root: Path, target: Path) -> Path:
    """Return the file that is there while a version's folder has no row yet."""
    return root / ".btx" / "unfinished" / target.relative_to(root).as_posix().replace("/", "-")


def _numbers_in_git(parent: Path) -> list[str]:
    """Return the numbers of this name that any commit which git knows here has a .dvc file for."""
    around = next((folder for folder in parent.parents if folder.is_dir()), parent)
    pattern = f"{parent.relative_to(around).as_posix()}/*.dvc"
    done = git(around, "log", "--all", "--format=", "--name-only", "--relative", "--", pattern)
    return [Path(line).stem for line in done.stdout.splitlines() if line.endswith(".dvc")]


def _forget_unfinished_notes(root: Path) -> None:
    """Remove what killed stages noted of how far they had come: none of them runs any more."""
    # Imported here: bars take long to import, and few commands write.
    from pipelines.workspace.bars import forget_unfinished, notes

    for note in notes(root):
        forget_unfinished(note)


def _forget_the_killed(path: Path) -> None:
    """Remove DVC's list of the processes that hold its files, unless one of them still runs.

    A DVC that was killed leaves the list torn, or naming a process that is a zombie or another
    program by now; DVC would refuse to work because of either.
    """
    try:
        held = any_json(path.read_text(encoding="utf-8"))
        pids = set(_process_ids(held))
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pids = set()
    if not any(_is_dvc(pid) for pid in pids):
        path.unlink(missing_ok=True)


def _process_ids(value: Any) -> Iterator[int]:  # DVC's own JSON, of whatever shape
    """Yield every process that DVC's list of holders names."""
    if isinstance(value, dict) and "pid" in value:
        yield value["pid"]
        return
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _process_ids(inner)


def _is_dvc(pid: int) -> bool:
    # Imported here: few commands find a process in the list.
    import psutil

    try:
        process = psutil.Process(pid)
        runs_dvc = any("dvc" in word for word in process.cmdline())
        return runs_dvc and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def check_expert_name(name: str) -> None:
    """Refuse a name that no expert can have.

    Raises:
        Invalid: for what no reference can hold, and for `seed`, which means the seed in every mix.
    """
    if name == "seed":
        raise Invalid(
            "expert name 'seed'",
            found="reserved",
            expected="another name",
            next="the seed takes part in every mix by itself",
        )
    check_name(Kind.EXPERT, name)


def check_name(kind: Kind, name: str) -> None:
    """Refuse a name that no version of a kind can have.

    Raises:
        Invalid: for what no reference can hold.
    """
    if "@" in name:
        raise Invalid(
            f"{kind} name {name!r}",
            found="a version",
            expected="a name alone",
            next="leave it out: the next one is given",
        )
    parse(f"{kind}/{name}")


def actor() -> str:
    """Return who acts: BTX_ACTOR, or else the account's name.

    Raises:
        Invalid: for an account without a name, as containers run under.
    """
    try:
        return os.environ.get("BTX_ACTOR") or getpass.getuser()
    except (KeyError, OSError):
        raise Invalid(
            "who acts",
            found=f"account {os.getuid()}, which has no name here",
            expected="a name for the log",
            next="export BTX_ACTOR=NAME",
        ) from None


def template() -> Path:
    """Return the folder that holds dvc.yaml and policies/.

    That is the checkout's own, or their copy inside the installed package.
    """
    here = Path(__file__).parents[1]
    return here / "template" if (here / "template").is_dir() else here.parent


def create(root: Path) -> Workspace:
    """Make a folder a workspace: git, DVC, btx.toml, dvc.yaml, policies/, facts.yaml.

    What is already there stays as it is. Below a git repository the workspace is a part of it, and
    a DVC project of its own, as `dvc init --subdir` makes one.

    Raises:
        Conflict: where a dvc.yaml lies that lacks the stages of btx; then nothing is written.
    """
    root = root.resolve()
    require_stages(root / "dvc.yaml", template() / "dvc.yaml")
    root.mkdir(parents=True, exist_ok=True)
    with shared_as(root):
        return _create(root)


def _create(root: Path) -> Workspace:
    around = enclosing_repository(root)
    settings = read_settings(root / SETTINGS) if (root / SETTINGS).exists() else Settings()
    before = Workspace(root, settings)
    trust.require(root, before.statements())
    for source in (template() / "dvc.yaml", template() / "policies", SHIPPED_FACTS):
        _copy_new(source, root / source.name)
    _write_new(root / "branches.yaml", "branches: {}\n")
    if around is None and not (root / ".git").exists():
        _run(root, "git", "init", "--quiet", *(["--shared=group"] if is_shared(root) else []))
    if not (root / ".dvc").is_dir():
        # Imported here: DVC takes long to import.
        from pipelines.workspace import dvc_cache

        dvc_cache.make_project(root, below=around is not None, shared=is_shared(root))
    _add_lines(root / ".gitignore", IGNORED)
    _add_lines(root / ".gitattributes", ATTRIBUTES)
    _set_driver(root)
    if not any((root / name).exists() for name in (".btx", ledger.FOLDER)) and before.own_registry:
        make_ledger(before)
    # Last: with it the folder is a workspace.
    _write_new(root / SETTINGS, DEFAULT_SETTINGS)
    workspace = Workspace.find(root)
    (root / ".btx").mkdir(exist_ok=True)
    workspace.catalog_to_fill.head()
    return workspace


def make_ledger(workspace: Workspace) -> None:
    """Let git keep rows and log of this workspace's registry from now on."""
    workspace.ledger.mkdir(exist_ok=True)
    _write_new(workspace.ledger / "README.md", ABOUT_LEDGER)


def _add_lines(path: Path, lines: str) -> None:
    """Add the lines that a file lacks."""
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    missing = [line for line in lines.splitlines() if line not in known]
    if missing:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n".join(missing) + "\n")


def _set_driver(root: Path) -> None:
    """Let git keep this clone's own files on a merge, where the workspace asks for that."""
    attributes = root / ".gitattributes"
    if not attributes.is_file() or DRIVER.encode() not in attributes.read_bytes():
        return
    key = f"merge.{DRIVER}.driver"
    # `true` leaves the file of this clone as it is. Outside of a git repository nothing is set.
    if git(root, "config", "--get", key).returncode:
        git(root, "config", key, "true")


def _copy_new(source: Path, target: Path) -> None:
    if target.exists():
        return
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            _copy_new(path, target / path.name)
    else:
        # Without the modes of an installed package's files.
        shutil.copyfile(source, target)


def _write_new(path: Path, text: str) -> None:
    if not path.exists():
        path.write_text(text, encoding="utf-8")


def _run(root: Path, *command: str) -> None:
    done = subprocess.run(
        command, cwd=root, env=child_environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise Invalid(
            " ".join(command),
            found=(done.stderr or done.stdout).strip(),
            expected="exit status 0",
            next="fix what it names",
        )
