"""Turn a GGUF file into a plain checkpoint folder.

In:  a GGUF file of a dense model, as llama.cpp writes it, quantised or not.
Out: config, tokenizer and safetensors files under the family's own names, in a new folder.
Reading the format and undoing its quantisation is left to transformers and to the package `gguf`.
What they would pass over in silence is refused here: a torn file, a tensor that has no place in the
model, a tokenizer whose rules they do not know. transformers undoes the quantisation tensor by
tensor, and holds the whole model in the dtype that it is written in: the peak of memory is the
model once, and one tensor in float32. The model is never run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from btx_core.checkpoints.families import find_family
from btx_core.checkpoints.stock import refused_as_unsupported
from btx_core.problems import Unsafe, Unsupported

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

MAGIC = b"GGUF"
# What holds each value as it was trained, so that float32 loses nothing of it.
UNQUANTISED = frozenset({"F16", "F32", "F64"})
TOKENS, KIND, RULES = "tokenizer.ggml.tokens", "tokenizer.ggml.model", "tokenizer.ggml.pre"
# Byte-level vocabularies by how llama.cpp splits text before it merges: as GPT-2 does, or the same
# with every digit by itself. transformers knows more, in GGUF_PRE_TOKENIZER_SPLITS.
LIKE_GPT2 = frozenset({"gpt-2", "mpt", "olmo", "phi-2"})
SINGLE_DIGITS = frozenset(
    {"codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"}
)
DOWNLOAD_ANEW = "fetch or convert the file anew"
# Any checkpoint folder serves as well.
TAKE_ORIGINAL = "register the checkpoint folder that the file was converted from"


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself before its weights.

    Attributes:
        file: where it lies.
        tensor_types: the storage type of every tensor, such as Q4_1, by its name in the file.
        vocabulary: how many tokens it names.
        tokenizer_kind: such as gpt2 or llama; None without a tokenizer.
        splitting: the rule by which text is split before it is merged; None where none is named.
    """

    file: Path
    tensor_types: Mapping[str, str]
    vocabulary: int
    tokenizer_kind: str | None
    splitting: str | None

    @property
    def quantisation(self) -> str:
        """The storage type of most tensors that are no vectors, such as Q4_1."""
        types = [kind for name, kind in self.tensor_types.items() if "norm" not in name]
        return max(sorted(set(types)), key=types.count)

    @property
    def dtype(self) -> str:
        """What the checkpoint is written in.

        float32 where nothing is quantised, which keeps every value; else bfloat16, which is finer
        than what the file holds.
        """
        plain = set(self.tensor_types.values()) <= UNQUANTISED
        return "float32" if plain else "bfloat16"


def is_gguf(path: Path) -> bool:
    """Say whether a path is a file that is, or calls itself, a GGUF file."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf_header(file: Path) -> GgufHeader:
    """Read a GGUF file's header, and check that all that it names is in the file.

    Args:
        file: the GGUF file.

    Returns:
        The header.

    Raises:
        Unsafe: for a file that is no GGUF, or a torn one.
        Unsupported: for a model in several files.
    """
    # Here, so that `is_gguf` can be asked without it.
    from gguf import GGUFReader

    with file.open("rb") as opened:
        magic = opened.read(len(MAGIC))
    if magic != MAGIC:
        raise Unsafe(
            file, found=f"{magic!r} at its start", expected="a GGUF file", next="check the path"
        )
    try:
        reader = GGUFReader(file)
        fields = {
            name: field.contents() if name in (KIND, RULES, "split.count") else None
            for name, field in reader.fields.items()
        }
        vocabulary = len(reader.fields[TOKENS].data) if TOKENS in reader.fields else 0
        ends = [int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors]
        types = {str(tensor.name): tensor.tensor_type.name for tensor in reader.tensors}
    # The reader trusts every length: a torn file ends in whatever numpy or struct raise.
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise Unsafe(
            file,
            found=f"{type(error).__name__}: {message}",
            expected="a whole GGUF file",
            next=DOWNLOAD_ANEW,
        ) from None
    size = file.stat().st_size
    if max(ends, default=0) > size or not types:
        raise Unsafe(
            file,
            found=f"{size:,} bytes, {len(types)} tensors",
            expected=f"{max(ends, default=0):,} bytes at least, one tensor at least",
            next=DOWNLOAD_ANEW,
        )
    if int(fields.get("split.count") or 0) > 1:
        raise Unsupported(
            file,
            found=f"one of {fields['split.count']} files",
            expected="the model in one file",
            next="join them: llama-gguf-split --merge FIRST OUT",
        )
    kind = fields.get(KIND) if TOKENS in fields else None
    return GgufHeader(file, types, vocabulary, _text(kind), _text(fields.get(RULES)))


def write_plain(header: GgufHeader, out: Path) -> None:
    """Write a GGUF file's model as a plain checkpoint folder.

    Args:
        header: of the file.
        out: an existing, empty folder.

    Raises:
        Unsafe: for weights that do not fill the model, or a tokenizer that does not fit it.
        Unsupported: for a family that cannot be mixed, or a tokenizer that would change its
            meaning.
    """
    import torch

    _check_tokenizer(header)
    expected = "a GGUF file that transformers reads"
    with refused_as_unsupported(header.file, expected, TAKE_ORIGINAL):
        find_family(_config(header.file))
        tokenizer = _tokenizer(header)
        _write_weights(header, getattr(torch, header.dtype), out)
        tokenizer.save_pretrained(out)
    _drop_tokens_beyond(header.vocabulary, out / "tokenizer.json")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _config(file: Path) -> dict[str, object]:
    from transformers import AutoConfig

    config: dict[str, object] = AutoConfig.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    ).to_dict()
    return config


def _check_tokenizer(header: GgufHeader) -> None:
    """Require a tokenizer whose way to split text is known, so that no text gets other tokens."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import (
        GGUF_PRE_TOKENIZER_SPLITS,
        GGUF_TOKENIZER_TYPES,
    )

    if header.tokenizer_kind not in GGUF_TOKENIZER_TYPES:
        raise Unsupported(
            header.file,
            found=f"tokenizer {header.tokenizer_kind}" if header.tokenizer_kind else "no tokenizer",
            expected=f"a tokenizer in the file: {', '.join(sorted(GGUF_TOKENIZER_TYPES))}",
            next=TAKE_ORIGINAL,
        )
    known = LIKE_GPT2 | SINGLE_DIGITS | set(GGUF_PRE_TOKENIZER_SPLITS)
    if header.tokenizer_kind == "gpt2" and header.splitting not in known:
        raise Unsupported(
            header.file,
            found=f"a byte-level tokenizer that splits text by the rule {header.splitting}",
            expected=f"a rule that is known here: {', '.join(sorted(known))}",
            next=TAKE_ORIGINAL,
        )


def _tokenizer(header: GgufHeader) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the file describes."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    file = header.file
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    if header.tokenizer_kind == "gpt2" and header.splitting in SINGLE_DIGITS:
        # transformers splits these as GPT-2 does.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _drop_tokens_beyond(vocabulary: int, path: Path) -> None:
    """Take out the tokens that transformers adds where the file names no unknown token."""
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = [token for token in content["added_tokens"] if token["id"] < vocabulary]
    if len(kept) < len(content["added_tokens"]):
        path.write_text(
            json.dumps(content | {"added_tokens": kept}, ensure_ascii=False), encoding="utf-8"
        )


def _write_weights(header: GgufHeader, dtype: torch.dtype, out: Path) -> None:
    """Write config and weights: every tensor of the file fills one of the model."""
    from transformers import AutoModelForCausalLM, GgufConfig

    file = header.file
    # A bar of its own, which no setting of transformers switches off.
    with redirect_stderr(StringIO()):
        # Any: transformers types the model alone, and not the pair that comes with loading info.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            # Otherwise the weights stay packed, and cannot be saved.
            quantization_config=GgufConfig(dequantize=True),
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
        )
    model, loading = loaded
    faults = [f"{name} is missing" for name in sorted(loading["missing_keys"])]
    faults += [f"{name} has another shape" for name, *_ in sorted(loading["mismatched_keys"])]
    own = {id(parameter) for parameter in model.parameters()}
    if not faults and len(own) != len(header.tensor_types):
        # Such as rope_freqs, which transformers does not read: long texts would come out wrong.
        faults = [f"{len(header.tensor_types)} tensors, of which the model takes {len(own)}"]
    if faults:
        raise Unsafe(
            file,
            found=", ".join(faults[:4]),
            expected=f"every tensor of a {model.config.model_type} model, and no other",
            next=TAKE_ORIGINAL,
        )
    with redirect_stderr(StringIO()):
        model.save_pretrained(out)
