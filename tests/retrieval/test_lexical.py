"""The word index: plain text in, exact filters, scores that know only what is there now."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from memory.values import EntryId
from retrieval.lexical import LexicalIndex, LexicalRow, write_lexical

WORDS = [f"w{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]


def corpus(count: int, seed: int = 7) -> list[tuple[EntryId, list[LexicalRow]]]:
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(WORDS))]
    return [
        (
            EntryId(f"entry{key}"),
            [LexicalRow(key, " ".join(rng.choices(WORDS, weights, k=rng.randint(3, 80))))],
        )
        for key in range(count)
    ]


def filled(folder: Path, entries: list[tuple[EntryId, list[LexicalRow]]], every: int = 0) -> LexicalIndex:
    index = LexicalIndex(folder)
    for number, (entry_id, rows) in enumerate(entries, start=1):
        index.add(entry_id, rows)
        if every and number % every == 0:
            index.commit()
    index.commit()
    return index


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    index = filled(tmp_path_factory.mktemp("big"), corpus(3000))
    yield index
    index.close()


def test_scores_do_not_depend_on_order_or_segments(tmp_path):
    """The same rows give the same ranked list, committed at once in order or bit by bit shuffled."""
    entries = corpus(1500)
    shuffled = entries[:]
    random.Random(3).shuffle(shuffled)
    one, many = filled(tmp_path / "one", entries), filled(tmp_path / "many", shuffled, every=97)

    for seed in range(40):
        query = " ".join(random.Random(seed).choices(WORDS, k=random.Random(seed).randint(1, 12)))
        keys, scores = one.search(query, limit=50)
        other_keys, other_scores = many.search(query, limit=50)
        assert keys.tolist() == other_keys.tolist()
        assert scores.tolist() == other_scores.tolist()
        assert one.bound(query) == many.bound(query)


def test_forgetting_by_rebuild_leaves_no_trace_in_scores(tmp_path):
    """A folder written from the survivors ranks as if the rest had never been; removal alone does not."""
    entries = corpus(300)
    survivors = entries[:200]
    lived = filled(tmp_path / "lived", entries)
    lived.remove([entry_id for entry_id, _ in entries[200:]])
    lived.commit()
    write_lexical(tmp_path / "anew", survivors)
    anew, twin = LexicalIndex(tmp_path / "anew"), filled(tmp_path / "twin", survivors[::-1], every=11)

    for word in WORDS[:30]:
        assert [part.tolist() for part in anew.search(word, limit=300)] == [
            part.tolist() for part in twin.search(word, limit=300)
        ]
        assert set(lived.search(word, limit=300)[0].tolist()) == set(anew.search(word, limit=300)[0].tolist())
    assert lived.num_docs() == anew.num_docs() == 200


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 0.9, 1.0])
def test_filter_is_exact_however_little_it_allows(big, share):
    """Filtered search is the unfiltered ranking with the rest taken out, also when 3 of 3,000 are allowed."""
    rng = np.random.default_rng(5)
    allowed = np.zeros(3000, dtype=np.bool_)
    allowed[rng.choice(3000, max(1, int(3000 * share)), replace=False)] = True

    for query in ("wak wal", WORDS[50], " ".join(WORDS[:9])):
        keys, scores = big.search(query, limit=3000)
        expected = [
            (key, score) for key, score in zip(keys.tolist(), scores.tolist(), strict=True) if allowed[key]
        ]
        got_keys, got_scores = big.search(query, limit=20, allowed=allowed)
        got = list(zip(got_keys.tolist(), got_scores.tolist(), strict=True))
        assert got == expected[: len(got)]
        assert len(got) >= min(20, len(expected))


def test_keys_past_the_bitmap_are_not_allowed(big):
    allowed = np.ones(10, dtype=np.bool_)
    keys, _ = big.search("wak", limit=100, allowed=allowed)
    assert set(keys.tolist()) <= set(range(10))
    assert len(big.search("wak", limit=5, allowed=np.zeros(3000, dtype=np.bool_))[0]) == 0


@pytest.mark.parametrize("share", [0.01, 0.9, None])
def test_every_word_can_be_asked_for(big, share):
    """Just the allowed rows that have all the words, scored as ever; a query without words finds none."""
    rng = np.random.default_rng(5)
    allowed = None if share is None else rng.random(3000) < share
    held = {key: set(rows[0].body.split()) for key, (_, rows) in enumerate(corpus(3000))}
    for query in ("wak wal", "wak wbk wck", "wjt nowhere"):
        wanted = {
            key
            for key, words in held.items()
            if words.issuperset(query.split()) and (allowed is None or allowed[key])
        }
        keys, scores = big.search(query, limit=3000, allowed=allowed, every=True)
        assert set(keys.tolist()) == wanted
        assert scores.tolist() == big.score(query, keys).tolist()
    assert len(big.search("the of", limit=10, every=True)[0]) == 0
    assert big.list_words("The towers, of Glass!") == {"tower", "glass"}


def test_score_agrees_with_search(big):
    keys, scores = big.search("wak wbl wcm", limit=40)
    assert big.score("wak wbl wcm", keys).tolist() == scores.tolist()
    assert big.score("wak wbl wcm", []).tolist() == []
    assert big.score("zebra", [1, 2]).tolist() == [0.0, 0.0]


def test_no_score_exceeds_the_bound(big):
    for query in ("wak", "wak wbl", " ".join(WORDS)):
        _, scores = big.search(query, limit=10)
        assert scores.max() <= big.bound(query)


def test_ties_with_the_last_hit_come_along(tmp_path):
    """Which of several equal rows is dropped is the caller's to decide, by content."""
    index = filled(tmp_path, [(EntryId(str(key)), [LexicalRow(key, "the same words")]) for key in range(9)])
    assert index.search("words", limit=2)[0].tolist() == list(range(9))


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ("The engines were running hot", "running engine"),
        ("Ångström café", "angstrom cafe"),
        ("東京タワーに行く", "タワー"),
        ("東京タワーに行く", "京"),
        ("LiHua met WolfgangSchulz", "Li Hua"),
        ("meeting on 2026-04-30", "what happened on 20260430?"),
        ("we met on April 30th, 2026", "30 April"),
    ],
)
def test_words_meet_across_spellings(tmp_path, body, query):
    index = filled(
        tmp_path, [(EntryId("a"), [LexicalRow(1, body)]), (EntryId("b"), [LexicalRow(2, "unlike")])]
    )
    assert index.search(query, limit=5)[0].tolist() == [1]


def test_context_is_searched(tmp_path):
    index = filled(tmp_path, [(EntryId("a"), [LexicalRow(1, "body words", "Harbour rules")])])
    assert index.search("harbour", limit=5)[0].tolist() == [1]


@pytest.mark.parametrize(
    "text", ["", "   ", "the of and", "!!! ???", '"unclosed', "a:b AND (c", "\x00\ud800"]
)
def test_queries_are_text_not_syntax(big, text):
    big.search(text, limit=5)
    assert big.score(text, [1]).shape == (1,)


def test_naughty_strings_are_indexed_and_asked(tmp_path):
    """Any string can be kept and asked for; each with a word in it finds itself."""
    path = Path(__file__).parents[3] / "shared" / "data" / "bad" / "strings.json"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    strings = json.loads(path.read_text())
    index = filled(
        tmp_path, [(EntryId(str(key)), [LexicalRow(key, text)]) for key, text in enumerate(strings)]
    )
    found = sum(key in index.search(text, limit=50)[0] for key, text in enumerate(strings))
    assert found > len(strings) * 0.8


def test_a_whole_book_as_query_is_cut_to_its_rarest_words(big):
    keys, _ = big.search(" ".join(WORDS * 50), limit=5)
    assert len(keys) >= 5


def test_rarity_tells_rare_from_common(tmp_path):
    index = filled(
        tmp_path,
        [
            (EntryId(str(key)), [LexicalRow(key, "common" + (" rare" if key == 1 else ""))])
            for key in range(50)
        ],
    )
    assert index.rarity("common") == 0.0
    assert index.rarity("common rare") == 1.0
    assert index.rarity("...") == 0.0


def test_rows_survive_reopening(tmp_path):
    filled(tmp_path, corpus(20)).close()
    assert LexicalIndex(tmp_path).num_docs() == 20
