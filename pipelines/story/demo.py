"""Job: the whole story on real text that any machine with Python holds.

Three experts join a seed that knows prose alone; a fourth joins later; a data version is withdrawn; audits stand between.
Every step calls the job behind the command that is printed above it.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from btx_core.training.loop import PretrainConfig, TrainRecipe, pretrain
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.audit import audit
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.register import register
from pipelines.jobs.train import train
from pipelines.jobs.withdraw import withdraw
from pipelines.story import corpora
from pipelines.story.narrator import Narrator
from pipelines.workspace.progress import Show
from pipelines.workspace.workspace import Workspace, create
from registry.catalogue.catalog import Version
from registry.errors import Conflict, Refused
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
        self.builds: list[Version] = []

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
        self.tell.say(
            f"{version.ref}   {version.facts['model_type']}, {version.facts['parameters']:,} parameters"
        )

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
                license=None,
                origin=facts.source,
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
        for item in answer["reached"]:
            self.tell.say(
                f"reached {item['ref']}"
                + (f"   removal: {item['removal']}" if item.get("removal") else "")
            )

    def build(self) -> None:
        self.tell.command("btx rebuild")
        answer = rebuild(self.workspace)
        self.tell.say(
            f"{answer['build']}   {answer['status']}   ran {', '.join(answer['ran'])}   reused {', '.join(answer['reused']) or 'nothing'}"
        )
        self.tell.say(
            f"{size(answer['bytes_written'])} written, {size(answer['bytes_linked'])} linked"
        )
        self.builds.append(self.workspace.catalog.get(answer["build"]))
        self.tell.command("btx rebuild")
        self.tell.say(rebuild(self.workspace)["status"])
        self.tell.command(f"btx audit {answer['build']}")
        checked = audit(self.workspace, answer["build"])
        examined = sum(check["examined"] for check in checked["checks"])
        self.tell.say(
            f"{len(checked['findings'])} findings in {examined} things examined   head {checked['head'][:12]}"
        )
        for finding in checked["findings"]:
            self.tell.say(f"{finding['check']}: {finding['subject']} found {finding['found']}")

    def end(self) -> dict[str, Any]:
        rows = self._table()
        self.tell.chapter("Bits per byte on held-out text, lower is better")
        builds = [str(build.ref) for build in self.builds]
        body = []
        for domain, row in rows.items():
            name = domain if row["new_to_seed"] else f"{domain} (the seed's own)"
            body.append(
                [name, row["seed"], row["specialist"], *(_worth(row, build) for build in builds)]
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
            license=facts.license,
            origin=facts.source,
            holder=facts.holder,
            purpose=PURPOSE,
        )
        self.tell.say(f"{version.ref}   {len(version.files)} files, {size(version.facts['bytes'])}")

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
            facts = version.facts["evaluation"]
            self.tell.say(
                f"{version.ref}   {facts['seed_bits_per_byte']:.3f} → {facts['bits_per_byte']:.3f} bits per byte"
            )
        self.tell.say(
            f"{len(names)} trained side by side and registered in {time.monotonic() - started:.0f} s"
        )

    def _table(self) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for build in self.builds:
            for domain, figures in build.facts["evaluation"].items():
                seed, specialist, own = (
                    figures[key]
                    for key in ("seed_bits_per_byte", "specialist_bits_per_byte", "bits_per_byte")
                )
                row = rows.setdefault(
                    domain,
                    {
                        "new_to_seed": figures["new_to_seed"],
                        "seed": seed,
                        "specialist": specialist,
                        "builds": {},
                        "kept": {},
                    },
                )
                row["builds"][str(build.ref)] = own
                row["kept"][str(build.ref)] = (seed - own) / (seed - specialist)
        return rows

    def _accuracy_table(self, builds: list[str]) -> None:
        rows = []
        domains = {
            domain: figures
            for build in self.builds
            for domain, figures in build.facts["evaluation"].items()
            if "accuracy" in figures
        }
        for domain, figures in domains.items():
            own = [
                build.facts["evaluation"].get(domain, {}).get("accuracy") for build in self.builds
            ]
            rows.append(
                [
                    domain,
                    *(
                        _percent(value)
                        for value in (
                            figures["seed_accuracy"],
                            figures["specialist_accuracy"],
                            *own,
                        )
                    ),
                ]
            )
        self.tell.chapter("Questions answered exactly")
        self.tell.table(["domain", "seed", "specialist", *builds], rows)

    def _cost_table(self) -> None:
        rows = []
        for build in self.builds:
            cost, linked = (
                build.facts["cost"],
                sum(file.bytes for file in build.files if file.linked),
            )
            written = sum(file.bytes for file in build.files) - linked
            trained, tuned = (f"{cost[part]['tokens'] / 1e6:.2f} M" for part in ("total", "tune"))
            active, parameters = (
                f"{cost[key] / 1e6:.2f} M" for key in ("active_parameters", "total_parameters")
            )
            spent = [
                trained,
                tuned,
                f"{cost['total']['flops']:.1e}",
                f"{cost['total']['wall_s']:.0f}",
            ]
            rows.append(
                [str(build.ref), *spent, f"{active} of {parameters}", size(written), size(linked)]
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


def _worth(row: Mapping[str, Any], build: str) -> str | None:
    """Bits per byte; of a domain new to the seed the share of the gain that is kept, of one that it knew the change."""
    if build not in row["builds"]:
        return None
    own = row["builds"][build]
    share = (
        f"{100 * row['kept'][build]:.0f} %"
        if row["new_to_seed"]
        else f"{100 * (own / row['seed'] - 1):+.1f} %"
    )
    return f"{own:.3f} ({share})"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %"
