"""Tuning: what each mode may change, the losses by hand, growth, and going on after a kill."""

import hashlib
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from btx_core.machine import load
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.problems import WrongUsage
from btx_core.routed import RoutedModel, Router
from btx_core.training.branch import train
from btx_core.training.losses import NO_EXPERT, balance_loss, own_expert_loss, z_loss
from btx_core.training.objectives import GENERAL, Batch, Tuning
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.routing import Routing
from btx_core.training.tune import TuneInputs, TuneJob, domain_shares, tune

from .conftest import TINY, build

RECIPE = TuneRecipe(steps=6, sequence=32, warmup_steps=2, save_every=4)
ROUTER, SHARED = "model-router.safetensors", "model-shared.safetensors"


@pytest.fixture(scope="module")
def mixtures(tiny_seed: Path, tiny_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Branches math and code, both anchored, and mixtures: `two` of both, `one` of math only."""
    root = tmp_path_factory.mktemp("tune")
    for name in ("math", "code"):
        train(tiny_seed, [tiny_corpora / name], TrainRecipe(steps=20, sequence=32), root / name)
    math, code = Member("math", 1, root / "math"), Member("code", 2, root / "code")
    mix(tiny_seed, [math, code], MixRecipe(), root / "two")
    mix(tiny_seed, [math], MixRecipe(), root / "one")
    return root


def texts(corpora: Path, *names: str) -> dict[str, list[Path]]:
    return {GENERAL: [corpora / "prose"], **{name: [corpora / name] for name in names}}


def own_experts(mixtures: Path, seed: Path, *names: str) -> dict[str, OwnExpert]:
    """The seed model is expert 0, the branches of these names follow."""
    experts = {GENERAL: OwnExpert(0, seed)}
    for index, name in enumerate(names, 1):
        experts[name] = OwnExpert(index, mixtures / name)
    return experts


def inputs(
    mixtures: Path, seed: Path, corpora: Path, *names: str, grown: Grown | None = None
) -> TuneInputs:
    """What a tuning of the mixture of these branches is given, all of it."""
    mixed = mixtures / {1: "one", 2: "two"}[len(names)]
    experts = own_experts(mixtures, seed, *names)
    return TuneInputs(mixed, texts(corpora, *names), experts, seed, grown)


def digests(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.glob("*.safetensors")
    }


@pytest.mark.parametrize(
    ("mode", "new"),
    [
        ("none", set()),
        ("router", {ROUTER}),
        ("shared", {ROUTER, SHARED}),
        (
            "all",
            {ROUTER, SHARED, *(f"model-expert-{n}.safetensors" for n in ("seed", "math", "code"))},
        ),
    ],
)
def test_each_mode_changes_its_shards_and_no_other_file(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path, mode: str, new: set[str]
) -> None:
    recipe = replace(RECIPE, mode=mode)
    tune(inputs(mixtures, tiny_seed, tiny_corpora, "math", "code"), recipe, tmp_path / "out")
    before, after = digests(mixtures / "two"), digests(tmp_path / "out")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == new
    for name in before.keys() - new:
        assert (mixtures / "two" / name).stat().st_ino == (tmp_path / "out" / name).stat().st_ino
    loaded = load(tmp_path / "out", torch.float32)
    assert torch.isfinite(loaded(input_ids=torch.arange(8)[None]).logits).all()


def test_experts_that_train_are_written_in_their_own_slots(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    """An expert that was taken out leaves its slot free, and the others keep theirs."""
    folders = {slot: mixtures / name for slot, name in ((2, "math"), (5, "code"))}
    members = [Member(folder.name, slot, folder) for slot, folder in folders.items()]
    mix(tiny_seed, members, MixRecipe(), tmp_path / "gaps")
    given = TuneInputs(tmp_path / "gaps", texts(tiny_corpora, "math", "code"))
    tune(given, replace(RECIPE, mode="all", learning_rate=1e-7), tmp_path / "out")
    for name in ("seed", "math", "code"):
        file = f"model-expert-{name}.safetensors"
        before, after = load_file(tmp_path / "gaps" / file), load_file(tmp_path / "out" / file)
        assert before.keys() == after.keys()
        assert all(torch.allclose(before[one], after[one], atol=1e-5) for one in before)
    assert changed_tensors(tmp_path / "gaps", tmp_path / "out")


def test_a_run_does_not_go_on_from_the_state_of_one_that_routed_otherwise(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    """The mixtures differ in their config alone, not in a weight."""
    members = [Member(name, slot, mixtures / name) for slot, name in ((1, "math"), (2, "code"))]
    recipes = [MixRecipe(top_k=count) for count in (1, 2, 3)]
    recipes += [MixRecipe(routing="soft"), MixRecipe(routing="sample")]
    keys = set()
    for number, recipe in enumerate(recipes):
        mixed = tmp_path / str(number)
        mix(tiny_seed, members, recipe, mixed)
        job = TuneJob.load(TuneInputs(mixed, texts(tiny_corpora, "math", "code")), RECIPE)
        keys.add(job.checkpoints(tmp_path / "out").key)
    assert len(keys) == len(recipes)


def test_router_mode_leaves_every_shared_parameter_as_it_was(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    changed: dict[str, set[str]] = {}
    for mode in ("router", "shared"):
        given = TuneInputs(mixtures / "two", texts(tiny_corpora, "math", "code"))
        tune(given, replace(RECIPE, mode=mode), tmp_path / mode)
        changed[mode] = changed_tensors(mixtures / "two", tmp_path / mode)
    routers = set(load_file(mixtures / "two" / ROUTER))
    shared = set(load_file(mixtures / "two" / SHARED))
    assert changed["shared"] == routers | shared, (
        "the comparison sees a shared parameter that moves"
    )
    assert changed["router"] == routers


def changed_tensors(before: Path, after: Path) -> set[str]:
    """The names of all tensors, experts' included, whose values differ between two mixtures."""
    names = set()
    for file in sorted(before.glob("*.safetensors")):
        was, now = load_file(file), load_file(after / file.name)
        assert was.keys() == now.keys()
        names |= {name for name in was if not torch.equal(was[name], now[name])}
    return names


def test_the_balance_loss_tells_balanced_from_collapsed() -> None:
    """1 when balanced, N when one of N experts takes all; a mean of products reads N for both."""
    experts = 4
    balanced = 50.0 * torch.eye(experts).repeat(8, 1)
    collapsed = 50.0 * torch.eye(experts)[[0]].repeat(32, 1)
    shares = [logits.softmax(-1) for logits in (balanced, collapsed)]
    assert float(balance_loss(shares[0], shares[0].round())) == pytest.approx(1.0)
    assert float(balance_loss(shares[1], shares[1].round())) == pytest.approx(experts)
    wrong = [experts * (one.round() * one).sum(-1).mean() for one in shares]
    assert float(wrong[0]) == float(wrong[1]) == pytest.approx(experts)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_no_routers_balance_is_better_than_balanced(sigmoid: bool) -> None:
    """Where every expert is taken, E Σ u² is least at 1, where all weigh alike."""
    module = torch.nn.Linear(1, 2)
    module.top_k = 2  # type: ignore[assignment]
    router = Router("gate", 0, module, sigmoid)
    alike = torch.zeros(3, 2)
    # A sigmoid of 8 is hardly more than one of 4; a softmax tells them far apart.
    apart = torch.tensor([[-4.0, -8.0], [4.0, 8.0], [4.0, 8.0]])
    for logits, is_balanced in ((alike, True), (apart, False)):
        shares, weights = router.shares_of(logits), router.weights_of(logits)
        assert torch.allclose(shares, weights)
        found = float(balance_loss(shares, weights))
        assert found == pytest.approx(2 * float(weights.mean(0).square().sum()))
        assert (found == pytest.approx(1.0)) is is_balanced
        assert found > 0.999
    # Far below zero no share is 0 / 0.
    assert torch.isfinite(router.shares_of(torch.full((1, 2), -200.0))).all()
    if sigmoid:
        # What a softmax over its logits would say, though two thirds go to one expert.
        assert float(balance_loss(apart.softmax(-1), router.weights_of(apart))) < 0.95


def test_the_tuning_takes_the_balance_of_its_familys_routers(
    tiny_seed: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_seed)
    config = TINY | {"vocab_size": len(tokenizer), "head_dim": 8, "pad_token_id": 0}
    build("glm", **config).save_pretrained(tmp_path / "seed")
    tokenizer.save_pretrained(tmp_path / "seed")
    members = [Member(name, slot, tmp_path / "seed") for slot, name in enumerate("ab", 1)]
    mix(tmp_path / "seed", members, MixRecipe(router_std=2.0, routing="soft"), tmp_path / "mixed")
    routed = RoutedModel.load(tmp_path / "mixed", torch.float32)
    tuning = Tuning(routed, TuneRecipe(text=0.0, keep=0.0, z=0.0, balance=1.0), "soft", 0, {})
    batch = Batch(torch.arange(34).reshape(2, 17), ("a", "b"))
    with torch.no_grad(), routed.recording(inputs=True) as recording:
        loss = float(tuning(routed.network, batch, 0.0).detach())
        routed.network(input_ids=batch.ids[:, :-1])
    weights = [one.routing_weights(recording.inputs[one.name]) for one in routed.routers]
    assert loss == pytest.approx(sum(3 * float(one.mean(0).square().sum()) for one in weights))


def test_the_home_loss_is_the_cross_entropy_to_each_texts_own_expert() -> None:
    logits = torch.tensor(
        [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.0, 0.0]]
    )  # two sequences of two tokens
    scores = logits.log_softmax(-1)
    both = scores[0, 0] + scores[1, 0] + scores[2, 2] + scores[3, 2]
    own = torch.tensor([0, 0, 2, 2])
    assert float(own_expert_loss(logits, own)) == pytest.approx(-float(both) / 4)
    first = scores[0, 0] + scores[1, 0]
    own[2:] = NO_EXPERT
    assert float(own_expert_loss(logits, own)) == pytest.approx(-float(first) / 4)


def test_the_router_learns_where_each_text_is_at_home_without_a_way_back_through_the_model(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    recipe = replace(
        RECIPE,
        mode="router",
        steps=100,
        batch=16,
        learning_rate=1e-2,
        text=0.0,
        keep=0.0,
        home=1.0,
        balance=0.0,
        start="random",
    )
    out = tmp_path / "out"
    given = replace(inputs(mixtures, tiny_seed, tiny_corpora, "math", "code"), seed_model=None)
    report = tune(given, recipe, out)
    assert report
    losses = [loss for _, loss in report.curve]
    assert sum(losses[-10:]) < sum(losses[:10]) - 0.5
    assert {
        name for name, digest in digests(out).items() if digest != digests(mixtures / "two")[name]
    } == {ROUTER}
    bare = TuneInputs(mixtures / "two", texts(tiny_corpora, "math"))
    back = tune(bare, replace(recipe, steps=1, text=1.0), tmp_path / "back")
    assert back
    assert report.flops / report.tokens < 0.6 * back.flops / back.tokens


def test_with_nothing_to_teach_them_shared_parameters_are_not_tuned(
    mixtures: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    with pytest.raises(WrongUsage, match="give text a weight"):
        tune(
            TuneInputs(mixtures / "two", texts(tiny_corpora, "math")),
            replace(RECIPE, text=0.0, keep=0.0, home=1.0),
            tmp_path / "out",
        )
    assert not list(tmp_path.iterdir())


def test_z_loss_is_the_mean_squared_log_partition() -> None:
    assert float(z_loss(torch.zeros(5, 4))) == pytest.approx(float(torch.tensor(4.0).log() ** 2))


def test_routing_weights_are_what_the_stock_model_multiplies_with(mixtures: Path) -> None:
    router = RoutedModel.load(mixtures / "two", torch.float32).routers[0]
    hidden = torch.randn(7, router.weight.shape[1])
    by_hand = torch.zeros(7, 3)
    kept = (hidden @ router.weight.T).topk(2, -1)
    by_hand.scatter_(-1, kept.indices, kept.values.softmax(-1))
    assert torch.allclose(router.routing_weights(hidden), by_hand, atol=1e-6)


def test_the_general_text_gets_its_share_and_the_others_the_rest_evenly() -> None:
    found = domain_shares(["math", GENERAL, "code"], 0.4)
    assert found == {"math": 0.3, GENERAL: 0.4, "code": 0.3}
    # A batch takes the domains in this order.
    assert list(found) == ["math", GENERAL, "code"]
    assert domain_shares(["math", "code"], 0.4) == {"math": 1.0, "code": 1.0}


def test_what_joins_gets_its_share_and_the_old_domains_what_is_left() -> None:
    found = domain_shares(["math", GENERAL, "code", "units"], 0.3, ["code"], 0.5)
    assert list(found) == ["math", GENERAL, "code", "units"]
    assert found == pytest.approx({"math": 0.1, GENERAL: 0.3, "code": 0.5, "units": 0.1})
    assert domain_shares(["math", "code"], 0.3, ["code"], 0.5) == {"math": 0.5, "code": 0.5}
    # The general text keeps its own share, whoever joins.
    alike = domain_shares(["math", GENERAL], 0.3, [GENERAL], 0.5)
    assert alike == {"math": 0.7, GENERAL: 0.3}


@pytest.mark.slow
def test_holding_to_the_build_before_keeps_its_predictions_on_the_old_text(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    growing = replace(RECIPE, steps=30, grow=1.0, grow_rate=1.0)
    tune(inputs(mixtures, tiny_seed, tiny_corpora, "math"), growing, before)
    grown = Grown(before, {0: 0, 1: 1})
    given = inputs(mixtures, tiny_seed, tiny_corpora, "math", "code", grown=grown)
    far = {}
    for keep in (0.0, 10.0):
        tune(given, replace(growing, grow_keep=keep), tmp_path / str(keep))
        far[keep] = divergence(before, tmp_path / str(keep), tiny_corpora / "math")
    assert far[10.0] < far[0.0]


@pytest.mark.slow
def test_routers_alone_are_held_to_the_build_before_where_nothing_else_teaches_them(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, mode="router", steps=4, sequence=32, grow=1.0, text=0.0, keep=0.0)
    before = tmp_path / "before"
    tune(inputs(mixtures, tiny_seed, tiny_corpora, "math"), recipe, before)
    grown = Grown(before, {0: 0, 1: 1})
    given = inputs(mixtures, tiny_seed, tiny_corpora, "math", "code", grown=grown)
    flops = {}
    for grow_keep in (0.0, 1.0):
        done = tune(given, replace(recipe, grow_keep=grow_keep), tmp_path / str(grow_keep))
        flops[grow_keep] = done.flops if done else 0.0
    assert digests(tmp_path / "0.0") != digests(tmp_path / "1.0")
    assert flops[0.0] < flops[1.0]


def test_holding_to_the_seed_keeps_its_predictions_nearer(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    given = inputs(mixtures, tiny_seed, tiny_corpora, "math", "code")
    far = {}
    for keep in (0.0, 10.0):
        tune(given, replace(RECIPE, steps=30, keep=keep), tmp_path / str(keep))
        far[keep] = divergence(tiny_seed, tmp_path / str(keep), tiny_corpora / "prose")
    assert far[10.0] < far[0.0]


def divergence(seed: Path, tuned: Path, text: Path) -> float:
    """Of the tuned model's predictions from the seed's, on sequences of text; nats per token."""
    from btx_core.batches import Corpus

    corpus = Corpus.of([text], AutoTokenizer.from_pretrained(seed))
    ids = torch.stack([torch.from_numpy(corpus.sequence(number, 32)[:-1]) for number in range(8)])
    with torch.no_grad():
        wanted, found = (
            load(folder, torch.float32)(input_ids=ids).logits.log_softmax(-1)
            for folder in (seed, tuned)
        )
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


def test_a_grown_build_keeps_rows_and_a_shrunk_one_keeps_them_to_the_bit(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, mode="router", grow=0.5)
    one, two, back = tmp_path / "one", tmp_path / "two", tmp_path / "back"
    tune(inputs(mixtures, tiny_seed, tiny_corpora, "math"), recipe, one)
    grown = Grown(one, {0: 0, 1: 1})
    report = tune(
        inputs(mixtures, tiny_seed, tiny_corpora, "math", "code", grown=grown), recipe, two
    )
    assert report
    assert report.tokens == 3 * recipe.batch * recipe.sequence  # half of the steps
    shrinking = Grown(two, {0: 0, 1: 1})
    shrunk = tune(inputs(mixtures, tiny_seed, tiny_corpora, "math", grown=shrinking), recipe, back)
    assert shrunk
    assert shrunk.tokens == 0
    larger, kept = load_file(two / ROUTER), load_file(back / ROUTER)
    assert all(torch.equal(kept[name], larger[name][:2]) for name in kept)
    assert digests(back)[SHARED] == digests(mixtures / "one")[SHARED]
    # The rows of the experts that stay never moved: without the joined one it is the build before.
    assert digests(back) == digests(one)
    fitted = tmp_path / "fitted"
    unmoved = replace(recipe, steps=0)
    tune(inputs(mixtures, tiny_seed, tiny_corpora, "math", "code", grown=grown), unmoved, fitted)
    assert not any(
        torch.equal(larger[name][2], load_file(fitted / ROUTER)[name][2]) for name in larger
    )


RUN = """
import sys, torch
from pathlib import Path
from btx_core.training.loop import Watch
from btx_core.training.objectives import GENERAL, Batch, Tuning
from btx_core.training.recipes import TuneRecipe
from btx_core.training.tune import TuneInputs, tune
torch.set_num_threads(1)
mixed, corpora, out = map(Path, sys.argv[1:])
recipe = TuneRecipe(steps=24, sequence=32, warmup_steps=2, save_every=6)
texts = {GENERAL: [corpora / "prose"], "math": [corpora / "math"], "code": [corpora / "code"]}
watch = Watch(lambda done, total, text: print(done, flush=True))
tune(TuneInputs(mixed, texts), recipe, out, watch)
"""


@pytest.mark.slow
def test_a_tuning_killed_outright_goes_on_and_ends_in_the_same_bytes(
    mixtures: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", RUN, str(mixtures / "two"), str(tiny_corpora)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if int(line) >= 14:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    (left,) = (tmp_path / ".killed.training").glob("step-*/run.json")
    taken_up = json.loads(left.read_text())["step"]
    done = subprocess.run(
        [*command, str(tmp_path / "killed")], check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(done[0]) > taken_up >= 6
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


@pytest.mark.parametrize("routing", ["soft", "switch", "sample"])
def test_every_routing_tunes_and_loads_as_a_stock_model(
    mixtures: Path, tiny_seed: Path, tiny_corpora: Path, tmp_path: Path, routing: Routing
) -> None:
    mix(
        tiny_seed,
        [Member("math", 1, mixtures / "math"), Member("code", 2, mixtures / "code")],
        MixRecipe(routing=routing),
        tmp_path / "mixed",
    )
    given = inputs(mixtures, tiny_seed, tiny_corpora, "math", "code")
    report = tune(
        replace(given, mixed=tmp_path / "mixed"), replace(RECIPE, steps=40), tmp_path / "out"
    )
    assert report
    losses = [loss for _, loss in report.curve]
    assert sum(losses[-8:]) < sum(losses[:8])
    model = RoutedModel.load(tmp_path / "out", torch.float32)
    assert type(model.network).__name__ == (
        "Qwen2MoeForCausalLM" if routing == "switch" else "MixtralForCausalLM"
    )
    assert {router.top_k for router in model.routers} == {3 if routing == "soft" else 1}
    before, after = load_file(tmp_path / "mixed" / ROUTER), load_file(tmp_path / "out" / ROUTER)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert not model.routers[0].module._forward_hooks, "the stock model is left as it was"
