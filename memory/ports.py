"""The ports through which the kernel and the organs meet.

Each is small; a second backend is a second small class, run through the same contract tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence, Set
from pathlib import PurePosixPath
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from memory.ledger import Recipe
from memory.telling import Told, unheard
from memory.values import (
    Claim,
    Content,
    EntryId,
    Evidence,
    JsonValue,
    Parsed,
    PassageId,
    Reading,
    Space,
    TenantId,
    TextLine,
    Transcript,
)

Vectors = npt.NDArray[np.float32]
"""Unit rows, shape (rows, dimension)."""

Samples = npt.NDArray[np.int16]
"""One channel of sound, 16,000 samples a second, shape (samples,)."""

Pixels = npt.NDArray[np.uint8]
"""A picture: red, green and blue, shape (height, width, 3)."""

Ready = TypeVar("Ready")
"""What a reader computes with: a payload of the shelf, unpacked."""


class Parser(Protocol):
    """Turns what came in into text with structure. Deterministic; several threads may use it."""

    def parse(self, content: Content, told: Told = unheard) -> Parsed:
        """Raise ``InvalidInputError`` (or a leaf of it) when the content cannot be read.

        What takes long tells how far it is.
        """

    def close(self) -> None:
        """Let go of what is held, processes for one; nothing is parsed afterwards."""


class Encoder(Protocol):
    """Turns texts into unit vectors. The bits of a row do not depend on its batch."""

    @property
    def space(self) -> Space: ...

    def encode(self, texts: Sequence[str], *, role: Literal["passage", "query"]) -> Vectors:
        """Return unit rows of shape (len(texts), space.dimension)."""


class Speech(Protocol):
    """Writes down what is said in a recording. The same samples give the same words.

    ``name`` and ``digest``, of the weights, name what it makes. Several threads may use it.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def transcribe(
        self, samples: Samples, *, language: str | None = None, told: Told = unheard
    ) -> Transcript:
        """Return what is said; the language, an ISO 639 code, is found out where it is not given.

        Raises ``UnavailableError`` when the model cannot be had now.
        """

    def close(self) -> None:
        """Have what is under way end soon, with ``UnavailableError``."""


class ScreenText(Protocol):
    """Reads the text in a picture. The same pixels give the same lines.

    ``name`` and ``digest``, of the weights, name what it makes. Several threads may use it.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def read(self, picture: Pixels) -> tuple[TextLine, ...]:
        """Return the lines of text, from the top to the bottom; ``UnavailableError`` when it is closed."""

    def close(self) -> None:
        """Have what is under way end soon, with ``UnavailableError``."""


class Reader(Protocol):
    """Answers a question from evidence; every supported claim carries verbatim citations."""

    @property
    def name(self) -> str: ...

    def iter_claims(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Generator[Claim, None, Reading]:
        """Yield checked claims one by one as they are ready, and return the reading they make up.

        What is made of whole passages may be taken from the shelf, the tenant's, and put there. ``explain``
        adds how the reading came about, for which a model writes once more.
        """

    def read(
        self,
        question: str,
        evidence: Sequence[Evidence],
        shelf: Shelf | None = None,
        *,
        explain: bool = False,
    ) -> Reading:
        """Return all claims, with confidence, tokens and timings."""


class Engine(Protocol):
    """Another process that holds models: an engine (``docs/engine.md``) or a server that speaks as OpenAI's.

    Both methods raise ``UnavailableError`` when it cannot be reached, is busy, or breaks off.
    """

    def ask(self, route: str, body: bytes | None = None) -> bytes:
        """Return the JSON that it replies."""

    def iter_lines(self, route: str, body: bytes) -> Generator[bytes, None, None]:
        """Yield the lines of a reply as they come; closing the generator ends the request."""


class Shelf(Protocol):
    """Keeps what a reader computed of passages of one tenant, its key/value memories for one.

    All of it is a cache: any of it may be gone at any time, which costs only the time to compute it again.
    A payload is opaque, and must follow from the passage and the recipe alone: the recipe's parameters name
    all else that shapes it (model digest, numeric class, prefix, layout), its version the code. Safe to share
    between threads. Never to be called while the fence is held, which both methods take.
    """

    def find(
        self, recipe: Recipe, passages: Collection[PassageId], unpack: Callable[[bytes], Ready]
    ) -> Mapping[PassageId, Ready]:
        """Return those that are held and may be read now, unpacked. Raise ``UnavailableError`` like any read.

        ``unpack`` makes of a payload what the reader computes with, on the device where it computes, in about
        as many bytes; it raises ``CorruptionError`` for one that it cannot read, which then is deleted. What
        it made may be held and handed out again, to several threads at once: nobody is to change it. What one
        recipe makes is always unpacked alike.
        """

    def keep(self, recipe: Recipe, passage: PassageId, payload: bytes) -> None:
        """Keep what was computed, unless there is no room for it or the passage was forgotten meanwhile."""


class Store(Protocol):
    """Something that holds content or what is derived from it, and can let go of it.

    ``ids`` are entry ids or artifact names. ``erase`` is idempotent and raises when it cannot.
    """

    @property
    def name(self) -> str: ...

    def erase(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Remove everything held under these ids; return how many items went."""

    def holds(self, tenant_id: TenantId, ids: Set[str]) -> int:
        """Return how many items are still held under these ids."""

    def iter_content(self, tenant_id: TenantId) -> Iterator[dict[str, JsonValue]]:
        """Yield the content plane as JSON records, in any order; equal stores yield equal sets."""

    def owns(self, path: PurePosixPath) -> bool:
        """Say whether a file, relative to the data folder, is this store's."""


__all__ = [
    "Encoder",
    "Engine",
    "EntryId",
    "Parser",
    "Pixels",
    "Reader",
    "Recipe",
    "Samples",
    "ScreenText",
    "Shelf",
    "Speech",
    "Store",
    "Vectors",
]
