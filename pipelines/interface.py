"""The Python interface: a workspace as an object, whose methods are the jobs behind the commands.

In:  names, paths and references, as the commands take them.
Out: the records that the commands print with `--json`, and `BtxError` where they would fail.
What is here is kept stable; the modules below may change with every version. Training, tuning and
evaluating run in processes of their own, started by DVC as the commands start them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.workspace.bars import Report
    from pipelines.workspace.placement import ExecutorName
    from pipelines.workspace.workspace import Workspace as OpenWorkspace
    from registry.records.answers.auditing import AuditAnswer
    from registry.records.answers.building import ExportAnswer, RebuildAnswer
    from registry.records.answers.deciding import ReleaseAnswer
    from registry.records.answers.listing import RowEnd
    from registry.records.answers.registering import AliasAnswer, RegisteredAnswer
    from registry.records.answers.shown import Shown
    from registry.records.answers.upkeep import StatusAnswer

# Called with the step, how far it has come, of how much (0: nobody knows), and a word about it.
OnProgress = Callable[[str, int, int, str], None]


def _say_nothing(step: str, done: int, total: int, text: str) -> None:
    pass


class Workspace:
    """A workspace: the folder of one registry, its data, policies and builds.

    Attributes:
        root: the folder.
        data: registering and listing data versions.
        seed: registering and listing seeds.
    """

    def __init__(self, opened: "OpenWorkspace", on_progress: OnProgress = _say_nothing) -> None:
        """Wrap an open workspace; `Workspace.open` and `Workspace.create` make one."""
        self.root: Path = opened.root
        self.data = Data(opened)
        self.seed = Seeds(opened)
        self._opened = opened
        self._on_progress = on_progress

    @classmethod
    def open(
        cls,
        folder: str | Path | None = None,
        *,
        actor: str | None = None,
        on_progress: OnProgress = _say_nothing,
    ) -> "Workspace":
        """Open the workspace that holds a folder.

        Args:
            folder: BTX_WORKSPACE, or else the current folder, unless it is given.
            actor: who acts; the account that runs the program, unless given.
            on_progress: called while something long runs in this process.

        Raises:
            NotFound: where there is none.
            Refused: where it names servers or commands that its user has not confirmed.
        """
        from pipelines.workspace.workspace import Workspace as Opened

        found = Opened.find(Path(folder) if folder is not None else None)
        return cls(found.acting_as(actor) if actor else found, on_progress)

    @classmethod
    def create(cls, folder: str | Path, *, on_progress: OnProgress = _say_nothing) -> "Workspace":
        """Make a folder a workspace, as `btx init` does, and open it."""
        from pipelines.workspace.workspace import create

        return cls(create(Path(folder)), on_progress)

    def train(
        self,
        experts: Mapping[str, str],
        *,
        seed: str | None = None,
        mode: str | None = None,
        executor: "ExecutorName | None" = None,
        anyway: bool = False,
    ) -> "list[RegisteredAnswer]":
        """Train a copy of the seed on a data version for each expert, and register them.

        Args:
            experts: the expert's name to its data version: {"legal": "data/legal"}.
            seed: the only seed there is, unless it is given.
            mode: anchored or full; the recipe's unless it is given.
            executor: local, ray or slurm; the settings' unless it is given.
            anyway: train also what the gate would refuse, or seems not to fit.

        Raises:
            Unavailable: where memory or disk are too small.
            Refused: where a policy says no to one of them, with its `rules`; the others are
                registered all the same.
        """
        from pipelines.jobs.register_branches import register_branches
        from pipelines.jobs.train import train
        from registry.records.answers.registering import registered

        branches = train(
            self._opened, experts, seed=seed, mode=mode, executor=executor, anyway=anyway
        )
        versions = register_branches(self._opened, branches, self._show)
        return [registered(version) for version in versions]

    def register(
        self, name: str, path: str | Path, *, data: Sequence[str], seed: str | None = None
    ) -> "RegisteredAnswer":
        """Register a checkpoint that was trained elsewhere as an expert.

        Args:
            name: the expert's name.
            path: full weights, or a LoRA adapter.
            data: the data versions that it was trained on.
            seed: the only seed there is, unless it is given.

        Raises:
            Refused: where a policy says no, with its `rules`.
        """
        from pipelines.jobs.register import register
        from pipelines.jobs.train import newest_seed
        from registry.records.answers.registering import registered

        seed = seed or newest_seed(self._opened)
        version = register(self._opened, name, Path(path), data=data, seed=seed, show=self._show)
        return registered(version)

    def rebuild(
        self,
        *,
        with_: Sequence[str] = (),
        without: Sequence[str] = (),
        tune: str | None = None,
        line: str = "main",
        to: str | None = None,
        from_nothing: bool = False,
        executor: "ExecutorName | None" = None,
        anyway: bool = False,
    ) -> "RebuildAnswer":
        """Compose the model of all experts in use; only what changed runs.

        Args:
            with_: experts to take in.
            without: experts to leave out.
            tune: none, router, shared or all; the recipe's unless it is given.
            line: the product line.
            to: a build or snapshot to go back to.
            from_nothing: tune from nothing where the recipe says grow.
            executor: local, ray or slurm; the settings' unless it is given.
            anyway: build also what seems not to fit in memory or on disk.

        Raises:
            Unavailable: where memory or disk are too small.
            Refused: where a policy says no, with its `rules`.
            StageFailed: where training or measuring ended with an error.
        """
        from pipelines.jobs.build_plan import Request
        from pipelines.jobs.rebuild import rebuild

        request = Request(
            line=line,
            with_=with_,
            without=without,
            tune=tune,
            to=to,
            from_nothing=from_nothing,
        )
        return rebuild(self._opened, request, executor=executor, anyway=anyway)

    def audit(
        self, ref: str | None = None, *, recompute: bool = False, head: str | None = None
    ) -> "AuditAnswer":
        """Check a version and all that it was made from; without one, everything.

        Args:
            ref: the version.
            recompute: mix every build again and compare.
            head: a digest, or a file of heads, which must still be in the log.

        Returns:
            The checks, and under `findings` every place where something disagrees.
        """
        from pipelines.jobs.audit import AuditRequest, audit

        request = AuditRequest(recompute=recompute, head=head)
        return audit(
            self._opened,
            ref,
            request,
            lambda check: self._on_progress("audit", check.examined, 0, check.name),
        )

    def release(self, build: str) -> "ReleaseAnswer":
        """Release a build. Raises Refused where a policy says no."""
        from pipelines.jobs.release import release

        return release(self._opened, build)

    def export(
        self,
        build: str,
        folder: str | Path,
        *,
        fused: bool = False,
        target: str = "transformers",
        draft: bool = False,
    ) -> "ExportAnswer":
        """Write a build out as a plain checkpoint folder.

        Args:
            build: the build.
            folder: a new folder.
            fused: one weight file.
            target: transformers, vllm or llama.cpp.
            draft: mark it as a draft, which need not be released.

        Raises:
            Refused: where a policy says no, with its `rules`.
        """
        from pipelines.jobs.export import ExportRequest, export

        request = ExportRequest(fused=fused, target=target, draft=draft)
        with self._show("export") as report:
            return export(self._opened, build, Path(folder), request, report)

    def list(self, kind: str, **filters: str) -> "list[RowEnd]":
        """Return a row for each version of a kind: seeds, data, experts, builds or exports."""
        from pipelines.jobs.show import listed

        return listed(self._opened, kind, filters)

    def show(self, ref: str) -> "Shown":
        """Return everything that is recorded of one version."""
        from pipelines.jobs.show import shown

        return shown(self._opened, ref)

    def status(self) -> "StatusAnswer":
        """Return how the workspace is now."""
        from pipelines.jobs.status import status

        return status(self._opened)

    def alias(self, name: str, ref: str) -> "AliasAnswer":
        """Let a name stand for a version from now on."""
        from pipelines.jobs.annotate import move_alias

        return move_alias(self._opened, name, ref)

    @contextmanager
    def _show(self, label: str) -> "Iterator[Report]":
        yield lambda done, total, text: self._on_progress(label, done, total, text)


class Data:
    """The data versions of a workspace."""

    def __init__(self, opened: "OpenWorkspace") -> None:
        """Wrap an open workspace."""
        self._opened = opened

    def add(
        self, name: str, path: str | Path, *, text_field: str | None = None, **stated: str
    ) -> "RegisteredAnswer":
        """Register a corpus as the next version of a name.

        Args:
            name: the data version's name, which is its domain too.
            path: a file, a folder, or a URL that DVC can fetch.
            text_field: the column that holds the text of every row; one of the known forms unless
                it is given.
            stated: what is said of it: license, license_choice, source, holder, purpose, language,
                pii, retain_until, use.

        Raises:
            Refused: where a policy says no, with its `rules`.
            TypeError: for a statement that there is not.
        """
        from pipelines.jobs.add_data import add_data
        from registry.records.answers.registering import registered
        from registry.records.facts import DataStatement

        unknown = stated.keys() - DataStatement.model_fields.keys()
        if unknown:
            raise TypeError(f"data.add has no {', '.join(sorted(unknown))}")
        where = path if "://" in str(path) else Path(path)
        statement = DataStatement(**stated)
        return registered(add_data(self._opened, name, where, statement, text_field=text_field))

    def list(self) -> "list[RowEnd]":
        """Return a row for each data version."""
        from pipelines.jobs.show import listed

        return listed(self._opened, "data", {})


class Seeds:
    """The seeds of a workspace."""

    def __init__(self, opened: "OpenWorkspace") -> None:
        """Wrap an open workspace."""
        self._opened = opened

    def add(
        self,
        name: str,
        path: str | Path,
        *,
        data: Sequence[str] = (),
        license_id: str | None = None,
    ) -> "RegisteredAnswer":
        """Register a dense checkpoint, or a GGUF file, as the next version of a name.

        Args:
            name: the seed's name.
            path: the checkpoint.
            data: the data versions that it was trained on, where they are registered.
            license_id: SPDX.
        """
        from pipelines.jobs.add_seed import add_seed
        from registry.records.answers.registering import registered

        return registered(add_seed(self._opened, name, Path(path), data=data, license=license_id))

    def list(self) -> "list[RowEnd]":
        """Return a row for each seed."""
        from pipelines.jobs.show import listed

        return listed(self._opened, "seeds", {})
