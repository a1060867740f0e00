"""Read by having a model write from the evidence; every sentence is checked before it leaves.

Which sentences could answer is known first; without a likely one, nothing is written. Then the best passages
are shown, and what is written is cut into sentences and held against the evidence. Nothing here knows where
the model runs.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field, replace

from memory.errors import UnavailableError
from memory.ports import Encoder, Shelf
from memory.values import Citation, Claim, ClosedBook, Conflict, Evidence, Explanation, Reading
from reader.closed_book import ask_closed_book
from reader.confidence import ABSTAIN_BELOW, Signals, answerable, confidence, signals_of
from reader.conflicts import settle
from reader.drafts import Draft, DraftSplitter, is_refusal
from reader.entailment import Entailment
from reader.extractive import choose_sentences, to_claim
from reader.prompt import Prompt, before_fence, build_prompt, draw_mark
from reader.ranking import ScoredSentence, rank_sentences
from reader.statement_check import check_sentence
from reader.writing import Spent, Writer

MOST_CLAIMS = 4
"""Sentences in an answer, at most: a small model that goes on repeats itself."""

AGREEING_SENTENCES = 2
"""A claim must rest on one of so many sentences that answer best by themselves."""

READ_PASSAGES = 2
"""The model is shown only so many passages, those with the best sentences.

On 300 squad13 questions with their paragraph among five it was one of these two in 87 %, one of three in
91 %; each passage costs some 150 tokens of reading.
"""


@dataclass(slots=True)
class _Run:
    """What one reading cost, in milliseconds and by its writer, and what came up on its way.

    Closed, it gives up its place among those who write.
    """

    ranked: list[ScoredSentence] = field(default_factory=list)
    chance: float = 0.0
    shown: list[int] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    rank_ms: float = 0.0
    check_ms: float = 0.0
    spent: Spent = field(default_factory=Spent)
    has_place: bool = False
    held: ExitStack = field(default_factory=ExitStack)

    def take_place(self, writer: Writer) -> None:
        """Wait for a place, unless this has one: what it asks of the model next it asks there."""
        if not self.has_place:
            self.held.enter_context(writer.place())
            self.has_place = True

    def close(self) -> None:
        self.held.close()
        self.has_place = False


class CheckedReader:
    """Implements ``memory.ports.Reader`` over a writer; as many threads may read as it lets write."""

    def __init__(
        self,
        writer: Writer,
        *,
        encoder: Encoder | None = None,
        entailment: Entailment | None = None,
        draw_mark: Callable[[], str] = draw_mark,
        abstain_below: float = ABSTAIN_BELOW,
        passages: int = READ_PASSAGES,
    ) -> None:
        """``entailment`` may reject what the rules let pass; ``abstain_below`` is the least probability of an
        answer at which anything is written at all. ``passages`` are shown to the writer, at most.
        """
        self._writer = writer
        self._encoder = encoder
        self._entailment = entailment
        self._draw_mark = draw_mark
        self._abstain_below = abstain_below
        self._passages = passages

    @property
    def name(self) -> str:
        return self._writer.name

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        """Yield each claim, checked, as soon as its sentence is written; return the reading.

        Closing this ends the writing. Raises what the writer raises, ``UnavailableError`` for one.
        """
        claims: list[Claim] = []
        with (
            closing(_Run()) as run,
            closing(self._claims(question, evidence, run, shelf, explain=explain)) as checked,
        ):
            for claim in checked:
                claims.append(claim)
                yield claim
            return self._reading(question, claims, evidence, run, explain=explain)

    def read(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Reading:
        """Return all claims. Unsupported ones are among them with their reason; they are no answer.

        ``confidence`` is the probability that the answer is right; whether there was one to be had decided
        before what is written at all. Raises as ``iter_claims`` does.
        """
        with closing(_Run()) as run:
            claims = list(self._claims(question, evidence, run, shelf, explain=explain))
            return self._reading(question, claims, evidence, run, explain=explain)

    def _probe(self, question: str, answer: str) -> ClosedBook:
        """Say whether the model knew the ``answer`` without evidence."""

        def write(prompt: Prompt) -> str:
            with closing(self._writer.iter_text(prompt, Spent())) as texts:
                return ["", *texts][-1]

        return ask_closed_book(question, answer, write, self._writer.reserved)

    def _explain(self, question: str, claims: Sequence[Claim], signals: Signals, run: _Run) -> Explanation:
        answer = " ".join(claim.text for claim in claims if claim.supported)
        closed_book = None
        # What was answered stands, whether or not the model can be asked once more.
        with suppress(UnavailableError):
            run.take_place(self._writer)
            closed_book = self._probe(question, answer)
        return Explanation(
            self.name,
            run.chance,
            self._abstain_below,
            asdict(signals),
            tuple(run.shown),
            tuple(dict.fromkeys(run.conflicts)),
            closed_book,
        )

    def _reading(
        self,
        question: str,
        claims: Sequence[Claim],
        evidence: Sequence[Evidence],
        run: _Run,
        *,
        explain: bool,
    ) -> Reading:
        spent = run.spent
        signals = signals_of(claims, run.ranked, evidence)
        tokens = {
            "prompt": spent.prompt_tokens,
            "read": spent.read_tokens,
            "completion": spent.completion_tokens,
        }
        return Reading(
            tuple(claims),
            confidence=confidence(signals, written=True),
            reader=self.name,
            tokens={kind: count for kind, count in tokens.items() if count is not None},
            timings_ms={
                "rank": run.rank_ms,
                "prefill": run.spent.prefill_ms,
                "decode": run.spent.decode_ms,
                "check": run.check_ms,
            },
            explanation=self._explain(question, claims, signals, run) if explain else None,
        )

    def _claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        run: _Run,
        shelf: Shelf | None,
        *,
        explain: bool,
    ) -> Generator[Claim, None, None]:
        started = time.perf_counter()
        ranked = run.ranked = rank_sentences(question, evidence, self._encoder)
        chance = run.chance = answerable(signals_of((), ranked, evidence))
        run.rank_ms = _since(started)
        if not ranked or chance < self._abstain_below:
            return
        best = list(dict.fromkeys(candidate.sentence.index for candidate in ranked))[: self._passages]
        prompt, shown = self._fit(question, evidence, best)
        run.shown = shown
        refused = answered = False
        said: set[str] = set()
        run.take_place(self._writer)
        with closing(self._drafts(prompt, run.spent, shelf)) as drafts:
            for draft in drafts:
                started = time.perf_counter()
                if is_refusal(draft.text):
                    refused = True
                    claims = [Claim(draft.text, supported=False, reason="the model found no answer")]
                else:
                    cited = [shown[number] for number in draft.cited if number < len(shown)] or shown
                    checked = check_sentence(draft.text, question, evidence, cited, self._entailment)
                    claims = settle([agree(checked.claim, ranked)], question, evidence, run.conflicts)
                claims = [claim for claim in claims if claim.text not in said]
                said.update(claim.text for claim in claims)
                answered |= any(claim.supported for claim in claims)
                run.check_ms += _since(started)
                yield from claims
        if not explain:
            run.close()  # nothing more is asked of the model, however slowly the rest is taken
        if not answered and not refused:
            # What the model said does not hold, but the evidence speaks of the question: quote it.
            quoted = [to_claim(candidate) for candidate in choose_sentences(ranked)]
            yield from settle(quoted, question, evidence, run.conflicts)

    def _fit(self, question: str, evidence: Sequence[Evidence], best: list[int]) -> tuple[Prompt, list[int]]:
        """Return the prompt, and the indices of the evidence in it, as they are numbered there.

        The best of them stands last, next to the question. What does not fit is let go, the worst first; when
        even the best is too long, its end is cut.
        """
        writer = self._writer

        def build(count: int) -> Prompt:
            return self._build(question, [evidence[n] for n in best[:count][::-1]])

        def is_too_long(count: int) -> bool:
            return writer.count_tokens(build(count)) > writer.most_prompt_tokens

        count = len(best)
        if is_too_long(count):  # of many, the most that fit are found in a few steps
            count = bisect_left(range(1, count), True, key=is_too_long)
        prompt = build(max(1, count))
        if count:
            return prompt, best[:count][::-1]
        first = evidence[best[0]]
        length = len(first.text)
        while length and writer.count_tokens(prompt) > writer.most_prompt_tokens:
            length = length * 3 // 4
            cut = replace(first, text=first.text[:length], is_whole=False)
            prompt = self._build(question, [cut])
        return prompt, best[:1]

    def _build(self, question: str, evidence: Sequence[Evidence]) -> Prompt:
        writer = self._writer
        return build_prompt(question, evidence, self._draw_mark, writer.reserved, mark=writer.mark)

    def _drafts(self, prompt: Prompt, spent: Spent, shelf: Shelf | None) -> Generator[Draft, None, None]:
        """Yield sentences as they are written, until the model ends, repeats itself, or has said enough."""
        splitter = DraftSplitter()
        said: set[str] = set()
        fed = 0
        whole = ""
        with closing(self._writer.iter_text(prompt, spent, shelf)) as texts:
            for whole in texts:
                sure = before_fence(whole, prompt.mark)
                drafts = splitter.feed(sure[fed:])
                fed = max(fed, len(sure))
                for draft in drafts:
                    if draft.text in said or len(said) == MOST_CLAIMS:
                        return
                    said.add(draft.text)
                    yield draft
                if prompt.mark in whole:
                    break
        rest = before_fence(whole, prompt.mark) if prompt.mark in whole else whole
        for draft in (*splitter.feed(rest[fed:]), *splitter.finish()):
            if draft.text not in said and len(said) < MOST_CLAIMS:
                said.add(draft.text)
                yield draft


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


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
