"""What is lost by keeping less of passages, and gained by reading more of them again:
``python -m bench.reader_compaction`` prints it.

Each question stands behind its paragraph among the nearest others; read is the paragraph's sentence up to the
answer, and of each of its tokens the distribution is compared: of compacted memories with that of whole ones,
of what is read again or weighed otherwise with that of reading all at once. Few questions: small differences
are noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

import torch

from bench.figures import Figures
from bench.reader_parts import METHODS, Bench, among, open_bench, questions
from bench.reader_readings import Read
from bench.squad13 import Question
from reader.attention.function import run
from reader.attention.parallel import Parallel
from reader.blending import SHARE, blend
from reader.compaction.method import Method, compact, count_kept
from reader.language_model import READ_AGAIN
from reader.passages import Memory, PassageMemory
from reader.placing import Passage, lay_out
from reader.prompt import FIRST_NUMBER
from service.settings import Settings

PASSAGES = 4
SHARES = (0.5, 0.25)
FIRST = (0, 16, READ_AGAIN)
TEMPERATURES = (0.9, 0.8)


class Case:
    """One question, laid out in several ways."""

    def __init__(self, bench: Bench, question: Question) -> None:
        self.bench = bench
        paragraphs = among(bench.squad, question, PASSAGES)
        self.cut = bench.cut(question.text, paragraphs)
        known = bench.open(self.cut)
        self.opening = Passage((), self.cut.opening, known)
        self.whole = bench.remember(self.cut, paragraphs, known)
        self.said = bench.writer.ids(_up_to_answer(bench.squad.texts[question.gold], question.answers[0]))

    def passages(self, memories: Sequence[Memory | None]) -> list[Passage]:
        """Return the passages with what is remembered of them."""
        return [
            Passage(text.header, text.body, memory)
            for text, memory in zip(self.cut.texts, memories, strict=True)
        ]

    def read(
        self, passages: Sequence[Passage], again: int = READ_AGAIN, seen: Parallel | None = None
    ) -> Read:
        """Return the distributions over the tokens of what is said."""
        bench, count = self.bench, len(self.said)
        rest = [*self.cut.rest, *self.said]
        placed = lay_out(bench.shape, bench.rotary, self.opening, passages, rest, again=again)
        logits = run(bench.model, placed.tokens, [placed.segment], keep=count + 1, router=seen)[:count]
        return Read(logits.float().log_softmax(-1), torch.tensor(self.said))

    def compact(self, method: Method, share: float) -> list[PassageMemory]:
        """Return what is kept of the passages by a method."""
        bench = self.bench
        header = bench.writer.ids(FIRST_NUMBER)
        return [
            compact(
                bench.model,
                bench.shape,
                bench.rotary,
                self.opening,
                header,
                text.body,
                text.body,
                method=method,
                kept=count_kept(len(text.body), share),
            )
            for text in self.cut.texts
        ]


def measure(case: Case) -> dict[str, tuple[float, float]]:
    """Return divergence (nats) and how often the likeliest token is the same, by way of reading."""
    told: dict[str, tuple[float, float]] = {}
    whole = case.passages(case.whole)
    known = case.read(whole)
    for name, method in METHODS.items():
        for share in SHARES:
            fewer = case.read(case.passages(case.compact(method, share)))
            told[f"{share} by {name}, from whole"] = fewer.against(known)
    at_once = case.read(case.passages([None] * len(whole)))
    for first in FIRST:
        told[f"{first} first again, from all at once"] = case.read(whole, first).against(at_once)
    bench = case.bench
    blended = blend(bench.model, bench.shape, bench.rotary, case.opening, whole)
    told[f"{SHARE} chosen again, from all at once"] = case.read(blended, 0).against(at_once)
    for temperature in TEMPERATURES:
        read = case.read(whole, seen=Parallel(temperature=temperature))
        told[f"temperature {temperature}, from all at once"] = read.against(at_once)
    return told


def main() -> None:
    """Measure so many questions, and print the means after each."""
    options = _parse()
    torch.set_num_threads(options.threads)
    bench = open_bench(options.model, Settings())
    rows: list[dict[str, tuple[float, float]]] = []
    for question in questions(bench.squad, options.questions):
        rows.append(measure(Case(bench, question)))
        print(json.dumps({"questions": len(rows), **_means(rows)}), flush=True)


def _means(rows: Sequence[Mapping[str, tuple[float, float]]]) -> Figures:
    def mean(name: str, place: int) -> float:
        return round(sum(row[name][place] for row in rows) / len(rows), 3)

    return {name: {"divergence_nats": mean(name, 0), "same_best": mean(name, 1)} for name in rows[0]}


def _up_to_answer(text: str, answer: str) -> str:
    """Return the sentence with the answer, up to its end."""
    at = text.lower().find(answer.lower())
    return text[text.rfind(". ", 0, at) + 1 : at + len(answer)].strip()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b-instruct", help="a name of `lethe models list`"
    )
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
