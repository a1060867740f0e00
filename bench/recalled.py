"""The squad13 questions with the evidence that Lethe itself recalls and packs for a reader.

Through the organs the service uses, in one process: parser, encoder, indexes, ranking, packing, the quota of
passages that one source may have. "Removed" is the same recall with the gold paragraph's passages struck.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from sentence_transformers import SentenceTransformer

from bench.quality import Offline, QualitySet, Query
from bench.squad13 import Question, Squad
from embedding.models import ModelStore
from memory.ports import Encoder, Vectors
from memory.values import Attributes, Content, Evidence, PassageId, SourceId, Space
from retrieval.pack import Candidate, pack
from service.answer import EVIDENCE_CHARACTERS, PASSAGES_OF_A_SOURCE
from service.settings import Settings

PASSAGES = 8
"""What ``/v1/answer`` recalls unless it is told otherwise."""


def encoder_folder() -> str:
    """Return the folder of the encoder that a service uses by default, fetched when it is missing."""
    settings = Settings.model_validate({})
    return str(ModelStore(settings.models_cache).get(settings.embedder))


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


class RecalledSquad:
    """Every paragraph is a document of its own, under its article's title."""

    def __init__(
        self, squad: Squad, questions: Sequence[Question], encoder: Encoder, *, vectors: Path | None = None
    ) -> None:
        """``questions`` are those that will be asked; ``vectors`` keeps their vectors between runs."""
        documents = {
            name: Content(
                "document",
                "text/plain",
                text.encode(),
                Attributes(title=name.rpartition(":")[0].replace("_", " "), external_id=name),
            )
            for name, text in squad.texts.items()
        }
        asked = tuple(Query(question.text, frozenset([question.gold])) for question in questions)
        self._titles = {name: content.attributes.title for name, content in documents.items()}
        self._folder = tempfile.TemporaryDirectory()
        words = Path(self._folder.name) / "words"
        self._offline = Offline(QualitySet("squad13", documents, asked), encoder, words, vectors=vectors)

    def evidence(self, question: Question, *, gold: bool) -> list[Evidence]:
        """Return what a reader is shown, best first; without the gold paragraph when ``gold`` is false."""
        offline = self._offline
        ranked = offline.rank(question.text, 2 * PASSAGES, hierarchy=True)
        seen = [hit for hit in ranked if gold or offline.ids[hit.source] != question.gold][:PASSAGES]
        candidates = []
        texts = {}
        for at, hit in enumerate(seen):
            name = offline.ids[hit.source]
            passage, texts[name] = offline.passage(hit.key)
            candidates.append(Candidate(at, name, passage.start, passage.end, hit.score))
        packed = pack(candidates, texts, characters=EVIDENCE_CHARACTERS, per_source=PASSAGES_OF_A_SOURCE)
        return [
            Evidence(
                PassageId(f"{item.source}@{item.start}"),
                item.text,
                title=self._titles[item.source],
                probability=item.probability,
                source_id=SourceId(item.source),
            )
            for item in packed
        ]

    def close(self) -> None:
        """Delete the indexes."""
        self._offline.words.close()
        self._folder.cleanup()
