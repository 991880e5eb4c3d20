"""Only folders that are safe and true are opened; every other is refused with a reason."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.headers import read_header
from btx_core.mixing.mix import Member, MixRecipe, mix
from btx_core.mixing.preflight import preflight
from btx_core.problems import BtxError, Unsafe

from .conftest import EXAMPLES

Save = Callable[..., Path]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 269060552\n"


@pytest.fixture
def folder(tiny: Save, tmp_path: Path) -> Path:
    shutil.copytree(tiny("a"), tmp_path / "folder")
    return tmp_path / "folder"


def header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    return dict(json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]]))


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any], text: str | None = None) -> None:
    """Replace the header; the data stays where it is."""
    raw = path.read_bytes()
    data = raw[8 + struct.unpack("<Q", raw[:8])[0] :]
    found = header(path)
    change(found)
    new = (text or json.dumps(found)).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + data)


def shard(folder: Path) -> None:
    """The same weights as two files and an index."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in halves.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    weight_map = {name: file for file, held in halves.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / WEIGHTS).unlink()


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_sound_folder_opens_whole_or_in_shards(folder: Path) -> None:
    whole = Checkpoint.open(folder)
    values = {name: whole.read(name) for name in whole.tensors}
    shard(folder)
    parts = Checkpoint.open(folder)
    assert len(parts.weight_files()) == 2
    assert all(torch.equal(parts.read(name), value) for name, value in values.items())


def names(path: Path) -> list[str]:
    return sorted(name for name in header(path) if name != "__metadata__")


def offsets(change: Callable[[list[int]], list[int]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        def move(found: dict[str, Any]) -> None:
            entry = found[names(folder / WEIGHTS)[1]]
            entry["data_offsets"] = change(entry["data_offsets"])

        rewrite(folder / WEIGHTS, move)

    return apply


def entry(**new: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite(
        folder / WEIGHTS, lambda found: found[names(folder / WEIGHTS)[0]].update(new)
    )


def renamed(new: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(
        folder / WEIGHTS, lambda found: found.update({new: found.pop(names(folder / WEIGHTS)[0])})
    )


def config(**new: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", lambda found: found.update(new))


def bytes_of(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    return apply


def sharded(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        shard(folder)
        change(folder)

    return apply


def mapped(new: Any) -> Callable[[Path], None]:
    return sharded(
        lambda folder: edit(
            folder / INDEX,
            lambda found: found["weight_map"].update({min(found["weight_map"]): new}),
        )
    )


def indexed(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    return sharded(lambda folder: edit(folder / INDEX, lambda found: change(found["weight_map"])))


def stray(folder: Path) -> None:
    shutil.copy(folder / "model-1.safetensors", folder / WEIGHTS)


def doubled(folder: Path) -> None:
    one, two = folder / "model-1.safetensors", folder / "model-2.safetensors"
    save_file(load_file(one) | load_file(two), two)


def written(name: str, text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return apply


def outside(folder: Path) -> None:
    (folder.parent / "outside.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).unlink()
    os.symlink("../outside.safetensors", folder / WEIGHTS)


UNSAFE: dict[str, Callable[[Path], None]] = {
    "truncated data": bytes_of(WEIGHTS, lambda raw: raw[:-7]),
    "data after the end": bytes_of(WEIGHTS, lambda raw: raw + b"\0"),
    "empty file": bytes_of(WEIGHTS, lambda raw: b""),
    "header longer than the file": bytes_of(
        WEIGHTS, lambda raw: struct.pack("<Q", len(raw)) + raw[8:]
    ),
    "header of 2^63 bytes": bytes_of(WEIGHTS, lambda raw: struct.pack("<Q", 1 << 63) + raw[8:]),
    "header that is no JSON": bytes_of(WEIGHTS, lambda raw: raw[:8] + b"}" + raw[9:]),
    "header that is no text": bytes_of(WEIGHTS, lambda raw: raw[:8] + b"\xff\xfe" + raw[10:]),
    "header that is a list": lambda folder: rewrite(folder / WEIGHTS, lambda found: None, "[1]"),
    "header nested without end": lambda folder: rewrite(
        folder / WEIGHTS, lambda found: None, "[" * 200_000
    ),
    "a number of 10,000 digits": lambda folder: rewrite(
        folder / WEIGHTS, lambda found: None, '{"a":' + "9" * 10_000 + "}"
    ),
    "a name twice": lambda f: rewrite(
        f / WEIGHTS,
        lambda found: None,
        json.dumps(header(f / WEIGHTS))[:-1] + ', "lm_head.weight": {}}',
    ),
    "metadata that is not text": lambda folder: rewrite(
        folder / WEIGHTS, lambda found: found.update(__metadata__={"a": 1})
    ),
    "overlap": offsets(lambda place: [place[0] - 4, place[1] - 4]),
    "hole": offsets(lambda place: [place[0] + 4, place[1] + 4]),
    "offsets the wrong way round": offsets(lambda place: place[::-1]),
    "negative offset": offsets(lambda place: [-4, place[1] - place[0] - 4]),
    "three offsets": offsets(lambda place: [*place, 0]),
    "unknown dtype": entry(dtype="F128"),
    "dtype that is a list": entry(dtype=["F32"]),
    "lying dtype": entry(dtype="F16"),
    "lying shape": entry(shape=[1, 2, 3]),
    "negative shape": entry(shape=[-1, -32]),
    "shape of truth values": entry(shape=[True]),
    "shape of 2^60": entry(shape=[1 << 60, 1 << 60]),
    "shape of fractions": entry(shape=[1.5, 2]),
    "no shape": lambda folder: rewrite(
        folder / WEIGHTS, lambda found: found[names(folder / WEIGHTS)[0]].pop("shape")
    ),
    "entry that is a number": lambda folder: rewrite(
        folder / WEIGHTS, lambda found: found.update({names(folder / WEIGHTS)[0]: 3})
    ),
    "name that climbs": renamed("../../etc/passwd"),
    "name with a line break": renamed("model\nembed"),
    "empty name": renamed(""),
    "a name of 10,000 letters": renamed("x" * 10_000),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "config that is no JSON": bytes_of("config.json", lambda raw: raw[:-3]),
    "config with NaN": bytes_of(
        "config.json", lambda raw: raw.replace(b'"use_cache": true', b'"use_cache": NaN')
    ),
    "auto_map": config(auto_map={"AutoModel": "evil.Model"}),
    "quantised": config(quantization_config={"bits": 4}),
    "quantised, by nothing": config(quantization_config={}),
    "model type that is no word": config(model_type=7),
    "auto_map in the tokenizer": written(
        "tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "evil"}}'
    ),
    "link that leaves": outside,
    "link to nowhere": lambda folder: os.symlink("nowhere", folder / "merges.txt"),
    "link to a device": lambda folder: os.symlink("/dev/zero", folder / "tokenizer.json"),
    "pipe": lambda folder: os.mkfifo(folder / "vocab.json"),
    "a Git LFS pointer": written(WEIGHTS, LFS_POINTER),
    "a config that Git LFS left out": written("config.json", LFS_POINTER),
    "weights as a pickle alone": lambda folder: os.rename(
        folder / WEIGHTS, folder / "pytorch_model.bin"
    ),
    "layers without end": config(num_hidden_layers=1 << 40),
    "stray weights beside an index": sharded(stray),
    "index that climbs": mapped("../outside.safetensors"),
    "index with an absolute path": mapped("/etc/passwd"),
    "index to another ending": mapped("model-1.bin"),
    "index to a missing file": mapped("model-9.safetensors"),
    "index to the wrong file": mapped("model-2.safetensors"),
    "index that maps to a number": mapped(3),
    "index without weight_map": sharded(
        lambda folder: edit(folder / INDEX, lambda found: found.clear())
    ),
    "index that forgets a tensor": indexed(lambda held: held.pop(min(held))),
    "index that invents a tensor": indexed(lambda held: held.update(x="model-1.safetensors")),
    "a tensor in both shards": sharded(doubled),
}


@pytest.mark.parametrize("fault", UNSAFE)
def test_an_unsafe_folder_is_refused_by_name(fault: str, folder: Path) -> None:
    UNSAFE[fault](folder)
    with pytest.raises(Unsafe) as caught:
        Checkpoint.open(folder)
    assert str(folder) in caught.value.subject
    assert caught.value.next
    assert len(str(caught.value)) < 2000


def test_a_million_empty_tensors_are_refused_at_once(tmp_path: Path) -> None:
    many = json.dumps(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}
    ).encode()
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(many)) + many)
    with pytest.raises(Unsafe, match="300000 tensors"):
        read_header(tmp_path / WEIGHTS)


def test_a_link_that_stays_inside_is_followed(folder: Path) -> None:
    os.rename(folder / WEIGHTS, folder / "blob")
    os.symlink("blob", folder / WEIGHTS)
    assert Checkpoint.open(folder).tensors


# Faults in values and fit: safe to read, yet no expert of this seed.


def values(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return apply


def poisoned(value: float) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"].view(-1)[17] = value

    return values(change)


UP, HEAD, EMBEDDING = (
    "model.layers.0.mlp.up_proj.weight",
    "lm_head.weight",
    "model.embed_tokens.weight",
)
MISFITS: dict[str, Callable[[Path], None]] = {
    "NaN": poisoned(float("nan")),
    "infinity": poisoned(float("-inf")),
    "wrong shape": values(lambda found: found.update({UP: found[UP][:-8].contiguous()})),
    "transposed": values(lambda found: found.update({UP: found[UP].T.contiguous()})),
    "another dtype": values(lambda found: found.update({UP: found[UP].half()})),
    "whole numbers": values(lambda found: found.update({UP: found[UP].to(torch.int32)})),
    "a tensor missing": values(lambda found: found.pop(UP)),
    "a tensor too many": values(lambda found: found.update(extra=torch.zeros(3))),
    "another vocabulary": values(
        lambda found: found.update({name: torch.zeros(70, 32) for name in (HEAD, EMBEDDING)})
    ),
    "another rotation": config(rope_parameters={"rope_theta": 77.0, "rope_type": "default"}),
    "another epsilon": config(rms_norm_eps=0.5),
    "another activation": config(hidden_act="gelu"),
    "another family": config(model_type="mistral"),
    "an unknown family": config(model_type="never_heard_of"),
    "shared parameters that moved": values(lambda found: found["model.norm.weight"].add_(0.001)),
    "other weights throughout": values(
        lambda found: found.update(
            {name: torch.randn_like(tensor) for name, tensor in found.items()}
        )
    ),
    "foreign tokenizer": written("tokenizer.json", '{"model": {"vocab": {"a": 0}}}'),
    "tokenizer that is no JSON": written("tokenizer.json", "{"),
}


def refusal(seed: Path, folder: Path) -> str:
    """Why the folder may not become an expert.

    An assertion fails if it may, and anything but a refusal breaks the test.
    """
    try:
        facts = preflight(seed, folder, "anchored")
    except BtxError as error:
        return str(error) if error.found and error.expected and error.next else ""
    assert facts.recommendation == "refuse", facts
    assert facts.problems
    assert json.dumps(facts.to_json(), allow_nan=False)
    return "; ".join(problem.subject for problem in facts.problems)


@pytest.mark.parametrize("fault", MISFITS)
def test_a_misfit_is_refused_with_its_reason(fault: str, tiny: Save, folder: Path) -> None:
    MISFITS[fault](folder)
    assert refusal(tiny("seed"), folder)


def test_a_sound_branch_is_not_refused(tiny: Save, folder: Path) -> None:
    with pytest.raises(AssertionError):
        refusal(tiny("seed"), folder)
    shard(folder)
    with pytest.raises(AssertionError):
        refusal(tiny("seed"), folder)


# Random damage


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, Any]:
    kind = draw(
        st.sampled_from(
            [
                "fault",
                "misfit",
                "cut",
                "header byte",
                "offsets",
                "shape",
                "poison",
                "config",
                "index",
            ]
        )
    )
    number = st.integers(0, 1 << 30)
    match kind:
        case "fault":
            return kind, draw(st.sampled_from(sorted(UNSAFE)))
        case "misfit":
            return kind, draw(st.sampled_from(sorted(MISFITS)))
        case "cut" | "header byte" | "index":
            return kind, (draw(number), draw(st.integers(1, 255)))
        case "offsets" | "shape":
            return kind, (draw(number), draw(st.integers(-(1 << 40), 1 << 40).filter(bool)))
        case "poison":
            return kind, (
                draw(number),
                draw(number),
                draw(st.sampled_from([float("nan"), float("inf"), float("-inf")])),
            )
        case _:
            keys = (
                "hidden_size num_hidden_layers num_attention_heads num_key_value_heads "
                "intermediate_size vocab_size rms_norm_eps hidden_act rope_parameters head_dim "
                "attention_bias mlp_bias tie_word_embeddings"
            )
            odd = st.one_of(
                st.integers(-5, 1 << 40),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(max_size=9),
                st.lists(st.integers(), max_size=2),
            )
            return kind, (draw(st.sampled_from(keys.split())), draw(odd))


def apply(folder: Path, kind: str, what: Any) -> bool:
    """Damage the folder; False where this draw changes nothing that counts."""
    path = folder / WEIGHTS
    raw = bytearray(path.read_bytes())
    length = struct.unpack("<Q", raw[:8])[0]
    match kind:
        case "fault":
            UNSAFE[what](folder)
        case "misfit":
            MISFITS[what](folder)
        case "cut":
            path.write_bytes(raw[: what[0] % len(raw)])
        case "header byte":
            before = json.dumps(header(path), sort_keys=True)
            raw[what[0] % (8 + length)] ^= what[1]
            path.write_bytes(raw)
            try:
                after = header(path)
                after["__metadata__"] = json.loads(before)["__metadata__"]
                return json.dumps(after, sort_keys=True) != before
            except (ValueError, RecursionError, AttributeError, KeyError, MemoryError):
                return True
        case "offsets" | "shape":
            name = names(path)[what[0] % len(names(path))]
            key = {"offsets": "data_offsets", "shape": "shape"}[kind]
            place = what[0] % len(header(path)[name][key])
            rewrite(
                path,
                lambda found: found[name][key].__setitem__(
                    place, found[name][key][place] + what[1]
                ),
            )
        case "poison":
            tensors = load_file(path)
            name = sorted(tensors)[what[0] % len(tensors)]
            tensors[name].view(-1)[what[1] % tensors[name].numel()] = what[2]
            save_file(tensors, path, metadata={"format": "pt"})
        case "config":
            key, value = what
            old = json.loads((folder / "config.json").read_text()).get(key)
            if old == value or key not in json.loads((folder / "config.json").read_text()):
                return False
            config(**{key: value})(folder)
        case "index":
            shard(folder)
            text = bytearray((folder / INDEX).read_bytes())
            before = json.loads(text)["weight_map"]
            text[what[0] % len(text)] ^= what[1]
            (folder / INDEX).write_bytes(text)
            try:
                return bool(json.loads(text)["weight_map"] != before)
            except (ValueError, KeyError, TypeError):
                return True
    return True


@settings(
    max_examples=EXAMPLES or 80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not EXAMPLES,
)
@given(drawn=damage())
def test_no_damaged_checkpoint_is_accepted(
    drawn: tuple[str, Any], tiny: Save, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("damage")
    try:
        shutil.copytree(tiny("a"), root / "folder")
        assume(apply(root / "folder", *drawn))
        assert refusal(tiny("seed"), root / "folder")
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("fault", [*UNSAFE, *MISFITS])
def test_mixing_refuses_it_too_and_leaves_nothing(fault: str, tiny: Save, folder: Path) -> None:
    (UNSAFE | MISFITS)[fault](folder)
    if fault in ("shared parameters that moved", "other weights throughout"):
        pytest.skip("mixing takes anchored experts' blocks alone; ancestry is preflight's")
    with pytest.raises(BtxError):
        mix(tiny("seed"), [Member("bad", 1, folder)], MixRecipe(), folder.parent / "out")
    assert not [
        path
        for path in folder.parent.iterdir()
        if "out" in path.name and "outside" not in path.name
    ]
