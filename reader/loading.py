"""Load a causal language model: its weights as they come, or dequantized once."""

from __future__ import annotations

import shutil
import struct
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from memory.errors import CorruptionError

_TRIALS = 20
"""The fastest of so many counts: others are at work, too."""

_SLOWER = 1.25
"""bfloat16 takes half the memory: only where it is clearly slower it is not taken."""


def load_language_model(path: Path, *, digest: str, converted: Path) -> tuple[Any, Any]:
    """Return (model, tokenizer) from a Hugging Face folder or a GGUF file, in the faster precision here.

    The model is on the GPU where torch sees one.

    A GGUF file is dequantized once: the result is kept in ``converted`` under ``digest`` (the file's
    sha256) and the precision, and later loads take it from there. Raises ``CorruptionError`` when the
    files are not a model that transformers can read.
    """
    dtype = best_dtype()
    try:
        folder = path if path.is_dir() else _converted_folder(path, digest, converted, dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, LookupError, struct.error) as error:
        raise CorruptionError(f"{path.name} cannot be loaded as a language model: {error}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


@cache
def best_dtype() -> torch.dtype:
    """Return bfloat16 where it is the faster one to multiply in, else float32.

    What a CPU says of itself does not tell. With AMX a 0.5B model read 550 prompt tokens a second in bfloat16
    against 144. Where there is AVX-512's bfloat16 alone, one machine read 800 tokens in 6.0 seconds of
    float32 and 8.8 of bfloat16, and took .19 and .18 for each that it wrote: there it is measured.
    """
    if torch.cuda.is_available():
        return torch.bfloat16
    able = torch.cpu.get_capabilities()
    if able.get("amx_bf16"):
        return torch.bfloat16
    if not able.get("avx512_bf16"):
        return torch.float32
    is_slow = _multiply_seconds(torch.bfloat16) > _SLOWER * _multiply_seconds(torch.float32)
    return torch.float32 if is_slow else torch.bfloat16


def _multiply_seconds(dtype: torch.dtype) -> float:
    """Return the least time that a product took of the size a small model has."""
    rows, weights = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    took = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        rows @ weights.T
        took.append(time.perf_counter() - started)
    return min(took)


def _converted_folder(path: Path, digest: str, converted: Path, dtype: torch.dtype) -> Path:
    """Return the folder that holds the file's weights as safetensors; make it when it is not there.

    Written beside its place and renamed, so a folder that is there is whole.
    """
    folder = converted / f"{digest}-{str(dtype).removeprefix('torch.')}"
    if folder.is_dir():
        return folder
    converted.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    with torch.device("meta"):  # only for the names: the weights come from the file
        skeleton = AutoModelForCausalLM.from_config(config)
    weights = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=skeleton, torch_dtype=dtype)[
        "tensors"
    ]
    building = Path(tempfile.mkdtemp(dir=converted, prefix="building-"))
    try:
        config.dtype = dtype
        config.save_pretrained(building)
        tokenizer.save_pretrained(building)
        save_file(weights, str(building / "model.safetensors"), metadata={"format": "pt"})
        try:
            building.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # another process was first; its folder is as good
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder
