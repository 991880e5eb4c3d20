"""Checkpoints come in as they are: `seed add` and `register` take them right, or say why not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from btx_core.machine import Machine
from btx_core.mixing.mix import MixRecipe
from btx_core.problems import BtxError
from btx_core.training.write_back import write_branch
from pipelines.jobs.add_seed import add_seed
from pipelines.jobs.build_plan import Request
from pipelines.jobs.mix_once import compose
from pipelines.jobs.rebuild import look_ahead, rebuild
from pipelines.jobs.register import register
from pipelines.workspace.workspace import Workspace, create
from registry.errors import Refused
from registry.governance import adoption
from registry.governance.policy_files import load
from registry.records.facts import ExpertFacts, SeedFacts
from registry.records.kinds import Kind
from registry.records.results import same_text

WEIGHTS = "model.safetensors"
SEED = "seed/base"


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    create(tmp_path / "workspace")
    return Workspace.find(tmp_path / "workspace")


@pytest.fixture
def folder(tiny_seed: Path, tmp_path: Path) -> Path:
    """The seed, as a folder that a test may change."""
    shutil.copytree(tiny_seed, tmp_path / "given")
    return tmp_path / "given"


def retensored(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def configured(**settings: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | settings))

    return apply


FAULTS: dict[str, Callable[[Path], None]] = {
    "no norm": retensored(lambda found: found.pop("model.norm.weight")),
    "a classifier": retensored(lambda found: found.update({"score.weight": torch.zeros(2, 32)})),
    "eight-bit weights": retensored(
        lambda found: found.update(
            {name: tensor.to(torch.int8) for name, tensor in found.items() if ".mlp." in name}
        )
    ),
    "fewer rows than tokens": lambda folder: (
        retensored(
            lambda found: found.update(
                {
                    name: tensor[:200].contiguous()
                    for name, tensor in found.items()
                    if name in ("model.embed_tokens.weight", "lm_head.weight")
                }
            )
        )(folder),
        configured(vocab_size=200)(folder),
    )[0],
    "no tokenizer": lambda folder: next(path.unlink() for path in folder.glob("tokenizer*")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seed_that_could_not_be_trained_or_mixed_is_refused_and_nothing_stays(
    fault: str, empty: Workspace, folder: Path
) -> None:
    FAULTS[fault](folder)
    with pytest.raises(BtxError) as caught:
        add_seed(empty, "base", folder)
    assert str(folder) in caught.value.subject
    assert caught.value.next
    assert not list(empty.catalog.versions(SeedFacts))
    assert not (empty.root / "seeds").exists() or not list((empty.root / "seeds").iterdir())


def test_a_trainers_folder_and_a_cache_snapshot_are_taken_and_the_rest_is_listed(
    empty: Workspace, folder: Path, tmp_path: Path
) -> None:
    for name in ("training_args.bin", "optimizer.pt", "trainer_state.json"):
        (folder / name).write_bytes(b"x" * 100)
    first = add_seed(empty, "base", folder)
    taken = {file.path for file in first.files}
    assert {"config.json", WEIGHTS, "tokenizer.json"} <= taken
    assert first.facts.left_out == ("optimizer.pt", "trainer_state.json", "training_args.bin")
    assert not taken & set(first.facts.left_out)
    snapshot = tmp_path / "models--our--model/snapshots/01ab"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--our--model/blobs").mkdir()
    for path in sorted(folder.iterdir()):
        shutil.copy(path, tmp_path / f"models--our--model/blobs/{path.name}")
        os.symlink(f"../../blobs/{path.name}", snapshot / path.name)
    again = add_seed(empty, "base", snapshot)
    assert not again.created
    assert again.ref == first.ref
    stored = empty.folder("seed/base@1")
    assert not any(path.is_symlink() for path in stored.rglob("*"))


@pytest.mark.parametrize(
    "form",
    [
        {"dtype": None, "torch_dtype": "bfloat16"},
        {"dtype": None},
        {"dtype": "float32"},
    ],
    ids=["transformers 4", "no dtype", "another dtype than the weights"],
)
@pytest.mark.parametrize("head", ["as it is", "tied and stored"])
def test_a_branch_has_its_seeds_tensor_names_dtypes_and_config(
    form: dict[str, Any], head: str, folder: Path, tmp_path: Path
) -> None:
    def in_bfloat16(found: dict[str, torch.Tensor]) -> None:
        for name, tensor in list(found.items()):
            # One tensor in a dtype of its own, as some trainers keep norms.
            found[name] = tensor if name == "model.norm.weight" else tensor.bfloat16()
        if head == "tied and stored":
            found["lm_head.weight"] = found["model.embed_tokens.weight"].clone()

    retensored(in_bfloat16)(folder)
    config = json.loads((folder / "config.json").read_text()) | form
    config["tie_word_embeddings"] = head != "as it is"
    config = {key: value for key, value in config.items() if key != "dtype" or value}
    (folder / "config.json").write_text(json.dumps(config))
    branch = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        branch.model.layers[0].mlp.up_proj.weight += 0.1
    write_branch(branch, folder, tmp_path / "out", Machine(), {})
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in before.items()} == {
        name: (tensor.dtype, tensor.shape) for name, tensor in after.items()
    }
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert moved == ["model.layers.0.mlp.up_proj.weight"]
    assert (tmp_path / "out/config.json").read_bytes() == (folder / "config.json").read_bytes()


def adapter(seed: Path, out: Path, **settings: Any) -> None:
    torch.manual_seed(3)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(seed),
        LoraConfig(r=2, task_type="CAUSAL_LM", **settings),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 1e-3)
    model.save_pretrained(out)


def test_an_adapter_is_registered_with_what_merged_it_or_refused_by_the_callers_path(
    own_story: Workspace, quiet: Any, tmp_path: Path
) -> None:
    workspace = own_story
    seed = workspace.folder("seed/base@1")
    adapter(seed, tmp_path / "pissa", target_modules=["up_proj"], init_lora_weights="pissa")
    with pytest.raises(BtxError) as caught:
        register(workspace, "p", tmp_path / "pissa", data=["data/math"], seed=SEED, show=quiet)
    assert str(tmp_path / "pissa") in caught.value.subject
    adapter(seed, tmp_path / "dora", target_modules=["up_proj"], use_dora=True)
    (tmp_path / "dora/optimizer.pt").write_bytes(b"x")
    with pytest.MonkeyPatch.context() as patched:
        # What the gate says of so small a change is not the question.
        patched.setattr("pipelines.jobs.register.gates.ask", lambda *_, **__: None)
        version = register(
            workspace, "d", tmp_path / "dora", data=["data/math"], seed=SEED, show=quiet
        )
    assert version.facts.merged_by.startswith("peft ")
    assert version.facts.left_out == ("optimizer.pt",)
    assert version.facts.preflight.problems == ()


def test_mixing_in_mode_anchored_drops_nothing_in_silence(
    folder: Path, tiny_seed: Path, tmp_path: Path
) -> None:
    retensored(lambda found: found["model.layers.1.self_attn.q_proj.weight"].mul_(1.3))(folder)
    with pytest.raises(BtxError, match="q_proj") as caught:
        compose(tiny_seed, [folder], tmp_path / "out", MixRecipe(mode="anchored"))
    assert "--mode full" in caught.value.next
    compose(tiny_seed, [folder], tmp_path / "out", MixRecipe(mode="full"))


@pytest.mark.parametrize("policies", ["today's", "without the rule"])
@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}}, "rope_theta 77.0"),
        ({"rms_norm_eps": 0.25}, "rms_norm_eps 0.25"),
    ],
    ids=["rotation", "norms"],
)
def test_an_expert_that_computes_otherwise_than_its_seed_is_refused_at_the_door(
    policies: str, change: dict[str, Any], setting: str, own_story: Workspace, tmp_path: Path
) -> None:
    if policies != "today's":
        older = yaml.safe_load((own_story.policies / "weights.yaml").read_text())
        older["validations"] = [one for one in older["validations"] if one["rule"] != "settings"]
        # Nor does another rule say no.
        for path in own_story.policies.glob("*.yaml"):
            path.unlink()
        (own_story.policies / "weights.yaml").write_text(yaml.safe_dump(older))
        adoption.adopt(own_story.catalog, load(own_story.policies), why="an older set")
    given = tmp_path / "given"
    shutil.copytree(own_story.folder("expert/math@1"), given)
    configured(**change)(given)
    before = sorted(own_story.root.glob("experts/*/*"))
    measured: list[str] = []

    def bar(label: str) -> Any:
        measured.append(label)
        return contextlib.nullcontext(lambda *_: None)

    with pytest.raises(Refused) as caught:
        register(own_story, "other", given, data=["data/math"], seed=SEED, show=bar)
    assert caught.value.exit_status == 3
    assert [rule.rule for rule in caught.value.rules] == ["weights/settings"]
    assert setting in caught.value.found
    assert not measured
    assert sorted(own_story.root.glob("experts/*/*")) == before
    assert own_story.catalog.next_version(Kind.EXPERT, "other") == 1


def test_a_rebuild_names_the_setting_of_a_member_before_anything_is_written(
    own_story: Workspace, quiet: Any, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(own_story.folder("expert/math@1"), given)
    configured(rms_norm_eps=0.25)(given)
    with pytest.MonkeyPatch.context() as patched:
        # As the door was before.
        for check in ("_require_settings_of_seed", "gates.ask"):
            patched.setattr(f"pipelines.jobs.register.{check}", lambda *_, **__: None)
        register(own_story, "other", given, data=["data/math"], seed=SEED, show=quiet)
    head = own_story.catalog.head()
    for ask in (rebuild, look_ahead):
        with pytest.raises(BtxError, match="rms_norm_eps") as caught:
            ask(own_story)
        assert caught.value.subject == "expert/other@1"
        assert caught.value.next == "btx rebuild --without other"
        assert own_story.catalog.head() == head
    assert look_ahead(own_story, Request(without=["other"])).status


def test_tensors_that_are_missing_are_no_question_of_ancestry(
    own_story: Workspace, quiet: Any, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(own_story.folder("expert/math@1"), given)
    FAULTS["no norm"](given)
    with pytest.raises(Refused) as caught:
        register(own_story, "other", given, data=["data/math"], seed=SEED, show=quiet)
    assert [rule.rule for rule in caught.value.rules] == ["weights/shapes"]
    assert "does not descend" not in str(caught.value)


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def with_another_end_of_text(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "a"}))


shorter_context = configured(max_position_embeddings=50)


@pytest.mark.parametrize(
    "change",
    [without_tokenizer, with_another_end_of_text, shorter_context],
    ids=["no tokenizer", "end of text", "context"],
)
def test_a_copy_of_the_seed_is_measured_as_its_seed_on_the_very_same_text(
    change: Callable[[Path], None], own_story: Workspace, quiet: Any, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(own_story.folder("seed/base@1"), given)
    change(given)
    with pytest.MonkeyPatch.context() as patched:
        # That a copy gains nothing is not the question.
        patched.setattr("pipelines.jobs.register.gates.ask", lambda *_, **__: None)
        version = register(own_story, "copy", given, data=["data/math"], seed=SEED, show=quiet)
    for measured in (*version.facts.results, *version.facts.general):
        assert measured.block_bits == measured.seed_block_bits
        assert measured.bits_per_byte == measured.seed_bits_per_byte
    if change is without_tokenizer:
        assert not any(file.path.startswith("tokenizer") for file in version.files)
    if change is not shorter_context:
        # A build has its seed's tokenizer: only such figures stand beside its own.
        whole = own_story.catalog.get("expert/math", ExpertFacts).facts.results[0]
        assert same_text(version.facts.results[0], whole)


def test_of_a_trainers_output_folder_the_checkpoints_in_it_are_named(
    empty: Workspace, folder: Path, tmp_path: Path
) -> None:
    for step in (10, 9):
        shutil.copytree(folder, tmp_path / f"run/checkpoint-{step}")
    with pytest.raises(BtxError) as caught:
        add_seed(empty, "base", tmp_path / "run")
    assert caught.value.subject == str(tmp_path / "run")
    assert caught.value.next == "name one of checkpoint-9, checkpoint-10"
