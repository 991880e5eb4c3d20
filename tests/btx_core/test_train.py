"""Training: what a branch may change, runs that repeat to the bit, and killed runs that go on."""

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

from btx_core.checkpoints.dense import FEED_FORWARD
from btx_core.machine import load
from btx_core.training.branch import train
from btx_core.training.loop import Watch, schedule
from btx_core.training.losses import next_token_loss
from btx_core.training.recipes import TrainRecipe

RECIPE = TrainRecipe(steps=24, sequence=32, warmup_steps=4, save_every=8)
RUN = """
import sys
import torch
from pathlib import Path
from btx_core.training.branch import train
from btx_core.training.loop import Watch
from btx_core.training.recipes import TrainRecipe
torch.set_num_threads(1)
seed, data, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
recipe = TrainRecipe(steps=steps, sequence=32, save_every=8)
watch = Watch(lambda done, total, text: print(done, flush=True))
train(seed, [data], recipe, out, watch=watch)
"""


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_an_anchored_branch_changes_feed_forward_blocks_and_nothing_else(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    recipe = TrainRecipe(steps=60, sequence=32, learning_rate=1e-2)
    report = train(tiny_seed, [tiny_corpora / "math"], recipe, tmp_path / "out")
    before, after = (
        load_file(tiny_seed / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if FEED_FORWARD.search(name)}
    assert report.trained_parameters == sum(before[name].numel() for name in changed)
    losses = [loss for _, loss in report.curve]
    assert sum(losses[-4:]) < sum(losses[:4])
    assert float("5e-324") * 1.0 > 0, "numbers are flushed after the training too"


def test_a_full_branch_changes_every_tensor(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    train(
        tiny_seed,
        [tiny_corpora / "math"],
        TrainRecipe(mode="full", steps=4, sequence=32),
        tmp_path / "out",
    )
    before, after = (
        load_file(tiny_seed / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_adapters_of_low_rank_are_merged_into_a_plain_checkpoint(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    report = train(
        tiny_seed,
        [tiny_corpora / "math"],
        TrainRecipe(steps=4, sequence=32, lora_rank=2),
        tmp_path / "out",
    )
    before, after = (
        load_file(tiny_seed / "model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if FEED_FORWARD.search(name)}
    assert (
        torch.linalg.matrix_rank((after[min(changed)] - before[min(changed)]).double(), rtol=1e-4)
        <= 2
    )
    assert report.trained_parameters < sum(before[name].numel() for name in changed) / 2


def test_adapters_start_alike_whatever_was_drawn_before(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    written = []
    for drawn_before in (1, 2):
        torch.manual_seed(drawn_before)
        out = tmp_path / str(drawn_before)
        recipe = TrainRecipe(steps=2, sequence=32, lora_rank=2)
        train(tiny_seed, [tiny_corpora / "math"], recipe, out)
        written.append((out / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_bfloat16_and_parts_of_a_step_train_alike(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    """Parts agree with the plain run to rounding, bfloat16 ends within a tenth of a nat of it."""
    ends = {}
    for name, changed in {
        "plain": {},
        "parts": {"accumulate": 2},
        "bfloat16": {"precision": "bfloat16"},
    }.items():
        plain = TrainRecipe(steps=12, sequence=32, warmup_steps=4)
        recipe = replace(plain, **changed)
        ends[name] = train(tiny_seed, [tiny_corpora / "math"], recipe, tmp_path / name).curve[-1][1]
    assert ends["parts"] == pytest.approx(ends["plain"], abs=1e-3)
    assert ends["bfloat16"] == pytest.approx(ends["plain"], abs=0.1)
    assert weights(tmp_path / "bfloat16") != weights(tmp_path / "plain")


def test_a_run_killed_outright_goes_on_and_ends_in_the_same_bytes(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    steps = 40
    command = [sys.executable, "-c", RUN, str(tiny_seed), str(tiny_corpora / "math")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole), str(steps)], check=True, stdout=subprocess.DEVNULL)

    process = subprocess.Popen(
        [*command, str(killed), str(steps)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for line in process.stdout:
        if int(line) >= 20:
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not killed.exists()
    (left,) = (tmp_path / ".killed.training").glob("step-*/run.json")
    taken_up = json.loads(left.read_text())["step"]
    assert 8 <= taken_up < steps

    done = subprocess.run(
        [*command, str(killed), str(steps)], check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(done[0]) > taken_up, "it began anew"
    assert weights(killed) == weights(whole)
    assert not list(tmp_path.glob(".killed.training*"))


def test_the_state_of_another_recipe_is_not_taken_up(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    class Died(Exception):
        pass

    def die(done: int, total: int, text: str) -> None:
        if done == 10:
            raise Died

    data = [tiny_corpora / "math"]
    with pytest.raises(Died):
        train(tiny_seed, data, RECIPE, tmp_path / "out", watch=Watch(die))
    assert list((tmp_path / ".out.training").glob("step-*/run.json"))
    other = TrainRecipe(steps=24, sequence=32, save_every=8, seed=1)
    train(tiny_seed, data, other, tmp_path / "out")
    train(tiny_seed, data, other, tmp_path / "fresh")
    assert weights(tmp_path / "out") == weights(tmp_path / "fresh")


@pytest.mark.slow
def test_two_processes_take_a_step_together(
    tiny_seed: Path, tiny_corpora: Path, tmp_path: Path
) -> None:
    """accelerate launch on two processes: the same sequences a step, the same end to rounding."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    together = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    arguments = [str(script), str(tiny_seed), str(tiny_corpora / "math")]
    more = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*together, *more, *arguments, str(tmp_path / "two"), "6"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    subprocess.run(
        [sys.executable, *arguments, str(tmp_path / "one"), "6"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    before = load_file(tiny_seed / "model.safetensors")
    moved = max(float((one[name] - before[name]).abs().max()) for name in one)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < moved / 20


def test_loss_is_the_mean_over_every_next_token(tiny_seed: Path) -> None:
    model, ids = load(tiny_seed, torch.float32), torch.randint(5, 300, (2, 9))
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1]).logits.double().log_softmax(-1)
        by_hand = (
            -sum(
                float(logits[number, position, ids[number, position + 1]])
                for number in range(2)
                for position in range(8)
            )
            / 16
        )
        assert float(next_token_loss(model, ids, 0)) == pytest.approx(by_hand, abs=1e-5)


def test_the_rate_warms_up_and_ends_at_a_tenth() -> None:
    recipe = TrainRecipe(steps=100, warmup_steps=10, final_rate=0.1)
    rates = [schedule(step, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.002)
