"""Write with a causal language model of this process.

The only file of this organ that knows torch and transformers. It decodes greedily with its key/value
cache, and guesses ahead by looking the last words up in the prompt.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from memory.errors import CorruptionError, UnavailableError
from reader.prompt import Prompt
from reader.writing import Spent

MATCHED_TOKENS = 2
"""So many last tokens are looked up in what was read and written before."""

GUESSED_TOKENS = 6
"""So many tokens that followed there are tried at once; greedy decoding keeps those it would have chosen."""


class LanguageModelWriter:
    """Implements ``reader.writing.Writer`` over a transformers causal model and its tokenizer.

    Several threads may write at once: their steps take turns, so a slow taker of a stream blocks nobody.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        most_prompt_tokens: int = 3072,
        most_new_tokens: int = 128,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        context = int(model.config.max_position_embeddings)
        self._most_new_tokens = min(most_new_tokens, context // 2)
        self._most_prompt_tokens = min(most_prompt_tokens, context - self._most_new_tokens)
        self._ends = _end_tokens(model, tokenizer)
        self._reserved = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()})
        self._turn = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    @property
    def most_prompt_tokens(self) -> int:
        """The end of a longer prompt is read."""
        return self._most_prompt_tokens

    @property
    def reserved(self) -> Sequence[str]:
        """The tokenizer's special and added tokens."""
        return self._reserved

    def count_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens the prompt has, those of the chat template among them."""
        return len(self._tokens(prompt))

    def iter_text(self, prompt: Prompt, spent: Spent) -> Generator[str, None, None]:
        """Yield all the text written so far after each step of the model.

        Raises ``UnavailableError`` when the model cannot run (out of memory).
        """
        tokens: list[int] = []
        for new in self._iter_tokens(self._tokens(prompt)[-self._most_prompt_tokens :], spent):
            tokens += new
            yield self._tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")

    def _tokens(self, prompt: Prompt) -> list[int]:
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(message.content for message in prompt.messages) + "\n\n"
            return list(self._tokenizer(text)["input_ids"])
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def _forward(self, ids: list[int], cache: DynamicCache, keep: int) -> list[int]:
        """Return the likeliest token after each of the last ``keep`` ones of ``ids``."""
        with self._turn:
            try:
                inputs = torch.tensor([ids], device=self._model.device)
                output = self._model(
                    input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep
                )
            except (RuntimeError, MemoryError) as error:  # torch says "out of memory" with either
                raise UnavailableError(f"the language model cannot run: {type(error).__name__}") from error
        return [int(token) for token in output.logits[0].argmax(dim=-1)]

    def _iter_tokens(self, ids: list[int], spent: Spent) -> Iterator[list[int]]:
        """Decode greedily; yield the tokens that each step of the model settled, without the end token.

        A step tries the tokens that followed the last two before (prompt lookup decoding, Saxena 2023):
        an answer in the evidence's own words costs few steps, and no other tokens come out.
        """
        spent.prompt_tokens = len(ids)
        written = 0
        cache = DynamicCache(config=self._model.config)
        started = time.perf_counter()
        history = [*ids]
        new = self._forward(ids, cache, 1)
        spent.prefill_ms = _since(started)
        while True:
            room = self._most_new_tokens - written
            ends = [place for place, token in enumerate(new) if token in self._ends]
            settled = new[: min([room, *ends])]
            written += len(settled)
            spent.completion_tokens = written
            if settled:
                yield settled
            if ends or written >= self._most_new_tokens:
                return
            started = time.perf_counter()
            history += new
            guess = _guess(history)
            best = self._forward([history[-1], *guess], cache, len(guess) + 1)
            right = 0
            while right < len(guess) and guess[right] == best[right]:
                right += 1
            if right < len(guess):
                cache.crop(right - len(guess))
            new = best[: right + 1]
            spent.decode_ms += _since(started)


def load_language_model(path: Path, *, digest: str, converted: Path) -> tuple[Any, Any]:
    """Return (model, tokenizer) from a Hugging Face folder or a GGUF file, in the faster precision here.

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
    return model.eval(), tokenizer


def best_dtype() -> torch.dtype:
    """Return bfloat16 where the CPU multiplies it natively, else float32.

    On an AMX core a 0.5B model read 550 prompt tokens a second in bfloat16 against 144, and wrote 5.7
    against 4.8.
    """
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


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


def _guess(history: list[int]) -> list[int]:
    """Return the tokens that followed the last ``MATCHED_TOKENS`` where these were last met before."""
    tail = history[-MATCHED_TOKENS:]
    for start in range(len(history) - MATCHED_TOKENS - 1, -1, -1):
        if history[start : start + MATCHED_TOKENS] == tail:
            after = start + MATCHED_TOKENS
            return history[after : after + GUESSED_TOKENS]
    return []


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends an answer, as tokenizer, configuration and generation configuration say."""
    ends: set[int] = set()
    for declared in (tokenizer.eos_token_id, model.config.eos_token_id, model.generation_config.eos_token_id):
        if isinstance(declared, int):
            ends.add(declared)
        elif declared is not None:
            ends.update(declared)
    return frozenset(ends)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
