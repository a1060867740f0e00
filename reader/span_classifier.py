"""Entailment by a token classifier that flags what an answer says without support (LettuceDetect's form).

The model reads question and quote as the first text and the claim as the second, and gives every token of
the claim a probability of being unsupported (Kovács and Recski 2025). A claim is as good as its worst token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from memory.errors import CorruptionError, UnavailableError
from reader.entailment import Pair

LEAST_SUPPORT = 0.5

CONTEXT = "Question: {question}\nPassage: {quote}\nAnswer:"
"""What the first text is; a model does best with the words that it was trained on."""


class SpanClassifier:
    """Implements ``reader.entailment.Entailment`` over a transformers token classifier and its tokenizer."""

    def __init__(
        self, model: Any, tokenizer: Any, *, least: float = LEAST_SUPPORT, context: str = CONTEXT
    ) -> None:
        """``context`` has the fields ``{question}`` and ``{quote}``."""
        self._model = model
        self._tokenizer = tokenizer
        self._least = least
        self._context = context
        # RoBERTa's positions count two that no text can use; its tokenizer knows. T5 has no such limit.
        positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._most_tokens = int(min(positions, tokenizer.model_max_length))
        self._flagged = _flagged_labels(model.config.id2label)

    @property
    def least(self) -> float:
        return self._least

    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        """Return one minus the probability that the claim's worst token is unsupported, for each pair.

        A quote too long for the model is cut at its end.
        """
        return [self._score(pair) for pair in pairs]

    @torch.inference_mode()
    def _score(self, pair: Pair) -> float:
        context = self._context.format(question=pair.question, quote=pair.quote)
        encoded = self._tokenizer(
            context,
            pair.claim,
            truncation="only_first",
            max_length=self._most_tokens,
            return_offsets_mapping=True,
            return_tensors="pt",
        )
        offsets = encoded.pop("offset_mapping")[0].tolist()
        of_claim = [
            at
            for at, (text, (start, end)) in enumerate(zip(encoded.sequence_ids(0), offsets, strict=True))
            if text == 1 and any(char.isalnum() for char in pair.claim[start:end])
        ]
        try:
            logits = self._model(**encoded.to(self._model.device)).logits[0]
        except (RuntimeError, MemoryError) as error:  # torch says "out of memory" with either
            raise UnavailableError(f"the span classifier cannot run: {type(error).__name__}") from error
        flagged = logits.float().softmax(dim=-1)[of_claim][:, self._flagged].sum(dim=-1)
        return 1.0 - float(flagged.max()) if of_claim else 0.0


def load_span_classifier(folder: Path, *, least: float = LEAST_SUPPORT) -> SpanClassifier:
    """Return the classifier of a Hugging Face folder; no code in it is run.

    Raises ``CorruptionError`` when the files are not such a model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, LookupError) as error:
        raise CorruptionError(f"{folder.name} cannot be loaded as a token classifier: {error}") from error
    return SpanClassifier(model.eval(), tokenizer, least=least)


def _flagged_labels(names: dict[int, str]) -> list[int]:
    """Return the labels that mean "unsupported": by name, else all but the first."""
    told = [label for label, name in names.items() if "halluc" in name.lower() or "unsupport" in name.lower()]
    return told or [label for label in names if label != 0]
