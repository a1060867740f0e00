"""Fit the reader's constants: how sentences are ranked, and when it abstains.

    .venv/bin/python -m bench.calibrate_abstention --encoder FOLDER [--train 900] [--held-out 450]

Questions of eight squad13 articles train, those of the other five are held out. Each is asked twice,
with the gold paragraph among five and with it taken out. First a logistic over sentences (does it hold
an accepted answer?) gives ``reader.ranking.RANK_WEIGHTS``, then one over the best sentence (was the gold
paragraph there?) gives ``reader.answerability.WEIGHTS``. Prints both, and what they do on held-out questions.
FOLDER holds a sentence-transformers encoder.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer

from bench.squad13 import Question, Squad, contained
from memory.ports import Encoder, Vectors
from memory.values import Space
from reader import answerability, ranking
from reader.ranking import ScoredSentence, rank_sentences

Rows = npt.NDArray[np.float64]

HELD_OUT_ARTICLES = 5
RIDGE = 1.0


class RememberingEncoder:
    """Encodes every text once."""

    def __init__(self, folder: str) -> None:
        self._model = SentenceTransformer(folder, device="cpu")
        self._rows: dict[str, npt.NDArray[np.float32]] = {}
        self.space = Space("bench", "", 384, "cpu")

    def encode(self, texts: Sequence[str], *, role: Literal["passage", "query"]) -> Vectors:
        missing = sorted({text for text in texts if text not in self._rows}, key=len)
        if missing:
            rows = self._model.encode(missing, normalize_embeddings=True, show_progress_bar=False)
            self._rows |= dict(zip(missing, rows, strict=True))
        return np.stack([self._rows[text] for text in texts])


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


def main() -> None:
    """Fit and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--train", type=int, default=900)
    parser.add_argument("--held-out", type=int, default=450)
    options = parser.parse_args()
    torch.set_num_threads(1)
    squad = Squad()
    articles = sorted({question.article for question in squad.questions})
    rng = random.Random(7)
    rng.shuffle(articles)
    held_articles = set(articles[:HELD_OUT_ARTICLES])
    train = [question for question in squad.questions if question.article not in held_articles]
    held = [question for question in squad.questions if question.article in held_articles]
    train, held = rng.sample(train, options.train), rng.sample(held, options.held_out)

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
        bins = np.clip((chance * 10).astype(int), 0, 9)
        inside = [bins == place for place in set(bins)]
        gaps = [abs(marks[some].mean() - chance[some].mean()) * some.mean() for some in inside]
        print(f"  expected calibration error {sum(gaps):.3f}")
        for bound in (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6):
            answered, false = (chance[marks == 1] >= bound).mean(), (chance[marks == 0] >= bound).mean()
            print(
                f"  abstain below {bound}: {answered:.3f} of those present pass, {false:.3f} of those removed"
            )


if __name__ == "__main__":
    main()
