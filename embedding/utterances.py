"""Cut timed words into what is shown at a time: a sentence, or a breath of a long one.

Nothing here knows how the words were heard.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from memory.sentences import sentence_spans
from memory.values import Utterance

MOST_MS = 8_000
"""An utterance lasts no longer, unless it is one word."""
PAUSE_MS = 700
"""Silence between words that ends an utterance."""
COMMA_MS = 400
"""A comma counts as so much silence where a long sentence is to be cut."""
_COMMAS = (",", ";", ":", "–", "—", "，", "、", "；", "：")


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it was heard, with the space before it where there is one."""

    start_ms: int
    end_ms: int
    text: str


def cut_utterances(
    words: Sequence[Word], *, most_ms: int = MOST_MS, pause_ms: int = PAUSE_MS
) -> Iterator[Utterance]:
    """Yield what was said in order, no word left out that has a letter or a digit.

    Cut after sentences and at pauses; what then still lasts longer than ``most_ms`` is cut near its middle,
    where speech halts longest.
    """
    ends = list(accumulate(len(word.text) for word in words))
    sentences = sentence_spans("".join(word.text for word in words))
    closing = {bisect_left(ends, end) for _, end in sentences}
    first = 0
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else None
        if following is None or index in closing or following.start_ms - word.end_ms >= pause_ms:
            yield from _shorten(words[first : index + 1], most_ms)
            first = index + 1


def _shorten(words: Sequence[Word], most_ms: int) -> Iterator[Utterance]:
    start, end = words[0].start_ms, words[-1].end_ms
    if end - start <= most_ms or len(words) == 1:
        text = "".join(word.text for word in words).strip()
        if any(map(str.isalnum, text)):
            yield Utterance(start, end, text)
        return

    def halting(at: int) -> float:
        """Say how well a cut before word ``at`` falls: by silence there, and near the middle."""
        before, after = words[at - 1], words[at]
        silence = after.start_ms - before.end_ms + COMMA_MS * before.text.rstrip().endswith(_COMMAS)
        return silence - abs(after.start_ms + before.end_ms - start - end) / 8

    cut = max(range(1, len(words)), key=halting)
    yield from _shorten(words[:cut], most_ms)
    yield from _shorten(words[cut:], most_ms)
