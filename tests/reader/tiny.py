"""A tiny random causal model with a byte-level tokenizer, and one that says what it is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from reader.guessing import GUESSED_TOKENS

END = "<|im_end|>"
END_ID = 257
START_ID = 258
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, and "ab" is; the chat template is ChatML."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE({piece: number for number, piece in enumerate([*alphabet, "ab"])}, [("a", "b")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = TEMPLATE
    return fast


def tiny_model(kind: str = "qwen2", seed: int = 0, context: int = 4096) -> Any:
    """Return a random model of two layers in float32 over the tokenizer's vocabulary."""
    shape = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = (
            Qwen2ForCausalLM(Qwen2Config(**shape))
            if kind == "qwen2"
            else LlamaForCausalLM(LlamaConfig(**shape))
        )
    return made.eval()


class ToldModel:
    """Runs a tiny model over its slots, and says the text it was told after every prompt.

    What is read in more than a few tokens is taken for a prompt, or a part of one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, text: str, *, ends: bool = True) -> None:
        self._inner = tiny_model()
        self.config = self._inner.config
        self.generation_config = self._inner.generation_config
        self.device, self.dtype = self._inner.device, self._inner.dtype
        self.set_attn_implementation = self._inner.set_attn_implementation
        self.get_decoder = self._inner.get_decoder
        self.says: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"]) + [END_ID] * ends
        self.steps = 0
        self.read: list[list[int]] = []
        self._prompt_ends: dict[int, int] = {}

    def __call__(self, input_ids: Any, position_ids: Any, logits_to_keep: Any, **options: Any) -> Any:
        self.steps += 1
        self._inner(input_ids=input_ids, position_ids=position_ids, **options)
        logits = torch.zeros(1, input_ids.shape[1], self.config.vocab_size)
        for segment in options["segments"]:
            slots, part = id(segment.slots), slice(segment.start, segment.stop)
            if segment.stop - segment.start > 1 + GUESSED_TOKENS:
                self._prompt_ends[slots] = int(segment.positions[-1]) + 1
                self.read.append(input_ids[0, part].tolist())
            for place, position in enumerate(segment.positions.tolist(), start=segment.start):
                said = position + 1 - self._prompt_ends[slots]
                logits[0, place, self.says[said] if 0 <= said < len(self.says) else START_ID] = 1.0
        return SimpleNamespace(logits=logits[:, logits_to_keep])
