"""The bench's own arithmetic and texts, without a service or data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from api.replies import AnswerReply, CitationReply
from bench.answers import Asked, article_of, document_of, judge
from bench.figures import latency, percentile, spread
from bench.hierarchy import describe, interval, pool
from bench.long_chats import chats_of, join
from bench.main import keep
from bench.squad13 import Question
from bench.texts import SETS, sentences_of, short_documents


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_one_of_the_values(share: float, expected: int) -> None:
    assert percentile(range(100, 0, -1), share) == expected


def test_runs_are_told_as_median_and_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "runs": 3}
    assert latency([[0.001] * 19 + [0.5]])["p95_ms"]["max"] == 1.0


def test_sections_are_merged_and_readers_kept(tmp_path: Path) -> None:
    """A section run alone leaves the others' figures in place."""
    path = tmp_path / "results" / "main.json"
    keep(path, "ingest", {"passages_per_second": 1})
    keep(path, "answers", {"extractive": {"f1": 0.1}})
    keep(path, "answers", {"other": {"f1": 0.2}})
    keep(path, "ingest", {"passages_per_second": 2})

    results = json.loads(path.read_text())

    assert results["answers"] == {"extractive": {"f1": 0.1}, "other": {"f1": 0.2}}
    assert results["ingest"] == {"passages_per_second": 2}
    assert results["machine"]["cores"]


def test_sentences_are_whole_and_of_ordinary_length() -> None:
    text = "Too short. This sentence goes over\ntwo lines. " + "word " * 100 + "."
    assert sentences_of(text) == ["This sentence goes over two lines."]
    assert sentences_of("Ann: good morning to you all\nBob: no", by_line=True) == [
        "Ann: good morning to you all"
    ]


def test_short_documents_differ_and_start_with_real_sentences(tmp_path: Path) -> None:
    """When sentences run out, halves of two are joined; no text comes twice."""
    for name in SETS:
        (tmp_path / name).mkdir()
        texts = [f"The {name} house number {at} stands by the {name} road." for at in range(10)]
        rows = [json.dumps({"id": str(at), "text": text}) for at, text in enumerate(texts)]
        (tmp_path / name / "documents.jsonl").write_text("\n".join(rows))

    made = [document["text"] for document in short_documents(90, tmp_path)]

    assert len(set(made)) == 90
    assert all(text.endswith("road.") for text in made[:50])
    with pytest.raises(ValueError, match="fewer than"):
        short_documents(10_000, tmp_path)


def test_an_abstention_counts_as_a_wrong_answer() -> None:
    question = Question("Where?", "Nile:1", "Nile", ("in Egypt",))
    cited = CitationReply(
        source_id="s", external_id="Nile:1", passage_id="p", quote="in Egypt", span={"start": 0, "end": 8}
    )

    figures = judge([_asked(question, "In Egypt.", [cited], 1.0), _asked(question, None, [], 3.0)])

    assert (figures["exact_match"], figures["f1"], figures["gold_paragraph_cited"]) == (0.5, 0.5, 0.5)
    assert figures["abstained"] == 0.5
    assert figures["seconds_per_answer"] == {"mean": 2.0, "p50": 1.0, "p95": 3.0}


def test_a_paragraph_goes_by_its_article() -> None:
    document = document_of("Upper_Nile:12", "It floods.")
    assert document == {"text": "It floods.", "title": "Upper Nile", "external_id": "Upper_Nile:12"}
    assert article_of(document) == "Upper_Nile"


def _asked(question: Question, answer: str | None, citations: list[CitationReply], seconds: float) -> Asked:
    reply = AnswerReply(
        epoch=0,
        answer=answer,
        abstained=answer is None,
        confidence=0.5,
        claims=[],
        citations=citations,
        reader="extractive",
        timings_ms={"read": 1.0},
        tokens={},
    )
    return Asked(question, reply, seconds)


def test_long_chats_are_threads_of_the_same_friends() -> None:
    """Others in a group come and go; a group is another thread than its two friends alone."""
    texts = {
        "2": "Time: 20260102_10:00\nAda: one\nBo: two",
        "1": "Time: 20260101_10:00\nBo: three\nAda: four",
        "3": "Time: 20260103_10:00\nAda: five\nBo: six\nCy: seven",
        "4": "Time: 20260104_10:00\nAda: eight\nBo: nine\nDi: ten\nEd: eleven",
    }
    assert join(texts) == {"Ada Bo": ["1", "2"], "group Ada Bo": ["3", "4"]}
    assert chats_of(["1/0", "1/1", "2/0", "1/2"]) == ["1", "2"]


def test_an_interval_holds_the_mean_and_narrows() -> None:
    gains = np.array([0.0] * 90 + [1.0] * 10)
    few, many = interval(gains), interval(np.tile(gains, 25))
    assert few["mean"] == many["mean"] == 0.1
    assert 0.0 < float(str(few["low"])) < float(str(many["low"])) < 0.1
    assert 0.1 < float(str(many["high"])) < float(str(few["high"])) < 0.2
    halves = describe(np.array([0.0, 1.0, 0.0, 1.0]))
    assert (halves["odd"], halves["even"]) == (interval(np.ones(2)), interval(np.zeros(2)))
    pooled = pool({"a": np.zeros(3), "b": np.ones(1)})
    assert (pooled["questions"], pooled["better"], pooled["mean"]) == (4, 1, 0.25)
