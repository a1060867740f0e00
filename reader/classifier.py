"""What entailment by a Hugging Face classifier shares: the model, its tokenizer, one pair at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from memory.errors import CorruptionError, UnavailableError
from reader.entailment import Pair

LEAST_SUPPORT = 0.5


class Classifier(ABC):
    """Implements ``reader.entailment.Entailment`` but for how one pair is scored."""

    kind: str
    """What it is, in errors."""

    def __init__(self, model: Any, tokenizer: Any, *, least: float = LEAST_SUPPORT) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._least = least
        # RoBERTa's positions count two that no text can use; its tokenizer knows. T5 has no such limit.
        positions = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        self._most_tokens = int(min(positions, tokenizer.model_max_length))

    @property
    def least(self) -> float:
        return self._least

    @torch.inference_mode()
    def scores(self, pairs: Sequence[Pair]) -> list[float]:
        """Return how far each quote carries its claim, 0..1. A quote too long for the model has its end cut.

        Raises ``UnavailableError`` when the model cannot run.
        """
        return [self._score(pair) for pair in pairs]

    @abstractmethod
    def _score(self, pair: Pair) -> float: ...

    def _encode(self, first: str, second: str, **options: bool) -> Any:
        return self._tokenizer(
            first,
            second,
            truncation="only_first",
            max_length=self._most_tokens,
            return_tensors="pt",
            **options,
        )

    def _logits(self, encoded: Any) -> torch.Tensor:
        """Return the logits of what was encoded, in float32."""
        try:
            logits: torch.Tensor = self._model(**encoded.to(self._model.device)).logits[0].float()
        except (RuntimeError, MemoryError) as error:  # torch says "out of memory" with either
            raise UnavailableError(f"the {self.kind} cannot run: {type(error).__name__}") from error
        return logits


def load_parts(folder: Path, model_class: Any, kind: str) -> tuple[Any, Any]:
    """Return model and tokenizer of a Hugging Face folder; no code in it is run.

    Raises ``CorruptionError`` when the files are not such a model.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = model_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, LookupError) as error:
        raise CorruptionError(f"{folder.name} cannot be loaded as a {kind}: {error}") from error
    return model.eval(), tokenizer
