"""How a build grows by one expert: the recipes that were tried, as settings of one procedure.

In:  the previous build, the branch that joins, the text of all domains, a recipe.
Out: the grown build in memory, and what it took in floating point operations, teachers counted.
The product's own growth is the recipe with no setting. Nothing of an old expert ever trains.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from models import TUNE, Measured, Models, tuned_as

from btx_core.batches import Mixture
from btx_core.machine import assign, load, whole
from btx_core.routed import RoutedModel, is_expert_parameter, parameter_counts
from btx_core.tokens import end_token
from btx_core.training import objectives, router_start
from btx_core.training.loop import ParameterRates, Training, flops_per_token, optimise
from btx_core.training.objectives import Teacher, Tuning
from btx_core.training.router_start import SEQUENCES, Grown
from btx_core.training.tune import TuneJob, domain_shares


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One way to grow.

    Attributes:
        steps: of the tuning, as a share of a tuning from nothing.
        batch: sequences of a step.
        rate: share of the learning rate.
        shared_rate: of everything shared, as a share of the routers'.
        new_share: of the sequences, from the domain that joins; None: domains share evenly.
        general_share: of the sequences, general text.
        seed: weight of the KL divergence from the seed model on general text.
        before: weight of the KL divergence from the previous build on old domains' text.
        before_general: the same on general text.
        branch: weight of the KL divergence from the branch on its own text.
        kind: which branch joins.
        vector: share of what the branch changed of the shared parameters, that is added to them.
        decay: the final rate, as a share of the peak.
        warmup: steps.
        polish: share of the steps, at the end, in which all domains share the sequences as in a
            tuning from nothing.
        lora: rank of the deltas that train in place of the shared matrices; 0: these train.
        own_weight: of the joining text, against all other, where its router weights are fitted.
        frozen_rows: whether the router weights of the experts that stay keep their values.
    """

    steps: float = 0.2
    batch: int = 4
    rate: float = 1.0
    shared_rate: float = TUNE.shared_rate
    new_share: float | None = None
    general_share: float = TUNE.general_share
    seed: float = 1.0
    before: float = 0.0
    before_general: float = 0.0
    branch: float = 0.0
    kind: str = "anchored"
    vector: float = 0.0
    decay: float = TUNE.final_rate
    warmup: int = TUNE.warmup_steps
    polish: float = 0.0
    lora: int = 0
    own_weight: float = 0.5
    frozen_rows: bool = False


@dataclass(frozen=True)
class Phases:
    """A mixture of text whose shares change once.

    Attributes:
        first: until step `change`.
        second: from there on.
        change: a step.
    """

    first: Mixture
    second: Mixture
    change: int

    def batch(self, step: int, count: int, length: int):
        return (self.first if step < self.change else self.second).batch(step, count, length)


def grow(models: Models, members: Sequence[str], growth: Growth) -> Measured:
    """Grow a build of all members but the last by the last, and measure it.

    Args:
        models: of one random seed.
        members: domains; the last one joins.
        growth: how.
    """
    *old, new = members
    kinds = {new: growth.kind}
    previous, _ = models.from_nothing(f"without-{new}", old)
    recipe = replace(
        TUNE,
        seed=models.random_seed,
        steps=round(TUNE.steps * growth.steps),
        batch=growth.batch,
        learning_rate=TUNE.learning_rate * growth.rate,
        shared_rate=growth.shared_rate,
        general_share=growth.general_share,
        final_rate=growth.decay,
        warmup_steps=growth.warmup,
        grow=growth.steps,
    )
    stay = {index: index for index in range(len(members))}
    inputs = replace(models.inputs(members, kinds), grown=Grown(previous, stay))
    job = TuneJob.load(inputs, recipe)
    with _fitted_with(growth.own_weight):
        if growth.vector:
            _with_vector(job, models, new, growth)
        else:
            job.start_routers()
    dense = parameter_counts(load(models.seed)).total
    active = parameter_counts(job.routed.network).active
    tokens = recipe.steps * recipe.batch * recipe.sequence
    flops = tokens * flops_per_token(job.routed.network)
    # The states that the joining expert's router weights are fitted to.
    flops += 2 * active * len(members) * SEQUENCES * recipe.sequence
    shares = _shares(members, growth)
    teachers = _teachers(models, job, previous, members, growth)
    of_build = parameter_counts(RoutedModel(load(previous)).network).active
    for teacher in teachers:
        share = sum(shares[name] for name in teacher.domains) / sum(shares.values())
        mixed = hasattr(teacher.model.config, "num_local_experts")
        flops += 2 * (of_build if mixed else dense) * share * tokens
    if growth.kind != "anchored":
        extra = models.branch_flops(new, growth.kind) - models.branch_flops(new, "anchored")
        flops += extra
    _run(job, recipe, growth, shares, teachers)
    return models.measured(job.routed, tokens, flops, recipe.steps)


@contextmanager
def _fitted_with(own_weight: float) -> Iterator[None]:
    """Let the joining router weights be fitted with another weight of the joining text."""
    before = router_start.binary_cross_entropy_with_logits

    def weighted(logits, targets, sample_weights, reduction):
        sides = torch.where(targets > 0, own_weight / 0.5, (1 - own_weight) / 0.5)
        return before(logits, targets, sample_weights * sides, reduction=reduction)

    router_start.binary_cross_entropy_with_logits = weighted
    try:
        yield
    finally:
        router_start.binary_cross_entropy_with_logits = before


def _with_vector(job: TuneJob, models: Models, new: str, growth: Growth) -> None:
    """Start the routers on shared parameters that have moved as the branch moved them."""
    take_over = router_start.take_over
    before = dict(load(models.seed, torch.float32).named_parameters())
    after = dict(load(models.branch(new, growth.kind), torch.float32).named_parameters())
    take_over(job.routed, job.grown, shared=True)
    with torch.no_grad():
        for name, parameter in job.routed.network.named_parameters():
            if name in before and not is_expert_parameter(name) and ".mlp." not in name:
                parameter += growth.vector * (after[name] - before[name])
    states = router_start.router_states(job.routed, job.corpora, job.recipe.sequence)
    router_start.join(job.routed, job.grown, job.own_experts, states)


def _shares(members: Sequence[str], growth: Growth) -> dict[str, float]:
    shares = domain_shares([tuned_as(name) for name in members], growth.general_share)
    if growth.new_share is None:
        return shares
    new = tuned_as(members[-1])
    old = [name for name in shares if name not in (new, objectives.GENERAL)]
    rest = 1 - growth.new_share - growth.general_share
    shares = {name: rest / len(old) for name in old}
    return shares | {objectives.GENERAL: growth.general_share, new: growth.new_share}


def _teachers(
    models: Models, job: TuneJob, previous: Path, members: Sequence[str], growth: Growth
) -> list[Teacher]:
    *old, new = map(tuned_as, members)
    general = frozenset([objectives.GENERAL])
    build = _frozen(previous)
    teachers = [
        Teacher(_frozen(models.seed), general, growth.seed),
        Teacher(build, general, growth.before_general),
        Teacher(build, frozenset(old) - general, growth.before),
        Teacher(_frozen(models.branch(members[-1], growth.kind)), frozenset([new]), growth.branch),
    ]
    return [teacher for teacher in teachers if teacher.weight]


def _frozen(folder: Path) -> torch.nn.Module:
    return load(folder, torch.float32).eval().requires_grad_(False)


def _run(job: TuneJob, recipe, growth: Growth, shares, teachers) -> None:
    end = end_token(job.tokenizer)
    objective = Tuning(
        routed=job.routed,
        recipe=recipe,
        routing=job.routing,
        end=end,
        own_experts=job.own_experts,
        teachers=teachers,
    )
    mixture = Mixture(job.corpora, shares)
    if growth.polish:
        polish = Mixture(job.corpora, domain_shares(list(shares), TUNE.general_share))
        mixture = Phases(mixture, polish, round(recipe.steps * (1 - growth.polish)))
    of_routers = {f"{router.name}.weight": 1.0 for router in job.routed.routers}
    rates = ParameterRates(of_routers, otherwise=recipe.shared_rate)
    kept = {}
    if growth.frozen_rows:
        kept = {router: whole(router.weight).detach().clone() for router in job.routed.routers}
    training = Training(job.routed.network, mixture, objective, rates, job.routed.machine)
    optimise(training, recipe)
    for router, weights in kept.items():
        weights[-1] = whole(router.weight)[-1]
        assign(router.weight, weights)


_WHOLE = Growth(warmup=8)
_HALF_NEW = replace(_WHOLE, new_share=0.5, general_share=0.25)
_TAUGHT = replace(_HALF_NEW, before=1.0, before_general=1.0, batch=5)
_A = replace(_TAUGHT, rate=2.0, new_share=0.43, general_share=0.4, before=0.5, before_general=0.5)
_B = replace(_TAUGHT, rate=2.0, new_share=0.4, general_share=0.4, batch=6)
_C = replace(_B, new_share=0.43, before_general=0.5)
_D = replace(_B, new_share=0.45, general_share=0.45, before_general=0.0)
_E = replace(_B, batch=5, before_general=0.3)
# What was tried, by the name of its row.
RECIPES = {
    "the default of `grow`": Growth(),
    "a fifth of the rate": Growth(rate=0.2),
    "the whole rate, a shorter warm-up": _WHOLE,
    "half of the rows new": _HALF_NEW,
    "half new, the build before as teacher, 5 rows": _TAUGHT,
    "A: twice the rate, 0.43 new, 0.4 general, teacher 0.5, 5 rows": _A,
    "A on averaged parameters: a quarter of a full branch's": replace(_A, kind="full", vector=0.25),
    "A on half of a full branch's trunk vector": replace(_A, kind="full", vector=0.5),
    "B: twice the rate, 0.4 new, 0.4 general, teacher 1, 6 rows": _B,
    "the demonstration's: B at 1.5 times the rate, 0.42 new": replace(_B, rate=1.5, new_share=0.42),
    "B with half of the rows new": replace(_B, new_share=0.5, general_share=0.25),
    "B, no teacher on general text": replace(_B, before_general=0.0),
    "C: B, 0.43 new, teacher 0.5 on general text": _C,
    "C, routers at half of the rate": replace(_C, rate=1.0, shared_rate=1.2),
    "C, new router weights fitted with a tenth on its own": replace(_C, own_weight=0.1),
    "C, 0.35 new, 0.5 general": replace(_C, new_share=0.35, general_share=0.5),
    "C, no teacher on general text, three times the seed's": replace(
        _C, before_general=0.0, seed=3.0
    ),
    "C, no teacher on general text, the branch as teacher": replace(
        _C, before_general=0.0, branch=0.5
    ),
    "D: B, 0.45 new, 0.45 general, no teacher on general text": _D,
    "D, the rate falls to 0": replace(_D, decay=0.0),
    "D, three times the rate": replace(_D, rate=3.0),
    "E: 5 rows, 0.4 new, 0.5 general, teacher 0.3 on general text": replace(_E, general_share=0.5),
    "E, three times the rate, 0.38 new, 0.47 general": replace(
        _E, rate=3.0, new_share=0.38, general_share=0.47
    ),
    "the same, the build before instead of the seed on general text": replace(
        _E, rate=3.0, new_share=0.38, general_share=0.47, before_general=1.0, seed=0.0
    ),
}
