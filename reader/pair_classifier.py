"""Entailment by a classifier of pairs: a model of inference between texts, or of consistency (HHEM's form).

The model reads the quote as premise and the claim as hypothesis. One output is the logit of "consistent";
of several, that of the label named for entailment counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification

from memory.errors import CorruptionError
from reader.classifier import LEAST_SUPPORT, Classifier, load_parts
from reader.entailment import Pair

_MEANS_ENTAILED = ("entail", "consistent", "support", "faithful")
_MEANS_NOT = ("not", "non", "un", "in", "contra")


class PairClassifier(Classifier):
    """Over a transformers sequence classifier: the probability of entailment.

    A short claim is read after its question.
    """

    kind = "pair classifier"

    def __init__(self, model: Any, tokenizer: Any, *, least: float = LEAST_SUPPORT) -> None:
        """Raise ``CorruptionError`` when several labels have none that means entailment."""
        super().__init__(model, tokenizer, least=least)
        self._entailed = _entailed_label(model.config.id2label)

    def _score(self, pair: Pair) -> float:
        claim = pair.claim
        if pair.question and len(claim.split()) < _SENTENCE_WORDS:
            claim = f"{pair.question} {claim}"
        logits = self._logits(self._encode(pair.quote, claim))
        if len(logits) == 1:
            return float(logits[0].sigmoid())
        return float(logits.softmax(dim=-1)[self._entailed])


_SENTENCE_WORDS = 4
"""Fewer words are an answer's bare words, not a hypothesis."""


def load_pair_classifier(folder: Path, *, least: float = LEAST_SUPPORT) -> PairClassifier:
    """Return the classifier of a Hugging Face folder; raises as ``load_parts`` does."""
    return PairClassifier(
        *load_parts(folder, AutoModelForSequenceClassification, "pair classifier"), least=least
    )


def _entailed_label(names: dict[int, str]) -> int:
    if len(names) == 1:
        return 0
    for label, name in names.items():
        lowered = name.lower().replace("_", " ").strip()
        if any(word in lowered for word in _MEANS_ENTAILED) and not lowered.startswith(_MEANS_NOT):
            return label
    raise CorruptionError(f"no label of {sorted(names.values())} means that a claim is entailed")
