"""Tell a text that speaks to whoever reads it, to steer the answer, from one that says something.

What was retrieved gives no orders: such a sentence is evidence of nothing, whatever it goes on to say.
What stands within quotation marks is spoken about, not spoken, and may be quoted in an answer. Forged fences
and chat tokens are no matter here: ``reader.prompt`` takes their meaning from them, and they are plain text.
"""

from __future__ import annotations

import re

_WHAT_WAS_SAID = (
    r"(?:(?:the|your|all|any|these|those|my|of|other|previous|prior|above|preceding|earlier|foregoing|existing"
    r"|original|system|safety|initial|given|following|retrieved)\s+){1,5}"
    r"(?:instructions?|prompts?|rules?|directions?|directives?|guidelines?|passages?|sources?|documents?"
    r"|context|evidence|messages?)"
)
_ORDER = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass|(?:do not|don['’]t) (?:follow|obey|trust|believe|rely on))"
    rf"\s+{_WHAT_WAS_SAID}\b"
    r"|\b(?:ignore|disregard|forget)\s+(?:everything|anything|all)\s+(?:that is\s+)?"
    r"(?:above|before|else|you (?:were|have been|are) told|said so far)\b"
    r"|\b(?:new|updated|revised)\s+(?:system\s+)?instructions?\s*:"
    r"|\byou are now (?:an?|the|in)\b|\bfrom now on,? you (?:are|must|will|answer|respond)\b"
    r"|\b(?:reveal|print|repeat|show|output)\s+(?:me\s+)?(?:the|your)\s+(?:system|hidden|initial)\s+"
    r"(?:prompt|message|instructions?)\b"
    r"|\bas an? (?:ai|language model|ai assistant),? (?:you|please)\b"
    r"|\b(?:you must|you should|always|only)\s+(?:answer|respond|reply|output)\b[^.!?]{0,40}?"
    r"(?:[\"“:]|\bwith\b|\bthat\b|\bonly\b)"
    r"|\b(?:when|if)\s+(?:you are\s+)?asked\b[^.!?]{0,80}\b(?:answer|respond|reply|output)\b"
    r"|(?:^|[.!?:;]\s+)(?:answer|respond|reply|output)\s+(?:only\s+)?(?:with|that)\b",
    re.IGNORECASE,
)
_SPOKEN_ABOUT = re.compile(r"\"[^\"\n]{0,300}\"|“[^”\n]{0,300}”|«[^»\n]{0,300}»")


def gives_orders(text: str) -> bool:
    """Say whether ``text`` tells its reader how to answer."""
    own = _SPOKEN_ABOUT.sub(lambda match: '"' + " " * (len(match.group()) - 2) + '"', text)
    return _ORDER.search(own) is not None
