"""A tiny random causal model with a byte-level tokenizer, and one that says what it is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

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
    """Runs a tiny model for its cache, and says the text it was told after every prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, text: str, *, ends: bool = True) -> None:
        self._inner = tiny_model()
        self.config = self._inner.config
        self.generation_config = self._inner.generation_config
        self.device = self._inner.device
        self.says: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"]) + [END_ID] * ends
        self.prompts: list[list[int]] = []
        self.steps = 0

    def __call__(self, input_ids: Any, past_key_values: Any, use_cache: bool, logits_to_keep: int) -> Any:
        before = past_key_values.get_seq_length()
        if before == 0:
            self.prompts.append(input_ids[0].tolist())
        self.steps += 1
        self._inner(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache)
        after = before + input_ids.shape[1]
        logits = torch.zeros(1, logits_to_keep, self.config.vocab_size)
        for place in range(logits_to_keep):
            said = after - logits_to_keep + place + 1 - len(self.prompts[-1])
            logits[0, place, self.says[said] if said < len(self.says) else START_ID] = 1.0
        return SimpleNamespace(logits=logits)
