"""A tiny random sentence encoder, made in a moment, for tests that need an encoder but no meaning."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

DIMENSION = 32
MAX_TOKENS = 128
WORDS = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "on",
    "that",
    "with",
    "as",
    "it",
    "at",
    "by",
    "from",
    "who",
    "what",
    "when",
    "where",
    "how",
    "her",
    "his",
    "their",
    "river",
    "tower",
    "garden",
    "music",
    "glass",
    "stone",
    "winter",
    "letter",
    "harbour",
    "engine",
    "memory",
    "forget",
    "alice",
    "bob",
    "carol",
    "dave",
]


def build_tiny_encoder(folder: Path, seed: int = 0, *, dimension: int = DIMENSION) -> Path:
    """Write a random two-layer BERT (128 tokens at most) with its tokenizer; return the folder."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = dict.fromkeys([*special, *characters, *("##" + c for c in characters), *WORDS])  # "a" is both
    vocabulary = {piece: number for number, piece in enumerate(pieces)}

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip

    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=dimension,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * dimension,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.5,  # wide enough for different texts to get clearly different vectors
    )
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))
    return folder
