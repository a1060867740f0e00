"""Entailment by a classifier of pairs: a model of inference between texts, or of consistency (HHEM's form).

The model reads the quote as premise and the claim as hypothesis. One output is the logit of "consistent";
of several, that of the label named for entailment counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from memory.errors import CorruptionError, UnavailableError
from reader.entailment import Pair

LEAST_SUPPORT = 0.5

_MEANS_ENTAILED = ("entail", "consistent", "support", "faithful")
_MEANS_NOT = ("not", "non", "un", "in", "contra")


class PairClassifier:
    """Implements ``reader.entailment.Entailment`` over a transformers sequence classifier."""

    def __init__(self, model: Any, tokenizer: Any, *, least: float = LEAST_SUPPORT) -> None:
        """Raise ``CorruptionError`` when several labels have none that means entailment."""
        self._model = model
        self._tokenizer = tokenizer
        self._least = least
        # RoBERTa's positions count two that no text can use; its tokenizer knows. T5 has no such limit.
        positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._most_tokens = int(min(positions, tokenizer.model_max_length))
        self._entailed = _entailed_label(model.config.id2label)

    @property
    def least(self) -> float:
        return self._least

    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        """Return the probability of entailment of each pair; a short claim is read after its question.

        A quote too long for the model is cut at its end.
        """
        return [self._score(pair) for pair in pairs]

    @torch.inference_mode()
    def _score(self, pair: Pair) -> float:
        claim = pair.claim
        if pair.question and len(claim.split()) < _SENTENCE_WORDS:
            claim = f"{pair.question} {claim}"
        encoded = self._tokenizer(
            pair.quote, claim, truncation="only_first", max_length=self._most_tokens, return_tensors="pt"
        )
        try:
            logits = self._model(**encoded.to(self._model.device)).logits[0].float()
        except (RuntimeError, MemoryError) as error:  # torch says "out of memory" with either
            raise UnavailableError(f"the pair classifier cannot run: {type(error).__name__}") from error
        if len(logits) == 1:
            return float(logits[0].sigmoid())
        return float(logits.softmax(dim=-1)[self._entailed])


_SENTENCE_WORDS = 4
"""Fewer words are an answer's bare words, not a hypothesis."""


def load_pair_classifier(folder: Path, *, least: float = LEAST_SUPPORT) -> PairClassifier:
    """Return the classifier of a Hugging Face folder; no code in it is run.

    Raises ``CorruptionError`` when the files are not such a model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, LookupError) as error:
        raise CorruptionError(f"{folder.name} cannot be loaded as a pair classifier: {error}") from error
    return PairClassifier(model.eval(), tokenizer, least=least)


def _entailed_label(names: dict[int, str]) -> int:
    if len(names) == 1:
        return 0
    for label, name in names.items():
        lowered = name.lower().replace("_", " ").strip()
        if any(word in lowered for word in _MEANS_ENTAILED) and not lowered.startswith(_MEANS_NOT):
            return label
    raise CorruptionError(f"no label of {sorted(names.values())} means that a claim is entailed")
