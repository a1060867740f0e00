"""Encode texts into unit vectors with a sentence-embedding model; the only importer of torch here.

The bits of a vector depend on its text alone: not on its batch, its place in it, or the number of threads.
Three things see to that. Texts are laid end to end without padding, and each attends to itself only, alone.
The rows of every matrix product are filled up to whole tiles (on a GPU to one fixed shape), since kernels
treat a ragged edge differently. And each forward pass runs on one thread, because matrix libraries split sums
by thread count; speed comes from running several batches side by side.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from memory.errors import InvalidInputError
from memory.ports import Vectors
from memory.values import Space

ATTENTION = "lethe_packed"
FIRST_POSITION = {"bert": 0, "roberta": 2, "xlm-roberta": 2}
"""The families that are read, and the position of a text's first token (RoBERTa's follows its padding id)."""

CPU_BATCH_TOKENS = 1024
CPU_TILE_ROWS = 16
CUDA_BATCH_TOKENS = 16384
TEXTS_AT_ONCE = 4096
"""How many texts are tokenised together: bounds memory."""


class TextEncoder:
    """A sentence-embedding model read from a folder; safe to share between threads, not across a fork.

    Pooling, token limit and prompts come from the sentence-transformers files where present (otherwise: mean,
    the model's own limit, none). Weights must be safetensors; no code from the folder is run.
    ``name`` is the model's name in ``space``; ``threads`` is how many batches run side by side on a CPU
    (default: torch's own number).
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        threads: int | None = None,
        device: Literal["cpu", "cuda"] | None = None,
    ) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on_cuda = self._device.type == "cuda"
        transformers_logging.disable_progress_bar()
        AttentionInterface.register(ATTENTION, _attend_within_segments)
        AttentionMaskInterface.register(ATTENTION, _no_mask)
        self._model = AutoModel.from_pretrained(
            str(folder),
            attn_implementation=ATTENTION,
            dtype=torch.bfloat16 if on_cuda else torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
        self._model.eval().to(self._device)
        config = self._model.config
        if config.model_type not in FIRST_POSITION:
            raise InvalidInputError(
                f"encoders of the family {config.model_type!r} are not read; {', '.join(FIRST_POSITION)} are",
                where=str(folder),
            )
        self._first_position = FIRST_POSITION[config.model_type]
        self._pooling = _read_pooling(folder)
        limit = config.max_position_embeddings - self._first_position
        max_tokens = min(
            limit, _read_json(folder / "sentence_bert_config.json").get("max_seq_length") or limit
        )
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._prompts: dict[str, str] = (
            _read_json(folder / "config_sentence_transformers.json").get("prompts") or {}
        )
        self._batch_tokens = max(CUDA_BATCH_TOKENS if on_cuda else CPU_BATCH_TOKENS, max_tokens)
        self._tile_rows = self._batch_tokens if on_cuda else CPU_TILE_ROWS
        self._space = Space(
            model=name,
            digest=_digest(folder),
            dimension=config.hidden_size,
            numeric_class="cuda-bf16"
            if on_cuda
            else f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}",
        )
        self._workers = 1 if on_cuda else threads or torch.get_num_threads()
        self._pool = _single_threaded_pool(self._workers)

    @property
    def space(self) -> Space:
        """Where these vectors may be compared; its digest covers weights, tokenizer and configuration."""
        return self._space

    def encode(self, texts: Sequence[str], *, role: Literal["passage", "query"]) -> Vectors:
        """Return unit rows of shape (len(texts), space.dimension), exact in float16.

        Texts longer than the model's limit are cut. Calls from several threads share the workers batch by
        batch, so that a query waits for a batch and not for a whole ingest.
        """
        vectors = np.empty((len(texts), self._space.dimension), dtype=np.float32)
        prompt = self._prompt(role)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = [prompt + text for text in texts[start : start + TEXTS_AT_ONCE]]
            tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(some)]
            pending: deque[tuple[list[int], Future[Vectors]]] = deque()
            for batch in _pack(tokens, self._batch_tokens):
                if len(pending) == self._workers:  # leave the queue to others' batches
                    _collect(pending, vectors[start:])
                pending.append((batch, self._pool.submit(self._forward, [tokens[index] for index in batch])))
            while pending:
                _collect(pending, vectors[start:])
        return vectors

    def _prompt(self, role: Literal["passage", "query"]) -> str:
        if role == "query":
            return self._prompts.get("query", "")
        return self._prompts.get("passage", self._prompts.get("document", ""))

    @torch.inference_mode()
    def _forward(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """Return the unit vectors of a few tokenised texts, run on this thread."""
        segments = list(_segments(texts))
        filled = segments[-1][1]
        rows = -(-filled // self._tile_rows) * self._tile_rows
        ids = np.zeros(rows, dtype=np.int64)
        positions = np.full(rows, self._first_position, dtype=np.int64)
        for text, (start, end) in zip(texts, segments, strict=True):
            ids[start:end] = text
            positions[start:end] += np.arange(end - start)
        input_ids = torch.from_numpy(ids).to(self._device)[None]
        hidden = self._model(
            input_ids=input_ids,
            position_ids=torch.from_numpy(positions).to(self._device)[None],
            token_type_ids=torch.zeros_like(input_ids),
            segments=segments,
        ).last_hidden_state[0]
        if self._pooling == "cls":
            pooled = hidden[[start for start, _ in segments]]
        else:
            pooled = torch.stack([hidden[start:end].float().mean(dim=0) for start, end in segments])
        unit = functional.normalize(pooled.float(), dim=1)
        return unit.half().float().cpu().numpy()  # what is searched equals what is stored


def _attend_within_segments(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Sequence[tuple[int, int]],
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment alone; rows outside all of them get zeros.

    Takes (1, heads, rows, dimension), returns (1, rows, heads, dimension), as transformers wants it.
    """
    out = query.new_zeros((1, query.shape[2], query.shape[1], query.shape[3]))
    for start, end in segments:
        part = slice(start, end)
        attended = functional.scaled_dot_product_attention(
            query[:, :, part], key[:, :, part], value[:, :, part], scale=scaling
        )
        out[:, part] = attended.transpose(1, 2)
    return out, None


def _no_mask(*_: Any, **__: Any) -> None:
    """Segments are attended to alone, so there is nothing to mask."""


def _segments(texts: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Yield where each text lies when all are laid end to end."""
    start = 0
    for text in texts:
        yield start, start + len(text)
        start += len(text)


def _pack(tokens: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Yield batches of indices, in order, each of at most ``budget`` tokens."""
    batch: list[int] = []
    room = budget
    for index, text in enumerate(tokens):
        if len(text) > room and batch:
            yield batch
            batch, room = [], budget
        batch.append(index)
        room -= len(text)
    if batch:
        yield batch


def _collect(pending: deque[tuple[list[int], Future[Vectors]]], vectors: Vectors) -> None:
    batch, future = pending.popleft()
    vectors[batch] = future.result()


def _single_threaded_pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads each run torch on one thread, whatever the rest of the process does."""
    threads_elsewhere = torch.get_num_threads()
    all_started = threading.Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # torch would otherwise adopt the process's number at the first operation
        torch.set_num_threads(1)
        all_started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode", initializer=start)
    for _ in range(workers):
        pool.submit(int)
    all_started.wait()
    torch.set_num_threads(threads_elsewhere)  # the number is also the default of threads yet to start
    return pool


def _read_pooling(folder: Path) -> Literal["mean", "cls"]:
    """Return how token vectors become one; raise ``InvalidInputError`` unless by mean or first token."""
    config = _read_json(folder / "1_Pooling" / "config.json")
    named = config.get("pooling_mode")
    chosen = {
        key.removeprefix("pooling_mode_")
        for key, on in config.items()
        if key != "pooling_mode" and on is True
    }
    chosen = {named} if named else chosen & {"cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens"}
    if chosen <= {"mean_tokens", "mean"}:
        return "mean"
    if chosen <= {"cls_token", "cls"}:
        return "cls"
    raise InvalidInputError(f"pooling {sorted(chosen)} is not read; mean and cls are", where=str(folder))


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file, an empty one when there is no file."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _digest(folder: Path) -> str:
    """Return the sha256 over the names and digests of all files that shape a vector."""
    shaping = [path for pattern in ("*.safetensors", "*.json", "*.txt") for path in folder.rglob(pattern)]
    total = hashlib.sha256()
    for path in sorted(shaping):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()
