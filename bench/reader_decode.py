"""How fast an answer is written, with guesses looked up in what was read and without, on the same readings.

Both write the same words: guesses are only kept where greedy decoding would have said the same (but for
rounding: in bfloat16 several tokens at once are not to the last bit what one by one are). Processor time is
taken, not the clock's: other work on the machine counts little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rich.progress import Progress

from bench.figures import Figures, spread
from bench.reader_cases import squad_cases
from bench.reader_parts import SPARE, Bench
from bench.reader_readings import write
from reader.guessing import GUESSED_TOKENS
from reader.lookup import MATCHED_TOKENS, look_up

PASSAGES = 4


def _no_guess(history: Sequence[int]) -> Sequence[int]:
    return ()


WAYS: Mapping[str, Callable[[Sequence[int]], Sequence[int]]] = {"with_lookup": look_up, "without": _no_guess}


def compare_lookup(bench: Bench, count: int, progress: Progress) -> Figures:
    """Return tokens a processor second of greedy answers, up to what ends them.

    The first comes with the prompt. Where the first token ends an answer there is nothing to time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    tokens: list[int] = []
    same = 0
    asked = squad_cases(bench.squad, count, PASSAGES)
    task = progress.add_task("decode", total=count)
    for case in asked:
        cut = bench.cut(case.question, case.names)
        opening = bench.open(cut)
        memories = bench.remember(cut, case.names, opening)
        reading = bench.read(bench.place(cut, memories, opening, spare=SPARE))
        prompt = cut.tokens()
        written, took = {}, {}
        for name, guess in WAYS.items():
            started = time.process_time()
            written[name] = write(reading, prompt, bench.ends, guess=guess)
            took[name] = time.process_time() - started
        same += written["with_lookup"] == written["without"]
        if all(written.values()):
            tokens.append(len(written["without"]))
            for name, each in took.items():
                seconds[name].append(each)
        progress.advance(task)
    progress.remove_task(task)
    figures: Figures = {
        "questions": len(asked),
        "passages": PASSAGES,
        "matched_tokens": MATCHED_TOKENS,
        "guessed_tokens": GUESSED_TOKENS,
        "tokens": sum(tokens),
        "same_words": same,
    }
    if tokens:
        figures["tokens_per_cpu_second"] = {name: round(sum(tokens) / sum(seconds[name]), 2) for name in WAYS}
        figures["by_question"] = {
            name: spread([count / each for count, each in zip(tokens, seconds[name], strict=True)], digits=2)
            for name in WAYS
        }
        figures["times_as_fast"] = round(sum(seconds["without"]) / sum(seconds["with_lookup"]), 2)
    return figures
