"""Job: the paper's table in miniature: BTX beside its rivals and without its parts, on real text, for several random seeds.

In:  a folder, a scale, numbers of random seeds.  Out: results.jsonl (one line a row and seed; a run that died goes on), table.md, table.png.
Every row of one random seed stands on the same seed model, the same specialists and the same held-out text; all are measured alike.
"""

import json
import shutil
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from btx_core.machine import load
from btx_core.measuring import ensemble
from btx_core.measuring.evaluation import Limits, evaluate_model, heldout_windows
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.weight_files import ROUTER, SHARED
from btx_core.routed import RoutedModel
from btx_core.texts import split
from btx_core.training.branch import train
from btx_core.training.loop import flops_per_token
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob, write_tuned
from pipelines.story import corpora
from pipelines.story.small_seed import PretrainConfig, pretrain
from registry.records.results import share_of_gain

DOMAINS = {
    "prose": corpora.prose,
    "code": corpora.code,
    "math": corpora.math,
}  # the seed knows prose alone
GROW = 0.2  # share of the tuning steps when an expert joins
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Scale:
    size: PretrainConfig
    seed: TrainRecipe
    expert: TrainRecipe
    beside: TrainRecipe  # of experts trained beside the seed
    tune: TuneRecipe
    router: TuneRecipe  # for a build that tunes the router alone
    bytes: int  # of training text per domain; a tenth of it is held out
    heldout_tokens: int  # of each domain that are measured


SCALE = Scale(
    size=PretrainConfig(),
    seed=TrainRecipe(mode="full", steps=1500, learning_rate=4e-3),
    expert=TrainRecipe(steps=700, learning_rate=3e-3),
    beside=TrainRecipe(steps=1000, learning_rate=3e-3, batch=8, replay=0.5, beside=0.7),
    tune=TuneRecipe(),
    router=TuneRecipe(
        mode="router", learning_rate=1e-2, balance=0.0, home=0.3, general_share=1 / 3
    ),
    bytes=corpora.SIZE,
    heldout_tokens=15_000,
)


@dataclass(frozen=True)
class Row:
    """One line of the table for one random seed. tokens, flops: of all training after the seed's."""

    name: str
    random_seed: int
    bits_per_byte: dict[str, float]
    tokens: int
    flops: float
    routing: dict[str, list[list[float]]] | None = None


@dataclass
class Ground:
    """What all rows of one random seed share."""

    folder: Path
    scale: Scale
    random_seed: int
    data: dict[str, Path]
    spent: dict[str, tuple[int, float]] = field(
        default_factory=dict
    )  # tokens and FLOPs of each set of branches

    @property
    def seed(self) -> Path:
        return self.folder / "seed"

    def branch(self, domain: str, kind: str) -> Path:
        return self.folder / kind / domain

    def prepare(self) -> None:
        """Train the seed and every set of branches, or find them trained already."""
        if not self.seed.is_dir():
            pretrain(
                self.scale.size,
                [self.data["prose"]],
                replace(self.scale.seed, seed=self.random_seed),
                self.seed,
            )
        general, expert = self.data["prose"], self.scale.expert
        for kind, recipe in {
            "anchored": expert,
            "full": replace(expert, mode="full"),
            "beside": self.scale.beside,
        }.items():
            for domain, data in self.data.items():
                if not self.branch(domain, kind).is_dir():
                    chosen = (
                        expert if data == general and kind == "beside" else recipe
                    )  # nothing to tell apart there
                    train(
                        self.seed,
                        [data],
                        replace(chosen, seed=self.random_seed),
                        self.branch(domain, kind),
                        general=general,
                    )
            reports = [
                json.loads((self.branch(domain, kind) / "btx-train.json").read_text())["report"]
                for domain in self.data
            ]
            self.spent[kind] = (
                sum(report["tokens"] for report in reports),
                sum(report["flops"] for report in reports),
            )

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.seed)
        return tokenizer

    def measure(self, name: str, model: PreTrainedModel, tokens: int, flops: float) -> Row:
        limits = Limits(self.scale.heldout_tokens)
        found = evaluate_model(RoutedModel(model), self.tokenizer, self.data, limits)
        return Row(
            name,
            self.random_seed,
            {domain: result.bits_per_byte for domain, result in found.domains.items()},
            tokens,
            flops,
            None if found.routing is None else dict(found.routing),
        )


def bench(folder: Path, random_seeds: list[int], scale: Scale, tell: Tell) -> list[Row]:
    """All rows, measured or read back from an earlier run of this folder."""
    torch.set_num_threads(
        1
    )  # the order of float additions, and so every figure, follows the number of threads
    results, rows = folder / "results.jsonl", []
    data = {name: folder / "data" / name for name in DOMAINS}
    for name, path in data.items():
        if not path.is_dir():
            DOMAINS[name](path, size=scale.bytes, heldout=scale.bytes // 10)
    done = (
        [Row(**json.loads(line)) for line in results.read_text().splitlines()]
        if results.exists()
        else []
    )
    known = {(row.name, row.random_seed): row for row in done}
    for number in random_seeds:
        ground = Ground(folder / str(number), scale, number, data)
        ground.prepare()
        for name, make in table(ground).items():
            row = known.get((name, number))
            if row is None:
                row = make()
                with results.open("a") as file:
                    file.write(json.dumps(vars(row)) + "\n")
                tell(
                    f"seed {number}   {name}   "
                    + "  ".join(f"{d} {b:.3f}" for d, b in row.bits_per_byte.items())
                )
            rows.append(row)
    return rows


def table(ground: Ground) -> dict[str, Callable[[], Row]]:
    """Every row's name and how it is made."""
    tune, router = ground.scale.tune, ground.scale.router
    rows: dict[str, Callable[[], Row]] = {
        "seed": lambda: ground.measure("seed", load(ground.seed, torch.float32), 0, 0.0),
        "specialists, anchored": lambda: specialists(ground, "anchored"),
        "specialists, full": lambda: specialists(ground, "full"),
        "specialists, beside the seed": lambda: specialists(ground, "beside"),
        "dense, same tokens": lambda: dense(ground, "dense, same tokens", "tokens"),
        "dense, same compute": lambda: dense(ground, "dense, same compute", "flops"),
        "upcycled, same tokens": lambda: upcycled(ground, "upcycled, same tokens", "tokens"),
        "upcycled, same compute": lambda: upcycled(ground, "upcycled, same compute", "flops"),
        "weight average": lambda: average(ground),
        "BTM top-1": lambda: merged(ground, "BTM top-1", 1),
        "BTM top-2": lambda: merged(ground, "BTM top-2", 2),
    }
    variants: dict[str, tuple[str, MixRecipe, TuneRecipe]] = {
        "BTX": ("anchored", MixRecipe(), tune),
        "BTX, router only": ("anchored", MixRecipe(), replace(tune, mode="router")),
        "BTX, all tuned": ("anchored", MixRecipe(), replace(tune, mode="all")),
        "BTX of full branches": ("full", MixRecipe(mode="full"), tune),
        "BTX of full branches, all tuned": (
            "full",
            MixRecipe(mode="full"),
            replace(tune, mode="all"),
        ),
        "BTX beside the seed": ("beside", MixRecipe(), tune),
        "BTX beside the seed, router only": ("beside", MixRecipe(seed_expert=False), router),
        "BTX beside the seed, router only, soft": (
            "beside",
            MixRecipe(seed_expert=False, routing="soft"),
            router,
        ),
        "BTX beside the seed, router only, by text alone": (
            "beside",
            MixRecipe(seed_expert=False),
            replace(router, home=0.0),
        ),
        "BTX beside the seed, router only, by home alone": (
            "beside",
            MixRecipe(seed_expert=False),
            replace(router, home=1.0, text=0.0, keep=0.0),
        ),
        "BTX, router only by the same recipe": ("anchored", MixRecipe(seed_expert=False), router),
        "BTX, top-1": ("anchored", MixRecipe(top_k=1), tune),
        "BTX, soft: every expert": ("anchored", MixRecipe(routing="soft"), tune),
        "BTX, Switch": ("anchored", MixRecipe(routing="switch"), tune),
        "BTX, sample top-1": ("anchored", MixRecipe(routing="sample"), tune),
        "without load balancing": ("anchored", MixRecipe(), replace(tune, balance=0.0)),
        "without the distance to the seed": ("anchored", MixRecipe(), replace(tune, keep=0.0)),
        "without the seed as an expert": ("anchored", MixRecipe(seed_expert=False), tune),
        "router rows start random": ("anchored", MixRecipe(), replace(tune, start="random")),
        "router rows start at centroids": (
            "anchored",
            MixRecipe(),
            replace(tune, start="centroid"),
        ),
        "blend": ("anchored", MixRecipe(blend=True), replace(tune, start="random")),
        "split in two": ("anchored", MixRecipe(split=2, top_k=4), replace(tune, start="random")),
    }
    for name, (mode, mixing, tuning) in variants.items():
        rows[name] = lambda name=name, mode=mode, mixing=mixing, tuning=tuning: mixture(
            ground, name, mode, mixing, tuning
        )  # type: ignore[misc]
    for joined in ("code", "math"):
        rows[f"BTX, {joined} joined last"] = lambda joined=joined: grown(
            ground, "BTX", joined, "anchored", MixRecipe(), tune
        )  # type: ignore[misc]
        name = "BTX beside the seed, router only"
        rows[f"{name}, {joined} joined last"] = lambda joined=joined, name=name: grown(  # type: ignore[misc]
            ground, name, joined, "beside", MixRecipe(seed_expert=False), router
        )
    return rows


def specialists(ground: Ground, kind: str) -> Row:
    """Each domain by its own branch: what a perfect choice of model, made before the first token, would give."""
    found = {}
    for domain in ground.data:
        alone = replace_data(ground, {domain: ground.data[domain]})
        found[domain] = alone.measure(
            "", load(ground.branch(domain, kind), torch.float32), 0, 0.0
        ).bits_per_byte[domain]
    name = "specialists, beside the seed" if kind == "beside" else f"specialists, {kind}"
    return Row(name, ground.random_seed, found, *ground.spent[kind])


def replace_data(ground: Ground, data: dict[str, Path]) -> Ground:
    return Ground(ground.folder, ground.scale, ground.random_seed, data, ground.spent)


def budget(ground: Ground) -> tuple[int, float]:
    """Tokens and FLOPs that BTX takes: its anchored branches and its tuning."""
    tokens, flops = ground.spent["anchored"]
    report = composed(ground, "anchored", MixRecipe(), replace(ground.scale.tune, steps=0))[1]
    tuning = ground.scale.tune.steps * ground.scale.tune.batch * ground.scale.tune.sequence
    return tokens + tuning, flops + tuning * report.flops_per_token


def dense(ground: Ground, name: str, matched: str) -> Row:
    """The seed trained on, on all domains at once."""
    tokens, flops = budget(ground)
    recipe = replace(ground.scale.expert, mode="full", seed=ground.random_seed)
    each = 6 * sum(parameter.numel() for parameter in load(ground.seed).parameters())
    steps = round(
        (tokens if matched == "tokens" else flops / each) / recipe.batch / recipe.sequence
    )
    out = ground.folder / matched
    shutil.rmtree(out, ignore_errors=True)
    report = train(ground.seed, list(ground.data.values()), replace(recipe, steps=steps), out)
    return ground.measure(name, load(out, torch.float32), report.tokens, report.flops)


def upcycled(ground: Ground, name: str, matched: str) -> Row:
    """Sparse upcycling: every expert begins as the seed, all parameters train on all domains at once."""
    tokens, flops = budget(ground)
    rate = ground.scale.expert.learning_rate
    recipe = replace(
        ground.scale.tune,
        mode="all",
        start="random",
        keep=0.0,
        general_share=1 / 3,
        learning_rate=rate,
        shared_rate=1.0,
    )
    copies = dict.fromkeys(ground.data, ground.seed)
    each = composed(ground, "anchored", MixRecipe(), replace(recipe, steps=0), copies)[
        1
    ].flops_per_token
    steps = round(
        (tokens if matched == "tokens" else flops / each) / recipe.batch / recipe.sequence
    )
    model, report = composed(ground, "anchored", MixRecipe(), replace(recipe, steps=steps), copies)
    return ground.measure(name, model, report.tokens, report.flops)


def average(ground: Ground) -> Row:
    """Every parameter the mean over seed and full branches: a model soup."""
    folders = [ground.seed, *(ground.branch(domain, "full") for domain in ground.data)]
    models = [load(folder, torch.float32) for folder in folders]
    with torch.no_grad():
        for parameters in zip(*(model.parameters() for model in models), strict=True):
            parameters[0].copy_(torch.stack(parameters).mean(0))
    return ground.measure("weight average", models[0], *ground.spent["full"])


def merged(ground: Ground, name: str, top_k: int) -> Row:
    """Branch-Train-Merge over the seed and the full branches."""
    models = [
        load(folder, torch.float32)
        for folder in (ground.seed, *(ground.branch(domain, "full") for domain in ground.data))
    ]
    found = {}
    for domain, data in ground.data.items():
        heldout = heldout_windows(
            split(data).heldout, ground.tokenizer, 256, ground.scale.heldout_tokens
        )
        found[domain] = ensemble.bits_per_byte(models, heldout, top_k=top_k)
    return Row(name, ground.random_seed, found, *ground.spent["full"])


def mixture(ground: Ground, name: str, kind: str, mixing: MixRecipe, tuning: TuneRecipe) -> Row:
    model, report = composed(ground, kind, mixing, tuning)
    tokens, flops = ground.spent[kind]
    return ground.measure(name, model, tokens + report.tokens, flops + report.flops)


def grown(
    ground: Ground, name: str, joined: str, kind: str, mixing: MixRecipe, tuning: TuneRecipe
) -> Row:
    """A build without one domain, tuned; then that domain's expert joins it: kept rows, a fitted new one, GROW of the steps."""
    others = {domain: ground.branch(domain, kind) for domain in ground.data if domain != joined}
    before = ground.folder / "before"
    model, first = composed(ground, kind, mixing, tuning, others)
    shutil.rmtree(before, ignore_errors=True)
    before.mkdir()
    write_tuned(RoutedModel(model), ground.folder / "mixed", (ROUTER, SHARED), before)
    same = range(len(others) + int(mixing.seed_expert))  # the one that joins has the last place
    after = {**others, joined: ground.branch(joined, kind)}
    model, second = composed(
        ground,
        kind,
        mixing,
        replace(tuning, grow=GROW),
        after,
        Grown(before, {place: place for place in same}),
    )
    tokens, flops = ground.spent[kind]
    return ground.measure(
        f"{name}, {joined} joined last",
        model,
        tokens + first.tokens + second.tokens,
        flops + first.flops + second.flops,
    )


@dataclass(frozen=True)
class Tuned:
    tokens: int
    flops: float
    flops_per_token: float


def composed(
    ground: Ground,
    kind: str,
    mixing: MixRecipe,
    tuning: TuneRecipe,
    folders: Mapping[str, Path] | None = None,
    before: Grown | None = None,
) -> tuple[PreTrainedModel, Tuned]:
    """Mix the branches (or `folders`) and tune the mixture. Returns the model and what tuning took."""
    members = folders or {domain: ground.branch(domain, kind) for domain in ground.data}
    out = ground.folder / "mixed"
    shutil.rmtree(out, ignore_errors=True)
    mix(
        ground.seed,
        [Member(name, slot, path) for slot, (name, path) in enumerate(members.items(), 1)],
        mixing,
        out,
    )
    texts = {GENERAL if name == "prose" else name: [ground.data[name]] for name in members}
    own_experts = {
        GENERAL if name == "prose" else name: OwnExpert(index, path)
        for index, (name, path) in enumerate(members.items(), int(mixing.seed_expert))
    }
    recipe = replace(tuning, seed=ground.random_seed)
    job = TuneJob.load(TuneInputs(out, texts, own_experts, ground.seed, before), recipe)
    job.start_routers()
    job.freeze()
    report, model = job.run(), job.routed.network
    return model, Tuned(report.tokens, report.flops, flops_per_token(model))


def spread(values: list[float]) -> str:
    """Mean, and half the distance from least to largest."""
    return f"{statistics.fmean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


def by_name(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.name, []).append(row)
    return found


def markdown(rows: list[Row]) -> str:
    """The table: mean ± half range over random seeds, bits per byte; gain: share of the anchored specialists', on code and math."""
    return "\n".join(_lines(rows)) + "\n"


def _lines(rows: list[Row]) -> Iterator[str]:
    grouped = by_name(rows)
    domains = list(rows[0].bits_per_byte)
    yield (
        "| | "
        + " | ".join(domains)
        + " | mean | gain kept on what is new | prose against the seed | tokens | FLOPs |"
    )
    yield "|---|" + "---|" * (len(domains) + 5)
    for name, group in grouped.items():
        cells = [spread([row.bits_per_byte[domain] for row in group]) for domain in domains]
        mean = spread([statistics.fmean(row.bits_per_byte.values()) for row in group])
        kept, lost = _gain(grouped, name), _change(grouped, name)
        yield (
            f"| {name} | "
            + " | ".join(
                [*cells, mean, kept, lost, f"{group[0].tokens:,}", f"{group[0].flops:.2e}"]
            )
            + " |"
        )


def _gain(grouped: Mapping[str, list[Row]], name: str) -> str:
    shares = []
    for row, seed, best in zip(
        grouped[name], grouped["seed"], grouped["specialists, anchored"], strict=True
    ):
        for domain, own in row.bits_per_byte.items():
            share = share_of_gain(own, seed.bits_per_byte[domain], best.bits_per_byte[domain])
            if domain != "prose" and share is not None:
                shares.append(share)
    if not shares:
        return "not measured"
    return f"{100 * statistics.fmean(shares):.0f} % (least {100 * min(shares):.0f} %)"


def _change(grouped: Mapping[str, list[Row]], name: str) -> str:
    pairs = zip(grouped[name], grouped["seed"], strict=True)
    changes = [
        100 * (row.bits_per_byte["prose"] / seed.bits_per_byte["prose"] - 1) for row, seed in pairs
    ]
    return f"{statistics.fmean(changes):+.1f} % (worst {max(changes):+.1f} %)"


def picture(rows: list[Row], path: Path) -> None:
    """Mean bits per byte over the domains, a bar a row, the range over random seeds as a line."""
    from matplotlib.figure import Figure  # an extra, and slow to import

    grouped = by_name(rows)
    means = {
        name: [statistics.fmean(row.bits_per_byte.values()) for row in group]
        for name, group in grouped.items()
    }
    figure = Figure(figsize=(10, 0.32 * len(means) + 0.8), layout="constrained")
    axes = figure.subplots()
    names = list(reversed(means))
    middles = [statistics.fmean(means[name]) for name in names]
    errors = [[middle - min(means[name]) for name, middle in zip(names, middles, strict=True)]]
    errors.append([max(means[name]) - middle for name, middle in zip(names, middles, strict=True)])
    colours = ["#2a6f97" if name.startswith("BTX") else "#a9a9a9" for name in names]
    axes.barh(names, middles, xerr=errors, color=colours, height=0.7, error_kw={"linewidth": 1})
    for place, middle in enumerate(middles):
        axes.text(0.02, place, f"{middle:.3f}", va="center", color="white", fontsize=8)
    axes.set_title(
        "bits per byte on held-out text, mean over domains: lower is better",
        loc="left",
        fontsize=10,
    )
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
