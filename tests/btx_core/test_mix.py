"""Composing: faithful, incremental to the byte, whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.mixing import combine, streams
from btx_core.mixing.mix import Known, Member, MixRecipe, mix
from btx_core.mixing.parts import parts_of
from btx_core.mixing.weight_files import FUSED_EXPERTS, ROUTER, SHARED, expert_file, expert_name
from btx_core.problems import BtxError, NotFinite, ShapeMismatch, WrongUsage
from registry.digest import tensor_digests

from .conftest import EXAMPLES, TINY, build, digests, flip, router_weights, stock, weights

Save = Callable[..., Path]


def full(tiny: Save, *names: str) -> list[Member]:
    return [Member(name, slot, tiny(name, shared=0.02)) for slot, name in enumerate(names, start=1)]


def test_the_order_of_members_moves_no_bit_of_any_file(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    slots = full(tiny, "a", "b", "c")
    expected = None
    for number, order in enumerate(itertools.permutations(slots)):
        mix(seed, order, MixRecipe(mode="full"), tmp_path / str(number))
        expected = expected or digests(tmp_path / str(number))
        assert digests(tmp_path / str(number)) == expected


def test_who_sits_in_which_slot_moves_no_bit_of_the_shared_shard(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    found = set()
    for number, order in enumerate(itertools.permutations([("a", 1), ("b", 1), ("c", 1)])):
        members = [
            Member(name, slot, tiny(name, shared=0.02))
            for slot, (name, _) in enumerate(order, start=1)
        ]
        mix(seed, members, MixRecipe(mode="full"), tmp_path / str(number))
        found.add(digests(tmp_path / str(number))[SHARED])
    assert len(found) == 1


def test_shared_parameters_are_the_mean_over_seed_and_members(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    members = full(tiny, "a", "b")
    mix(seed, members, MixRecipe(mode="full"), tmp_path / "with")
    mix(seed, members, MixRecipe(mode="full", seed_expert=False), tmp_path / "without")
    sources = [weights(folder) for folder in (seed, *(member.folder for member in members))]
    for out, used in ((tmp_path / "with", sources), (tmp_path / "without", sources[1:])):
        made = weights(out)
        for name in parts_of(Checkpoint.open(out)).shared:
            assert torch.equal(
                made[name], torch.stack([one[name].double() for one in used]).mean(0).float()
            ), name


def test_bfloat16_is_averaged_and_rounded_as_torch_does(tiny: Save, tmp_path: Path) -> None:
    seed, a = tiny("seed", dtype=torch.bfloat16), tiny("a", shared=0.02, dtype=torch.bfloat16)
    mix(seed, [Member("a", 1, a)], MixRecipe(mode="full"), tmp_path / "out")
    made, one, two = weights(tmp_path / "out"), weights(seed), weights(a)
    for name in parts_of(Checkpoint.open(tmp_path / "out")).shared:
        assert made[name].dtype == torch.bfloat16
        assert torch.equal(
            made[name], ((one[name].double() + two[name].double()) / 2).float().bfloat16()
        )


def test_anchored_takes_the_seeds_shared_parameters_and_each_members_blocks(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    members = [Member("a", 1, tiny("a")), Member("b", 4, tiny("b"))]
    mix(seed, members, MixRecipe(), tmp_path / "out")
    made, found = weights(tmp_path / "out"), parts_of(Checkpoint.open(tmp_path / "out"))
    assert list(found.experts) == [0, 1, 4]
    assert {name: made[name] for name in found.shared}.keys() == {
        name for name in weights(seed) if ".mlp." not in name
    }
    assert all(torch.equal(made[name], weights(seed)[name]) for name in found.shared)
    for slot, folder in ((0, seed), (1, members[0].folder), (4, members[1].folder)):
        source = weights(folder)
        for layer, (ours, theirs) in itertools.product(
            range(2), (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj"))
        ):
            made_name = f"model.layers.{layer}.block_sparse_moe.experts.{slot}.{ours}.weight"
            assert torch.equal(made[made_name], source[f"model.layers.{layer}.mlp.{theirs}.weight"])


def test_growth_links_what_is_known_and_writes_the_same_bytes(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    names = [("a", 1), ("b", 2)]
    mix(
        seed,
        [Member(name, slot, tiny(name)) for name, slot in names],
        MixRecipe(),
        tmp_path / "one",
    )
    known = [
        Member(name, slot, tiny(name), tmp_path / f"one/model-expert-{name}.safetensors")
        for name, slot in names
    ]
    grown = [*known, Member("c", 3, tiny("c"))]
    report = mix(seed, grown, MixRecipe(), tmp_path / "two", known=Known(previous=tmp_path / "one"))
    mix(
        seed,
        [Member(member.name, member.slot, member.folder) for member in grown],
        MixRecipe(),
        tmp_path / "again",
    )
    assert digests(tmp_path / "two") == digests(tmp_path / "again")
    linked = {file.path for file in report.files if file.linked}
    assert linked == {SHARED, *(f"model-expert-{name}.safetensors" for name in ("seed", "a", "b"))}
    for name in linked:
        assert (tmp_path / "one" / name).stat().st_ino == (tmp_path / "two" / name).stat().st_ino
    assert report.bytes_linked == sum((tmp_path / "two" / name).stat().st_size for name in linked)


def test_router_weights_of_those_who_stay_do_not_change(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    mix(seed, [Member("a", 1, tiny("a")), Member("b", 2, tiny("b"))], MixRecipe(), tmp_path / "one")
    mix(seed, [Member("b", 2, tiny("b")), Member("c", 3, tiny("c"))], MixRecipe(), tmp_path / "two")
    one, two = router_weights(tmp_path / "one"), router_weights(tmp_path / "two")
    assert torch.equal(one[0][[0, 2]], two[0][[0, 1]])
    assert not torch.equal(one[1][1], two[1][2])


def test_given_router_weights_are_written_and_wrong_ones_refused(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    rows = {layer: torch.randn(2, TINY["hidden_size"]) for layer in range(2)}
    mix(seed, [Member("a", 1, tiny("a"))], MixRecipe(), tmp_path / "out", known=Known(router=rows))
    assert all(
        torch.equal(rows[layer], found) for layer, found in router_weights(tmp_path / "out").items()
    )
    with pytest.raises(ShapeMismatch, match="layer 1"):
        mix(
            seed,
            [Member("a", 1, tiny("a"))],
            MixRecipe(),
            tmp_path / "bad",
            known=Known(router={0: rows[0]}),
        )


def test_a_files_name_says_which_expert_it_holds_and_that_it_holds_one() -> None:
    for name in ("seed", "math", "math.0", "a-b@3", "blend-1"):
        assert expert_name(expert_file(name)) == name
    for file in (SHARED, ROUTER, FUSED_EXPERTS, "model.safetensors", "model-expert-a.json"):
        assert expert_name(file) is None


@pytest.mark.parametrize("what", ["other slot", "other member", "tuned"])
def test_a_shard_that_is_not_this_members_at_this_slot_is_refused(
    what: str, tiny: Save, seed: Path, tmp_path: Path
) -> None:
    mix(seed, [Member("a", 1, tiny("a"))], MixRecipe(), tmp_path / "one")
    shard = tmp_path / "one/model-expert-a.safetensors"
    if what == "tuned":
        info = min(
            Checkpoint.open(tmp_path / "one").tensors.values(),
            key=lambda info: (info.file != shard, info.start),
        )
        flip(shard, info.start)
    folder, slot = (
        (tiny("b") if what == "other member" else tiny("a")),
        (2 if what == "other slot" else 1),
    )
    with pytest.raises(ShapeMismatch, match=r"model-expert-a\.safetensors"):
        mix(seed, [Member("a", slot, folder, shard)], MixRecipe(), tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_tuned_previous_build_is_not_linked_but_written_anew(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    members = [Member("a", 1, tiny("a"))]
    mix(seed, members, MixRecipe(), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "tuned")
    flip(
        tmp_path / "tuned" / SHARED,
        min(
            info.start
            for info in Checkpoint.open(tmp_path / "one").tensors.values()
            if info.file.name == SHARED
        ),
    )
    mix(seed, members, MixRecipe(), tmp_path / "two", known=Known(previous=tmp_path / "tuned"))
    assert digests(tmp_path / "two") == digests(tmp_path / "one")


@pytest.mark.parametrize("place", ["embedding", "block"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_leave_no_folder(
    place: str, value: float, tiny: Save, seed: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny("a"))
    with torch.no_grad():
        (
            model.model.embed_tokens.weight
            if place == "embedding"
            else model.model.layers[1].mlp.up_proj.weight
        )[3, 5] = value
    model.save_pretrained(tmp_path / "bad")
    with pytest.raises(NotFinite, match="bad, model"):
        mix(seed, [Member("bad", 1, tmp_path / "bad")], MixRecipe(mode="full"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


def test_a_crash_leaves_nothing_under_the_name(
    tiny: Save, seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*_: Any) -> None:
        raise OSError("power")

    monkeypatch.setattr(os, "rename", torn)
    with pytest.raises(OSError, match="power"):
        mix(seed, [Member("a", 1, tiny("a"))], MixRecipe(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "members"),
    [
        (MixRecipe(top_k=3), [("a", 1)]),
        (MixRecipe(), [("a", 0)]),
        (MixRecipe(), [("a", 1), ("a", 2)]),
        (MixRecipe(), [("a", 1), ("b", 1)]),
        (MixRecipe(), [("../a", 1)]),
        (MixRecipe(), [("seed", 1)]),
        (MixRecipe(method="ties"), [("a", 1)]),
        (MixRecipe(mode="full", weights={"heads": {"a": 1.0}}), [("a", 1)]),
        (MixRecipe(mode="full", weights={"head": {"z": 1.0}}), [("a", 1)]),
        (MixRecipe(mode="full", density=0.0), [("a", 1)]),
        (MixRecipe(split=5), [("a", 1)]),
    ],
)
def test_settings_that_make_no_sense_are_wrong_usage(
    recipe: MixRecipe, members: list[Any], tiny: Save, seed: Path, tmp_path: Path
) -> None:
    with pytest.raises(WrongUsage):
        mix(
            seed,
            [Member(name, slot, tiny("a")) for name, slot in members],
            recipe,
            tmp_path / "out",
        )
    assert list(tmp_path.iterdir()) == []


def test_provenance_names_rule_sources_and_digest_of_every_tensor(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    mix(seed, full(tiny, "a"), MixRecipe(mode="full"), tmp_path / "out")
    recorded = json.loads((tmp_path / "out/provenance.json").read_text())
    opened = Checkpoint.open(tmp_path / "out")
    assert recorded["tensors"].keys() == opened.tensors.keys()

    def digest(folder: Path, name: str) -> str:
        info = Checkpoint.open(folder).tensors[name]
        return hashlib.sha256(info.file.read_bytes()[info.start : info.end]).hexdigest()

    folders = {"seed": seed, "a": tiny("a", shared=0.02)}
    for name, entry in recorded["tensors"].items():
        assert entry["sha256"] == digest(tmp_path / "out", name)
        assert entry["file"] == opened.tensors[name].file.name
        assert all(
            source["sha256"] == digest(folders[source["member"]], source["tensor"])
            for source in entry["sources"]
        )
    assert [source["member"] for source in recorded["tensors"]["model.norm.weight"]["sources"]] == [
        "seed",
        "a",
    ]
    assert recorded["tensors"]["model.norm.weight"]["rule"] == "combine"


@pytest.mark.parametrize("mode", ["anchored", "full"])
def test_digests_on_record_are_not_computed_again_and_change_no_byte(
    mode: str, tiny: Save, seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members, recipe = full(tiny, "a", "b"), MixRecipe(mode=mode)
    mix(seed, members, recipe, tmp_path / "hashed")
    named = {"seed": seed} | {member.name: member.folder for member in members}
    recorded = {
        name: {
            tensor: one.sha256
            for tensor, one in tensor_digests(folder / "model.safetensors").items()
        }
        for name, folder in named.items()
    }
    hashed, sha256 = [], hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda *given: hashed.append(1) or sha256(*given))
    mix(seed, members, recipe, tmp_path / "recorded", known=Known(digests=recorded))
    made = weights(tmp_path / "recorded")
    monkeypatch.undo()
    assert digests(tmp_path / "recorded") == digests(tmp_path / "hashed")
    combined = [
        name for name in parts_of(Checkpoint.open(tmp_path / "recorded")).shared if mode == "full"
    ]
    rows = 3 * 2  # a random row's key is a hash, too
    assert len(hashed) <= rows + len(combined) + sum("gate.weight" in name for name in made)


def test_the_tokenizer_travels_and_splits_alike(tiny: Save, seed: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["<unk>", "the", "law", "is", "a", "sum"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    shutil.copytree(seed, tmp_path / "seed")
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>").save_pretrained(
        tmp_path / "seed"
    )
    mix(tmp_path / "seed", [Member("a", 1, tiny("a"))], MixRecipe(), tmp_path / "out")
    from transformers import AutoTokenizer

    probe = "the law is a sum of sums"
    one, two = (
        AutoTokenizer.from_pretrained(folder)(probe)["input_ids"]
        for folder in (tmp_path / "seed", tmp_path / "out")
    )
    assert one == two == [1, 2, 3, 4, 5, 0, 0]
    shutil.copytree(tmp_path / "seed", tmp_path / "foreign")
    edited = (tmp_path / "foreign/tokenizer.json").read_text().replace('"law"', '"lore"')
    (tmp_path / "foreign/tokenizer.json").write_text(edited)
    with pytest.raises(ShapeMismatch, match="foreign, tokenizer"):
        mix(
            tmp_path / "seed",
            [Member("foreign", 1, tmp_path / "foreign")],
            MixRecipe(),
            tmp_path / "out2",
        )


# Recipes for shared parameters


def test_weights_by_parameter_group_and_member(tiny: Save, seed: Path, tmp_path: Path) -> None:
    members = full(tiny, "a", "b")
    recipe = MixRecipe(mode="full", weights={"*": {"a": 3.0}, "embedding": {"a": 0.5, "seed": 2.0}})
    mix(seed, members, recipe, tmp_path / "out")
    made, (s, a, b) = (
        weights(tmp_path / "out"),
        (weights(folder) for folder in (seed, members[0].folder, members[1].folder)),
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(
        made[name], ((s[name].double() + 3 * a[name].double() + b[name].double()) / 5).float()
    )
    name = "model.embed_tokens.weight"
    assert torch.allclose(
        made[name].double(),
        (2 * s[name].double() + 0.5 * a[name].double() + b[name].double()) / 3.5,
        atol=1e-7,
    )


def test_task_arithmetic_adds_scaled_mean_task_vectors(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    members = full(tiny, "a", "b")
    mix(seed, members, MixRecipe(mode="full", method="task", scale=0.7), tmp_path / "out")
    made, s, a, b = (
        weights(folder) for folder in (tmp_path / "out", seed, members[0].folder, members[1].folder)
    )
    for name in parts_of(Checkpoint.open(tmp_path / "out")).shared:
        expected = (
            s[name].double()
            + 0.7
            * ((a[name].double() - s[name].double()) + (b[name].double() - s[name].double()))
            / 2
        )
        assert torch.allclose(made[name].double(), expected, atol=1e-7)


def ties(s: torch.Tensor, others: list[torch.Tensor], density: float) -> torch.Tensor:
    """TIES as its paper says it, on whole tensors."""
    kept = []
    for other in others:
        delta = other.double() - s.double()
        sizes = delta.abs().float()
        count = int(np.ceil(density * delta.numel()))
        least = sizes.flatten().sort(descending=True).values[count - 1]
        kept.append(torch.where(sizes >= least, delta, 0.0))
    stacked = torch.stack(kept)
    sign = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    agree = torch.where(torch.sign(stacked) == sign, stacked, 0.0)
    return (s.double() + agree.sum(0) / (agree != 0).sum(0).clamp(min=1)).float()


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_trims_elects_and_averages_those_that_agree(
    density: float, tiny: Save, seed: Path, tmp_path: Path
) -> None:
    members = full(tiny, "a", "b", "c")
    mix(seed, members, MixRecipe(mode="full", method="ties", density=density), tmp_path / "out")
    made, s, *others = (
        weights(folder)
        for folder in (tmp_path / "out", seed, *(member.folder for member in members))
    )
    for name in parts_of(Checkpoint.open(tmp_path / "out")).shared:
        assert torch.allclose(
            made[name], ties(s[name], [other[name] for other in others], density), atol=1e-6
        ), name


def test_dare_drops_by_chance_rescales_and_repeats_itself(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    recipe = MixRecipe(mode="full", method="dare", density=0.25)
    for out in ("one", "two"):
        mix(seed, full(tiny, "a"), recipe, tmp_path / out)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    made, s, a = (
        weights(folder)["model.embed_tokens.weight"]
        for folder in (tmp_path / "one", seed, tiny("a", shared=0.02))
    )
    moved = made != s
    assert 0.2 < moved.float().mean() < 0.3
    assert torch.allclose((made - s)[moved], (a - s)[moved] * 4, atol=1e-6)


@pytest.mark.parametrize("method", ["mean", "task", "ties", "dare"])
def test_how_finely_weights_are_read_moves_no_bit(
    method: Any, tiny: Save, seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = (streams.CHUNK, 1000, 77)
    for chunk in chunks:
        monkeypatch.setattr(streams, "CHUNK", chunk)
        mix(
            seed, full(tiny, "a", "b"), MixRecipe(mode="full", method=method), tmp_path / str(chunk)
        )
    whole, *cut = (digests(tmp_path / str(chunk)) for chunk in chunks)
    assert cut == [whole, whole]


def test_the_threshold_is_found_in_chunks_as_in_one_sort() -> None:
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    base = np.zeros(1000, np.float32).tobytes()
    pieces = [(base, piece.tobytes()) for piece in values.reshape(10, 1000)]
    for density in (0.001, 0.3, 0.999, 1.0):
        assert (
            combine.threshold(lambda: pieces, "F32", density)
            == np.sort(np.abs(values))[::-1][int(np.ceil(density * 10_000)) - 1]
        )


# Experts that are cut or blended: the paper's ablation


@pytest.mark.parametrize(
    ("recipe", "copies"), [(MixRecipe(split=2, top_k=6), 2), (MixRecipe(blend=True, top_k=3), 2)]
)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_split_and_blended_copies_all_chosen_evenly_give_the_dense_logits(
    recipe: MixRecipe, copies: int, family: str, tmp_path: Path
) -> None:
    model = build(family, **{**TINY, "head_dim": 8, "pad_token_id": 0})
    model.save_pretrained(tmp_path / "seed")
    rows = {layer: torch.zeros(recipe.top_k, TINY["hidden_size"]) for layer in range(2)}
    mix(
        tmp_path / "seed",
        [Member(f"m{n}", n + 1, tmp_path / "seed") for n in range(copies)],
        recipe,
        tmp_path / "out",
        known=Known(router=rows),
    )
    made = stock(tmp_path / "out")
    ids = torch.arange(3, 20)[None]
    assert float((made(ids).logits - model(ids).logits).abs().max()) < 1e-4
    slots = parts_of(Checkpoint.open(tmp_path / "out")).experts
    assert len(slots) == recipe.top_k


def test_a_blended_expert_holds_one_chunk_of_every_member(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    mix(seed, [Member("a", 1, tiny("a"))], MixRecipe(blend=True), tmp_path / "out")
    made, s, a = (weights(folder) for folder in (tmp_path / "out", seed, tiny("a")))
    stem = "model.layers.1.block_sparse_moe.experts.1"
    assert torch.equal(
        made[f"{stem}.w1.weight"],
        torch.cat([one["model.layers.1.mlp.gate_proj.weight"][24:] for one in (s, a)]),
    )
    assert torch.equal(
        made[f"{stem}.w2.weight"],
        torch.cat([one["model.layers.1.mlp.down_proj.weight"][:, 24:] for one in (s, a)], 1),
    )


# Incremental equals from nothing


class Growth(RuleBasedStateMachine):
    """Members come, are upgraded and go.

    Each build links what it can from the one before and must equal one from nothing.
    """

    tiny: Save
    root: Path
    mode: str

    @initialize()
    def begin(self) -> None:
        self.members: dict[str, tuple[int, Path]] = {}
        self.last: Path | None = None
        self.made: dict[tuple[str, Path, int], Path] = {}
        self.number = 0
        self.folder = Path(self.root) / f"{len(list(self.root.iterdir()))}"
        self.folder.mkdir()

    def source(self, name: str, version: int) -> Path:
        return self.tiny(f"{name}{version}", shared=0.02 if self.mode == "full" else 0.0)

    @rule(name=st.sampled_from("abcd"), version=st.integers(1, 3))
    def add_or_upgrade(self, name: str, version: int) -> None:
        free = next(
            slot
            for slot in itertools.count(1)
            if slot not in {held for held, _ in self.members.values()}
        )
        self.members[name] = (self.members.get(name, (free,))[0], self.source(name, version))
        self.build()

    @precondition(lambda self: len(self.members) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        del self.members[data.draw(st.sampled_from(sorted(self.members)))]
        self.build()

    def build(self) -> None:
        self.number += 1
        seed, recipe = self.tiny("seed"), MixRecipe(mode=self.mode)
        known = [
            Member(name, slot, folder, self.made.get((name, folder, slot)))
            for name, (slot, folder) in self.members.items()
        ]
        out, again = self.folder / f"{self.number}", self.folder / f"{self.number}-again"
        report = mix(seed, known, recipe, out, known=Known(previous=self.last))
        mix(
            seed,
            [Member(member.name, member.slot, member.folder) for member in known],
            recipe,
            again,
        )
        assert digests(out) == digests(again)
        written = {file.path for file in report.files if not file.linked}
        assert (
            not {f"model-expert-{member.name}.safetensors" for member in known if member.shard}
            & written
        )
        self.made |= {
            (member.name, member.folder, member.slot): out
            / f"model-expert-{member.name}.safetensors"
            for member in known
        }
        self.last = out

    @invariant()
    def every_expert_is_its_source(self) -> None:
        for name, (slot, folder) in getattr(self, "members", {}).items():
            made = Checkpoint.open(self.last).read(
                f"model.layers.0.block_sparse_moe.experts.{slot}.w1.weight"
            )
            assert torch.equal(
                made, Checkpoint.open(folder).read("model.layers.0.mlp.gate_proj.weight")
            ), name


@pytest.mark.parametrize("mode", ["anchored", pytest.param("full", marks=pytest.mark.slow)])
def test_incremental_equals_from_nothing_byte_for_byte(
    mode: str, tiny: Save, tmp_path: Path
) -> None:
    machine = type(
        "Machine", (Growth,), {"tiny": staticmethod(tiny), "root": tmp_path, "mode": mode}
    )
    bounded = settings(
        max_examples=EXAMPLES or 6,
        stateful_step_count=8,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=bounded)


def test_the_comparison_of_builds_notices_one_flipped_byte(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        mix(seed, [Member("a", 1, tiny("a"))], MixRecipe(), tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    flip(tmp_path / "two/model-expert-a.safetensors")
    assert digests(tmp_path / "one") != digests(tmp_path / "two")


def test_a_stock_model_reads_a_tensor_as_safetensors_itself_does(
    tiny: Save, seed: Path, tmp_path: Path
) -> None:
    mix(seed, [Member("a", 1, tiny("a"))], MixRecipe(), tmp_path / "out")
    for name, tensor in weights(tmp_path / "out").items():
        with safe_open(Checkpoint.open(tmp_path / "out").tensors[name].file, "pt") as file:
            assert torch.equal(file.get_tensor(name), tensor)


def test_errors_are_the_packages_own_and_name_the_next_step(tiny: Save, tmp_path: Path) -> None:
    with pytest.raises(BtxError) as caught:
        mix(tmp_path / "nowhere", [], MixRecipe(), tmp_path / "out")
    assert caught.value.next
    assert str(caught.value).count("\n") == 2
