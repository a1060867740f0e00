"""The port between reading and writing: what continues a prompt, here or on another server.

A writer knows nothing of evidence or claims, and the reader nothing of tokens and models.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from memory.ports import Shelf
from reader.prompt import Prompt


@dataclass(slots=True)
class Spent:
    """What writing has cost so far, in tokens and milliseconds; ``None`` where a server does not tell."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    read_tokens: int | None = None
    """Of the prompt's tokens those that had to be read: the rest was remembered."""
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class Writer(Protocol):
    """Continues prompts with the likeliest words. Several threads may write at once."""

    @property
    def name(self) -> str: ...

    @property
    def most_prompt_tokens(self) -> int:
        """A prompt of more tokens has its beginning cut off, or is refused."""

    @property
    def reserved(self) -> Sequence[str]:
        """What a chat template would take for its own: no text may bring it in."""

    @property
    def mark(self) -> str | None:
        """The mark of prompts whose beginning it has read already; ``None`` for a new one each time."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Return how many tokens a prompt has, or an estimate rather too high."""

    def place(self) -> AbstractContextManager[None]:
        """Hold what whoever writes needs, for as many texts as it likes, one after another.

        Raises ``BusyError`` when too many wait for one, ``LeftError`` when who asked is no longer there.
        """

    def iter_text(
        self, prompt: Prompt, spent: Spent, shelf: Shelf | None = None
    ) -> Generator[str, None, None]:
        """Yield all the text written so far, each time that there is more, which stands at its end.

        To be called while a ``place`` is held.
        What it makes of whole passages it may keep on the shelf. Closing this ends the work. ``spent`` is
        kept up to date meanwhile. Raises ``UnavailableError`` when the model cannot run or be reached, or
        breaks off.
        """
