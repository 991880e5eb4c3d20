"""A GGUF file becomes the checkpoint that it was made from, or is refused whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_gguf import TOKENS, tiny, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from btx_core.checkpoints.checkpoint import Checkpoint
from btx_core.checkpoints.gguf import is_gguf, read_gguf_header, write_plain
from btx_core.problems import BtxError, Unsafe, Unsupported

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a model under a name that is free."""

    def written(model: PreTrainedModel, **settings: Any) -> Path:
        count = len(list(tmp_path.glob("*.gguf")))
        return write_gguf(model, tmp_path / f"tiny-{count}.gguf", **settings)

    return written


def converted(file: Path, out: Path) -> Path:
    out.mkdir()
    write_plain(read_gguf_header(file), out)
    return out


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        scores: torch.Tensor = model(ids).logits
    return scores


def test_a_model_that_was_written_as_gguf_comes_back_with_the_same_logits(
    write: Write, tmp_path: Path
) -> None:
    model, ids = tiny(), torch.arange(60)[None]
    file = write(model)
    assert is_gguf(file)
    out = converted(file, tmp_path / "out")

    with torch.inference_mode():
        torch.testing.assert_close(logits(out, ids), model(ids).logits, rtol=0, atol=0)
    # Unquantised values are kept as they are.
    assert {info.dtype for info in Checkpoint.open(out).tensors.values()} == {"F32"}
    for name, tensor in model.named_parameters():
        assert torch.equal(Checkpoint.open(out).read(name), tensor)
    assert AutoTokenizer.from_pretrained(out).decode([TOKENS.index("the")]) == "the"


def test_quantised_weights_become_bfloat16_and_stay_near(write: Write, tmp_path: Path) -> None:
    model = tiny()
    file = write(model, quantise=True)
    assert read_gguf_header(file).quantisation == "Q8_0"
    out = converted(file, tmp_path / "out")

    checkpoint = Checkpoint.open(out)
    assert {info.dtype for info in checkpoint.tensors.values()} == {"BF16"}
    for name, tensor in model.named_parameters():
        error = (checkpoint.read(name).float() - tensor).abs().max() / tensor.abs().max()
        assert 0 < error < 0.01, name


def test_text_is_split_as_the_file_says(write: Write, tmp_path: Path) -> None:
    together = converted(write(tiny(), splitting="gpt-2"), tmp_path / "together")
    apart = converted(write(tiny(), splitting="smollm"), tmp_path / "apart")

    assert AutoTokenizer.from_pretrained(together)("12").input_ids == [TOKENS.index("12")]
    digits = [TOKENS.index("1"), TOKENS.index("2")]
    assert AutoTokenizer.from_pretrained(apart)("12").input_ids == digits


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_torn_file_is_refused(write: Write, share: float) -> None:
    file = write(tiny())
    read_gguf_header(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Unsafe) as refused:
        read_gguf_header(file)
    assert refused.value.subject == str(file)


@pytest.mark.parametrize(
    ("settings", "error", "found"),
    [
        ({"tokenizer": False}, Unsupported, "no tokenizer"),
        ({"splitting": "a-new-rule"}, Unsupported, "a-new-rule"),
        ({"splitting": None}, Unsupported, "None"),
        ({"architecture": "rwkv6"}, Unsupported, "rwkv6"),
        # transformers reads these; no mixture is known for them.
        ({"architecture": "bloom"}, Unsupported, ""),
        ({"left_out": "blk.1.ffn_up.weight"}, Unsafe, "up_proj.weight is missing"),
        ({"extra": "rope_freqs.weight"}, Unsafe, "21 tensors, of which the model takes 20"),
    ],
)
def test_what_would_not_be_the_same_model_is_refused(
    write: Write, tmp_path: Path, settings: dict[str, str], error: type[BtxError], found: str
) -> None:
    with pytest.raises(error) as refused:
        converted(write(tiny(), **settings), tmp_path / "out")
    assert found in str(refused.value)
    assert refused.value.next


def test_a_file_that_is_no_gguf_is_refused_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04 a zip archive")
    assert is_gguf(file)
    with pytest.raises(Unsafe, match="a GGUF file"):
        read_gguf_header(file)
