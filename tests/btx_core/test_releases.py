"""What is exported loads in the releases of transformers that it names, and computes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from btx_core.checkpoints.both_spellings import with_both_spellings
from btx_core.mixing.exporting import Built, export_checkpoint, least_transformers
from btx_core.mixing.mix import Member, MixRecipe, mix

from .conftest import build
from .test_settings import BASE, DENSE, OWN, ROTATIONS
from .test_token_meaning import trained

RELEASE = "4.57.6"
TEXT = "the law is a sum of sums"
# Run by the other release: faults in loading, logits and token ids of every folder.
PROGRAM = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
answers = {"release": __version__}
for folder in sys.argv[1:]:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        ids = torch.arange(3, 40)[None]
        with torch.no_grad():
            logits = model.eval()(ids).logits[0, -1, :8].tolist()
        tokens = AutoTokenizer.from_pretrained(folder)("the law is a sum of sums")["input_ids"]
        whole = not any(info.values())
        answers[folder] = {"whole": whole, "logits": logits, "tokens": tokens}
    except Exception as error:
        answers[folder] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(answers))
"""


@pytest.fixture(scope="session")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with transformers 4.57: BTX_TRANSFORMERS_4, or an environment of its own."""
    if given := os.environ.get("BTX_TRANSFORMERS_4"):
        return Path(given)
    folder = tmp_path_factory.mktemp("transformers-4")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = [f"transformers=={RELEASE}", f"torch=={torch.__version__.split('+')[0]}"]
    subprocess.run([str(folder / "bin/pip"), "install", "--quiet", *packages], check=True)
    return folder / "bin/python"


def folders_of(root: Path) -> dict[str, str]:
    """Exports of every family, plain and fused, with the release that each says it needs."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained(), eos_token="<|end|>")
    needs = {}
    rotations = [{"rope_type": "default", "rope_theta": 77.0}, *ROTATIONS.values()]
    for number, family in enumerate(DENSE):
        settings = BASE | {"vocab_size": 432} | OWN.get(family, {})
        if family in ("llama", "mistral", "qwen3"):
            settings["rope_parameters"] = {"rope_theta": 77.0} | rotations[number % 6]
        elif family not in ("olmo3", "cwm", "qwen3_5_text"):
            # A copy: some families write into it what others would read.
            settings["rope_parameters"] = dict(rotations[0])
        place = root / family
        for name, seed in (("seed", 1), ("branch", 2)):
            build(family, seed, **settings).save_pretrained(place / name)
        tokenizer.save_pretrained(place / "seed")
        mix(place / "seed", [Member("b", 1, place / "branch")], MixRecipe(), place / "mixed")
        for fused in (False, True):
            out = place / ("fused" if fused else "plain")
            export_checkpoint(place / "mixed", out, fused=fused)
            needs[str(out)] = least_transformers(Built.open(place / "mixed"), fused=fused)
    return needs


@pytest.mark.slow
def test_an_export_computes_the_same_in_every_release_that_it_names(
    other_python: Path, tmp_path: Path
) -> None:
    needs = folders_of(tmp_path)
    ran = subprocess.run(
        [str(other_python), "-c", PROGRAM, *needs],
        capture_output=True,
        text=True,
        check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    answers = json.loads(ran.stdout.strip().splitlines()[-1])
    assert answers["release"] == RELEASE
    for folder, least in needs.items():
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            expected = model.eval()(torch.arange(3, 40)[None]).logits[0, -1, :8]
        answer = answers[folder]
        same = answer.get("whole", False) and torch.allclose(
            torch.tensor(answer["logits"]), expected, atol=1e-4
        )
        # What needs 5 may load in 4, but never as the same model: the word is not too strict.
        assert same == (least == "4.57"), (folder, least, answer)
        if same:
            assert answer["tokens"] == trained().encode(TEXT).ids
    assert sum(least == "4.57" for least in needs.values()) >= 15


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "glm4_moe"])
def test_both_spellings_together_are_read_as_either(model_type: str, rotation: str) -> None:
    rope = {"rope_theta": 77.0, "partial_rotary_factor": 0.5} | ROTATIONS[rotation]
    config = AutoConfig.for_model(model_type, rope_parameters=rope).to_dict()
    both = with_both_spellings(config)
    assert both["rope_theta"] == 77.0
    assert both["rope_scaling"]["rope_type"] == ROTATIONS[rotation]["rope_type"]
    again = AutoConfig.for_model(**both).to_dict()
    assert {key: again[key] for key in config} == config
