"""What a reader is shown: one source cannot crowd the others out, nor outvote them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from service.answer import PASSAGES_OF_A_SOURCE, pack_hits
from service.views import Scope
from tests.service.harness import TENANT, House

QUESTION = "When did the harbour bridge open?"
FILLER = "Visitors walk over the harbour bridge at dusk and count {n} lamps along pier {n} of the harbour. "
POISON = "\n\n".join(
    f"The harbour bridge opened in 1999, as log {n} of the harbour bridge tells. " + FILLER.format(n=n) * 12
    for n in range(12)
)
TRUE = "The harbour bridge opened in March 1932 after eight years of work on its arch."


@pytest.fixture
def home(tmp_path: Path, encoder: TextEncoder) -> Iterator[House]:
    opened = House(tmp_path / "data", encoder)
    yield opened
    opened.close()


def shown(home: House, *, limit: int) -> Counter[str]:
    """Return how many passages of each source a reader would be shown."""
    recalled = home.lethe.recall(TENANT, QUESTION, limit=limit)
    entries = list(dict.fromkeys(hit.entry_id for hit in recalled.hits))
    stretches = pack_hits(recalled.hits, home.lethe.answerer.recaller.load_parsed(TENANT, entries))
    assert all(stretch.evidence.source_id == stretch.hits[0].source_id for stretch in stretches)
    return Counter(hit.source_id for stretch in stretches for hit in stretch.hits)


def test_one_source_is_shown_so_often_and_no_oftener(home):
    poison = home.remember(POISON)
    true = home.remember(TRUE)
    found = Counter(hit.source_id for hit in home.lethe.recall(TENANT, QUESTION, limit=30).hits)
    assert found[poison] > PASSAGES_OF_A_SOURCE, "the test needs a source that would crowd others out"

    seen = shown(home, limit=30)

    assert seen[poison] == PASSAGES_OF_A_SOURCE
    assert seen[true] == 1


def test_a_source_that_is_alone_is_shown_as_far_as_there_is_room(home):
    only = home.remember(POISON)
    assert shown(home, limit=30)[only] > PASSAGES_OF_A_SOURCE


def test_an_explanation_goes_with_what_it_speaks_of(home):
    home.remember("The harbour bridge opened in March 1932.")
    other = home.remember(f"The harbour bridge opened in 1999. {FILLER.format(n=1) * 12}")

    answered = home.lethe.answer(TENANT, QUESTION, explain=True)

    assert home.lethe.answer(TENANT, QUESTION).explanation is None
    told = answered.explanation
    assert (told.model, told.closed_book) == (None, None)
    assert len({side.source_id for side in told.conflicts[0].sides}) == 2
    home.lethe.forget(TENANT, Scope(ids=(other,)), preview=False)
    with home.lethe.reading(TENANT):
        assert home.lethe.recheck_answer(TENANT, answered).explanation is None


def test_a_source_that_repeats_itself_does_not_outvote_the_other(home):
    """Both sides stand in the answer, each cited: one source is one witness, however often it says so."""
    lies = [f"The harbour bridge opened in 1999. {FILLER.format(n=n) * 12}" for n in range(12)]
    home.remember("\n\n".join(lies))
    home.remember("The harbour bridge opened in March 1932.")

    answered = home.lethe.answer(TENANT, QUESTION, limit=30)

    quotes = [answered.citations[cited].quote for claim in answered.claims for cited in claim.citations]
    assert any("1932" in quote for quote in quotes)
    assert any("1999" in quote for quote in quotes)
