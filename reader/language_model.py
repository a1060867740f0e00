"""Read with a causal language model; every sentence is checked before it leaves.

The only file of this organ that knows torch and transformers. It decodes greedily with its key/value
cache, guesses ahead by looking the last words up in the prompt, and hands the text to splitter and rules.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from memory.errors import CorruptionError, UnavailableError
from memory.ports import Encoder
from memory.values import Citation, Claim, Evidence, Reading
from reader.answerability import ABSTAIN_BELOW, answerability
from reader.check import check_claim
from reader.drafts import Draft, DraftSplitter, is_refusal
from reader.extractive import choose_sentences, to_claim
from reader.prompt import Prompt, before_fence, build_prompt, draw_mark
from reader.ranking import ScoredSentence, rank_sentences

MOST_CLAIMS = 4
"""Sentences in an answer, at most: a small model that goes on repeats itself."""

AGREEING_SENTENCES = 2
"""A claim must rest on one of so many sentences that answer best by themselves."""

READ_PASSAGES = 2
"""The model is shown only so many passages, those with the best sentences.

On 300 squad13 questions with their paragraph among five it was one of these two in 87 %, one of three in
91 %; each passage costs some 150 tokens of reading.
"""

MATCHED_TOKENS = 2
"""So many last tokens are looked up in what was read and written before."""

GUESSED_TOKENS = 6
"""So many tokens that followed there are tried at once; greedy decoding keeps those it would have chosen."""


@dataclass(slots=True)
class _Run:
    """What one reading cost, in tokens and milliseconds, and its estimate that there is an answer."""

    chance: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rank_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    check_ms: float = 0.0


class LanguageModelReader:
    """Implements ``memory.ports.Reader`` over a transformers causal model and its tokenizer.

    Several threads may read at once: their steps take turns, so a slow taker of a stream blocks nobody.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        encoder: Encoder | None = None,
        draw_mark: Callable[[], str] = draw_mark,
        most_prompt_tokens: int = 3072,
        most_new_tokens: int = 128,
        abstain_below: float = ABSTAIN_BELOW,
    ) -> None:
        """``abstain_below`` is the least ``answerability`` at which the model is asked at all."""
        self._model = model
        self._tokenizer = tokenizer
        self._name = name
        self._encoder = encoder
        self._draw_mark = draw_mark
        context = int(model.config.max_position_embeddings)
        self._most_new_tokens = min(most_new_tokens, context // 2)
        self._most_prompt_tokens = min(most_prompt_tokens, context - self._most_new_tokens)
        self._abstain_below = abstain_below
        self._ends = _end_tokens(model, tokenizer)
        self._reserved = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()})
        self._turn = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    def iter_claims(self, question: str, evidence: Sequence[Evidence]) -> Generator[Claim, None, Reading]:
        """Yield each claim, checked, as soon as its sentence is written; return the reading.

        Raises ``UnavailableError`` when the model cannot run (out of memory).
        """
        run = _Run()
        claims: list[Claim] = []
        for claim in self._claims(question, evidence, run):
            claims.append(claim)
            yield claim
        return self._reading(claims, run)

    def read(self, question: str, evidence: Sequence[Evidence]) -> Reading:
        """Return all claims. Unsupported ones are among them with their reason; they are no answer.

        ``confidence`` is the estimated probability that the evidence holds the answer, times the share of
        the model's sentences that the evidence carries. Raises ``UnavailableError`` as ``iter_claims`` does.
        """
        run = _Run()
        return self._reading(list(self._claims(question, evidence, run)), run)

    def _reading(self, claims: Sequence[Claim], run: _Run) -> Reading:
        carried = sum(claim.supported for claim in claims) / max(1, len(claims))
        return Reading(
            tuple(claims),
            confidence=run.chance * carried if claims else min(run.chance, self._abstain_below),
            reader=self._name,
            tokens={"prompt": run.prompt_tokens, "completion": run.completion_tokens},
            timings_ms={
                "rank": run.rank_ms,
                "prefill": run.prefill_ms,
                "decode": run.decode_ms,
                "check": run.check_ms,
            },
        )

    def _claims(self, question: str, evidence: Sequence[Evidence], run: _Run) -> Iterator[Claim]:
        started = time.perf_counter()
        ranked = rank_sentences(question, evidence, self._encoder)
        run.chance = answerability(ranked)
        run.rank_ms = _since(started)
        if not ranked or run.chance < self._abstain_below:
            return
        best = list(dict.fromkeys(candidate.sentence.index for candidate in ranked))[:READ_PASSAGES]
        prompt, ids, shown = self._fit(question, evidence, best)
        refused = answered = False
        for draft in self._iter_drafts(ids, prompt.mark, run):
            started = time.perf_counter()
            if is_refusal(draft.text):
                refused = True
                claim = Claim(draft.text, supported=False, reason="the model found no answer")
            else:
                cited = [shown[number] for number in draft.cited if number < len(shown)] or shown
                claim = agree(check_claim(draft.text, question, evidence, cited), ranked)
                answered |= claim.supported
            run.check_ms += _since(started)
            yield claim
        if not answered and not refused:
            # What the model said does not hold, but the evidence speaks of the question: quote it.
            yield from (to_claim(candidate) for candidate in choose_sentences(ranked))

    def _fit(
        self, question: str, evidence: Sequence[Evidence], best: list[int]
    ) -> tuple[Prompt, list[int], list[int]]:
        """Return the prompt, its tokens, and the indices of the evidence in it, as they are numbered there.

        The best of them stands last, next to the question. What does not fit is let go, the worst first; when
        even the best is too long, its end is cut.
        """
        for count in range(len(best), 0, -1):
            shown = best[:count][::-1]
            prompt = build_prompt(question, [evidence[n] for n in shown], self._draw_mark, self._reserved)
            ids = self._tokens(prompt)
            if len(ids) <= self._most_prompt_tokens:
                return prompt, ids, shown
        first = evidence[best[0]]
        length = len(first.text)
        while len(ids) > self._most_prompt_tokens and length:
            length = length * 3 // 4
            cut = replace(first, text=first.text[:length])
            prompt = build_prompt(question, [cut], self._draw_mark, self._reserved)
            ids = self._tokens(prompt)
        return prompt, ids[-self._most_prompt_tokens :], best[:1]

    def _tokens(self, prompt: Prompt) -> list[int]:
        if self._tokenizer.chat_template is None:
            text = "\n\n".join(message.content for message in prompt.messages) + "\n\n"
            return list(self._tokenizer(text)["input_ids"])
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _iter_drafts(self, ids: list[int], mark: str, run: _Run) -> Iterator[Draft]:
        """Yield sentences as they are written, until the model ends, repeats itself, or has said enough."""
        splitter = DraftSplitter()
        said: set[str] = set()
        fed = 0
        whole = ""
        tokens: list[int] = []
        for new in self._iter_tokens(ids, run):
            tokens += new
            whole = self._tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")
            sure = before_fence(whole, mark)
            drafts = splitter.feed(sure[fed:])
            fed = max(fed, len(sure))
            for draft in drafts:
                if draft.text in said or len(said) == MOST_CLAIMS:
                    return
                said.add(draft.text)
                yield draft
            if mark in whole:
                break
        rest = before_fence(whole, mark) if mark in whole else whole
        for draft in (*splitter.feed(rest[fed:]), *splitter.finish()):
            if draft.text not in said and len(said) < MOST_CLAIMS:
                said.add(draft.text)
                yield draft

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

    def _iter_tokens(self, ids: list[int], run: _Run) -> Iterator[list[int]]:
        """Decode greedily; yield the tokens that each step of the model settled, without the end token.

        A step tries the tokens that followed the last two before (prompt lookup decoding, Saxena 2023):
        an answer in the evidence's own words costs few steps, and no other tokens come out.
        """
        run.prompt_tokens = len(ids)
        cache = DynamicCache(config=self._model.config)
        started = time.perf_counter()
        history = [*ids]
        new = self._forward(ids, cache, 1)
        run.prefill_ms = _since(started)
        while True:
            room = self._most_new_tokens - run.completion_tokens
            ends = [place for place, token in enumerate(new) if token in self._ends]
            settled = new[: min([room, *ends])]
            run.completion_tokens += len(settled)
            if settled:
                yield settled
            if ends or run.completion_tokens >= self._most_new_tokens:
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
            run.decode_ms += _since(started)


def agree(claim: Claim, ranked: Sequence[ScoredSentence]) -> Claim:
    """Hold a checked claim against the sentences that answer best by themselves.

    A small model picks a true phrase from the wrong place. So a claim must rest on one of the best sentences,
    and of a table's row the whole is said, since nothing shows that the right cell was picked.
    """
    if not claim.supported:
        return claim
    best = [candidate.sentence.citation for candidate in ranked[:AGREEING_SENTENCES]]
    if not any(_mostly_in(citation, other) for citation in claim.citations for other in best):
        return replace(
            claim, supported=False, reason="it rests on a sentence that hardly answers the question"
        )
    quote = claim.citations[0].quote
    return replace(claim, text=quote) if quote.count("|") > 1 else claim


def _mostly_in(quote: Citation, sentence: Citation) -> bool:
    """Say whether at least half of a quote lies in a sentence."""
    shared = min(quote.end, sentence.end) - max(quote.start, sentence.start)
    return quote.index == sentence.index and 2 * shared >= quote.end - quote.start


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
