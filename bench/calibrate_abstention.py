"""Fit the reader's constants: how sentences are ranked, when it abstains, how sure it is.

    .venv/bin/python -m bench.calibrate_abstention [--train 900] [--held-out 450]
    .venv/bin/python -m bench.calibrate_abstention --confidence --write [--model FOLDER_OR_GGUF]

Questions of eight squad13 articles train, those of the other five are held out. Each is asked twice,
with the gold paragraph among five and with it taken out. First a logistic over sentences (does it hold
an accepted answer?) gives ``reader.ranking.RANK_WEIGHTS``, then one over the best sentence (was the gold
paragraph there?) gives ``reader.answerability.WEIGHTS``. Prints both, and what they do on held-out questions.
``--encoder FOLDER`` takes another sentence-transformers encoder than a service's default.

``--confidence`` asks the same questions of the evidence that Lethe recalls, with Lethe's own encoder, and
fits ``reader.calibration``: a logistic over what is known before answering (was the paragraph there?) and
one over all signals (was the answer right?), then an isotonic regression of either's score. ``--write``
writes that file anew. Quoted answers are fitted by default; a language model's with ``--model``, on fewer
questions, and then the rest of the file stays. ``--rows FILE`` keeps what each question gave as it comes, so
that a run which was ended goes on where it stood; the file is of one reader, and of no use after it changes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bench.read_squad13 import open_reader
from bench.recalled import RecalledSquad, RememberingEncoder, encoder_folder
from bench.squad13 import Question, Squad, contained
from memory.ports import Encoder, Reader
from memory.values import Evidence, Reading
from reader import answerability, calibration, ranking
from reader.confidence import ABSTAIN_BELOW, interpolate, signals_of
from reader.extractive import ExtractiveReader
from reader.ranking import ScoredSentence, rank_sentences

Rows = npt.NDArray[np.float64]

HELD_OUT_ARTICLES = 5
LEAST_IN_BLOCK = 80
RIDGE = 1.0


def fit_logistic(rows: Rows, labels: Rows) -> Rows:
    """Return the likeliest weights under a ridge, which spares the constant (Newton's method)."""
    weights = np.zeros(rows.shape[1])
    penalty = np.full(rows.shape[1], RIDGE)
    penalty[0] = 1e-6
    for _ in range(30):
        chance = 1 / (1 + np.exp(-rows @ weights))
        gradient = rows.T @ (labels - chance) - penalty * weights
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows + np.diag(penalty)
        weights = weights + np.linalg.solve(curvature, gradient)
    return weights


def area(scores: Rows, labels: Rows) -> float:
    """Area under the ROC curve."""
    order = scores.argsort()
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    positive = labels.sum()
    above = ranks[labels == 1].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(labels) - positive)))


def ranked_all(
    squad: Squad, questions: Sequence[Question], encoder: Encoder | None, *, gold: bool
) -> list[list[ScoredSentence]]:
    """Rank the evidence of every question."""
    return [rank_sentences(q.text, squad.evidence(q, gold=gold), encoder) for q in questions]


def holds_answer(squad: Squad, question: Question, candidate: ScoredSentence) -> bool:
    """Say whether a sentence is of the gold paragraph and has an accepted answer in it."""
    quote = candidate.sentence.quote
    return quote in squad.texts[question.gold] and bool(contained(quote, question.answers))


def fit_isotonic(scores: Rows, labels: Rows, *, least: int = LEAST_IN_BLOCK) -> list[tuple[float, float]]:
    """Return the knots of the best nondecreasing fit (pool adjacent violators, Ayer et al. 1955).

    Blocks of ``least`` rows are pooled, so that no knot rests on fewer; a half success and a half failure
    are added to each, so that none is quite sure.
    """
    order = scores.argsort(kind="stable")
    count = max(1, len(order) // least)
    blocks: list[list[float]] = []  # summed scores, summed labels, rows
    for some in np.array_split(order, count):
        blocks.append([float(scores[some].sum()), float(labels[some].sum()), float(len(some))])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
            last = blocks.pop()
            blocks[-1] = [mine + other for mine, other in zip(blocks[-1], last, strict=True)]
    return [(round(score / rows, 3), round((right + 0.5) / (rows + 1), 4)) for score, right, rows in blocks]


def calibration_error(chance: Rows, labels: Rows) -> float:
    """Expected calibration error over ten bins of equal width."""
    bins = np.clip((chance * 10).astype(int), 0, 9)
    inside = [bins == place for place in set(bins.tolist())]
    return float(sum(abs(labels[some].mean() - chance[some].mean()) * some.mean() for some in inside))


def split_by_article(squad: Squad, train: int, held_out: int) -> tuple[list[Question], list[Question]]:
    """Return questions to fit on, and questions of other articles to check on."""
    articles = sorted({question.article for question in squad.questions})
    rng = random.Random(7)
    rng.shuffle(articles)
    held_articles = set(articles[:HELD_OUT_ARTICLES])
    fitted = [question for question in squad.questions if question.article not in held_articles]
    held = [question for question in squad.questions if question.article in held_articles]
    return rng.sample(fitted, train), rng.sample(held, held_out)


def is_right(question: Question, reading: Reading, evidence: Sequence[Evidence]) -> bool:
    """Say whether what was answered holds an accepted answer and cites the gold paragraph."""
    said = " ".join(claim.text for claim in reading.claims if claim.supported)
    cited = {evidence[citation.index].source_id for claim in reading.claims for citation in claim.citations}
    return question.gold in cited and bool(contained(said, question.answers))


class Row(NamedTuple):
    """What one question gave: its signals, whether the answer was right, and whether it could be."""

    features: Sequence[float]
    right: float
    there: float


@dataclass(frozen=True, slots=True)
class Told:
    """Signals of answers, row by row, and what was so."""

    rows: Rows
    right: Rows
    there: Rows


def tell(
    reader: Reader,
    encoder: Encoder,
    recalled: RecalledSquad,
    questions: Sequence[Question],
    rows: Path | None = None,
) -> Told:
    """Ask every question twice; the reader is to answer whatever it thinks of the evidence.

    What stands in the file ``rows`` is not asked again, and what is asked is added to it.
    """
    told: dict[tuple[str, bool], Row] = {}
    if rows is not None and rows.exists():
        for line in rows.read_text(encoding="utf-8").splitlines():
            text, gold, *row = json.loads(line)
            told[text, gold] = Row(*row)
    for question in questions:
        for gold in (True, False):
            if (question.text, gold) in told:
                continue
            row = told[question.text, gold] = _ask(
                reader, encoder, recalled.evidence(question, gold=gold), question
            )
            if rows is not None:
                with rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([question.text, gold, *row]) + "\n")
    mine = [told[question.text, gold] for question in questions for gold in (True, False)]
    return Told(
        np.array([row.features for row in mine]),
        np.array([row.right for row in mine]),
        np.array([row.there for row in mine]),
    )


def _ask(reader: Reader, encoder: Encoder, evidence: Sequence[Evidence], question: Question) -> Row:
    ranked = rank_sentences(question.text, evidence, encoder)
    reading = reader.read(question.text, evidence)
    return Row(
        signals_of(reading.claims, ranked, evidence).features,
        float(is_right(question, reading, evidence)),
        float(any(piece.source_id == question.gold for piece in evidence)),
    )


def fit_table(
    rows: Rows, labels: Rows, least: int
) -> tuple[tuple[float, ...], tuple[tuple[float, float], ...]]:
    """Return weights and the knots of the score that they make."""
    weights = tuple(round(float(weight), 3) for weight in fit_logistic(rows, labels))
    return weights, tuple(fit_isotonic(rows @ np.array(weights), labels, least=least))


def fit_confidence(options: argparse.Namespace) -> None:
    """Fit and report ``reader.calibration``."""
    squad = Squad()
    train, held = split_by_article(squad, options.train, options.held_out)
    encoder = RememberingEncoder(options.encoder)
    reader: Reader = ExtractiveReader(encoder, abstain_below=0.0)
    written, least = options.model is not None, LEAST_IN_BLOCK
    if written:
        least = LEAST_IN_BLOCK // 4
        reader = open_reader(
            argparse.Namespace(
                reader=options.model, encoder=options.encoder, converted=options.converted, abstain_below=0.0
            )
        )
    recalled = RecalledSquad(squad, [*train, *held], encoder, vectors=options.vectors)
    fitted, checked = (
        tell(reader, encoder, recalled, questions, options.rows) for questions in (train, held)
    )
    recalled.close()
    known = slice(0, len(calibration.ANSWERABLE_WEIGHTS))
    if not written:
        weights, knots = fit_table(fitted.rows[:, known], fitted.there, least)
        calibration.ANSWERABLE_WEIGHTS, calibration.ANSWERABLE_KNOTS = weights, knots
    weights, knots = fit_table(fitted.rows, fitted.right, least)
    calibration.WEIGHTS[written], calibration.KNOTS[written] = weights, knots
    there = tabled(checked.rows[:, known], calibration.ANSWERABLE_WEIGHTS, calibration.ANSWERABLE_KNOTS)
    right = tabled(checked.rows, weights, knots)
    alone = 1 / (1 + np.exp(-checked.rows[:, 1]))
    report("the evidence holds the answer", there, alone, checked.there)
    report("the answer is right", right, alone, checked.right)
    answered = there >= ABSTAIN_BELOW
    report("the answer is right, of those given", right[answered], alone[answered], checked.right[answered])
    for bound in (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7):
        passing = [float((there[checked.there == mark] >= bound).mean()) for mark in (1, 0)]
        print(f"  abstain below {bound}: {passing[0]:.3f} of those present pass, {passing[1]:.3f} of others")
    if options.write:
        write_calibration(Path(calibration.__file__))


def tabled(rows: Rows, weights: Sequence[float], knots: Sequence[tuple[float, float]]) -> Rows:
    """Return the probability that the table has for every row."""
    return np.array([interpolate(knots, float(score)) for score in rows @ np.array(weights)])


def report(what: str, chance: Rows, alone: Rows, marks: Rows) -> None:
    """Print how well held-out answers are told apart and how honest the numbers are, beside answerability."""
    print(
        f"held out, {what} ({marks.mean():.3f} of {len(marks)}): area under ROC {area(chance, marks):.3f}, "
        f"expected calibration error {calibration_error(chance, marks):.3f}; answerability alone "
        f"{area(alone, marks):.3f}, {calibration_error(alone, marks):.3f}"
    )


def write_calibration(path: Path) -> None:
    """Write ``reader/calibration.py`` with what was fitted, as ruff formats it."""
    text = f'"""{calibration.__doc__}"""\n' + CALIBRATION.format(
        answerable_weights=calibration.ANSWERABLE_WEIGHTS,
        answerable_knots=_lines(calibration.ANSWERABLE_KNOTS, 1),
        weights="".join(f"    {kind}: {own},\n" for kind, own in sorted(calibration.WEIGHTS.items())),
        knots="".join(
            f"    {kind}: (\n{_lines(own, 2)}    ),\n" for kind, own in sorted(calibration.KNOTS.items())
        ),
    )
    path.write_text(text, encoding="utf-8")


def _lines(knots: Sequence[tuple[float, float]], depth: int) -> str:
    return "".join(f"{'    ' * depth}{knot},\n" for knot in knots)


CALIBRATION = '''
ANSWERABLE_WEIGHTS: tuple[float, ...] = {answerable_weights}
"""Weights of the first of ``reader.confidence.Signals.features``: does the evidence hold the answer?"""

ANSWERABLE_KNOTS: tuple[tuple[float, float], ...] = (
{answerable_knots})
"""Score → how often the evidence held the answer, ascending in both."""

WEIGHTS: dict[bool, tuple[float, ...]] = {{
{weights}}}
"""Weights of all signals: is the answer right? False: quoted, True: a model's words, if fitted."""

KNOTS: dict[bool, tuple[tuple[float, float], ...]] = {{
{knots}}}
"""Score → how often an answer of that score was right, ascending in both."""
'''


def fit_ranking(options: argparse.Namespace) -> None:
    """Fit and report ``reader.ranking.RANK_WEIGHTS`` and ``reader.answerability.WEIGHTS``."""
    squad = Squad()
    train, held = split_by_article(squad, options.train, options.held_out)
    encoders: tuple[Encoder | None, ...] = (None, RememberingEncoder(options.encoder))
    for encoder in encoders:
        key = encoder is not None
        present = ranked_all(squad, train, encoder, gold=True)
        rows = np.array([candidate.features for ranked in present for candidate in ranked])
        labels = np.array(
            [
                float(holds_answer(squad, question, candidate))
                for question, ranked in zip(train, present, strict=True)
                for candidate in ranked
            ]
        )
        ranking.RANK_WEIGHTS[key] = tuple(round(float(weight), 2) for weight in fit_logistic(rows, labels))
        print(f"RANK_WEIGHTS[{key}] = {ranking.RANK_WEIGHTS[key]}")

        def both(
            questions: Sequence[Question], encoder: Encoder | None = encoder
        ) -> tuple[Rows, Rows, float]:
            there = ranked_all(squad, questions, encoder, gold=True)
            gone = ranked_all(squad, questions, encoder, gold=False)
            features = [ranked[0].features for ranked in (*there, *gone) if ranked]
            marks = [1.0 for ranked in there if ranked] + [0.0 for ranked in gone if ranked]
            pairs = zip(questions, there, strict=True)
            hit = np.mean([bool(r) and holds_answer(squad, q, r[0]) for q, r in pairs])
            return np.array(features), np.array(marks), float(hit)

        features, marks, hit = both(train)
        answerability.WEIGHTS[key] = tuple(round(float(w), 2) for w in fit_logistic(features, marks))
        print(f"WEIGHTS[{key}] = {answerability.WEIGHTS[key]}  train: best sentence right {hit:.3f}")
        features, marks, hit = both(held)
        chance = 1 / (1 + np.exp(-features @ np.array(answerability.WEIGHTS[key])))
        print(f"held out: best sentence right {hit:.3f}, area under ROC {area(chance, marks):.3f}")
        print(f"  expected calibration error {calibration_error(chance, marks):.3f}")
        for bound in (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6):
            answered, false = (chance[marks == 1] >= bound).mean(), (chance[marks == 0] >= bound).mean()
            print(
                f"  abstain below {bound}: {answered:.3f} of those present pass, {false:.3f} of those removed"
            )


def main() -> None:
    """Fit and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder")
    parser.add_argument("--train", type=int, default=900)
    parser.add_argument("--held-out", type=int, default=450)
    parser.add_argument("--confidence", action="store_true")
    parser.add_argument("--write", action="store_true", help="write reader/calibration.py")
    parser.add_argument("--vectors", type=Path, help="folder to keep vectors in between runs")
    parser.add_argument("--rows", type=Path, help="file that keeps what each question gave between runs")
    parser.add_argument("--model", help="fit the answers that this language model writes")
    parser.add_argument("--converted", default="build/converted")
    options = parser.parse_args()
    options.encoder = options.encoder or encoder_folder()
    torch.set_num_threads(1)
    if options.confidence:
        fit_confidence(options)
    else:
        fit_ranking(options)


if __name__ == "__main__":
    main()
