"""Tell a text that speaks to whoever reads it, to steer the answer, from one that says something.

What was retrieved gives no orders: such a sentence is evidence of nothing, whatever it goes on to say.
What stands within quotation marks is spoken about, not spoken, and may be quoted in an answer. Forged fences
and chat tokens are no matter here: ``reader.prompt`` takes their meaning from them, and they are plain text.
"""

from __future__ import annotations

import re

from memory.sentences import sentence_spans

_WHAT_WAS_SAID = (
    r"(?:(?:the|your|all|any|these|those|my|of|other|previous|prior|above|preceding|earlier|foregoing|existing"
    r"|original|system|safety|initial|given|following|retrieved)\s+){1,5}"
    r"(?:instructions?|prompts?|rules?|directions?|directives?|guidelines?|passages?|sources?|documents?"
    r"|context|evidence|messages?)"
)
_FORGET = (
    r"\b(?:ignore|disregard|forget|override|bypass|(?:do not|don['’]t) (?:follow|obey|trust|believe|rely on))"
)
_ALL_SAID = (
    rf"(?:{_WHAT_WAS_SAID}|(?:everything|anything|all)\s+(?:that is\s+)?"
    r"(?:above|before|else|you (?:were|have been|are) told|said so far))\b"
)
_TO_A_READER = r"(?=[^.!?]{0,60}\b(?:your|previous|prior|above|preceding|foregoing|system|other)\b)"
_OPENING = (
    r"(?:^\W*(?:(?:and|but|so|then|now|just|also|first|next|simply)\b\W{0,8})?"
    r"|[.!?:;)\]>*#|–—]\s*|\s-{1,3}\s*|\n\W{0,8}|\b(?:please|kindly)\s+)"
)
_ANSWER = r"\b(?:answer|respond|reply|output)\b"
_ALWAYS = r"\b(?:you must|you should|always|(?<!the )only)\s+"
_WHEN_ASKED = r"\b(?:when|if)\s+(?:you are\s+)?asked\b[^.!?]{0,80}"
_THE_ANSWER = (
    r"\s*(?:only\s+)?(?:with\s+)?(?:(?:only|just|exactly)\s+)?"
    r"(?:[\"“«:\d]|(?-i:[A-Z])|that\b(?!\s+(?:your?|we|our|they|their|he|she)\b))"
)
"""What is to be said: a quotation, a number, a name, or a clause that is not about who is asked."""

_ORDER = re.compile(
    # "told to disregard the evidence" is said of somebody: an order opens its clause or says "you"
    rf"{_OPENING}{_FORGET}\s+{_ALL_SAID}"
    rf"|\byou\b[^.!?]{{0,60}}{_FORGET}\s+{_ALL_SAID}"
    rf"|{_FORGET}\s+(?:all\s+|of\s+|any\s+)*(?=your\b){_WHAT_WAS_SAID}\b"
    rf"|(?:,|\b(?:and|then))\s+{_FORGET}\s+{_TO_A_READER}{_ALL_SAID}"
    r"|\b(?:new|updated|revised)\s+(?:system\s+)?instructions?\s*:"
    r"|\byou are now an?\b|\bfrom now on,? you (?:are|must|will|answer|respond)\b"
    r"|\b(?:reveal|print|repeat|show|output)\s+(?:me\s+)?(?:the|your)\s+(?:system|hidden|initial)\s+"
    r"(?:prompt|message|instructions?)\b"
    r"|\bas an? (?:ai|language model|ai assistant),? (?:you|please)\b"
    rf"|(?:{_ALWAYS}|{_WHEN_ASKED}){_ANSWER}{_THE_ANSWER}"
    rf"|{_OPENING}{_ANSWER}(?=\s+(?:only\s+)?(?:with|that)\b){_THE_ANSWER}",
    re.IGNORECASE,
)
_ORDER_OF_THE_TASK = re.compile(
    rf"{_ALWAYS}{_ANSWER}[^.!?]{{0,40}}?(?:[\"“:]|\bwith\b|\bthat\b|\bonly\b)"
    rf"|{_WHEN_ASKED}{_ANSWER}"
    rf"|{_OPENING}{_ANSWER}\s+(?:only\s+)?(?:with|that)\b",
    re.IGNORECASE,
)
"""People tell each other how to answer, too: an order only in a sentence that names the reader's own task."""

_TASK = re.compile(r"\b(?:questions?|users?|passages?|instructions?|prompts?)\b", re.IGNORECASE)
_SPOKEN_ABOUT = re.compile(r"\"[^\"\n]{0,300}\"|“[^”\n]{0,300}”|«[^»\n]{0,300}»")


def gives_orders(text: str) -> bool:
    """Say whether ``text`` tells its reader how to answer."""
    own = _SPOKEN_ABOUT.sub(lambda match: '"' + " " * (len(match.group()) - 2) + '"', text)
    if _ORDER.search(own) is not None:
        return True
    sentences = [own[start:end] for start, end in sentence_spans(own)]
    return any(_TASK.search(each) and _ORDER_OF_THE_TASK.search(each) for each in sentences)
