"""A small seed model from nothing, for the demonstration, the benchmarks and the tests.

In:  a size, data folders, a recipe.  Out: a dense checkpoint folder with its own tokenizer.
It trains by the loop that trains branches. A product's seed model is trained elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from btx_core.batches import Corpus, Mixture
from btx_core.files import whole_folder
from btx_core.progress import Progress
from btx_core.texts import AnyText, split
from btx_core.tokens import end_token
from btx_core.training.loop import Training, TrainingReport, Watch, optimise
from btx_core.training.objectives import NextToken
from btx_core.training.recipes import TrainRecipe

END = "<|end|>"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The size of a small Llama and of its byte-level BPE tokenizer."""

    vocabulary: int = 1024
    hidden: int = 64
    feed_forward: int = 192
    layers: int = 4
    heads: int = 4
    positions: int = 256


def pretrain(
    config: PretrainConfig,
    data: Sequence[AnyText],
    recipe: TrainRecipe,
    out: Path,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train a tokenizer, then a model, on the same training text.

    Args:
        config: their size.
        data: data folders.
        recipe: how to train the model.
        out: the folder to be made.
        progress: called as the training comes on.

    Returns:
        What the training of the model took.
    """
    texts = [document.text for folder in data for document in split(folder).train]
    tokenizer = byte_tokenizer(texts, config.vocabulary)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.positions,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            dtype="float32",
        )
    )
    mixture = Mixture({"data": Corpus.of(data, tokenizer, recipe.seed)}, {"data": 1.0})
    training = Training(model, mixture, NextToken(end_token(tokenizer)))
    report = optimise(training, recipe, watch=Watch(progress))
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return report


def byte_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Digits stay single, so that a number is spelt alike wherever it stands.

    Args:
        texts: what it is trained on.
        vocabulary: how many tokens it has, the end token included.

    Returns:
        The tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END
    )
