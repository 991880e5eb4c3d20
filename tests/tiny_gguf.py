"""A tiny GGUF file, written as llama.cpp would."""

from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

HEADS, KEY_VALUE_HEADS, LAYERS, WIDTH = 4, 2, 2, 64
MERGES = [("1", "2"), ("t", "h"), ("th", "e")]
TOKENS = ["<|end|>", *bytes_to_unicode().values(), *("".join(pair) for pair in MERGES)]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def tiny() -> PreTrainedModel:
    """A llama with every parameter random, norms included."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_VALUE_HEADS,
            vocab_size=len(TOKENS),
            max_position_embeddings=128,
            tie_word_embeddings=True,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}"


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp lays out queries and keys: the halves of a rotation interleaved."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    model: PreTrainedModel,
    file: Path,
    *,
    architecture: str = "llama",
    splitting: str | None = "gpt-2",
    tokenizer: bool = True,
    quantise: bool = False,
    left_out: str = "",
    extra: str = "",
) -> Path:
    """Write a tiny llama; what is left out or stated wrong is for a refusal."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(TOKENS))
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        if splitting is not None:
            writer.add_tokenizer_pre(splitting)
        writer.add_token_list(TOKENS)
        writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
        writer.add_token_merges([" ".join(pair) for pair in MERGES])
        writer.add_eos_token_id(0)
        writer.add_bos_token_id(0)
    tensors = {
        f"{gguf_name(name.removesuffix('.weight'))}.weight": tensor.detach().numpy()
        for name, tensor in model.named_parameters()
    }
    if extra:
        tensors[extra] = np.ones(8, dtype=np.float32)
    for name, array in tensors.items():
        if ".attn_q." in name:
            array = permuted(array, HEADS)
        if ".attn_k." in name:
            array = permuted(array, KEY_VALUE_HEADS)
        if name == left_out:
            continue
        if quantise and array.ndim > 1:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
