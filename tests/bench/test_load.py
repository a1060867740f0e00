"""The load test's own judgement: its books, its mix, its clock and its figures, without a service."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections import Counter
from itertools import islice, pairwise
from math import gcd
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.books import LENGTH, STRIDE, SYLLABLES, WORD, Books, Document, make_word
from bench.chart import draw_latency
from bench.load import MIX, _parse, command_of, memory_figures, summary
from bench.processes import cpu_seconds, find_trees, growth_ratio, memory_mib
from bench.traffic import Step, Timed, closed_loop, count_errors, iter_mix, open_loop, route_figures

NUMBERS = st.integers(min_value=0, max_value=len(SYLLABLES) ** LENGTH - 1)


def _acknowledged(books: Books, count: int) -> list[Document]:
    documents = [books.write() for _ in range(count)]
    for document in documents:
        books.acknowledge(document, f"id of {document.word}")
    return documents


def test_the_words_stride_meets_every_word_before_it_comes_round() -> None:
    assert gcd(STRIDE, len(SYLLABLES) ** LENGTH) == 1


@given(one=NUMBERS, other=NUMBERS)
def test_no_two_documents_share_a_word_and_each_is_seen_in_a_text(one: int, other: int) -> None:
    assert (make_word(one) == make_word(other)) == (one == other)
    assert WORD.findall(f"(The {make_word(one)}.)") == [make_word(one)]


def test_what_was_forgotten_is_resurrected_by_its_id_or_its_word_from_the_acknowledgement_on() -> None:
    """A request that was sent earlier may still show it: its reply was under way."""
    books = Books(["A text."])
    first, second, kept = _acknowledged(books, 3)
    books.forget([first, second], at=10.0)
    body = f"... {second.word} ... {kept.word}"

    assert books.list_resurrected(body, [first.source_id, kept.source_id], 10.0) == {first, second}
    assert books.list_resurrected(body, [first.source_id], 9.9) == set()
    assert books.list_resurrected("", ["unknown"], 11.0) == set()


def test_a_document_that_leaves_is_neither_kept_nor_gone_until_that_is_acknowledged() -> None:
    books = Books(["A text."])
    documents = _acknowledged(books, 5)

    leaving = books.choose_leaving(3)

    assert len(set(leaving)) == 3
    assert set(books.kept) == set(documents) - set(leaving)
    assert books.gone == []
    assert books.any_gone() is None
    books.forget(leaving, at=1.0)
    assert books.any_gone() in leaving
    assert len(books.choose_leaving(9)) == 2, "as many as there are"
    assert books.any_kept() is None


def test_a_document_vanishes_when_it_was_found_before_and_is_not_leaving() -> None:
    books = Books(["A text."])
    (document,) = _acknowledged(books, 1)
    assert not books.has_vanished(document, []), "not indexed yet"
    assert not books.has_vanished(document, [document.source_id])
    assert books.has_vanished(document, [])
    books.choose_leaving(1)
    assert not books.has_vanished(document, [])


def test_every_round_of_a_mix_holds_its_shares() -> None:
    rounds = iter_mix(MIX)
    first, second = list(islice(rounds, 100)), list(islice(rounds, 100))
    assert Counter(first) == Counter(second) == Counter(MIX)
    assert first != second
    assert sum(MIX.values()) == 100


def test_a_stall_is_told_by_every_request_that_was_due_in_it() -> None:
    """A service that stands still for half a second: the open loop sees it in half of the requests of a second.

    The closed loop's only client waits the stall out and reports one slow request: coordinated omission.
    """

    def stalling() -> tuple[list[float], object]:
        until = [time.monotonic() + 0.5]

        async def perform(route: str) -> str | None:
            await asyncio.sleep(max(0.0, until[0] - time.monotonic()) + 0.005)
            return None

        return until, perform

    def slow(timed: list[Timed]) -> int:
        return sum(one.done - one.due > 0.1 for one in timed)

    routes = iter_mix({"recall": 1})
    in_open = asyncio.run(open_loop(stalling()[1], routes, rate=100, seconds=1))  # type: ignore[arg-type]
    in_closed = asyncio.run(closed_loop(stalling()[1], routes, clients=1, seconds=1))  # type: ignore[arg-type]

    assert len(in_open) == 100
    assert slow(in_open) >= 30
    assert 1 <= slow(in_closed) < 5
    assert all(later.due - earlier.due == pytest.approx(0.01) for earlier, later in pairwise(in_open))


def test_a_generator_that_is_late_counts_its_delay_as_latency() -> None:
    """The loop is held up, so requests are sent after they were due."""

    async def perform(route: str) -> str | None:
        time.sleep(0.05)
        return "status 503"

    timed = asyncio.run(open_loop(perform, iter_mix({"recall": 1}), rate=100, seconds=0.1))
    assert max(one.done - one.due for one in timed) > 0.3
    assert count_errors(timed) == {"recall: status 503": 10}


def test_figures_count_each_route_from_when_requests_were_due() -> None:
    timed = [Timed("recall", at, at + 0.5, at + 1.0, None) for at in range(99)]
    timed += [Timed("recall", 99, 99, 109, None), Timed("ingest", 0, 0, 0.002, "ConnectError")]

    figures = route_figures(timed, seconds=100)

    assert figures["recall"] == {
        "requests": 100,
        "per_second": 1.0,
        "p50_ms": 1000.0,
        "p95_ms": 1000.0,
        "p99_ms": 1000.0,
        "max_ms": 10000.0,
    }
    assert figures["ingest"]["p50_ms"] == 2.0


def test_a_step_counts_the_work_it_left_behind() -> None:
    assert Step(clients=4, requests=300, seconds=30, drained=0).rate == 10
    assert Step(clients=4, requests=300, seconds=30, drained=20).rate == 6


def test_growth_compares_the_last_window_with_the_first() -> None:
    samples = [(float(at), 100.0 if at <= 60 else 150.0 if at < 540 else 110.0) for at in range(0, 601, 5)]
    assert growth_ratio(samples, 60) == pytest.approx(1.1)
    assert memory_figures(samples, 60)["most_mib"] == 150.0


def test_the_summary_adds_up_the_memory_of_all_processes() -> None:
    timed = [Timed("recall", 0, 0, 0.1, None), Timed("answer", 0, 0, 9, None)]
    memory = {"api": [(0.0, 300.0), (9.0, 330.0)], "worker": [(0.0, 100.0), (9.0, 90.0)]}
    told = summary(timed, 2.0, errors={"a": 2, "b": 1}, lost=4, resurrected=5, memory=memory, window=1.0)
    assert told == {
        "recall_rps": 0.5,
        "recall_p95_ms": 100.0,
        "errors": 3,
        "lost": 4,
        "resurrected": 5,
        "rss_growth_ratio": 1.05,
    }


def test_process_trees_are_told_apart_by_their_roots() -> None:
    """A child belongs to its parent's tree unless it is a root of its own."""
    shell = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", shell], stdin=subprocess.PIPE)
    try:
        end = time.monotonic() + 20
        while len(tree := find_trees({"child": process.pid})["child"]) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        trees = find_trees({"own": os.getpid(), "child": process.pid})
        assert trees["child"] == tree
        assert os.getpid() in trees["own"]
        assert not set(tree) & set(trees["own"])
        resident, proportional = memory_mib(tree), memory_mib(tree, shared=True)
        assert 2 < proportional <= resident < 500
        assert cpu_seconds(tree) >= 0
    finally:
        process.communicate(b"\n")
    assert memory_mib(tree) == cpu_seconds(tree) == 0


def test_the_command_names_no_path_of_this_machine(tmp_path: Path) -> None:
    options = _parse(["--backends", "sqlite", "--seconds", "60", "--data", str(tmp_path), "--threads", "2"])
    assert command_of(options) == "python -m bench.load --backends sqlite --seconds 60 --threads 2"
    assert options.sizes.seconds == 60
    with pytest.raises(SystemExit):
        _parse(["--backends", "paper"])


def test_the_picture_is_well_formed_and_shows_both_percentiles(tmp_path: Path) -> None:
    timed = [Timed("recall", at, at, at + 0.1 * (1 + at % 7), None) for at in range(50)]
    draw_latency(tmp_path / "load.svg", timed, title="<sqlite>")
    lines = [
        node for node in ElementTree.parse(tmp_path / "load.svg").iter() if node.tag.endswith("polyline")
    ]
    assert [len(re.split(r"\s", line.attrib["points"])) for line in lines] == [50, 50]
