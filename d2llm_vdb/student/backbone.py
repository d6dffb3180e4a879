"""Text to token states: a Hugging Face encoder or decoder and its tokenizer."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from d2llm_vdb.batching import length_batches
from d2llm_vdb.errors import CheckpointError, InputError
from d2llm_vdb.student.merged import MergedAdapters
from d2llm_vdb.student.model_source import (
    DType,
    batch_tokens,
    check_tokenizer,
    check_weights,
    is_of_pooler,
    loading,
    locate,
    pick_device,
    pick_dtype,
)
from d2llm_vdb.student.short_inputs import ShortInputs
from d2llm_vdb.student.terms import Terms

# Values of each weight that an identity is made of.
SAMPLED_VALUES = 64


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token states of some texts.

    Args:
        positions: where the texts stood in the input.
        states: float32 (B, L, d), on the backbone's device.
        mask: bool (B, L), true where there is a token.
    """

    positions: list[int]
    states: Tensor
    mask: Tensor


class Backbone:
    """An encoder or decoder read for its last hidden states.

    Args:
        source: what it was loaded from.
        model: the transformer, without a language-model head.
        tokenizer: its fast tokenizer.

    `short_inputs` runs short queries through ONNX Runtime; None leaves them to torch.
    """

    def __init__(
        self,
        source: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        self.source = source
        self.model: Any = model.requires_grad_(False)
        self.model.train(False)
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens(self.device)
        self.identity = weights_identity(model)
        self.short_inputs: ShortInputs | None = ShortInputs(self.identity)
        self._merged = MergedAdapters()
        self._tokenizer_lock = threading.Lock()

    @classmethod
    def load(
        cls,
        source: str,
        *,
        device: str = "auto",
        dtype: DType = "auto",
        trust_remote_code: bool = False,
    ) -> Backbone:
        """Load a backbone by hub id, directory, `.gguf` file or installed package.

        Args:
            source: a hub id; a directory or `.gguf` file; or `package:NAME`, an installed Python
                package that carries a model directory or a `.gguf` file.
            device: a torch device, or "auto" for CUDA, then Apple's MPS, then the CPU.
            dtype: "auto" takes bfloat16 where the device computes in it natively and, measured
                once on a CPU, faster.
            trust_remote_code: run model code that comes with the weights. Off by default.

        Raises:
            CheckpointError: nothing usable is found at `source`.
            MissingExtraError: a `.gguf` file is given and the package `gguf` is missing.
        """
        directory, gguf_file = locate(source)
        target = pick_device(device)
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        if gguf_file:
            options["gguf_file"] = gguf_file
        precision = pick_dtype(dtype, target)
        wanted = (
            "a hub id, a directory with config.json and safetensors weights, a .gguf file, or "
            "package:NAME"
        )
        named = f"backbone {source!r}"
        with loading(named, wanted, gguf_file):
            tokenizer = AutoTokenizer.from_pretrained(directory, **options)
            model, found = AutoModel.from_pretrained(
                directory,
                dtype=precision,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise CheckpointError(f"{named} has no fast tokenizer (tokenizer.json)")
        if model.config.is_encoder_decoder and getattr(model, "decoder", None) is not None:
            raise CheckpointError(
                f"{named} is an encoder with a decoder ({type(model).__name__}); take a model that "
                f"is one of the two, such as BERT or Qwen"
            )
        check_tokenizer(named, tokenizer, model.config)
        poolers = {name for name in found["missing_keys"] if is_of_pooler(name)}
        check_weights(named, set(found["missing_keys"]) - poolers)
        with torch.no_grad():
            for name in poolers:  # no state passes it; random, it would change the identity
                model.get_parameter(name).zero_()
        return cls(source, model.to(target), tokenizer)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out lock, session and merged adapters; a copy has its own."""
        left_out = ("_tokenizer_lock", "_merged", "short_inputs")
        kept = {name: value for name, value in vars(self).items() if name not in left_out}
        return kept | {"short_inputs": self.short_inputs is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _tokenizer_lock=threading.Lock(), _merged=MergedAdapters())
        self.short_inputs = ShortInputs(self.identity) if state["short_inputs"] else None

    @property
    def dim(self) -> int:
        """Width d of the token states."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @cached_property
    def context_length(self) -> int | None:
        """Longest input in tokens the model was built for, where its configuration says so."""
        return context_length(self.model)

    @property
    def special_tokens(self) -> int:
        """How many tokens the tokenizer adds to a text."""
        return int(self.tokenizer.num_special_tokens_to_add())

    @cached_property
    def terms(self) -> Terms:
        """What cuts texts into terms for BM25."""
        unknown = self.tokenizer.unk_token_id
        return Terms(self.splitting_tokenizer(), None if unknown is None else int(unknown))

    def splitting_tokenizer(self) -> Tokenizer:
        """Return a copy of the tokenizer that cuts and pads nothing, to count tokens with."""
        tokenizer = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def tokenize(self, texts: Sequence[str], max_tokens: int) -> tuple[list[list[int]], int]:
        """Turn texts into token ids, special tokens included, cut at `max_tokens`.

        Returns:
            Ids of each text, and how many texts were cut.

        Raises:
            InputError: a text has no token at all.
        """
        with self._tokenizer_lock:  # fast tokenizers keep truncation as shared state
            encoded = self.tokenizer(
                list(texts), truncation=True, max_length=max_tokens, padding=False
            )
        ids: list[list[int]] = encoded["input_ids"]
        for text, row in zip(texts, ids, strict=True):
            if not row:
                raise InputError(f"text {text[:40]!r} has no token; drop it or add text to it")
        return ids, sum(bool(encoding.overflowing) for encoding in encoded.encodings or ())

    def offsets(self, text: str, max_tokens: int) -> list[tuple[int, int]]:
        """Return which characters each token of `tokenize` is of: none for a special token.

        A tokenizer may count the blank before a word to the word, and may make several tokens of
        one character.
        """
        with self._tokenizer_lock:
            encoded = self.tokenizer(
                text, truncation=True, max_length=max_tokens, return_offsets_mapping=True
            )
        offsets: list[tuple[int, int]] = encoded["offset_mapping"]
        return offsets

    def batches(
        self, token_ids: Sequence[Sequence[int]], *, queries: bool = False
    ) -> Iterator[TokenBatch]:
        """Run the model over tokenised texts, batched by length within the token budget.

        A text's states are the same whatever texts stand beside it.

        Args:
            token_ids: of each text.
            queries: short ones may go through `short_inputs`.
        """
        lengths = [len(ids) for ids in token_ids]
        for positions, length in length_batches(lengths, self.batch_tokens, self.context_length):
            shape = (len(positions), length)
            padded = torch.full(shape, self.padding_id, dtype=torch.long)
            mask = torch.zeros(shape, dtype=torch.bool)
            for row, position in enumerate(positions):
                ids = token_ids[position]
                padded[row, : len(ids)] = torch.as_tensor(ids)
                mask[row, : len(ids)] = True
            mask, padded = mask.to(self.device), padded.to(self.device)
            states = None
            if queries and self.short_inputs is not None:
                states = self.short_inputs.states(self.model, padded, mask)
            if states is None:
                model = self._merged.of(self.model)
                output = model(input_ids=padded, attention_mask=mask.long())
                states = output.last_hidden_state.float()
            yield TokenBatch(positions, states, mask)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Let the model be as it was before it had an adapter, within the block."""
        if not isinstance(self.model, PeftModel):
            yield
            return
        learning = [weight.requires_grad for weight in self.model.parameters()]
        try:
            with self.model.disable_adapter():
                yield
        finally:  # where an adapter is switched on again, peft lets it learn
            for weight, learns in zip(self.model.parameters(), learning, strict=True):
                weight.requires_grad_(learns)

    @property
    def padding_id(self) -> int:
        """Any id the model knows will do, since padding is masked; its own where it has one."""
        own = self.tokenizer.pad_token_id
        size = self.model.config.get_text_config().vocab_size
        return int(own) if own is not None and own < size else 0


def context_length(model: Any) -> int | None:
    """Return the longest input in tokens that a model was built for, where it says so."""
    if not getattr(model.config, "position_biased_input", True):  # DeBERTa's are relative
        return None
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) - _first_position(model) if length else None


def _first_position(model: Any) -> int:
    """Return the position of a text's first token.

    RoBERTa and its kin have a row for the position of padding, and count from the one after it: of
    their 514 positions 512 are for tokens.
    """
    for name, module in model.named_modules():
        if name.split(".")[-1] == "position_embeddings":
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else int(padding) + 1
    return 0


def weights_identity(model: PreTrainedModel) -> str:
    """Hash a sample of every weight, so that the same model has one identity wherever it lies.

    Values are rounded to bfloat16 first: loading in float32 or bfloat16 gives the same identity.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(model.state_dict().items()):
        flat = weight.detach().flatten()
        step = max(1, len(flat) // SAMPLED_VALUES)
        values = flat[::step][:SAMPLED_VALUES].to(torch.bfloat16).view(torch.int16).cpu()
        digest.update(f"{name}:{tuple(weight.shape)}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
