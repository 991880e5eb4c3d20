"""Fine-tune a mixture: only the routers, these and everything shared, or every parameter.

In:  a mixed folder, training text by domain and the expert that each text trained, a recipe.
Out: a whole folder. Where the routers and what is shared train, only model-router and model-shared
are new; every other file is a hard link to the mixture's.
What is made small is left to `btx_core.training.objectives`, the routers' first weights to
`btx_core.training.router_start`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from btx_core.batches import Corpus, Mixture
from btx_core.checkpoints.strict_json import read_json
from btx_core.machine import Machine, load
from btx_core.mixing.weight_files import PROVENANCE, ROUTER, SHARED
from btx_core.routed import RoutedModel
from btx_core.texts import AnyText
from btx_core.tokens import end_token
from btx_core.training.heldout import HeldOutLooks
from btx_core.training.loop import (
    UNWATCHED,
    ParameterRates,
    Training,
    TrainingReport,
    Watch,
    optimise,
    precision,
)
from btx_core.training.objectives import GENERAL, Teacher, Tuning
from btx_core.training.openings import Openings
from btx_core.training.recipes import TuneRecipe, check_taught, growing
from btx_core.training.router_start import (
    Grown,
    OwnExpert,
    join,
    router_states,
    start_from_statistics,
    take_over,
)
from btx_core.training.routing import Routing
from btx_core.training.run_state import RunCheckpoints
from btx_core.training.write_back import weight_files, write_tuned


@dataclass(frozen=True)
class TuneInputs:
    """What a tuning is given.

    Attributes:
        mixed: the mixed folder.
        texts: data folders by domain, in any naming; the domain `GENERAL` is the seed model's own
            text.
        own_experts: by domain, the expert that its text trained; without any, the routers start as
            they were mixed.
        seed_model: a dense folder whose predictions the mixture keeps on the seed model's own text.
        grown: the build before, to go on from where the recipe says `grow`.
    """

    mixed: Path
    texts: Mapping[str, Sequence[AnyText]]
    own_experts: Mapping[str, OwnExpert] = field(default_factory=dict)
    seed_model: Path | None = None
    grown: Grown | None = None


def tune(
    inputs: TuneInputs, recipe: TuneRecipe, out: Path, watch: Watch = UNWATCHED
) -> TrainingReport | None:
    """Tune a mixture. Interrupted, the same call goes on at its last checkpoint.

    Several processes that tune together all call.

    Args:
        inputs: the mixture, its text and what goes with it.
        recipe: how to tune.
        out: the folder to be made.
        watch: who is told how the tuning comes on.

    Returns:
        What the tuning took; None for mode "none".

    Raises:
        WrongUsage: for a recipe that gives shared parameters nothing to learn, or where `out`
            exists.
        Unreadable: for a data folder that does not hold text as promised.
        Unsupported: for a routing that the mixture's family cannot train.
    """
    job = TuneJob.load(inputs, recipe)
    done = None
    checkpoints = None
    if recipe.mode != "none":
        job.start_routers()
        checkpoints = job.checkpoints(out)
        done = job.run(checkpoints, watch)
    job.write(out)
    if checkpoints:
        # Only now: until the result stands, the run may have to go on.
        checkpoints.clear()
    return done


@dataclass(frozen=True, eq=False)
class TuneJob:
    """One tuning, step by step: load, start the routers, run, write.

    Attributes:
        inputs: what it is given.
        recipe: how to tune.
        routed: the mixture in memory; what trains is float32.
        tokenizer: the mixture's.
        routing: of the mixture's own recipe.
    """

    inputs: TuneInputs
    recipe: TuneRecipe
    routed: RoutedModel
    tokenizer: PreTrainedTokenizerBase
    routing: Routing

    @classmethod
    def load(cls, inputs: TuneInputs, recipe: TuneRecipe) -> "TuneJob":
        """Load the mixture; exactly the parameters train that the recipe's mode names.

        Args:
            inputs: what the tuning is given.
            recipe: how to tune.

        Returns:
            The job, nothing changed as yet.

        Raises:
            WrongUsage: for a recipe that gives shared parameters nothing to learn.
        """
        check_taught(recipe)
        routed = RoutedModel.load(
            inputs.mixed,
            torch.float32,
            compute=_compute(recipe),
            trainable="all" if recipe.mode == "none" else recipe.mode,
        )
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(inputs.mixed)
        routing: Routing = read_json(inputs.mixed / PROVENANCE)["recipe"]["routing"]
        return cls(inputs, recipe, routed, tokenizer, routing)

    @cached_property
    def corpora(self) -> dict[str, Corpus]:
        """The training text by domain, as tokens."""
        return {
            domain: Corpus.of(folders, self.tokenizer, self.recipe.seed)
            for domain, folders in self.inputs.texts.items()
        }

    @property
    def grown(self) -> Grown | None:
        """The build that the tuning goes on from, if it does."""
        return self.inputs.grown if self.recipe.grow else None

    @property
    def own_experts(self) -> dict[str, int]:
        """By domain, the index of the expert that its text trained."""
        return {domain: expert.index for domain, expert in self.inputs.own_experts.items()}

    @cached_property
    def openings(self) -> Openings | None:
        """Where conversations do not tell yet whose they are."""
        length = self.recipe.sequence
        return Openings.of(self.corpora, self.own_experts, GENERAL, self.tokenizer, length)

    def start_routers(self) -> None:
        """Give the routers their first weights, and take over what a build before has learnt."""
        if self.grown:
            take_over(self.routed, self.grown, shared=self.recipe.mode != "router")
        if not self.own_experts or self.recipe.start == "random":
            return
        length = self.recipe.sequence
        if not self.grown:
            experts, start = self.inputs.own_experts, self.recipe.start
            start_from_statistics(self.routed, experts, self.corpora, start, length, self.openings)
        elif set(self.own_experts.values()) - self.grown.index_before.keys():
            with precision(self.recipe, self.routed.machine):
                states = router_states(self.routed, self.corpora, length, self.openings)
            join(self.routed, self.grown, self.own_experts, states)

    def checkpoints(self, out: Path) -> RunCheckpoints:
        """Return where this tuning leaves its state, beside the folder that is to be made."""
        mixture = self._mixture
        also: dict[str, object] = {
            "routing": self.routing,
            "shares": mixture.shares,
            "experts": self.own_experts,
        }
        taken_over: list[Path] = []
        if self.grown:
            # Only these are taken over, and a withdrawal may name another build to go on from.
            taken_over = [self.grown.folder / ROUTER, self.grown.folder / SHARED]
            also["stays"] = sorted(self.grown.index_before.items())
        return RunCheckpoints.beside(
            out, self._scaled_recipe, self.inputs.mixed, mixture, taken_over=taken_over, also=also
        )

    @cached_property
    def _mixture(self) -> Mixture:
        share = self.recipe.grow_share if self.grown else 0.0
        shares = domain_shares(
            list(self.inputs.texts), self.recipe.general_share, self._joining, share
        )
        return Mixture(self.corpora, shares)

    @property
    def _joining(self) -> frozenset[str]:
        """The domains whose expert the build before had not."""
        if self.grown is None:
            return frozenset()
        before = self.grown.index_before
        return frozenset(name for name, index in self.own_experts.items() if index not in before)

    def run(
        self, checkpoints: RunCheckpoints | None = None, watch: Watch = UNWATCHED
    ) -> TrainingReport:
        """Train the mixture in memory.

        Args:
            checkpoints: where the run leaves its state; None: it leaves none.
            watch: who is told how the tuning comes on.

        Returns:
            What it took.
        """
        recipe = self._scaled_recipe
        end = end_token(self.tokenizer)
        objective = Tuning(
            routed=self.routed,
            recipe=recipe,
            routing=self.routing,
            end=end,
            own_experts=self.own_experts,
            openings=self.openings,
            teachers=self._teachers(),
        )
        of_routers = {f"{router.name}.weight": 1.0 for router in self.routed.routers}
        rates = ParameterRates(of_routers, otherwise=recipe.shared_rate)
        machine = self.routed.machine
        training = Training(
            self.routed.network,
            self._mixture,
            objective,
            rates,
            machine,
            HeldOutLooks.of(self.corpora.values(), end, recipe),
            self._kept_rows,
        )
        return optimise(training, recipe, checkpoints, watch)

    def _teachers(self) -> list[Teacher]:
        """Load what the mixture is held to."""
        recipe, machine, teachers = self.recipe, self.routed.machine, []
        if self.inputs.seed_model and recipe.keep:
            model = self._frozen(self.inputs.seed_model, machine)
            teachers.append(Teacher(model, frozenset([GENERAL]), recipe.keep))
        if self.grown and recipe.grow_keep:
            model = self._frozen(self.grown.folder, machine)
            staying = frozenset(self.inputs.texts) - self._joining
            teachers.append(Teacher(model, staying, recipe.grow_keep))
        return teachers

    def _frozen(self, folder: Path, machine: Machine) -> torch.nn.Module:
        return load(
            folder,
            torch.float32,
            machine=machine,
            trains=lambda _: (),
            compute=_compute(self.recipe),
        )

    @property
    def _kept_rows(self) -> dict[str, tuple[int, ...]]:
        """The router weights that a growing build keeps to the bit, by parameter.

        Where only routers train, the states that they see are those of before, and so taking the
        expert out again gives the build before. Where shared parameters move, all rows follow; and
        the recipe may ask for that.
        """
        recipe = self.recipe
        if self.grown is None or recipe.mode != "router" or recipe.grow_rows == "all":
            return {}
        rows = tuple(sorted(self.grown.index_before))
        return {f"{router.name}.weight": rows for router in self.routed.routers}

    def write(self, out: Path) -> None:
        """Write the tuned mixture as a whole folder.

        Args:
            out: the folder to be made.
        """
        changed = {
            "none": (),
            "router": (ROUTER,),
            "shared": (ROUTER, SHARED),
            "all": weight_files(self.inputs.mixed),
        }[self.recipe.mode]
        write_tuned(self.routed, self.inputs.mixed, changed, out)

    @cached_property
    def _scaled_recipe(self) -> TuneRecipe:
        """Return the recipe with the steps and the rate that a tuning takes which goes on."""
        if not self.grown:
            return self.recipe
        joins = self.routed.routers[0].experts > len(self.grown.index_before)
        return growing(self.recipe, joins=joins)


def domain_shares(
    domains: Sequence[str],
    general_share: float,
    joining: Collection[str] = (),
    joining_share: float = 0.0,
) -> dict[str, float]:
    """Divide the sequences of a tuning among the domains.

    Args:
        domains: their names; `GENERAL` is the seed model's own text.
        general_share: the share of `GENERAL`, where there are other domains beside it.
        joining: those whose expert joins a build.
        joining_share: what these share evenly; 0: they share as all do.

    Returns:
        Shares by domain, in their order. The others share evenly; without `GENERAL` and a share of
        what joins all weigh 1.
    """
    others = [name for name in domains if name != GENERAL]
    if not others or (GENERAL not in domains and not joining_share):
        return dict.fromkeys(domains, 1.0)
    general = general_share if GENERAL in domains else 0.0
    new = [name for name in others if name in joining and joining_share]
    left = 1 - general - (joining_share if new else 0.0)
    old = len(others) - len(new)
    shares = dict.fromkeys(domains, max(0.0, left) / max(1, old))
    shares |= dict.fromkeys(new, joining_share / max(1, len(new)))
    return shares | ({GENERAL: general} if GENERAL in domains else {})


def _compute(recipe: TuneRecipe) -> torch.dtype | None:
    return torch.bfloat16 if recipe.precision == "bfloat16" else None
