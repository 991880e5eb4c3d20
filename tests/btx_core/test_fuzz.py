"""Thousands of damaged and of unusual checkpoints: never a wrong model, a traceback or a left-over.

A damaged one is refused, or mixed into what stock transformers makes of it. A valid one, however it
is spelled and whatever lies beside it, is mixed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.problems import BtxError

from .conftest import TINY, build
from .test_settings import spelled
from .test_token_meaning import merges_as_text, trained

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Change = Callable[[Path, random.Random], None]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    64,
    1 << 20,
    1 << 40,
    0.5,
    -0.25,
    1e30,
    "",
    "x",
    "silu",
    "gelu",
    "bfloat16",
    [],
    [0],
    [1, 2, 3],
    {},
    {"rope_type": "linear", "factor": 2.0},
    {"rope_theta": 5.0, "rope_type": "default"},
    {"a": {"b": []}},
    "auto",
    [None],
]
KEYS = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "max_position_embeddings",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "model_type",
    "architectures",
    "dtype",
    "torch_dtype",
    "layer_types",
    "sliding_window",
    "quantization_config",
    "auto_map",
    "pad_token_id",
    "eos_token_id",
    "attention_dropout",
    "use_cache",
    "transformers_version",
    "pretraining_tp",
    "num_labels",
    "initializer_range",
    "partial_rotary_factor",
    "is_encoder_decoder",
    "id2label",
]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def retensor(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


# Damage


def setting(folder: Path, draw: random.Random) -> None:
    edit(folder / "config.json", lambda found: found.update({draw.choice(KEYS): draw.choice(ODD)}))


def setting_gone(folder: Path, draw: random.Random) -> None:
    edit(folder / "config.json", lambda found: found.pop(draw.choice(sorted(found))))


def some_byte(folder: Path, draw: random.Random) -> None:
    path = draw.choice([path for path in sorted(folder.iterdir()) if path.stat().st_size])
    raw = bytearray(path.read_bytes())
    raw[draw.randrange(len(raw))] ^= draw.randrange(1, 256)
    path.write_bytes(raw)


def cut(folder: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(folder.iterdir()))
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size + 1)])


def file_gone(folder: Path, draw: random.Random) -> None:
    draw.choice(sorted(folder.iterdir())).unlink()


def tensor_gone(folder: Path, draw: random.Random) -> None:
    retensor(folder, lambda found: found.pop(draw.choice(sorted(found))))


def tensor_renamed(folder: Path, draw: random.Random) -> None:
    name = draw.choice(["score.weight", "model.layers.9.mlp.up_proj.weight", "x", HEAD, EMBEDDING])
    retensor(folder, lambda found: found.update({name: found.pop(draw.choice(sorted(found)))}))


def tensor_added(folder: Path, draw: random.Random) -> None:
    name = draw.choice(["score.weight", "model.layers.2.mlp.up_proj.weight", "extra", HEAD])
    retensor(folder, lambda found: found.update({name: torch.randn(draw.choice([1, 32, 64]), 32)}))


def tensor_in_another_form(folder: Path, draw: random.Random) -> None:
    def change(found: dict[str, torch.Tensor]) -> None:
        name = draw.choice(sorted(found))
        tensor = found[name]
        forms = [
            tensor.half(),
            tensor.bfloat16(),
            tensor.double(),
            tensor.int(),
            tensor.to(torch.int8),
            tensor.to(torch.float8_e4m3fn),
            tensor[:-1],
            tensor[None],
            tensor.flatten(),
            tensor * 9,
            tensor.T if tensor.dim() == 2 else tensor,
            torch.full_like(tensor, float("nan")),
        ]
        found[name] = draw.choice(forms).contiguous()

    retensor(folder, change)


def token_swapped(folder: Path, draw: random.Random) -> None:
    def change(found: dict[str, Any]) -> None:
        vocabulary = found["model"]["vocab"]
        one, two = draw.sample(sorted(vocabulary), 2)
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]

    edit(folder / "tokenizer.json", change)


def tokenizer_setting(folder: Path, draw: random.Random) -> None:
    name = draw.choice(["tokenizer.json", "tokenizer_config.json"])
    edit(folder / name, lambda found: found.update({draw.choice(sorted(found)): draw.choice(ODD)}))


def link(folder: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(folder.iterdir()))
    path.unlink()
    path.symlink_to(draw.choice(["/dev/zero", "/etc/passwd", "nowhere", "../seed/" + path.name]))


DAMAGE: list[Change] = [
    setting,
    setting,
    setting,
    setting_gone,
    some_byte,
    cut,
    file_gone,
    tensor_gone,
    tensor_renamed,
    tensor_added,
    tensor_in_another_form,
    tensor_in_another_form,
    token_swapped,
    tokenizer_setting,
    link,
]


# Unusual, and right


def other_release(folder: Path, draw: random.Random) -> None:
    content = json.loads((folder / "config.json").read_text())
    if "rope_parameters" in content:
        how = draw.choice(["4", "left out"])
        (folder / "config.json").write_text(json.dumps(spelled(content, how)))


def settings_without_effect(folder: Path, draw: random.Random) -> None:
    more = {
        "use_cache": False,
        "pretraining_tp": 2,
        "attention_dropout": 0.1,
        "note": {"run": 3},
        "eos_token_id": [2, 3],
        "pad_token_id": None,
        "rope_scaling": None,
        "hidden_act": "swish",
        "_name_or_path": "/home/nobody/run",
        "transformers_version": "4.31.0",
        "head_dim": 8,
        "max_position_embeddings": 128,
        "unsloth_fixed": True,
        "initializer_range": 1.0,
    }
    chosen = draw.sample(sorted(more), 4)
    edit(folder / "config.json", lambda found: found.update({key: more[key] for key in chosen}))


def without_architectures(folder: Path, draw: random.Random) -> None:
    edit(folder / "config.json", lambda found: found.pop("architectures", None))


def in_shards(folder: Path, draw: random.Random) -> None:
    if (folder / INDEX).exists():
        return
    tensors = load_file(folder / WEIGHTS)
    count = draw.choice([1, 2, 5, len(tensors)])
    file_of = {name: f"model-{n % count:05}.safetensors" for n, name in enumerate(sorted(tensors))}
    for file in set(file_of.values()):
        part = {name: tensors[name] for name in tensors if file_of[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {"x": 1}, "weight_map": file_of}))


def buffers_stored(folder: Path, draw: random.Random) -> None:
    if (folder / WEIGHTS).exists():
        name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
        more = {name.format(layer): torch.ones(4) for layer in range(2)}
        retensor(folder, lambda found: found.update(more))


def more_metadata(folder: Path, draw: random.Random) -> None:
    if not (folder / WEIGHTS).exists():
        return
    raw = (folder / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = {"format": "pt", "made by": "nobody", "ü": "–"}
    # In another order, with spaces behind it.
    text = json.dumps(dict(reversed(header.items()))).encode() + b" " * draw.randrange(40)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def head_stored(folder: Path, draw: random.Random) -> None:
    tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings")
    if tied and (folder / WEIGHTS).exists():
        retensor(folder, lambda found: found.update({HEAD: found[EMBEDDING].clone()}))


def debris(folder: Path, draw: random.Random) -> None:
    names = (
        "optimizer.pt",
        "training_args.bin",
        "rng_state.pth",
        "trainer_state.json",
        ".gitattributes",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "runs/events",
        ".git/HEAD",
        "model.py",
        "checkpoint-3/model.safetensors",
        "README.md",
        "LICENSE",
        "tf_model.h5",
        "a b ü.txt",
    )
    for name in draw.sample(names, 5):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x80anything")


def older_merges(folder: Path, draw: random.Random) -> None:
    if (folder / "tokenizer.json").exists():
        edit(folder / "tokenizer.json", merges_as_text) if draw.random() < 0.5 else None


def own_template(folder: Path, draw: random.Random) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")


def no_tokenizer(folder: Path, draw: random.Random) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def a_snapshot(folder: Path, draw: random.Random) -> None:
    if folder.parent.name == "snapshots" or (folder / "additional_chat_templates").exists():
        return
    repository = folder.parent / f"models--{folder.name}"
    shutil.rmtree(repository, ignore_errors=True)
    blobs = repository / "blobs"
    blobs.mkdir(parents=True)
    snapshot = repository / "snapshots/01"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    shutil.rmtree(folder)
    folder.symlink_to(snapshot)


UNUSUAL: list[Change] = [
    other_release,
    other_release,
    settings_without_effect,
    without_architectures,
    in_shards,
    buffers_stored,
    more_metadata,
    head_stored,
    debris,
    older_merges,
    own_template,
]


@dataclass
class Tally:
    """What came of many checkpoints."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, number: int, names: list[str], outcome: str) -> None:
        self.counts[outcome.split(":")[0]] += 1
        if not outcome.startswith(("refused", "right")):
            self.faults.append(f"{number} {'+'.join(names)}: {outcome}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A seed and a branch of it, tied and not, each with a tokenizer."""
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("models")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained(), eos_token="<|end|>")
    pairs = {}
    for name, tied in (("tied", True), ("untied", False)):
        size = TINY | {"vocab_size": 432, "max_position_embeddings": 64}
        seed = build("llama", 1, **size, tie_word_embeddings=tied)
        seed.save_pretrained(root / name / "seed")
        with torch.no_grad():
            for parameter in seed.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        seed.save_pretrained(root / name / "expert")
        for folder in ("seed", "expert"):
            tokenizer.save_pretrained(root / name / folder)
        pairs[name] = (root / name / "seed", root / name / "expert")
    return pairs


def logits(folder: Path) -> torch.Tensor | None:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        if any(info.values()):
            return None
        with torch.no_grad():
            found: torch.Tensor = model.float().eval()(torch.arange(3, 90)[None]).logits
    except Exception:
        return None
    return found


def outcome(seed: Path, expert: Path, out: Path) -> str:
    """Mix the expert alone; what comes out must compute what stock transformers sees in it."""
    before = set(out.parent.iterdir())
    recipe = MixRecipe(mode="full", seed_expert=False, top_k=1)
    try:
        mix(seed, [Member("e", 1, expert)], recipe, out)
    except BtxError as error:
        complete = error.subject and error.found and error.expected and error.next
        left = set(out.parent.iterdir()) - before
        return f"refused: {error}" if complete and not left else f"left over or terse: {error!r}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"[:400]
    mixed, dense = logits(out), logits(expert)
    shutil.rmtree(out)
    if mixed is None:
        return "wrong: the mixture does not load"
    if dense is None:
        return "wrong: stock transformers makes no whole model of this expert"
    same = torch.allclose(mixed, dense, atol=2e-2 * float(dense.abs().max().clamp(min=1)))
    return "right" if same else f"wrong: logits differ by {float((mixed - dense).abs().max()):.3g}"


def campaign(
    models: dict[str, tuple[Path, Path]], root: Path, changes: list[Change], count: int, first: int
) -> Tally:
    tally = Tally()
    valid = changes is UNUSUAL
    for number in range(first, first + count):
        draw = random.Random(number)
        place = root / str(number)
        shutil.copytree(models[draw.choice(sorted(models))][0].parent, place)
        chosen = draw.sample(changes, draw.choice([1, 1, 2, 3]))
        targets = [place / "expert"]
        if valid and draw.random() < 0.3:
            chosen.append(draw.choice([no_tokenizer, a_snapshot]))
        if draw.random() < 0.4 and not valid:
            targets = [place / "seed"]
        # A link to an endless file is the last that the campaign itself may write through.
        for change in sorted(chosen, key=lambda one: one is link):
            try:
                change(targets[0], draw)
            # Damage upon damage that leaves nothing to damage.
            except (LookupError, SafetensorError, OSError, ValueError, TypeError, RuntimeError):
                continue
        expert = place / "expert" if targets[0].name == "expert" else place / "seed"
        result = outcome(place / "seed", expert, place / "out")
        tally.note(number, [change.__name__ for change in chosen], result)
        if valid and result.startswith("refused"):
            tally.faults.append(f"{number} {[change.__name__ for change in chosen]}: {result}")
        shutil.rmtree(place)
    return tally


def test_no_damaged_checkpoint_becomes_a_wrong_model(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    tally = campaign(models, tmp_path, DAMAGE, 60, 0)
    assert tally.faults == []
    assert tally.counts["refused"] > 30


def test_valid_checkpoints_are_taken_however_they_are_written(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    tally = campaign(models, tmp_path, UNUSUAL, 25, 0)
    assert tally.faults == []
    assert tally.counts["right"] == 25


@pytest.mark.slow
def test_two_thousand_damaged_and_five_hundred_unusual_checkpoints(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """BTX_FUZZ and BTX_FUZZ_VALID: how many; BTX_FUZZ_FROM: the first seed."""
    first = int(os.environ.get("BTX_FUZZ_FROM", "10000"))
    damaged = campaign(models, tmp_path, DAMAGE, int(os.environ.get("BTX_FUZZ", "2000")), first)
    many = int(os.environ.get("BTX_FUZZ_VALID", "500"))
    unusual = campaign(models, tmp_path, UNUSUAL, many, first)
    print(f"damaged: {dict(damaged.counts)}; unusual: {dict(unusual.counts)}")
    assert damaged.faults == []
    assert len(unusual.faults) <= many // 100, unusual.faults
    assert all(": refused" in fault for fault in unusual.faults)
