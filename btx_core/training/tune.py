"""Fine-tune a mixture: only the routers, these and everything shared, or every parameter.

In:  a mixed folder, training text by domain and the expert that each text trained, a recipe.
Out: a whole folder. Where the routers and what is shared train, only model-router and model-shared
are new; every other file is a hard link to the mixture's.
What is made small is left to `btx_core.training.objectives`, the routers' first weights to
`btx_core.training.router_start`.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.strict_json import read_json
from btx_core.files import link_or_copy, whole_folder
from btx_core.machine import load
from btx_core.mixing.weight_files import PROVENANCE, ROUTER, SHARED
from btx_core.problems import WrongUsage
from btx_core.routed import RoutedModel, is_expert_parameter
from btx_core.texts import Corpus, Mixture, end_token
from btx_core.training.heldout import HeldOutLooks
from btx_core.training.loop import (
    UNWATCHED,
    ParameterRates,
    Training,
    TrainingReport,
    Watch,
    optimise,
)
from btx_core.training.objectives import GENERAL, Tuning
from btx_core.training.recipes import TuneRecipe
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
    texts: Mapping[str, Sequence[Path]]
    own_experts: Mapping[str, OwnExpert] = field(default_factory=dict)
    seed_model: Path | None = None
    grown: Grown | None = None


def tune(
    inputs: TuneInputs, recipe: TuneRecipe, out: Path, watch: Watch = UNWATCHED
) -> TrainingReport | None:
    """Tune a mixture. Interrupted, the same call goes on at its last checkpoint.

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
    report = None
    if recipe.mode != "none":
        job.start_routers()
        job.freeze()
        report = job.run(out, watch)
    if PartialState().is_main_process:
        job.write(out)
    return report


@dataclass(frozen=True, eq=False)
class TuneJob:
    """One tuning, step by step: load, start the routers, freeze, run, write.

    Attributes:
        inputs: what it is given.
        recipe: how to tune.
        routed: the mixture in memory, float32.
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
        """Load the mixture.

        Args:
            inputs: what the tuning is given.
            recipe: how to tune.

        Returns:
            The job, nothing changed as yet.

        Raises:
            WrongUsage: for a recipe that gives shared parameters nothing to learn.
        """
        if recipe.mode not in ("none", "router") and not (recipe.text or recipe.keep):
            raise WrongUsage(
                "[recipe.tune] text, keep",
                found=f'both 0, mode = "{recipe.mode}"',
                expected='mode = "router"',
                next="give text a weight: 1",
            )
        routed = RoutedModel.load(inputs.mixed, torch.float32)
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

    def start_routers(self) -> None:
        """Give the routers their first weights, and take over what a build before has learnt."""
        if self.grown:
            take_over(self.routed, self.grown)
        if not self.own_experts or self.recipe.start == "random":
            return
        length = self.recipe.sequence
        if not self.grown:
            experts, start = self.inputs.own_experts, self.recipe.start
            start_from_statistics(self.routed, experts, self.corpora, start, length)
        elif set(self.own_experts.values()) - self.grown.index_before.keys():
            states = router_states(self.routed, self.corpora, length)
            join(self.routed, self.grown, self.own_experts, states)

    def freeze(self) -> None:
        """Let exactly the parameters train that the recipe's mode names."""
        if self.recipe.mode != "none":
            self.routed.freeze(self.recipe.mode)

    def run(self, out: Path | None = None, watch: Watch = UNWATCHED) -> TrainingReport:
        """Train the mixture in memory.

        Args:
            out: the folder that is to be made; checkpoints are kept beside it. None: none are kept.
            watch: who is told how the tuning comes on.

        Returns:
            What it took.
        """
        recipe, inputs = self._scaled_recipe(), self.inputs
        mixture = Mixture(
            self.corpora, domain_shares(list(inputs.texts), self.recipe.general_share)
        )
        teacher = None
        if inputs.seed_model and recipe.keep:
            teacher = load(inputs.seed_model, torch.float32)
        end = end_token(self.tokenizer)
        objective = Tuning(
            routed=self.routed,
            recipe=recipe,
            routing=self.routing,
            end=end,
            own_experts=self.own_experts,
            teacher=teacher,
        )
        of_routers = {f"{router.name}.weight": 1.0 for router in self.routed.routers}
        rates = ParameterRates(of_routers, otherwise=recipe.shared_rate)
        folders = [folder for folders in inputs.texts.values() for folder in folders]
        heldout = HeldOutLooks.of(folders, self.tokenizer, end, recipe)
        training = Training(self.routed.network, mixture, objective, rates, heldout)
        checkpoints = None
        if out is not None:
            checkpoints = RunCheckpoints.beside(out, recipe, inputs.mixed, mixture)
        return optimise(training, recipe, checkpoints, watch)

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
        with whole_folder(out) as folder:
            write_tuned(self.routed, self.inputs.mixed, changed, folder)

    def _scaled_recipe(self) -> TuneRecipe:
        """Return the recipe with the steps and the rate that a tuning takes which goes on."""
        if not self.grown:
            return self.recipe
        gained = self.routed.routers[0].experts > len(self.grown.index_before)
        steps = math.ceil(self.recipe.steps * self.recipe.grow) if gained else 0
        rate = self.recipe.learning_rate * self.recipe.grow_rate
        return replace(self.recipe, steps=steps, learning_rate=rate)


def domain_shares(domains: Sequence[str], general_share: float) -> dict[str, float]:
    """Divide the sequences of a tuning among the domains.

    Args:
        domains: their names; `GENERAL` is the seed model's own text.
        general_share: the share of `GENERAL`, where there are other domains beside it.

    Returns:
        Shares by domain. The others share evenly; without `GENERAL` all weigh 1.
    """
    others = [name for name in domains if name != GENERAL]
    if GENERAL not in domains or not others:
        return dict.fromkeys(domains, 1.0)
    shares = dict.fromkeys(domains, (1 - general_share) / len(others))
    return shares | {GENERAL: general_share}


def weight_files(mixed: Path) -> tuple[str, ...]:
    """Return the names of a folder's weight files, sorted."""
    return tuple(sorted(file.name for file in mixed.glob("*.safetensors")))


def write_tuned(routed: RoutedModel, mixed: Path, changed: tuple[str, ...], out: Path) -> None:
    """Write a tuned mixture: the changed files anew, every other as a hard link.

    Args:
        routed: the mixture in memory.
        mixed: the folder that it was loaded from.
        changed: names of the weight files that the tuning changed; they get the same tensors under
            the same names and dtypes.
        out: an existing, empty folder.
    """
    opened = Checkpoint.open(mixed)
    whole = changed == weight_files(mixed)
    state = {
        name: tensor.detach()
        for name, tensor in routed.network.state_dict().items()
        if whole or not is_expert_parameter(name)
    }
    on_disk = revert_weight_conversion(routed.network, state)
    for file in sorted(mixed.iterdir()):
        if file.is_dir():
            shutil.copytree(file, out / file.name)
            continue
        if file.name not in changed:
            link_or_copy(file, out / file.name)
            continue
        tensors = {}
        for name, info in opened.tensors.items():
            if info.file.name == file.name:
                tensors[name] = on_disk[name].to(opened.read(name).dtype).contiguous()
        # One metadata key: safetensors writes several in any order.
        save_file(tensors, out / file.name, metadata={"format": "pt"})
        (out / file.name).chmod(0o644)
