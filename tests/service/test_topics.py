"""Topics folded on the way are those that folding at once makes, payloads and names."""

from __future__ import annotations

import random

import pytest

from memory.ledger import iter_payloads, list_artifacts
from memory.values import SourceId
from service.topics import fold_topics
from service.views import Scope
from tests.service.harness import TENANT, House, text_content

WORDS = ("river", "tower", "garden", "music", "glass", "stone", "winter", "letter", "harbour", "engine")


def read_topics(house: House) -> dict[str, bytes]:
    kernel, recipe = house.lethe.kernel, house.lethe.indexes.recipes.topics.name
    with kernel.database.read() as connection:
        names = [name for name, _ in list_artifacts(connection, TENANT, recipe)]
        return {
            str(name): payload for name, payload in iter_payloads(connection, kernel.vault, TENANT, names)
        }


@pytest.mark.parametrize("seed", range(4))
def test_folding_on_the_way_is_folding_at_once(house: House, seed: int) -> None:
    """Arrivals, new versions and forgets, by this process and by one that knows of no fold before."""
    draw = random.Random(seed)
    lethe, alive, told = house.lethe, [], 0
    for _ in range(6):
        house.clock.now_us += 1_000_000
        count = draw.randrange(1, 25)
        texts = [" ".join(draw.choices(WORDS, k=5)) + f" {told + n}" for n in range(count)]
        told += count
        alive += [
            str(one.source_id) for one in lethe.remember(TENANT, [text_content(text) for text in texts])
        ]
        house.waker.drain()
        house.clock.now_us += 1_000_000
        if draw.random() < 0.5:
            again = text_content(f"{draw.choice(WORDS)} anew {told}")
            lethe.remember(TENANT, [again], source_id=SourceId(draw.choice(alive)))
            house.waker.drain()
        if draw.random() < 0.7:
            gone = tuple(draw.sample(alive, k=min(3, len(alive) - 1)))
            lethe.forget(TENANT, Scope(ids=gone), preview=False)
            alive = [source for source in alive if source not in gone]
            house.waker.drain()
        if draw.random() < 0.3:
            lethe.indexes.folded.clear()
    before = read_topics(house)
    assert before
    assert fold_topics(lethe.kernel, lethe.indexes, TENANT, anew=True)
    assert read_topics(house) == before


def test_folding_again_writes_nothing_where_nothing_changed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in WORDS:
        house.remember(f"The {word} is old.")
    written: list[str] = []
    monkeypatch.setattr(
        "service.topics.put", lambda connection, vault, tenant, made: written.extend(a.name for a in made)
    )
    assert fold_topics(house.lethe.kernel, house.lethe.indexes, TENANT)
    assert written == []
    assert fold_topics(house.lethe.kernel, house.lethe.indexes, TENANT, anew=True)
    assert sorted(written) == sorted(read_topics(house))
