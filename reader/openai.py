"""Write on another server that speaks as OpenAI's does: vLLM, SGLang, llama.cpp and others.

It is sent text and keeps its keys and values to itself. The reply is a stream of server-sent events, one
chunk in a line; everything else that may stand in such a stream (comments, names of events) is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from memory.asking import check_there
from memory.errors import UnavailableError
from memory.ports import Engine, Shelf
from reader.prompt import Message, Prompt
from reader.writing import Spent

CHAT_ROUTE = "/v1/chat/completions"
NAME_PREFIX = "openai:"

MOST_PROMPT_TOKENS = 4096 - 128
"""With what is written this fits servers that read 4,096 tokens and do not say so."""

BYTES_A_TOKEN = 3
"""Of UTF-8: fewer than English has (some four), about what a Chinese character takes."""

MESSAGE_TOKENS = 8
"""What a chat template puts around a message, at most or so."""

CHARACTERS_A_TOKEN = 32
"""A server that sends more for each token asked for does not keep to the limit."""

RESERVED = (
    *("<|", "<｜", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
)
"""Tokens of chat templates (Llama, Qwen, Gemma, Mistral, DeepSeek, Phi), or how they begin.

A server does not tell its own, and makes a token even of one that stands in a message's text.
"""


@dataclass(frozen=True, slots=True)
class _Delta:
    content: str | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    delta: _Delta | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Usage:
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class _Chunk:
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: Any = None


_CHUNK: TypeAdapter[_Chunk] = TypeAdapter(_Chunk)


class OpenAIWriter:
    """Implements ``reader.writing.Writer`` over a server's chat completions; as many may write as it lets."""

    def __init__(
        self,
        engine: Engine,
        *,
        model: str,
        context_tokens: int | None = None,
        most_prompt_tokens: int = MOST_PROMPT_TOKENS,
        most_new_tokens: int = 128,
    ) -> None:
        """``model`` as the server names it; ``context_tokens`` where it tells how many it takes in all."""
        self._engine = engine
        self._model = model
        self._most_new_tokens = most_new_tokens
        self._most_prompt_tokens = most_prompt_tokens
        if context_tokens is not None:
            self._most_new_tokens = min(most_new_tokens, context_tokens // 2)
            self._most_prompt_tokens = min(most_prompt_tokens, context_tokens - self._most_new_tokens)

    @property
    def name(self) -> str:
        """Of a model that is named by its path, which is no business of who asks, the file's name alone."""
        shown = self._model.rpartition("/")[2] if self._model.startswith("/") else self._model
        return f"{NAME_PREFIX}{shown}"

    @property
    def most_prompt_tokens(self) -> int:
        """A longer prompt may be refused."""
        return self._most_prompt_tokens

    @property
    def reserved(self) -> Sequence[str]:
        """What chat templates are known to use."""
        return RESERVED

    @property
    def mark(self) -> None:
        """A new one each time: what the server keeps of prompts is its own matter."""
        return None

    def count_tokens(self, prompt: Prompt) -> int:
        """Return an estimate, rather too high: the server's tokenizer is not here."""
        return sum(
            MESSAGE_TOKENS + -(-len(message.content.encode()) // BYTES_A_TOKEN) for message in prompt.messages
        )

    def probe(self) -> None:
        """Have the model write a word, to see that it can; raises as ``iter_text`` does."""
        with closing(self.iter_text(_PROBE, Spent())) as texts:
            next(texts, None)

    def place(self) -> AbstractContextManager[None]:
        """Hold nothing: the server has a queue of its own."""
        return nullcontext()

    def iter_text(
        self, prompt: Prompt, spent: Spent, shelf: Shelf | None = None
    ) -> Generator[str, None, None]:
        """Yield all the text written so far, as it comes; closing this ends the request.

        Tokens are the server's count, not known before it tells, and it tells at the end. Raises
        ``UnavailableError`` when it cannot be reached, is busy, fails, breaks off, or thinks until no tokens
        are left; and what the connection raises for a refused key or model.
        """
        spent.prompt_tokens = spent.completion_tokens = None
        written = spoken = ""
        end: str | None = None
        started = time.perf_counter()
        with closing(self._engine.iter_lines(CHAT_ROUTE, self._body(prompt))) as lines:
            for line in lines:
                check_there()
                chunk = _parse(line)
                if chunk is None:
                    continue
                if chunk.usage is not None:
                    spent.prompt_tokens = chunk.usage.prompt_tokens
                    spent.completion_tokens = chunk.usage.completion_tokens
                for choice in chunk.choices:
                    end = choice.finish_reason or end
                    if choice.delta is not None and choice.delta.content:
                        written += choice.delta.content
                if _spoken(written) != spoken:
                    waited_ms = (time.perf_counter() - started) * 1000
                    if spoken:
                        spent.decode_ms += waited_ms
                    else:
                        spent.prefill_ms = waited_ms
                    spoken = _spoken(written)
                    yield spoken
                    started = time.perf_counter()
                if len(written) > CHARACTERS_A_TOKEN * self._most_new_tokens:
                    return
        if end is None:
            raise UnavailableError(f"the server of {self._model} broke off")
        if not spoken and end == "length":
            raise UnavailableError(
                f"{self._model} wrote nothing within {self._most_new_tokens} tokens; if it thinks before it "
                "answers, have its server turn that off"
            )

    def _body(self, prompt: Prompt) -> bytes:
        return orjson.dumps(
            {
                "model": self._model,
                "messages": [{"role": one.role, "content": one.content} for one in prompt.messages],
                "max_tokens": self._most_new_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )


_PROBE = Prompt((Message("user", "Answer with one word: ready"),), mark="")


def _parse(line: bytes) -> _Chunk | None:
    """Return the chunk in a line of the stream, ``None`` when it holds none."""
    field, colon, value = line.strip().partition(b":")
    if field in {b"", b"event", b"id", b"retry"}:
        return None
    value = value.strip()
    if field == b"data" and value == b"[DONE]":
        return None
    try:
        chunk = _CHUNK.validate_json(value) if field == b"data" and colon else None
    except ValidationError:
        chunk = None
    if chunk is None and field != b"error":
        raise UnavailableError("the reader's server does not stream as OpenAI's servers do")
    if chunk is None or chunk.error is not None:
        raise UnavailableError("the reader's server failed while writing")
    return chunk


def _spoken(written: str) -> str:
    """Return what was written after thinking, where a server does not keep the two apart."""
    if not written.lstrip().startswith(_THINKING[: len(written.lstrip())]):
        return written
    return written.partition("</think>")[2].lstrip()


_THINKING = "<think>"
