"""A GGUF file is converted once: the copy has its weights, and is whole or not there."""

from pathlib import Path

import gguf
import pytest
import torch

from memory.errors import CorruptionError
from reader import loading
from reader.loading import best_dtype, load_language_model
from tests.reader.tiny import END_ID, TEMPLATE, tiny_model, tiny_tokenizer

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}


def write_gguf(path: Path, model) -> None:
    """Write a tiny Qwen2 model and its tokenizer as llama.cpp's tools do."""
    tokenizer, config = tiny_tokenizer(), model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(END_ID)
    writer.add_chat_template(TEMPLATE)
    for name, weights in model.state_dict().items():
        short = name
        for long, brief in NAMES.items():
            short = short.replace(long, brief)
        writer.add_tensor(short, weights.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_copy_has_the_files_weights(tmp_path):
    original = tiny_model()
    write_gguf(tmp_path / "tiny.gguf", original)

    model, tokenizer = load_language_model(
        tmp_path / "tiny.gguf", digest="d1", converted=tmp_path / "converted"
    )

    loaded = model.state_dict()
    for name, weights in original.state_dict().items():
        torch.testing.assert_close(loaded[name], weights.to(best_dtype()), rtol=0, atol=0)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.decode(tokenizer("Zürich")["input_ids"]) == "Zürich"


@pytest.mark.parametrize(
    ("able", "seconds", "chosen"),
    [
        ({"amx_bf16": True}, {}, torch.bfloat16),
        ({}, {}, torch.float32),
        ({"avx512_bf16": True}, {torch.bfloat16: 3.0, torch.float32: 2.0}, torch.float32),
        ({"avx512_bf16": True}, {torch.bfloat16: 2.2, torch.float32: 2.0}, torch.bfloat16),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a CPU's choice")
def test_bfloat16_is_left_only_where_it_is_clearly_slower(able, seconds, chosen, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(loading, "_multiply_seconds", lambda dtype: seconds[dtype])
    assert best_dtype.__wrapped__() == chosen


def test_the_second_load_takes_the_copy(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf", tiny_model())
    load_language_model(tmp_path / "tiny.gguf", digest="d1", converted=tmp_path / "converted")
    monkeypatch.setattr(loading, "load_gguf_checkpoint", None)

    load_language_model(tmp_path / "tiny.gguf", digest="d1", converted=tmp_path / "converted")

    (folder,) = (tmp_path / "converted").iterdir()
    assert folder.name == f"d1-{str(best_dtype()).removeprefix('torch.')}"


def test_another_digest_is_another_copy(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", tiny_model())
    for digest in ("d1", "d2"):
        load_language_model(tmp_path / "tiny.gguf", digest=digest, converted=tmp_path / "converted")
    assert len(list((tmp_path / "converted").iterdir())) == 2


def test_a_broken_conversion_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_args, **_options):
        raise OSError("no space left on device")

    write_gguf(tmp_path / "tiny.gguf", tiny_model())
    monkeypatch.setattr(loading, "save_file", full_disk)

    with pytest.raises(CorruptionError):
        load_language_model(tmp_path / "tiny.gguf", digest="d1", converted=tmp_path / "converted")
    assert list((tmp_path / "converted").iterdir()) == []
