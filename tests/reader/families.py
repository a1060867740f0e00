"""Tiny random models of the families that are read with, each with what sets it apart."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WORDS = 300
_SHAPE: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.1,
    "pad_token_id": 0,
}
_WINDOW = 40
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-yarn": {
        "model_type": "llama",
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
    },
    "qwen2": {"hidden_size": 96},
    "qwen3": {},
    "mistral": {"sliding_window": _WINDOW},
    "gemma2": {"sliding_window": _WINDOW, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": _WINDOW, "query_pre_attn_scalar": 16, "sliding_window_pattern": 3},
}
FAMILIES = tuple(_OWN)


def build(family: str, seed: int = 0, context: int = 4096) -> Any:
    """Return a random model of five layers in float32."""
    own = {**_SHAPE, **_OWN[family], "max_position_embeddings": context}
    config = AutoConfig.for_model(own.pop("model_type", family), **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
