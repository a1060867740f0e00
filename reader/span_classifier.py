"""Entailment by a token classifier that flags what an answer says without support (LettuceDetect's form).

The model reads question and quote as the first text and the claim as the second, and gives every token of
the claim a probability of being unsupported (Kovács and Recski 2025). A claim is as good as its worst token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForTokenClassification

from reader.classifier import LEAST_SUPPORT, Classifier, load_parts
from reader.entailment import Pair

CONTEXT = "Question: {question}\nPassage: {quote}\nAnswer:"
"""What the first text is; a model does best with the words that it was trained on."""


class SpanClassifier(Classifier):
    """Over a transformers token classifier: one minus the probability that the worst token is unsupported."""

    kind = "span classifier"

    def __init__(
        self, model: Any, tokenizer: Any, *, least: float = LEAST_SUPPORT, context: str = CONTEXT
    ) -> None:
        """``context`` has the fields ``{question}`` and ``{quote}``."""
        super().__init__(model, tokenizer, least=least)
        self._context = context
        self._flagged = _flagged_labels(model.config.id2label)

    def _score(self, pair: Pair) -> float:
        context = self._context.format(question=pair.question, quote=pair.quote)
        encoded = self._encode(context, pair.claim, return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        of_claim = [
            at
            for at, (text, (start, end)) in enumerate(zip(encoded.sequence_ids(0), offsets, strict=True))
            if text == 1 and any(char.isalnum() for char in pair.claim[start:end])
        ]
        flagged = self._logits(encoded).softmax(dim=-1)[of_claim][:, self._flagged].sum(dim=-1)
        return 1.0 - float(flagged.max()) if of_claim else 0.0


def load_span_classifier(folder: Path, *, least: float = LEAST_SUPPORT) -> SpanClassifier:
    """Return the classifier of a Hugging Face folder; raises as ``load_parts`` does."""
    return SpanClassifier(
        *load_parts(folder, AutoModelForTokenClassification, "token classifier"), least=least
    )


def _flagged_labels(names: dict[int, str]) -> list[int]:
    """Return the labels that mean "unsupported": by name, else all but the first."""
    told = [label for label, name in names.items() if "halluc" in name.lower() or "unsupport" in name.lower()]
    return told or [label for label in names if label != 0]
