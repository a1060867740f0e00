"""Ranking: both parts count, filters hold, mentions and dates lift, history leaves no trace."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from memory.values import EntryId
from retrieval.faiss_vectors import FlatVectors
from retrieval.lexical import LexicalIndex, LexicalRow
from retrieval.rank import DEFAULT_WEIGHTS, Question, probability, rank
from retrieval.titles import Titles

DIMENSION = 32


def embed(text: str) -> np.ndarray:
    """A bag of hashed words: near when words are shared, which is all a test of ranking needs."""
    total = np.zeros(DIMENSION)
    for word in text.lower().split():
        total += np.random.default_rng(sum(map(ord, word))).standard_normal(DIMENSION)
    return (total / (np.linalg.norm(total) or 1)).astype(np.float32)


@dataclass
class Library:
    """Sources with a title, a context and passages; built in any order of keys."""

    folder: object
    sources: dict[str, tuple[str, str, list[str]]]
    chat: bool = False
    texts_by_key: dict[int, str] = field(default_factory=dict)

    def __post_init__(self):
        self.vectors, self.words, self.titles = FlatVectors(DIMENSION), LexicalIndex(self.folder), Titles()
        self.owner, self.parent, self.under, self.ids = {}, {}, {}, []
        key = 0
        kinds = []
        for number, (name, (title, context, passages)) in enumerate(self.sources.items()):
            self.ids.append(name)
            self.titles.add(number, title)
            rows, first = [], key
            for text in passages:
                self.texts_by_key[key], self.owner[key] = text, number
                rows.append(LexicalRow(key, text, context))
                self.vectors.add([key], embed(f"{context} {text}")[None])
                kinds.append(True)
                key += 1
            if len(passages) > 1:
                self.under[key] = np.arange(first, key)
                self.parent.update(dict.fromkeys(range(first, key), key))
                rows.append(LexicalRow(key, "\n".join(passages), context))
                self.vectors.add([key], embed(" ".join(passages))[None])
                kinds.append(False)
                key += 1
            self.words.add(EntryId(name), rows)
        self.words.commit()
        self.passages = np.array(kinds, dtype=np.bool_)

    def are_chat(self, passages):
        return np.full(len(passages), self.chat)

    def parents(self, passages):
        return np.array([self.parent.get(key, -1) for key in passages.tolist()], dtype=np.int64)

    def neighbours(self, passages):
        def beside(key, other):
            return other if self.owner.get(other) == self.owner[key] else -1

        return np.array([[beside(k, k - 1), beside(k, k + 1)] for k in passages.tolist()]).reshape(-1, 2)

    def sources_of(self, passages):
        return np.array([self.owner[key] for key in passages.tolist()], dtype=np.int64)

    def passages_under(self, node):
        return self.under[node]

    def sizes(self, nodes):
        return np.array([len(self.under[node]) for node in nodes.tolist()], dtype=np.int64)

    def passages_of(self, source):
        return np.array([key for key, owner in self.owner.items() if owner == source], dtype=np.int64)

    def names(self, passages):
        return [f"{self.ids[self.owner[key]]}:{self.texts_by_key[key]}" for key in passages.tolist()]

    def texts(self, passages):
        return [self.texts_by_key[key] for key in passages.tolist()]

    def mentioned(self, text):
        return self.titles.find(text)

    def ask(self, query, *, limit=10, allowed=None, hierarchy=True, weights=DEFAULT_WEIGHTS):
        passages = self.passages if allowed is None else self.passages & allowed
        found = rank(
            Question(query, embed(query)),
            vectors=self.vectors,
            words=self.words,
            catalog=_AsCatalog(self),
            limit=limit,
            passages=passages,
            nodes=~self.passages if hierarchy else None,
            weights=weights,
        )
        return [(self.ids[hit.source], self.texts_by_key[hit.key], hit) for hit in found]


class _AsCatalog:
    """The library under the names ranking asks for (``sources`` is data there)."""

    def __init__(self, library):
        self._library = library

    def __getattr__(self, name):
        return getattr(self._library, "sources_of" if name == "sources" else name)


NO_MENTIONS = replace(DEFAULT_WEIGHTS, mention=0.0)

SHELF = {
    "park": ("Elm Park", "Elm Park", ["Elm Park is the ground of Harbour Rovers since the war"]),
    "club": ("Harbour Rovers", "Harbour Rovers", ["A football side founded by dockers and led by Ann Lee"]),
    "tea": ("Tea", "Tea", ["Leaves steeped in water", "Served hot at four in the afternoon"]),
    "cats": ("Cats", "Cats", ["A cat sleeps most of the day", "Cats hunt mice at night"]),
    "dogs": ("Dogs", "Dogs", ["A dog guards the house", "Dogs chase cats and mice"]),
}


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path, SHELF)


def test_words_and_meaning_find_the_passage(library):
    assert library.ask("cats that hunt mice")[0][1] == "Cats hunt mice at night"


def test_a_mentioned_source_is_lifted(library):
    """The second half of a two-step question: the club's page shares no telling word with it."""
    query = "who leads the side that plays at elm park"
    lifted = {name: (place, hit) for place, (name, _, hit) in enumerate(library.ask(query))}
    plain = {
        name: (place, hit) for place, (name, _, hit) in enumerate(library.ask(query, weights=NO_MENTIONS))
    }
    assert lifted["park"][0] == 0
    assert lifted["club"][1].mention > 0 == plain["club"][1].mention
    assert lifted["club"][1].raw > plain["club"][1].raw
    assert lifted["club"][0] <= plain["club"][0]


@pytest.mark.parametrize("hierarchy", [True, False])
def test_nothing_outside_the_bitmap_is_found(library, hierarchy):
    """Not through descent and not through a mention either."""
    allowed = np.array(
        [library.ids[library.owner[k]] != "club" if k in library.owner else True for k in range(12)]
    )
    allowed = allowed[: len(library.passages)]
    names = {
        name for name, _, _ in library.ask("elm park rovers", limit=50, allowed=allowed, hierarchy=hierarchy)
    }
    assert "club" not in names
    assert library.ask("elm park", allowed=np.zeros(len(library.passages), dtype=np.bool_)) == []


def test_hierarchy_off_ranks_passages_alone(library):
    on = library.ask("dogs guards house", hierarchy=True)
    off = library.ask("dogs guards house", hierarchy=False)
    assert off[0][1] == on[0][1] == "A dog guards the house"
    assert off[0][2].cosine != on[0][2].cosine


def test_a_passage_gains_from_a_better_one_beside_it(tmp_path):
    """Its own score says nothing; the next passage of the same source answers the question."""
    shelf = {
        "talk": ("", "", ["zebra " * 9, "Ann: lime", "the ferry leaves from the mole at nine", "Bo: plum"]),
        "other": ("", "", ["Cy: fig"]),
    }
    shelf["talk"][2][:1] = [f"zebra {number}" for number in range(9)]  # too many for a small node
    library = Library(tmp_path, shelf)
    query = "when does the ferry leave the mole"
    on = [text for _, text, _ in library.ask(query, limit=50)]
    assert set(on[:3]) == {"the ferry leaves from the mole at nine", "Ann: lime", "Bo: plum"}
    alone = replace(DEFAULT_WEIGHTS, neighbour=0.0)
    raw = {text: hit.raw for _, text, hit in library.ask(query, limit=50, weights=alone)}
    lifted = {text: hit.raw for _, text, hit in library.ask(query, limit=50)}
    best = raw["the ferry leaves from the mole at nine"]
    for text in ("Ann: lime", "Bo: plum"):
        gain = DEFAULT_WEIGHTS.neighbour * (best - raw[text])
        assert lifted[text] == pytest.approx(raw[text] + gain, abs=1e-6)
    assert lifted["Cy: fig"] == raw["Cy: fig"]


def test_neighbours_outside_the_bitmap_give_nothing(library):
    """What may not be seen lifts nothing either: the score is that of a source without it."""
    texts = {text: key for key, text in library.texts_by_key.items()}
    allowed = np.ones(len(library.passages), dtype=np.bool_)
    allowed[texts["Cats hunt mice at night"]] = False
    weights = replace(NO_MENTIONS, node_meaning=0.0)
    without = {t: h.raw for _, t, h in library.ask("hunt mice", limit=50, allowed=allowed, weights=weights)}
    plain = replace(weights, neighbour=0.0)
    expected = {t: h.raw for _, t, h in library.ask("hunt mice", limit=50, allowed=allowed, weights=plain)}
    sleeps = "A cat sleeps most of the day"
    assert without[sleeps] == expected[sleeps]


def test_order_of_arrival_leaves_no_trace(tmp_path):
    """The same sources under other keys give the same texts with the same scores."""
    one = Library(tmp_path / "one", SHELF)
    other = Library(tmp_path / "other", dict(reversed(SHELF.items())))
    for query in ("cats mice", "elm park side", "tea at four", "nothing known", ""):
        assert [(n, t, h.score) for n, t, h in one.ask(query, limit=50)] == [
            (n, t, h.score) for n, t, h in other.ask(query, limit=50)
        ]


def test_equal_scores_stand_in_the_order_of_names(tmp_path):
    shelf = {name: ("", "", ["the very same words"]) for name in ("c", "a", "b")}
    assert [name for name, _, _ in Library(tmp_path, shelf).ask("same words")] == ["a", "b", "c"]


def test_a_date_in_the_question_lifts_what_bears_it(tmp_path):
    talk = {
        f"day{day}": ("", f"2026-04-{day:02d} 17:00 Ann, Bo", [f"Ann: we met again {'indeed ' * day}"])
        for day in range(1, 15)
    }
    found = Library(tmp_path, talk, chat=True).ask("what did they say on April 9th, 2026?")
    assert found[0][0] == "day9"
    assert found[0][2].date > 0


def test_scores_are_probabilities_in_order(library):
    hits = [hit for _, _, hit in library.ask("cats hunt mice", limit=50)]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert probability(DEFAULT_WEIGHTS.midpoint) == 0.5
    assert library.ask("cats", limit=0) == []
    assert len(library.ask("cats", limit=2)) == 2
