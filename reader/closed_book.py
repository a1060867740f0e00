"""Ask the model without any evidence: did it know, or does the answer come from what is remembered?

What a model knows by heart makes its answers from evidence look better than they are (the idea of NanoKnow's
split into known and unknown). The probe explains an answer; it never changes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory.values import ClosedBook, Evidence, PassageId
from reader.check import Parts, check_claim
from reader.drafts import is_refusal
from reader.prompt import Message, Prompt, draw_mark, neutralise
from reader.words import content_stems

_INSTRUCTIONS = "You answer from memory, in a few words. When you do not know, say: I do not know."
_EXAMPLES = (
    ("What is the capital of France?", "Paris"),
    ("When is my next appointment?", "I do not know."),
)


def ask_closed_book(
    question: str, answer: str, write: Callable[[Prompt], str], reserved: Sequence[str] = ()
) -> ClosedBook:
    """Return what ``write`` makes of the question alone, beside the ``answer`` found in the evidence.

    ``reserved`` are the chat template's tokens. ``knew`` is false when either is empty or a refusal.
    """
    said = write(closed_prompt(question, reserved)).strip()
    return ClosedBook(said, bool(said) and not is_refusal(said) and says_the_same(said, answer, question))


def closed_prompt(question: str, reserved: Sequence[str] = ()) -> Prompt:
    """Return the question as a prompt without passages."""
    messages = [Message("system", _INSTRUCTIONS)]
    for example, answered in _EXAMPLES:
        messages += [Message("user", example), Message("assistant", answered)]
    asked = neutralise(question, reserved).strip()
    return Prompt((*messages, Message("user", asked)), draw_mark(), ask=asked)


def says_the_same(one: str, other: str, question: str) -> bool:
    """Say whether two answers agree: the longer carries the shorter, which adds something to the question."""
    shorter, longer = sorted((one, other), key=lambda text: (len(text), text))
    told = Parts(shorter)
    if not (told.stems - content_stems(question) or told.quantities or told.dates):
        return False
    return check_claim(shorter, "", [Evidence(PassageId("answer"), longer)]).supported
