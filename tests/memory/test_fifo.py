"""S3-FIFO: what is used again stays, what came once leaves soon, and no more is held than may be."""

from __future__ import annotations

import random
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from memory.fifo import Fifo

KEYS = st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), KEYS, st.just(0)),
        st.tuples(st.just("put"), KEYS, st.integers(1, 6)),
        st.tuples(st.just("drop"), KEYS, st.just(0)),
    ),
    max_size=60,
)


@given(room=st.integers(0, 20), remembered=st.integers(1, 4), steps=STEPS)
def test_it_holds_what_was_put_last_and_never_more_than_the_room(
    room: int, remembered: int, steps: list[tuple[str, int, int]]
) -> None:
    """Against a dictionary that loses nothing: what is found is right, what is not found was let go of."""
    fifo: Fifo[int, int] = Fifo(room, remembered=remembered)
    model: dict[int, tuple[int, int]] = {}
    for at, (what, key, size) in enumerate(steps):
        if what == "get":
            value = fifo.get(key)
            assert value is None or value == model[key][0]
        elif what == "put":
            fifo.put(key, at, size)
            model[key] = (at, size)
            assert (fifo.get(key) == at) == (size <= room), "what comes goes in, if it fits at all"
        else:
            assert fifo.drop([key]) <= (key in model)
            assert fifo.get(key) is None and not fifo.has_left(key)
            model.pop(key, None)
        held = dict(fifo.sizes())
        assert len(held) == len(fifo)
        assert held == {key: model[key][1] for key in held}
        assert sum(held.values()) == fifo.size <= room
        assert len(fifo.list_left()) <= remembered
        assert not set(held) & set(fifo.list_left())
    fifo.clear()
    assert not len(fifo) and not fifo.size and not fifo.list_left()


def test_reading_a_long_text_once_pushes_out_nothing_that_was_used() -> None:
    """Which would be all of it were the last used kept, as the control shows."""
    fifo: Fifo[int, int] = Fifo(100)
    recent: OrderedDict[int, int] = OrderedDict()

    def use(key: int) -> None:
        if fifo.get(key) is None:
            fifo.put(key, key, 1)
        recent[key] = key
        recent.move_to_end(key)
        while len(recent) > 100:
            recent.popitem(last=False)

    for key in [*range(60), *range(60), *range(1_000, 1_300)]:
        use(key)

    assert all(fifo.get(key) == key for key in range(60))
    assert not set(recent) & set(range(60))


def test_what_comes_again_soon_goes_where_it_stays() -> None:
    fifo: Fifo[int, int] = Fifo(20, remembered=30)
    for key in range(30):
        fifo.put(key, key, 1)
    assert fifo.get(0) is None and fifo.has_left(0)
    fifo.put(0, 0, 1)
    for key in range(100, 140):
        fifo.put(key, key, 1)
    assert fifo.get(0) == 0, "it was not the first to come of those that are here, but it came twice"


def test_uses_are_skewed_and_it_finds_about_as_many_as_the_last_used_would_with_a_third_more_room() -> None:
    """Zipf's law, as the paper's traces: the figure guards against a queue that is wired wrongly."""
    chance = random.Random(7)
    keys = range(5_000)
    asked = chance.choices(keys, [1 / (rank + 1) ** 0.9 for rank in keys], k=60_000)
    found = lru_found = 0
    fifo: Fifo[int, int] = Fifo(300)
    recent: OrderedDict[int, int] = OrderedDict()
    for key in asked:
        if fifo.get(key) is not None:
            found += 1
        else:
            fifo.put(key, key, 1)
        lru_found += key in recent
        recent[key] = key
        recent.move_to_end(key)
        if len(recent) > 400:
            recent.popitem(last=False)
    assert found > 0.97 * lru_found
