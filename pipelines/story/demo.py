"""The demonstration: the whole story, on real text that any machine with Python holds.

Three experts join a seed that knows prose alone; a fourth joins later; a data version is withdrawn;
audits come in between. Every step calls the job behind the command that is printed above it.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from registry.records.facts import BuildFacts, DataStatement
from registry.records.results import Result, labels
from registry.records.version import Version
from registry.units import size

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

# Small enough for two cores; the recipes' own files in btx_core say what each key means.
[recipe.train]
steps = 700
learning_rate = 3e-3
[recipe.evaluate]
max_tokens = 15000
"""
SEED_SIZE = PretrainConfig()
SEED_RECIPE = TrainRecipe(mode="full", steps=1500, learning_rate=4e-3)


def demo(directory: Path, seed: Path | None, tell: Narrator, show: Show) -> dict[str, Any]:
    """Tell the story in a new workspace `directory`. seed: a dense checkpoint to use instead of training a small one.

    Returns the table and the builds as plain data. Raises Conflict when the directory is in use.
    """
    if directory.exists() and any(directory.iterdir()):
        raise Conflict(
            str(directory),
            found="a folder with files",
            expected="a new folder",
            next="btx demo --dir ANOTHER, or remove it",
        )
    story = _Story(directory, tell, show)
    story.found(seed)
    story.three_experts()
    story.build()
    story.fourth_expert()
    story.build()
    story.refusal()
    story.withdrawal("data/code@1")
    story.build()
    return story.end()


class _Story:
    def __init__(self, directory: Path, tell: Narrator, show: Show) -> None:
        self.tell, self.show, self.started = tell, show, time.monotonic()
        self.tell.command(f"btx init {directory}")
        self.workspace = create(directory)
        (directory / "btx.toml").write_text(SETTINGS)
        self.workspace = Workspace.find(directory)
        self.sources = self.workspace.work / "corpora"
        self.builds: list[Version[BuildFacts]] = []

    def found(self, seed: Path | None) -> None:
        self.tell.chapter("A seed that knows prose alone")
        self._data("prose")
        if seed is None:
            seed = self.workspace.work / "seed"
            torch.set_num_threads(
                1
            )  # as every branch: two threads gain nothing at this size, and wait for each other on a busy machine
            self.tell.say(
                "training a small Llama and its byte-level BPE tokenizer from nothing (about a minute)"
            )
            with self.show("pretrain") as progress:
                pretrain(
                    SEED_SIZE,
                    [self.workspace.root / "data/prose/1"],
                    SEED_RECIPE,
                    seed,
                    progress=progress,
                )
            trained_on = ["data/prose"]
            self.tell.command(f"btx seed add base {seed} --data data/prose")
        else:
            trained_on = []
            self.tell.command(f"btx seed add base {seed}")
        version = add_seed(
            self.workspace, "base", seed, data=trained_on, license="PSF-2.0" if trained_on else None
        )
        model = f"{version.facts.model_type}, {version.facts.parameters:,} parameters"
        self.tell.say(f"{version.ref}   {model}")

    def three_experts(self) -> None:
        self.tell.chapter("Three domain teams, each with a corpus of its own")
        for name in ("math", "code"):
            self._data(name)
        self._experts("math", "code", "prose")

    def fourth_expert(self) -> None:
        self.tell.chapter("A fourth domain, one quarter later: the other three are not touched")
        self._data("units")
        self._experts("units")

    def refusal(self) -> None:
        self.tell.chapter("A corpus without a licence")
        facts = corpora.licences(self.sources / "licences")
        self.tell.command(f"btx data add licences {self.sources / 'licences'}")
        try:
            add_data(
                self.workspace,
                "licences",
                self.sources / "licences",
                DataStatement(source=facts.source),
            )
        except Refused as refused:
            for text in str(refused).splitlines():
                self.tell.say(text)
        else:
            raise AssertionError(
                "a data version without a licence passed the gate: policies/ have been changed"
            )

    def withdrawal(self, reference: str) -> None:
        self.tell.chapter("The holder takes a corpus back")
        self.tell.command(f'btx withdraw {reference} --why "the holder withdrew consent"')
        answer = withdraw(self.workspace, reference, "the holder withdrew consent")
        for reached in answer.reached:
            removal = f"   removal: {reached.removal}" if reached.removal else ""
            self.tell.say(f"reached {reached.ref}{removal}")

    def build(self) -> None:
        self.tell.command("btx rebuild")
        answer = rebuild(self.workspace)
        assert answer.build is not None
        ran, reused = ", ".join(answer.ran), ", ".join(answer.reused) or "nothing"
        self.tell.say(f"{answer.build}   {answer.status}   ran {ran}   reused {reused}")
        written, linked = size(answer.bytes_written), size(answer.bytes_linked)
        self.tell.say(f"{written} written, {linked} linked")
        self.builds.append(self.workspace.catalog.get(answer.build, BuildFacts))
        self.tell.command("btx rebuild")
        self.tell.say(rebuild(self.workspace).status)
        self.tell.command(f"btx audit {answer.build}")
        checked = audit(self.workspace, answer.build)
        examined = sum(check.examined for check in checked.checks)
        count = f"{len(checked.findings)} findings in {examined} things examined"
        self.tell.say(f"{count}   head {checked.head[:12]}")
        for finding in checked.findings:
            self.tell.say(f"{finding.check}: {finding.subject} found {finding.found}")

    def end(self) -> dict[str, Any]:
        rows = self._table()
        self.tell.chapter("Bits per byte on held-out text, lower is better")
        builds = [str(build.ref) for build in self.builds]
        body = []
        for domain, row in rows.items():
            name = domain if row["new_to_seed"] else f"{domain} (the seed's own)"
            body.append(
                [name, row["seed"], row["specialist"], *(_cell(row, build) for build in builds)]
            )
        self.tell.table(["domain", "seed", "specialist", *builds], body)
        self.tell.say(
            "(in brackets: share kept of the specialist's gain over the seed; on the seed's own domain, change to the seed)"
        )
        self._accuracy_table(builds)
        self._cost_table()
        minutes = (time.monotonic() - self.started) / 60
        root = self.workspace.root
        self.tell.chapter(f"Done in {minutes:.1f} minutes. The workspace is {root}")
        self.tell.say("Try next:")
        self.tell.say(f"  cd {root}")
        program = "btx" if shutil.which("btx") else str(Path(sys.executable).with_name("btx"))
        for command in (
            "btx show build/2",
            "btx lineage build/2",
            "btx lineage data/math@1 --down",
            "btx list experts",
            "btx release build/1   # refused, and by which rules",
        ):
            self.tell.say(f"  {command.replace('btx', program, 1)}")
        return {
            "workspace": str(root),
            "builds": builds,
            "table": rows,
            "minutes": round(minutes, 2),
        }

    def _data(self, name: str) -> None:
        source = self.sources / name
        facts = CORPORA[name](source)
        self.tell.command(
            f'btx data add {name} {source} --license {facts.license} --source "{facts.source}"'
        )
        version = add_data(
            self.workspace,
            name,
            source,
            DataStatement(
                license=facts.license,
                source=facts.source,
                holder=facts.holder,
                purpose=PURPOSE,
            ),
        )
        files = f"{len(version.files)} files, {size(version.facts.bytes or 0)}"
        self.tell.say(f"{version.ref}   {files}")

    def _experts(self, *names: str) -> None:
        self.tell.command(f"btx train {' '.join(names)}")
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
                figures = f"{result.seed_bits_per_byte:.3f} → {result.bits_per_byte:.3f}"
                self.tell.say(f"{version.ref}   {figures} bits per byte")
        self.tell.say(
            f"{len(names)} trained side by side and registered in {time.monotonic() - started:.0f} s"
        )

    def _table(self) -> dict[str, dict[str, Any]]:
        """Return the figures by domain, each build's beside those of seed and specialist."""
        rows: dict[str, dict[str, Any]] = {}
        for build in self.builds:
            named = labels(build.facts.results)
            for result in build.facts.results:
                best = result.specialist
                row = rows.setdefault(
                    named[result.data],
                    {
                        "new_to_seed": result.new_to_seed,
                        "seed": result.seed_bits_per_byte,
                        "specialist": best.bits_per_byte if best else None,
                        "builds": {},
                        "kept": {},
                    },
                )
                row["builds"][str(build.ref)] = result.bits_per_byte
                row["kept"][str(build.ref)] = result.gain_kept
        return rows

    def _results(self, build: Version[BuildFacts]) -> dict[str, Result]:
        named = labels(build.facts.results)
        return {named[result.data]: result for result in build.facts.results}

    def _accuracy_table(self, builds: list[str]) -> None:
        measured = [self._results(build) for build in self.builds]
        domains: dict[str, Result] = {}
        for results in measured:
            domains |= {
                name: result for name, result in results.items() if result.accuracy is not None
            }
        rows = []
        for name, result in domains.items():
            best = result.specialist
            own = [results[name].accuracy if name in results else None for results in measured]
            figures = [result.seed_accuracy, best.accuracy if best else None, *own]
            rows.append([name, *map(_percent, figures)])
        self.tell.chapter("Questions answered exactly")
        self.tell.table(["domain", "seed", "specialist", *builds], rows)

    def _cost_table(self) -> None:
        rows = []
        for build in self.builds:
            cost = build.facts.cost
            active, parameters = _millions(cost.active_parameters), _millions(cost.total_parameters)
            rows.append(
                [
                    str(build.ref),
                    _millions(cost.total.tokens),
                    _millions(cost.tune.tokens),
                    f"{cost.total.flops:.1e}",
                    f"{cost.total.wall_s:.0f}",
                    f"{active} of {parameters}",
                    size(build.written_bytes),
                    size(build.linked_bytes),
                ]
            )
        self.tell.chapter("Cost: members' training and this build's tuning")
        columns = [
            "build",
            "tokens",
            "in tuning",
            "FLOPs",
            "seconds",
            "active",
            "written",
            "linked",
        ]
        self.tell.table(columns, rows)


def _cell(row: Mapping[str, Any], build: str) -> str | None:
    """Return a build's bits per byte, and what they are worth.

    For a domain that is new to the seed that is the share of the gain that is kept; for one that
    it knew, the change.
    """
    if build not in row["builds"]:
        return None
    own = row["builds"][build]
    if not row["new_to_seed"]:
        return f"{own:.3f} ({100 * (own / row['seed'] - 1):+.1f} %)"
    kept = row["kept"][build]
    return f"{own:.3f}" if kept is None else f"{own:.3f} ({100 * kept:.0f} %)"


def _millions(number: float | None) -> str:
    return f"{(number or 0) / 1e6:.2f} M"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"
