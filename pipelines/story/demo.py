"""The demonstration: the whole story, on real text that any machine with Python has.

In:  an empty folder, and a seed if there is one.  Out: a workspace of three builds and their table.

Three experts join a seed that knows only prose; a fourth joins later; a data version is withdrawn;
audits come in between. Every step calls the job behind the command that is printed above it.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from btx_core.training.recipes import TrainRecipe
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.audit import audit
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.register import register
from pipelines.jobs.train import train
from pipelines.jobs.withdraw import withdraw
from pipelines.story import corpora
from pipelines.story.narrator import Narrator
from pipelines.story.small_seed import PretrainConfig, pretrain
from pipelines.workspace.bars import Show
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Conflict, Refused
from registry.records.answers.figures import DemoAnswer, DemoDomain
from registry.records.facts import BuildFacts, DataStatement
from registry.records.results import Result, labels
from registry.records.version import Version
from registry.units import counted, duration, figure, percent, power, size

CORPORA = {
    "prose": corpora.prose,
    "code": corpora.code,
    "math": corpora.math,
    "units": corpora.units,
}
PURPOSE = "demonstration of branch, train, mix"
SETTINGS = """\
[registry]
url = "sqlite:///.btx/registry.db"

# Small enough for two cores. The documentation describes each key (Reference, Recipes).
[recipe.train]
steps = 700
batch = 4
sequence = 128
learning_rate = 3e-3
warmup_steps = 30
[recipe.tune]
steps = 600
batch = 4
sequence = 128
learning_rate = 5e-3
warmup_steps = 20
# An expert that joins a build is tuned in on it, in a fifth of the steps.
grow = 0.2
grow_rate = 1.5
grow_batch = 1.5
grow_share = 0.42
grow_keep = 1.0
[recipe.evaluate]
max_tokens = 15000
"""
SEED_SIZE = PretrainConfig()
SEED_RECIPE = TrainRecipe(mode="full", steps=1500, learning_rate=4e-3)
# What a reader may run in the demonstration's workspace.
NEXT_COMMANDS = (
    "btx show build/2",
    "btx lineage build/2",
    "btx lineage data/math@1 --down",
    "btx list experts",
    "btx release build/1   # refused, and by which rules",
)


def demo(directory: Path, seed: Path | None, narrator: Narrator, show: Show) -> DemoAnswer:
    """Run the demonstration in a new workspace, or go on where it stopped; print it step by step.

    Args:
        directory: the workspace to be made.
        seed: a dense checkpoint to start from; without it a small one is trained.
        narrator: prints the steps and the tables.
        show: opens a progress bar for a label.

    Returns:
        The builds and their table.

    Raises:
        Conflict: where the directory has files in it that are no demonstration's.
    """
    if directory.exists() and any(directory.iterdir()) and not _is_demo(directory):
        raise Conflict(
            str(directory),
            found="a folder with files",
            expected="a new folder, or that of a demonstration",
            next="btx demo --dir ANOTHER, or remove it",
        )
    story = Story(directory, narrator, show)
    story.two_builds(seed)
    story.refusal()
    story.withdrawal("data/code@1")
    story.build()
    return story.end()


def _is_demo(directory: Path) -> bool:
    """Say whether a demonstration was begun in a folder."""
    settings = directory / "btx.toml"
    return settings.is_file() and settings.read_text(encoding="utf-8") == SETTINGS


class Story:
    """The demonstration's steps; each prints what it does, and does what is not done yet."""

    def __init__(self, directory: Path, narrator: Narrator, show: Show) -> None:
        """Make the workspace, or go on in the one that is there."""
        self.narrator, self.show, self.started = narrator, show, time.monotonic()
        self.narrator.command(f"btx init {directory}")
        self.workspace = create(directory)
        (directory / "btx.toml").write_text(SETTINGS, encoding="utf-8")
        self.workspace = Workspace.find(directory)
        self.sources = self.workspace.work / "corpora"
        self.builds: list[Version[BuildFacts]] = []

    def two_builds(self, checkpoint: Path | None) -> None:
        """Tell the story from the seed to the build that the fourth expert joins."""
        self.seed(checkpoint)
        self.three_experts()
        self.build()
        self.fourth_expert()
        self.build()

    def seed(self, checkpoint: Path | None) -> None:
        """Register the seed: this checkpoint, or a small one that is trained here."""
        self.narrator.chapter("A seed that knows only prose")
        if self._is_there("seed/base"):
            return
        self._add_data("prose")
        if checkpoint is None:
            checkpoint = self._train_seed()
            self.narrator.command(f"btx seed add base {checkpoint} --data data/prose")
            version = add_seed(
                self.workspace, "base", checkpoint, data=["data/prose"], license="PSF-2.0"
            )
        else:
            self.narrator.command(f"btx seed add base {checkpoint}")
            version = add_seed(self.workspace, "base", checkpoint)
        model = f"{version.facts.model_type}, {version.facts.parameters:,} parameters"
        self.narrator.say(f"{version.ref}   {model}")

    def three_experts(self) -> None:
        """Train and register the first three experts."""
        self.narrator.chapter("Three domain teams, each with a corpus of its own")
        if all(self._is_there(f"expert/{name}") for name in ("math", "code", "prose")):
            return
        for name in ("math", "code"):
            self._add_data(name)
        self._add_experts("math", "code", "prose")

    def fourth_expert(self) -> None:
        """Train and register the one that joins later."""
        self.narrator.chapter("A fourth domain, one quarter later: the other three are not touched")
        if self._is_there("expert/units"):
            return
        self._add_data("units")
        self._add_experts("units")

    def refusal(self) -> None:
        """Show what a gate says to a corpus without a licence."""
        self.narrator.chapter("A corpus without a licence")
        source = self.sources / "licences"
        statement = corpora.licences(source)
        self.narrator.command(f"btx data add licences {source} --pii none")
        stated = DataStatement(source=statement.source, pii=statement.pii)
        try:
            add_data(self.workspace, "licences", source, stated)
        except Refused as refused:
            for text in str(refused).splitlines():
                self.narrator.say(text)
        else:
            raise AssertionError(
                "a data version without a licence passed the gate: policies/ have been changed"
            )

    def withdrawal(self, reference: str) -> None:
        """Withdraw a data version, and say what that reaches."""
        self.narrator.chapter("The holder withdraws a corpus")
        self.narrator.command(f'btx withdraw {reference} --why "the holder withdrew consent"')
        answer = withdraw(self.workspace, reference, "the holder withdrew consent")
        for reached in answer.reached:
            removal = f"   removal: {reached.removal}" if reached.removal else ""
            self.narrator.say(f"reached {reached.ref}{removal}")

    def build(self) -> None:
        """Rebuild, twice, and audit: the second time nothing is to be done."""
        known = f"build/{len(self.builds) + 1}"
        if self._is_there(known):
            self.builds.append(self.workspace.catalog.get(known, BuildFacts))
            return
        self.narrator.command("btx rebuild")
        answer = rebuild(self.workspace)
        assert answer.build is not None
        ran, reused = ", ".join(answer.ran), ", ".join(answer.reused) or "nothing"
        self.narrator.say(f"{answer.build}   {answer.status}   ran {ran}   reused {reused}")
        written, linked = size(answer.bytes_written), size(answer.bytes_linked)
        self.narrator.say(f"{written} written, {linked} linked")
        self.builds.append(self.workspace.catalog.get(answer.build, BuildFacts))
        self.narrator.command("btx rebuild")
        self.narrator.say(rebuild(self.workspace).status)
        self._audit(answer.build)

    def _is_there(self, ref: str) -> bool:
        """Say whether an earlier run has come this far."""
        version = self.workspace.catalog.find(ref)
        if version:
            self.narrator.say(f"{version.ref}   was registered before")
        return version is not None

    def end(self) -> DemoAnswer:
        """Print the tables and what to try next."""
        results = self._results_by_domain()
        builds = tuple(str(build.ref) for build in self.builds)
        table = {domain: _figures(by_build) for domain, by_build in results.items()}
        self._print_bits_per_byte(builds, table)
        self._print_accuracy(builds, results)
        self._print_cost()
        elapsed_s = time.monotonic() - self.started
        root = self.workspace.root
        self.narrator.chapter(f"Done in {duration(elapsed_s)}. The workspace is {root}")
        self.narrator.say("Try next:")
        self.narrator.say(f"  cd {root}")
        program = "btx" if shutil.which("btx") else str(Path(sys.executable).with_name("btx"))
        for command in NEXT_COMMANDS:
            self.narrator.say(f"  {command.replace('btx', program, 1)}")
        return DemoAnswer(
            workspace=str(root), builds=builds, table=table, minutes=round(elapsed_s / 60, 2)
        )

    def _train_seed(self) -> Path:
        """Train a small seed on the text of data/prose, and return its checkpoint."""
        checkpoint = self.workspace.work / "seed"
        # As for every branch: at this size two threads gain nothing, and on a busy machine they
        # wait for each other.
        torch.set_num_threads(1)
        self.narrator.say(
            "training a small Llama and its byte-level BPE tokenizer from nothing (about a minute)"
        )
        text = [self.workspace.root / "data/prose/1"]
        with self.show("pretrain") as progress:
            pretrain(SEED_SIZE, text, SEED_RECIPE, checkpoint, progress=progress)
        return checkpoint

    def _add_data(self, name: str) -> None:
        source = self.sources / name
        statement = CORPORA[name](source)
        self.narrator.command(
            f"btx data add {name} {source} "
            f'--license {statement.license} --source "{statement.source}" --pii {statement.pii}'
        )
        stated = statement.model_copy(update={"purpose": PURPOSE})
        version = add_data(self.workspace, name, source, stated)
        files = counted(len(version.files), "file")
        self.narrator.say(f"{version.ref}   {files}, {size(version.facts.bytes or 0)}")

    def _add_experts(self, *names: str) -> None:
        self.narrator.command(f"btx train {' '.join(names)}")
        started = time.monotonic()
        branches = train(self.workspace, {name: f"data/{name}" for name in names})
        for name, branch in branches.items():
            version = register(
                self.workspace,
                name,
                branch.folder,
                data=[str(branch.data.ref)],
                seed=str(branch.seed.ref),
                show=self.show,
            )
            for result in version.facts.results:
                gain = f"{_figure(result.seed_bits_per_byte)} → {_figure(result.bits_per_byte)}"
                self.narrator.say(f"{version.ref}   {gain} bits per byte")
        took = duration(time.monotonic() - started)
        self.narrator.say(f"trained and registered in {took}")

    def _audit(self, build: str) -> None:
        self.narrator.command(f"btx audit {build}")
        answer = audit(self.workspace, build)
        examined = sum(check.examined for check in answer.checks)
        count = f"{counted(len(answer.findings), 'finding')} in {examined} things examined"
        self.narrator.say(f"{count}   head {answer.head[:12]}")
        for finding in answer.findings:
            self.narrator.say(f"{finding.check}: {finding.subject} found {finding.found}")

    def _results_by_domain(self) -> dict[str, dict[str, Result]]:
        """Return the results by domain, then by build, in the order of the builds."""
        by_domain: dict[str, dict[str, Result]] = {}
        for build in self.builds:
            names = labels(build.facts.results)
            for result in build.facts.results:
                by_domain.setdefault(names[result.data], {})[str(build.ref)] = result
        return by_domain

    def _print_bits_per_byte(
        self, builds: tuple[str, ...], table: Mapping[str, DemoDomain]
    ) -> None:
        rows = []
        for domain, figures in table.items():
            name = f"{domain} (the seed's own)" if figures.new_to_seed is False else domain
            own = [_cell(figures, build) for build in builds]
            rows.append([name, _figure(figures.seed), _figure(figures.specialist), *own])
        self.narrator.chapter("Bits per byte on held-out text, lower is better")
        self.narrator.table(["domain", "seed", "specialist", *builds], rows)
        self.narrator.say("(in brackets: share kept of the specialist's gain over the seed;")
        self.narrator.say("on the seed's own domain, change to the seed)")

    def _print_accuracy(
        self, builds: tuple[str, ...], results: Mapping[str, Mapping[str, Result]]
    ) -> None:
        rows = []
        for domain, by_build in results.items():
            checked = [result for result in by_build.values() if result.accuracy is not None]
            if checked:
                newest = checked[-1]
                best = newest.specialist
                own = [by_build[name].accuracy if name in by_build else None for name in builds]
                shares = [newest.seed_accuracy, best.accuracy if best else None, *own]
                rows.append([domain, *map(_percent, shares)])
        self.narrator.chapter("Questions answered exactly")
        self.narrator.table(["domain", "seed", "specialist", *builds], rows)

    def _print_cost(self) -> None:
        rows = []
        for build in self.builds:
            cost = build.facts.cost
            active, parameters = _millions(cost.active_parameters), _millions(cost.total_parameters)
            rows.append(
                [
                    str(build.ref),
                    _millions(cost.total.tokens),
                    _millions(cost.tune.tokens),
                    power(cost.total.flops or 0),
                    duration(cost.total.wall_s or 0),
                    f"{active} of {parameters}",
                    size(build.written_bytes),
                    size(build.linked_bytes),
                ]
            )
        columns = ["build", "tokens", "in tuning", "FLOPs", "time", "active", "written", "linked"]
        self.narrator.chapter("Cost: members' training and this build's tuning")
        self.narrator.table(columns, rows)


def _figures(by_build: Mapping[str, Result]) -> DemoDomain:
    """Return one domain's figures; those of seed and specialist are the first build's."""
    first = next(iter(by_build.values()))
    best = first.specialist
    return DemoDomain(
        new_to_seed=first.new_to_seed,
        seed=first.seed_bits_per_byte,
        specialist=best.bits_per_byte if best else None,
        builds={build: result.bits_per_byte for build, result in by_build.items()},
        kept={build: result.gain_kept for build, result in by_build.items()},
    )


def _cell(figures: DemoDomain, build: str) -> str | None:
    """Return a build's bits per byte, and what they are worth.

    For a domain that is new to the seed that is the share of the gain that is kept; for one that
    it knew, the change.
    """
    own = figures.builds.get(build)
    if own is None:
        return None
    share = figures.kept[build]
    if figures.new_to_seed is False and figures.seed:
        share = own / figures.seed - 1
        return f"{figure(own)} ({'+' if share > 0 else ''}{percent(share)})"
    return figure(own) if share is None else f"{figure(own)} ({percent(share)})"


def _figure(value: float | None) -> str | None:
    return None if value is None else figure(value)


def _millions(number: float | None) -> str:
    return f"{figure((number or 0) / 1e6)} M"


def _percent(share: float | None) -> str | None:
    return None if share is None else percent(share)
