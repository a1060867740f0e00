"""Find which sources a text mentions by their titles: the second step of a question with two.

``Who leads the club that plays at Elm Park?`` finds the page of the park, whose text names the club; the
club's own page may share no word with the question. A mention is the title's words in a row, written like a
name (one word at least not in lower case). The table is a function of the titles now in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from threading import RLock

from retrieval.analysis import STOP_WORDS

LONGEST_TITLE = 12
"""Titles of more words than this are sentences, and nobody quotes them whole."""

_WORD = re.compile(r"[^\W_]+")
_PARENTHESIS = re.compile(r"\s*[(\[][^)\]]*[)\]]")
_MARKS = re.compile("[\u0300-\u036f]+")
_STOPPED = frozenset(STOP_WORDS)
_SHORTEST = 3


class Titles:
    """Titles of sources, to be looked up in running text. Safe to share between threads."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, ...], set[int]] = {}
        self._titles: dict[int, tuple[str, ...]] = {}
        self._lengths: dict[str, Counter[int]] = {}
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._titles)

    def add(self, source: int, title: str) -> None:
        """Know ``source`` by ``title`` from now on; a title that cannot be told from prose is not kept."""
        self.add_words(source, _title_words(title))

    def add_words(self, source: int, words: tuple[str, ...]) -> None:
        """Know ``source`` by a title given as the words that ``items`` yields."""
        with self._lock:
            self.remove([source])
            if words:
                self._titles[source] = words
                self._sources.setdefault(words, set()).add(source)
                self._lengths.setdefault(words[0], Counter())[len(words)] += 1

    def items(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return each source with the words of its title."""
        with self._lock:
            return list(self._titles.items())

    def remove(self, sources: Iterable[int]) -> None:
        """Forget the titles of ``sources``, unknown ones ignored."""
        with self._lock:
            for source in sources:
                words = self._titles.pop(source, None)
                if words is not None:
                    self._sources[words].discard(source)
                    if not self._sources[words]:
                        del self._sources[words]
                    lengths = self._lengths[words[0]]
                    lengths[len(words)] -= 1
                    if not +lengths:
                        del self._lengths[words[0]]

    def find(self, text: str) -> dict[str, tuple[int, ...]]:
        """Return the titles mentioned in ``text``, as plain words, each with the sources that bear it."""
        spelled = _WORD.findall(_plain(text))
        folded = [word.casefold() for word in spelled]
        found: dict[str, tuple[int, ...]] = {}
        with self._lock:
            for start, first in enumerate(folded):
                for length in self._lengths.get(first, ()):
                    end = start + length
                    sources = self._sources.get(tuple(folded[start:end]))
                    if sources and _like_a_name(spelled[start:end]):
                        found[" ".join(folded[start:end])] = tuple(sorted(sources))
        return found


def _plain(text: str) -> str:
    """Take accents off and unify widths, keeping case."""
    return _MARKS.sub("", unicodedata.normalize("NFKD", text))


def _title_words(title: str) -> tuple[str, ...]:
    words = [word.casefold() for word in _WORD.findall(_plain(_PARENTHESIS.sub("", title)))]
    while words and words[0] in {"the", "a", "an"}:
        words.pop(0)
    telling = [word for word in words if word not in _STOPPED]
    if not telling or len(words) > LONGEST_TITLE or sum(map(len, telling)) < _SHORTEST:
        return ()
    return tuple(words)


def _like_a_name(words: list[str]) -> bool:
    return any(not word[0].islower() for word in words if word.casefold() not in _STOPPED)
