"""Every stage computes where its model is: all arithmetic, in every mode, on one pretended GPU."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pretended_gpu import CPU, GPU, TwoDevices, pretended_gpu

from btx_core.measuring import ensemble, harness
from btx_core.measuring.attribution import Reader
from btx_core.measuring.evaluation import evaluate
from btx_core.measuring.samples import Limits, sample
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.tokens import Tokens
from btx_core.training import router_start
from btx_core.training.branch import train
from btx_core.training.objectives import GENERAL
from btx_core.training.recipes import TrainRecipe, TuneRecipe
from btx_core.training.router_start import Grown, OwnExpert
from btx_core.training.tune import TuneInputs, tune

# No checkpoint: a pretended GPU has no random state of its own.
TRAIN = TrainRecipe(steps=2, batch=2, sequence=16, warmup_steps=1)
TUNE = TuneRecipe(steps=2, batch=4, sequence=16, warmup_steps=1)
Run = Callable[[Path], object]


class Setting:
    """A seed model, two branches, their mixture and a build that was tuned, all tiny."""

    def __init__(self, seed: Path, corpora: Path, root: Path) -> None:
        self.seed, self.corpora, self.root = seed, corpora, root
        for name in ("math", "units"):
            train(seed, [corpora / name], TRAIN, root / name)
        for routing in ("top-k", "switch", "sample"):
            members = [Member("math", 1, root / "math"), Member("units", 2, root / "units")]
            mix(seed, members, MixRecipe(routing=routing), root / f"mixed-{routing}")
        mixed = root / "mixed-top-k"
        self.own = {
            GENERAL: OwnExpert(0, seed),
            "math": OwnExpert(1, root / "math"),
            "units": OwnExpert(2, root / "units"),
        }
        texts = {GENERAL: [corpora / "prose"]} | {
            name: [corpora / name] for name in ("math", "units")
        }
        self.inputs = TuneInputs(mixed, texts, self.own, seed)
        tune(TuneInputs(mixed, texts), replace(TUNE, start="random", keep=0.0), root / "before")

    def train(self, **changes: Any) -> Run:
        recipe = replace(TRAIN, **changes)
        data, general = [self.corpora / "math"], [self.corpora / "prose"]
        return lambda out: train(self.seed, data, recipe, out, general=general)

    def tune(self, routing: str = "top-k", grown: Grown | None = None, **changes: Any) -> Run:
        inputs = replace(self.inputs, mixed=self.root / f"mixed-{routing}", grown=grown)
        return lambda out: tune(inputs, replace(TUNE, **changes), out)

    def grow(self, **changes: Any) -> Run:
        return self.tune(grown=Grown(self.root / "before", {0: 0, 1: 1}), grow=0.5, **changes)


@pytest.fixture(scope="module")
def setting(
    tiny_seed: Path, tiny_corpora: Path, tmp_path_factory: pytest.TempPathFactory
) -> Setting:
    return Setting(tiny_seed, tiny_corpora, tmp_path_factory.mktemp("one-device"))


def measured(setting: Setting) -> object:
    return evaluate(setting.root / "before", {"math": setting.corpora / "math"}, max_tokens=400)


def explained(setting: Setting) -> object:
    return Reader.open(setting.root / "before").read("What is 2 + 3?")


def voted(setting: Setting) -> object:
    from transformers import AutoTokenizer

    from btx_core.machine import load

    tokenizer = AutoTokenizer.from_pretrained(setting.seed)
    heldout = sample(Tokens.of(setting.corpora / "math", tokenizer), Limits(200, 64))
    models = [load(folder, dtype=torch.float32) for folder in (setting.seed, setting.root / "math")]
    return ensemble.bits_per_byte(models, heldout, top_k=1)


def asked(setting: Setting, out: Path) -> object:
    out.mkdir()
    (out / "answer.jsonl").write_text(json.dumps({"prompt": "2 + 3 =", "answer": "5"}) + "\n")
    task = {
        "task": "answer",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "answer.jsonl"}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": " {{answer}}",
    }
    (out / "answer.yaml").write_text(yaml.safe_dump(task))
    return harness.run(setting.root / "before", ["answer.yaml"], out)


CASES: dict[str, Callable[[Setting], Run]] = {
    "train anchored": lambda setting: setting.train(),
    "train in bfloat16": lambda setting: setting.train(precision="bfloat16"),
    "train full": lambda setting: setting.train(mode="full"),
    "train lora": lambda setting: setting.train(lora_rank=2),
    "train beside": lambda setting: setting.train(beside=0.7, replay=0.5),
    "tune router": lambda setting: setting.tune(mode="router"),
    "tune router by its own text": lambda setting: setting.tune(
        mode="router", text=0.0, keep=0.0, home=1.0
    ),
    "tune shared": lambda setting: setting.tune(),
    "tune shared in bfloat16": lambda setting: setting.tune(precision="bfloat16"),
    "tune all": lambda setting: setting.tune(mode="all"),
    "tune from centroids": lambda setting: setting.tune(start="centroid"),
    "tune from random weights": lambda setting: setting.tune(start="random"),
    "tune without a teacher": lambda setting: setting.tune(keep=0.0),
    "tune switch": lambda setting: setting.tune("switch"),
    "tune sample": lambda setting: setting.tune("sample"),
    "tune grown": lambda setting: setting.grow(),
    "tune grown router in bfloat16": lambda setting: setting.grow(
        mode="router", grow_keep=0.5, precision="bfloat16"
    ),
    "tune grown shared in bfloat16": lambda setting: setting.grow(precision="bfloat16"),
    "tune grown all in bfloat16": lambda setting: setting.grow(mode="all", precision="bfloat16"),
    "evaluate": lambda setting: lambda out: measured(setting),
    "explain": lambda setting: lambda out: explained(setting),
    "ensemble": lambda setting: lambda out: voted(setting),
    "harness": lambda setting: lambda out: asked(setting, out),
}


@pytest.mark.parametrize("name", CASES)
def test_all_arithmetic_of_a_stage_is_on_the_device_of_its_model(
    name: str, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few sequences to fit router weights to: every operation is the same, and counted slowly.
    monkeypatch.setattr(router_start, "SEQUENCES", 6)
    with pretended_gpu() as gpu:
        CASES[name](setting)(tmp_path / "out")
    assert gpu.work["cuda"] > 0
    assert gpu.work["cpu"] == 0, f"{gpu.work} elements"


def test_tuning_nothing_writes_the_mixture_without_arithmetic(
    setting: Setting, tmp_path: Path
) -> None:
    with pretended_gpu() as gpu:
        setting.tune(mode="none")(tmp_path / "out")
    assert not gpu.work


def test_the_pretended_device_refuses_what_a_real_one_would() -> None:
    with pretended_gpu() as gpu:
        ours, theirs = torch.ones(2, 2, device=GPU), torch.ones(2, 2)
        assert (ours.device, theirs.device) == (GPU, CPU)
        with pytest.raises(TwoDevices):
            ours @ theirs
        assert (ours @ theirs.to(GPU)).device == GPU
        assert (ours.cpu() @ theirs).device == CPU
        assert gpu.work == {"cuda": 4, "cpu": 4}
