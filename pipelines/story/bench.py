"""Compare BTX with its rivals and with its own ablations, in miniature, on real text.

In:  a folder, a scale, random seeds.
Out: the rows of the comparison, also as results.jsonl in the folder; as a Markdown table; as a
     picture.

All rows of one random seed share the seed model, the specialists and the held-out text, and are
measured in the same way. A run that was interrupted goes on with the rows that are missing.
"""

import json
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from btx_core.machine import load
from btx_core.measuring import ensemble
from btx_core.measuring.evaluation import Evaluation, evaluate_model
from btx_core.measuring.samples import Limits, sample
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.weight_files import ROUTER, SHARED
from btx_core.routed import RoutedModel
from btx_core.tokens import Tokens
from btx_core.training.branch import train
from btx_core.training.loop import flops_per_token
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.tune import TuneInputs, TuneJob
from btx_core.training.write_back import write_tuned
from pipelines.story import corpora
from pipelines.story.small_seed import PretrainConfig, pretrain
from registry.records.results import share_of_gain

# The seed's own domain: the only one that it has seen.
SEED_DOMAIN = "prose"
DOMAINS = {
    SEED_DOMAIN: corpora.prose,
    "code": corpora.code,
    "math": corpora.math,
}
# Share of the tuning steps when an expert joins.
GROW = 0.2
# What all gains are measured against.
YARDSTICK = "specialists, anchored"

# How a set of branches is trained: the two modes, and anchored beside the seed's own blocks.
BranchKind = Literal["anchored", "full", "beside"]
# What a rival may spend as much of as BTX.
Budget = Literal["tokens", "flops"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the comparison is.

    Attributes:
        size: of the seed model.
        seed: how the seed model is trained.
        expert: how branches are trained.
        beside: how branches are trained beside the seed.
        tune: how mixtures are tuned.
        router: how mixtures are tuned of which only the router trains.
        text_bytes: of training text per domain; a tenth as much is held out.
        heldout_tokens: of each domain that are measured.
    """

    size: PretrainConfig
    seed: TrainRecipe
    expert: TrainRecipe
    beside: TrainRecipe
    tune: TuneRecipe
    router: TuneRecipe
    text_bytes: int
    heldout_tokens: int


SCALE = Scale(
    size=PretrainConfig(),
    seed=TrainRecipe(mode="full", steps=1500, learning_rate=4e-3),
    expert=TrainRecipe(steps=700, learning_rate=3e-3),
    beside=TrainRecipe(steps=1000, learning_rate=3e-3, batch=8, replay=0.5, beside=0.7),
    tune=TuneRecipe(),
    router=TuneRecipe(
        mode="router", learning_rate=1e-2, balance=0.0, home=0.3, general_share=1 / 3
    ),
    text_bytes=corpora.SIZE,
    heldout_tokens=15_000,
)


@dataclass(frozen=True)
class Row:
    """What one method reaches for one random seed.

    Attributes:
        name: the method.
        random_seed: of the weights and of the order of the text.
        bits_per_byte: on held-out text, by domain.
        tokens: of all training after the seed's.
        flops: of all training after the seed's.
        routing: by domain, for each layer the share of tokens that each expert gets; None for a
            model without a router.
    """

    name: str
    random_seed: int
    bits_per_byte: dict[str, float]
    tokens: int
    flops: float
    routing: dict[str, list[list[float]]] | None = None


# Measures one row, given its name.
Measure = Callable[[str], Row]


@dataclass(frozen=True)
class Cost:
    """What a training took, in tokens and in floating point operations."""

    tokens: int = 0
    flops: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Return what both took."""
        return Cost(self.tokens + other.tokens, self.flops + other.flops)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compose a mixture.

    Attributes:
        tuning: how the mixture is tuned.
        mixing: how the branches are mixed.
        branches: which set of branches.
    """

    tuning: TuneRecipe
    mixing: MixRecipe = field(default_factory=MixRecipe)
    branches: BranchKind = "anchored"


@dataclass(frozen=True)
class Composed:
    """A tuned mixture, and what its tuning took."""

    model: PreTrainedModel
    cost: Cost


@dataclass(frozen=True)
class Setup:
    """What all rows of one random seed share.

    Attributes:
        folder: of the models of this random seed.
        scale: how large they are.
        random_seed: of the weights and of the order of the text.
        data: data folders by domain.
    """

    folder: Path
    scale: Scale
    random_seed: int
    data: Mapping[str, Path]

    @property
    def seed(self) -> Path:
        """The seed model's checkpoint."""
        return self.folder / "seed"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The seed model's tokenizer, which all models share."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.seed)
        return tokenizer

    @property
    def limits(self) -> Limits:
        """How much held-out text is measured."""
        return Limits(self.scale.heldout_tokens)

    def branch(self, domain: str, kind: BranchKind) -> Path:
        """Return the checkpoint of a domain's branch."""
        return self.folder / kind / domain

    def branches(self, kind: BranchKind) -> dict[str, Path]:
        """Return the checkpoints of a set of branches, by domain."""
        return {domain: self.branch(domain, kind) for domain in self.data}

    def cost(self, kind: BranchKind) -> Cost:
        """Return what a set of branches took to train."""
        total = Cost()
        for branch in self.branches(kind).values():
            report = json.loads((branch / "btx-train.json").read_text(encoding="utf-8"))["report"]
            total += Cost(report["tokens"], report["flops"])
        return total

    def prepare(self) -> None:
        """Train the seed model and every set of branches, as far as they are missing."""
        if not self.seed.is_dir():
            recipe = replace(self.scale.seed, seed=self.random_seed)
            pretrain(self.scale.size, [self.data[SEED_DOMAIN]], recipe, self.seed)
        recipes: dict[BranchKind, TrainRecipe] = {
            "anchored": self.scale.expert,
            "full": replace(self.scale.expert, mode="full"),
            "beside": self.scale.beside,
        }
        for kind, recipe in recipes.items():
            for domain in self.data:
                if not self.branch(domain, kind).is_dir():
                    # The seed's own text is the general text: there is nothing to tell apart.
                    plain = kind == "beside" and domain == SEED_DOMAIN
                    self._train(domain, kind, self.scale.expert if plain else recipe)

    def evaluate(self, model: PreTrainedModel, domains: Mapping[str, Path]) -> Evaluation:
        """Measure a model on the held-out text of these domains."""
        return evaluate_model(RoutedModel(model), self.tokenizer, domains, self.limits)

    def row(self, name: str, model: PreTrainedModel, cost: Cost) -> Row:
        """Measure a model on every domain.

        Args:
            name: the method that made it.
            model: the model, dense or mixed.
            cost: of all training after the seed's.

        Returns:
            Its row.
        """
        evaluation = self.evaluate(model, self.data)
        return Row(
            name,
            self.random_seed,
            {domain: result.bits_per_byte for domain, result in evaluation.domains.items()},
            cost.tokens,
            cost.flops,
            None if evaluation.routing is None else dict(evaluation.routing),
        )

    def _train(self, domain: str, kind: BranchKind, recipe: TrainRecipe) -> None:
        train(
            self.seed,
            [self.data[domain]],
            replace(recipe, seed=self.random_seed),
            self.branch(domain, kind),
            general=[self.data[SEED_DOMAIN]],
        )


def bench(
    folder: Path, random_seeds: Iterable[int], scale: Scale, on_row: Callable[[str], None]
) -> list[Row]:
    """Measure every method for every random seed.

    Args:
        folder: of results.jsonl, data and models; what an earlier run left there is used.
        random_seeds: of weights and of the order of the text.
        scale: how large data and models are.
        on_row: called with one printed line for each row that was measured now.

    Returns:
        All rows, measured now or read back.
    """
    # Asked for first: the picture is drawn hours later.
    import matplotlib.figure  # noqa: F401

    # The order of float additions, and so every figure, depends on the number of threads.
    torch.set_num_threads(1)
    results = folder / "results.jsonl"
    data = _write_data(folder / "data", scale)
    measured = {(row.name, row.random_seed): row for row in _read_rows(results)}
    rows = []
    for random_seed in random_seeds:
        setup = Setup(folder / str(random_seed), scale, random_seed, data)
        setup.prepare()
        for name, measure in measures(setup).items():
            row = measured.get((name, random_seed))
            if row is None:
                row = measure(name)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(row)) + "\n")
                figures = [f"{domain} {bits:.3f}" for domain, bits in row.bits_per_byte.items()]
                on_row(f"random seed {random_seed}   {name}   {'  '.join(figures)}")
            rows.append(row)
    return rows


def _write_data(folder: Path, scale: Scale) -> dict[str, Path]:
    """Write the domains' text where it is missing; return the data folders by domain."""
    data = {domain: folder / domain for domain in DOMAINS}
    for domain, path in data.items():
        if not path.is_dir():
            DOMAINS[domain](path, size=scale.text_bytes, heldout=scale.text_bytes // 10)
    return data


def _read_rows(results: Path) -> list[Row]:
    if not results.exists():
        return []
    return [Row(**json.loads(text)) for text in results.read_text(encoding="utf-8").splitlines()]


def measures(setup: Setup) -> dict[str, Measure]:
    """Return how each row is measured, by its name, in the order of the table.

    Args:
        setup: what the rows share.

    Returns:
        A function for every row; it is called with the row's name.
    """
    rows = rivals(setup)
    for name, variant in variants(setup.scale).items():
        rows[name] = partial(mixture, setup, variant)
    plain = Variant(tuning=setup.scale.tune)
    beside = Variant(
        branches="beside", mixing=MixRecipe(seed_expert=False), tuning=setup.scale.router
    )
    for domain in ("code", "math"):
        rows[f"BTX, {domain} joined last"] = partial(grown, setup, plain, domain)
        name = f"BTX beside the seed, router only, {domain} joined last"
        rows[name] = partial(grown, setup, beside, domain)
    return rows


def rivals(setup: Setup) -> dict[str, Measure]:
    """Return the rows of other methods, and of the models that BTX starts from."""
    return {
        "seed": partial(untrained, setup),
        YARDSTICK: partial(specialists, setup, "anchored"),
        "specialists, full": partial(specialists, setup, "full"),
        "specialists, beside the seed": partial(specialists, setup, "beside"),
        "dense, same tokens": partial(dense, setup, "tokens"),
        "dense, same compute": partial(dense, setup, "flops"),
        "upcycled, same tokens": partial(upcycled, setup, "tokens"),
        "upcycled, same compute": partial(upcycled, setup, "flops"),
        "weight average": partial(weight_average, setup),
        "BTM top-1": partial(merged, setup, 1),
        "BTM top-2": partial(merged, setup, 2),
    }


def variants(scale: Scale) -> dict[str, Variant]:
    """Return the variants of BTX by the names of their rows: the default, choices, ablations."""
    tune, router = scale.tune, scale.router
    random_start = replace(tune, start="random")
    without_seed = MixRecipe(seed_expert=False)
    beside = Variant(branches="beside", mixing=without_seed, tuning=router)
    full = Variant(branches="full", mixing=MixRecipe(mode="full"), tuning=tune)
    text_only = replace(router, home=0.0)
    own_expert_only = replace(router, home=1.0, text=0.0, keep=0.0)
    return {
        "BTX": Variant(tuning=tune),
        "BTX, router only": Variant(tuning=replace(tune, mode="router")),
        "BTX, all tuned": Variant(tuning=replace(tune, mode="all")),
        "BTX of full branches": full,
        "BTX of full branches, all tuned": replace(full, tuning=replace(tune, mode="all")),
        "BTX beside the seed": Variant(branches="beside", tuning=tune),
        "BTX beside the seed, router only": beside,
        "BTX beside the seed, router only, soft": replace(
            beside, mixing=replace(without_seed, routing="soft")
        ),
        "BTX beside the seed, router only, text loss only": replace(beside, tuning=text_only),
        "BTX beside the seed, router only, own-expert loss only": replace(
            beside, tuning=own_expert_only
        ),
        "BTX, router only by the same recipe": Variant(mixing=without_seed, tuning=router),
        "BTX, top-1": Variant(mixing=MixRecipe(top_k=1), tuning=tune),
        "BTX, soft: every expert": Variant(mixing=MixRecipe(routing="soft"), tuning=tune),
        "BTX, Switch": Variant(mixing=MixRecipe(routing="switch"), tuning=tune),
        "BTX, sample top-1": Variant(mixing=MixRecipe(routing="sample"), tuning=tune),
        "without load balancing": Variant(tuning=replace(tune, balance=0.0)),
        "without the KL divergence from the seed": Variant(tuning=replace(tune, keep=0.0)),
        "without the seed as an expert": Variant(mixing=without_seed, tuning=tune),
        "router weights start random": Variant(tuning=random_start),
        "router weights start at centroids": Variant(tuning=replace(tune, start="centroid")),
        "blend": Variant(mixing=MixRecipe(blend=True), tuning=random_start),
        "split in two": Variant(mixing=MixRecipe(split=2, top_k=4), tuning=random_start),
    }


def untrained(setup: Setup, name: str) -> Row:
    """Measure the seed model as it is."""
    return setup.row(name, load(setup.seed, torch.float32), Cost())


def specialists(setup: Setup, kind: BranchKind, name: str) -> Row:
    """Measure each domain by its own branch.

    It is what a perfect choice of model, made before the first token, would give.

    Args:
        setup: what the rows share.
        kind: which set of branches.
        name: of the row.

    Returns:
        The row.
    """
    bits_per_byte = {}
    for domain, data in setup.data.items():
        branch = load(setup.branch(domain, kind), torch.float32)
        evaluation = setup.evaluate(branch, {domain: data})
        bits_per_byte[domain] = evaluation.domains[domain].bits_per_byte
    cost = setup.cost(kind)
    return Row(name, setup.random_seed, bits_per_byte, cost.tokens, cost.flops)


def btx_cost(setup: Setup) -> Cost:
    """Return what the default BTX takes: its anchored branches and its tuning."""
    tune = setup.scale.tune
    tokens = tune.steps * tune.batch * tune.sequence
    untuned = composed(setup, Variant(tuning=replace(tune, steps=0)))
    return setup.cost("anchored") + Cost(tokens, tokens * flops_per_token(untuned.model))


def steps_within(
    cost: Cost, budget: Budget, recipe: TrainRecipe | TuneRecipe, flops_a_token: float
) -> int:
    """Return how many steps of a recipe take as many tokens, or operations, as BTX.

    Args:
        cost: what BTX takes.
        budget: which of the two is matched.
        recipe: whose batch and sequence make a step.
        flops_a_token: what one token takes in the model that is trained.

    Returns:
        A number of steps.
    """
    tokens = cost.tokens if budget == "tokens" else cost.flops / flops_a_token
    return round(tokens / recipe.batch / recipe.sequence)


def dense(setup: Setup, budget: Budget, name: str) -> Row:
    """Measure the seed model after more training of all its parameters, on all domains at once."""
    recipe = replace(setup.scale.expert, mode="full", seed=setup.random_seed)
    # Every parameter is met by every token, twice forward and four times backward.
    flops_a_token = 6 * sum(parameter.numel() for parameter in load(setup.seed).parameters())
    steps = steps_within(btx_cost(setup), budget, recipe, flops_a_token)
    out = setup.folder / budget
    shutil.rmtree(out, ignore_errors=True)
    report = train(setup.seed, list(setup.data.values()), replace(recipe, steps=steps), out)
    return setup.row(name, load(out, torch.float32), Cost(report.tokens, report.flops))


def upcycled(setup: Setup, budget: Budget, name: str) -> Row:
    """Measure sparse upcycling: every expert begins as the seed, and everything trains."""
    recipe = replace(
        setup.scale.tune,
        mode="all",
        start="random",
        keep=0.0,
        general_share=1 / 3,
        learning_rate=setup.scale.expert.learning_rate,
        shared_rate=1.0,
    )
    copies = dict.fromkeys(setup.data, setup.seed)
    cost = btx_cost(setup)
    untuned = composed(setup, Variant(tuning=replace(recipe, steps=0)), copies)
    steps = steps_within(cost, budget, recipe, flops_per_token(untuned.model))
    tuned = composed(setup, Variant(tuning=replace(recipe, steps=steps)), copies)
    return setup.row(name, tuned.model, tuned.cost)


def weight_average(setup: Setup, name: str) -> Row:
    """Measure a model soup: every parameter the mean over the seed and the full branches."""
    folders = [setup.seed, *setup.branches("full").values()]
    models = [load(folder, torch.float32) for folder in folders]
    with torch.no_grad():
        for parameters in zip(*(model.parameters() for model in models), strict=True):
            parameters[0].copy_(torch.stack(parameters).mean(0))
    return setup.row(name, models[0], setup.cost("full"))


def merged(setup: Setup, top_k: int, name: str) -> Row:
    """Measure Branch-Train-Merge: the seed and the full branches as whole models that vote."""
    folders = [setup.seed, *setup.branches("full").values()]
    models = [load(folder, torch.float32) for folder in folders]
    limits = setup.limits
    bits_per_byte = {}
    for domain, data in setup.data.items():
        heldout = sample(Tokens.of(data, setup.tokenizer), limits)
        bits_per_byte[domain] = ensemble.bits_per_byte(models, heldout, top_k=top_k)
    cost = setup.cost("full")
    return Row(name, setup.random_seed, bits_per_byte, cost.tokens, cost.flops)


def mixture(setup: Setup, variant: Variant, name: str) -> Row:
    """Measure a variant of BTX."""
    tuned = composed(setup, variant)
    return setup.row(name, tuned.model, setup.cost(variant.branches) + tuned.cost)


def grown(setup: Setup, variant: Variant, joining: str, name: str) -> Row:
    """Measure a build that one expert joins after the others were tuned.

    The router weights of the experts that stay are taken over, that of the joining expert is
    fitted, and the tuning has `GROW` of its steps.

    Args:
        setup: what the rows share.
        variant: how both builds are composed.
        joining: the domain whose expert joins.
        name: of the row.

    Returns:
        The row; its cost is that of both tunings.
    """
    branches = setup.branches(variant.branches)
    newest = branches.pop(joining)
    first = composed(setup, variant, branches)
    previous = setup.folder / "before"
    shutil.rmtree(previous, ignore_errors=True)
    write_tuned(RoutedModel(first.model), setup.folder / "mixed", (ROUTER, SHARED), previous)
    # The joining expert comes last, so that every other one keeps its index.
    stay = range(len(branches) + int(variant.mixing.seed_expert))
    second = composed(
        setup,
        replace(variant, tuning=replace(variant.tuning, grow=GROW)),
        {**branches, joining: newest},
        Grown(previous, {index: index for index in stay}),
    )
    cost = setup.cost(variant.branches) + first.cost + second.cost
    return setup.row(name, second.model, cost)


def composed(
    setup: Setup,
    variant: Variant,
    members: Mapping[str, Path] | None = None,
    previous: Grown | None = None,
) -> Composed:
    """Mix dense models and tune the mixture.

    Args:
        setup: what the rows share.
        variant: how they are mixed and tuned.
        members: the dense models by domain; the variant's set of branches unless given.
        previous: a tuned build to go on from.

    Returns:
        The mixture in memory, and what tuning it took.
    """
    members = members or setup.branches(variant.branches)
    out = setup.folder / "mixed"
    shutil.rmtree(out, ignore_errors=True)
    slots = [Member(name, slot, path) for slot, (name, path) in enumerate(members.items(), 1)]
    mix(setup.seed, slots, variant.mixing, out)
    texts = {_domain_in_tuning(name): [setup.data[name]] for name in members}
    first_index = int(variant.mixing.seed_expert)
    own_experts = {
        _domain_in_tuning(name): OwnExpert(index, path)
        for index, (name, path) in enumerate(members.items(), first_index)
    }
    inputs = TuneInputs(out, texts, own_experts, setup.seed, previous)
    job = TuneJob.load(inputs, replace(variant.tuning, seed=setup.random_seed))
    job.start_routers()
    report = job.run()
    return Composed(job.routed.network, Cost(report.tokens, report.flops))


def _domain_in_tuning(name: str) -> str:
    """Return the name under which the tuning knows a domain."""
    return GENERAL if name == SEED_DOMAIN else name


def spread(values: list[float]) -> str:
    """Write values as their mean, plus or minus half the difference from least to largest."""
    return f"{statistics.fmean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}"


def by_name(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by their method, in the order in which the methods come first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    return groups


def markdown(rows: list[Row]) -> str:
    """Write the table of the comparison in Markdown.

    Args:
        rows: of every method and random seed, with the seed's and the anchored specialists' first.

    Returns:
        One printed line per method. Bits per byte are a mean ± half the range over random seeds;
        the gain kept is the share of the anchored specialists' gain, on domains that are new to
        the seed.
    """
    return "\n".join(_markdown_lines(rows)) + "\n"


def _markdown_lines(rows: list[Row]) -> Iterator[str]:
    groups = by_name(rows)
    domains = list(rows[0].bits_per_byte)
    headings = ["mean", "gain kept on what is new", "prose against the seed", "tokens", "FLOPs"]
    yield f"| | {' | '.join([*domains, *headings])} |"
    yield "|---|" + "---|" * (len(domains) + len(headings))
    for name, group in groups.items():
        cells = [
            *(spread([row.bits_per_byte[domain] for row in group]) for domain in domains),
            spread([_mean_bits(row) for row in group]),
            _gain_kept(groups, name),
            _change(groups, name),
            f"{group[0].tokens:,}",
            f"{group[0].flops:.2e}",
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _mean_bits(row: Row) -> float:
    return statistics.fmean(row.bits_per_byte.values())


def _gain_kept(groups: Mapping[str, list[Row]], name: str) -> str:
    """Write the share of the anchored specialists' gain that a method has too."""
    shares = []
    for row, seed, best in zip(groups[name], groups["seed"], groups[YARDSTICK], strict=True):
        for domain, own in row.bits_per_byte.items():
            share = share_of_gain(own, seed.bits_per_byte[domain], best.bits_per_byte[domain])
            if domain != SEED_DOMAIN and share is not None:
                shares.append(share)
    if not shares:
        return "not measured"
    return f"{100 * statistics.fmean(shares):.0f} % (least {100 * min(shares):.0f} %)"


def _change(groups: Mapping[str, list[Row]], name: str) -> str:
    """Write a method's change against the seed, on the seed's own domain."""
    pairs = zip(groups[name], groups["seed"], strict=True)
    changes = [
        100 * (row.bits_per_byte[SEED_DOMAIN] / seed.bits_per_byte[SEED_DOMAIN] - 1)
        for row, seed in pairs
    ]
    return f"{statistics.fmean(changes):+.1f} % (worst {max(changes):+.1f} %)"


def picture(rows: list[Row], path: Path) -> None:
    """Draw the comparison as a bar per method, with the range over random seeds as a thin stroke.

    Args:
        rows: of every method and random seed.
        path: of the PNG file to be written.
    """
    # An extra, and slow to import.
    from matplotlib.figure import Figure

    means = {name: [_mean_bits(row) for row in group] for name, group in by_name(rows).items()}
    # Bars are drawn from the bottom.
    names = list(reversed(means))
    middles = [statistics.fmean(means[name]) for name in names]
    below = [middle - min(means[name]) for name, middle in zip(names, middles, strict=True)]
    above = [max(means[name]) - middle for name, middle in zip(names, middles, strict=True)]
    colours = ["#2a6f97" if name.startswith("BTX") else "#a9a9a9" for name in names]
    figure = Figure(figsize=(10, 0.32 * len(means) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        names,
        middles,
        xerr=[below, above],
        color=colours,
        height=0.7,
        error_kw={"linewidth": 1},
    )
    for height, middle in enumerate(middles):
        axes.text(0.02, height, f"{middle:.3f}", va="center", color="white", fontsize=8)
    axes.set_title(
        "bits per byte on held-out text, mean over domains: lower is better",
        loc="left",
        fontsize=10,
    )
    axes.margins(y=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
