"""The reader's bench on a tiny random model: every section runs, and its ways of reading agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from bench import reader_ladder, reader_peer, reader_reuse, reader_routers, reader_times
from bench.reader import summarise
from bench.reader_cases import Case, load_cases, put_best_last, squad_cases
from bench.reader_chart import curves_of
from bench.reader_decode import compare_lookup
from bench.reader_ladder import LADDERS, Ladder, Ways, climb, interval_of_groups
from bench.reader_parts import SPARE, Bench
from bench.reader_readings import JointReading, Reading, ask, write
from bench.reader_reuse import AT_ONCE, BEST_LAST, DRAWN, WAYS, Way, compare_ways
from bench.reader_routers import compare_routers
from bench.reader_times import shuffle, take_times
from bench.squad13 import Bm25, Question, Squad
from reader.routing import Anchors
from tests.reader.families import build
from tests.reader.tiny import END_ID, tiny_tokenizer

PARAGRAPHS = 6
TOKENS = 1_700
"""A byte is a token, so that worked examples alone are more than a thousand."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("squad")
    texts = {
        f"Nile:{at}": f"The Nile has {at} bridges and {at + 7} islands. " * 2 for at in range(PARAGRAPHS)
    }
    asked = [
        {"query": f"Which has {at} bridges?", "relevant": [name], "kind": "Nile", "answers": ["The Nile"]}
        for at, name in enumerate(texts)
    ]
    _write(folder / "documents.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    _write(folder / "queries.jsonl", asked)
    return Bench(build("qwen2"), tiny_tokenizer(), "tiny", Squad(folder))


def test_all_ways_are_asked_alike_and_stay_where_they_are(bench: Bench) -> None:
    """Read in slots without memories, a prompt is what the model itself makes of it."""
    (case,) = squad_cases(bench.squad, 1, 3)
    cut = bench.cut(case.question, case.names)
    prompt, answer = cut.tokens(), bench.writer.ids("The Nile")
    placed = bench.place(cut, [None] * 3, bench.open(cut), spare=SPARE)
    joint: Reading = JointReading(bench.model, prompt)
    ours: Reading = bench.read(placed)

    first, written = ask(joint, answer), write(joint, prompt, frozenset({END_ID}), most=8)

    apart, same = ask(ours, answer).against(first)
    assert abs(apart) < 1e-5 and same == 1.0
    assert write(ours, prompt, frozenset({END_ID}), most=8) == written
    assert torch.allclose(ask(joint, answer).told, first.told, atol=1e-5)
    assert written == _greedy(bench, prompt, len(written))


def test_a_prompt_that_begins_alike_is_gone_on_with(bench: Bench) -> None:
    """Only what differs is read; the logits are those of reading it all."""
    (case,) = squad_cases(bench.squad, 1, 3)
    cut = bench.cut(case.question, case.names)
    other = [*cut.tokens()[:-5], *bench.writer.ids("Where")]
    ran: list[int] = []
    hook = bench.model.get_input_embeddings().register_forward_hook(
        lambda module, given, made: ran.append(given[0].numel())
    )

    reading = JointReading(bench.model, cut.tokens())
    reading.turn_to(other)
    hook.remove()

    assert ran == [len(cut.tokens()), 5]
    assert torch.allclose(reading.first, JointReading(bench.model, other).first, atol=1e-5)


def test_questions_of_a_paragraph_come_together_and_are_shown_the_same() -> None:
    """So many of it at most; the paragraph stands among what they are shown."""
    squad = Squad.__new__(Squad)
    squad.texts = {f"Nile:{at}": f"The Nile has {at} bridges." for at in range(4)}
    squad.questions = [
        Question(f"Which {word} has {at} bridges?", f"Nile:{at}", "Nile", ("The Nile",))
        for at in range(4)
        for word in ("river", "stream", "water")
    ]
    squad._ranking = Bm25(squad.texts)

    cases = squad_cases(squad, 12, 3, together=2)

    assert len({case.question for case in cases}) == 8
    for one, other in zip(cases[::2], cases[1::2], strict=True):
        assert one.names == other.names
        gold = {asked.gold for asked in squad.questions if asked.text in (one.question, other.question)}
        assert len(gold) == 1 and gold <= set(one.names)
    assert squad_cases(squad, 5, 3, together=2) == cases[:5]


def test_compaction_can_be_left_to_a_share_and_made_up_for(bench: Bench, tmp_path: Path) -> None:
    """A question that lacks a level asked for is asked again; figures count who has it."""
    ladder, rows = Ladder("squad13", 3), tmp_path / "rows.jsonl"
    told: list[dict[str, object]] = []
    cases = squad_cases(bench.squad, 2, ladder.passages)
    for compacted in (0.5, 1.0):
        ways = Ways(Anchors((1,)), 0.2, "most attended", compacted)
        with Progress(disable=True) as progress:
            climb(bench, ladder, cases, ways, progress, told.append, rows)

    half, whole = (figures["steps"] for figures in told)
    assert isinstance(half, dict) and isinstance(whole, dict)
    assert (half["L0 to L2"]["questions"], half["L0 to L3"]["questions"]) == (2, 1)
    assert whole["L0 to L3"]["questions"] == 2
    assert len(rows.read_text().splitlines()) == 3


def test_intervals_are_drawn_of_groups() -> None:
    """Questions that say the same in each group say no more than one of them."""
    values = [0.0, 1.0, 0.0, 1.0]
    single = interval_of_groups(values, range(4))
    doubled = interval_of_groups(
        [each for value in values for each in (value, value)], [0, 0, 1, 1, 2, 2, 3, 3]
    )

    assert single == doubled
    assert single["mean"] == 0.5


def _greedy(bench: Bench, prompt: list[int], count: int) -> list[int]:
    """Return what is written when all is read anew for every token."""
    tokens = [*prompt]
    for _ in range(count):
        tokens.append(int(JointReading(bench.model, tokens).first.argmax()))
    return tokens[len(prompt) :]


def test_the_ladder_is_climbed_and_gone_on_with(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are kept are not measured again, and give the same figures."""
    ladder, rows = Ladder("squad13", 6), tmp_path / "rows.jsonl"
    ways = Ways(bench.anchors, 0.2, "most attended")
    cases = squad_cases(bench.squad, 1, ladder.passages)
    told: list[dict[str, object]] = []

    with Progress(disable=True) as progress:
        climb(bench, ladder, cases, ways, progress, told.append, rows)
        monkeypatch.setattr(reader_ladder, "climb_one", None)
        climb(bench, ladder, cases, ways, progress, told.append, rows)

    assert told[0] == told[1]
    assert told[0]["questions"] == 1
    steps = told[0]["steps"]
    assert isinstance(steps, dict)
    assert list(steps) == ["L0 to L1", "L1 to L2", "L2 to L3", "L0 to L2", "L0 to L3"]
    assert all(step["divergence_nats"] >= 0.0 for step in steps.values())
    places = told[0]["L0 to L1 by place"]
    assert isinstance(places, dict)
    assert {at: one["questions"] for at, one in places.items()} == {str(cases[0].place): 1}
    assert float(str(told[0]["blocks_looked_at_L2"])) < 1.0
    summary = summarise({"ladder": {LADDERS[0].name: told[0]}})
    assert summary["l1_l2_kl"] == steps["L1 to L2"]["divergence_nats"]
    assert summary["l0_l2_f1_loss"] == -steps["L0 to L2"]["f1_change_points"]["mean"]
    assert summary["l0_l3_f1_loss"] == -steps["L0 to L3"]["f1_change_points"]["mean"]


def test_ways_of_reading_again_are_compared_and_gone_on_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is read again in full is read as at once, and so are memories of that reading, but for bits."""
    monkeypatch.setattr(reader_reuse, "PASSAGES", 2)
    ways = (
        WAYS[0],
        Way("all whole again", best=2),
        Way("of the reading at once", joint=True),
        Way("all chosen again", blended=1.0),
        Way("last again", last=8, temperature=0.9),
    )
    told: list[dict[str, object]] = []
    rows = tmp_path / "rows.jsonl"

    with Progress(disable=True) as progress:
        compare_ways(bench, 1, progress, told.append, rows_file=rows, ways=ways)
        monkeypatch.setattr(reader_reuse, "read_one", None)
        compare_ways(bench, 1, progress, told.append, rows_file=rows, ways=ways)

    assert told[1] == told[-1]
    orders = json.loads(json.dumps(told[-1]))
    assert set(orders) == {BEST_LAST, DRAWN}
    for figures in orders.values():
        assert set(figures) == {AT_ONCE, *(way.name for way in ways)}
        far = {
            way: abs(one["surprise_change_nats"]["mean"]) for way, one in figures.items() if way != AT_ONCE
        }
        assert far["all whole again"] < 1e-4
        assert far["all chosen again"] < 1e-4
        assert far["of the reading at once"] < 0.01
        assert far["remembered"] > 1e-4
        read = {way: one["tokens_read"] for way, one in figures.items()}
        assert read["remembered"] < read["last again"] < read["all whole again"] < read[AT_ONCE]
    summary = summarise({"reuse": {"orders": orders}})
    change = orders[BEST_LAST][WAYS[0].name]["f1_change_points"]
    assert summary["reuse_f1_loss_best_last"] == -change["mean"]


def test_the_passage_with_the_likeliest_sentence_stands_last(bench: Bench) -> None:
    case = Case("Which has 3 bridges?", ("Nile:3", "Nile:0", "Nile:5"), ("The Nile",), ("Nile:3",))

    shown = put_best_last(case, bench.shown)

    assert (case.place, shown.place) == (1, 3)
    assert sorted(shown.names) == sorted(case.names)


def test_times_are_taken_of_every_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_times, "RUNS", 1)
    told: list[dict[str, object]] = []
    with Progress(disable=True) as progress:
        take_times(bench, [TOKENS], bench.anchors, [0.2], progress, told.append)

    sizes = told[-1]
    figures = sizes[str(TOKENS)]
    assert isinstance(figures, dict)
    assert figures["all_blocks"]["shuffled"]["tokens_read"] < figures["tokens"]
    assert figures["memory"]["bytes_per_token"] > 0
    assert set(figures["ratios"]) == {
        "all_blocks_over_read_at_once",
        "routed_over_read_at_once",
        "routed_over_all_blocks",
    }
    assert [len(points) for points in curves_of(sizes).values()] == [1, 1, 1]


def test_another_order_begins_with_another_passage() -> None:
    """Else a prefix cache would hold the first of them."""
    for seed in range(20):
        order = shuffle(["a", "b", "c"], seed)
        assert sorted(order) == ["a", "b", "c"]
        assert order[0] != "a"


def test_decoding_writes_the_same_words_with_guesses(bench: Bench) -> None:
    with Progress(disable=True) as progress:
        told = compare_lookup(bench, 1, progress)

    assert told["same_words"] == told["questions"] == 1


def test_questions_of_several_passages_are_shown_all_of_them(tmp_path: Path) -> None:
    """Texts that would fill a window are left out, with the questions that need them."""
    folder = tmp_path / "hops"
    folder.mkdir()
    texts = {str(at): f"River {at}\nIt flows through valley {at}." for at in range(8)} | {
        "9": "long " * 1_000
    }
    _write(folder / "documents.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    _write(
        folder / "queries.jsonl",
        [
            {"query": "Which river and valley?", "relevant": ["1", "2"], "answers": ["1"]},
            {"query": "Which is long?", "relevant": ["9"], "answers": ["9"]},
            {"query": "Which is nowhere?", "relevant": [], "answers": ["none"]},
        ],
    )

    shown, (case,) = load_cases("hops", 5, 4, tmp_path)

    assert len(case.names) == 4
    assert {"hops 1", "hops 2"} < set(case.names)
    assert (shown["hops 1"].title, shown["hops 1"].text) == ("River 1", "It flows through valley 1.")


def test_a_peer_that_is_absent_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_peer, "find_spec", lambda name: None)
    assert reader_peer.time_prompts(Path("model.gguf"), {"cold": [1]}, 1) is None


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_routers_are_compared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more blocks a router has choice of the more it keeps, and the exact one keeps the most."""
    monkeypatch.setattr(reader_routers, "DENSITIES", (0.05, 0.4))
    with Progress(disable=True) as progress:
        found = compare_routers(bench, 1, progress, TOKENS)["found"]

    few, many = (found[f"exact, {density}"] for density in ("5%", "40%"))
    assert few["kept"] < many["kept"] <= 1.0
    assert few["blocks_looked_at"] < many["blocks_looked_at"]
    for name, told in found.items():
        assert told["divergence_nats"] >= 0.0, name
