"""Small models with random weights, where only the architecture counts."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    set_seed,
)

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}

SMALL = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
}

DECODERS = {
    "llama": (LlamaConfig, LlamaModel),
    "qwen2": (Qwen2Config, Qwen2Model),
    "gpt2": (GPT2Config, GPT2Model),
}


def save_decoder(path: Path, kind: str, texts: list[str], **shape: int) -> Path:
    """Write a decoder with random weights and a byte-level BPE tokenizer without a pad token."""
    _save_tokenizer(path, texts)
    config_class, model_class = DECODERS[kind]
    set_seed(0)
    model_class(config_class(**(SHAPE | shape))).save_pretrained(path)
    return path


def save_encoder(path: Path, kind: str, texts: list[str]) -> Path:
    """Write an encoder with random weights and 66 positions, and a tokenizer as for decoders."""
    _save_tokenizer(path, texts)
    config = AutoConfig.for_model(kind, **SMALL, pad_token_id=1)
    set_seed(0)
    AutoModel.from_config(config).save_pretrained(path)
    return path


def save_causal_lm(path: Path, texts: list[str]) -> Path:
    """Write a Llama with random weights and its language-model head."""
    _save_tokenizer(path, texts)
    set_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(path)
    return path


def _save_tokenizer(path: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(path)
