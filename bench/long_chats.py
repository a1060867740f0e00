"""Long chats: LiHua's conversations joined thread by thread, a year of messages each.

A thread is what a messenger would keep: all that passed between the same friends. The documents that a
search is judged by stay the conversations of a single day, as the questions name them; each message's id
says which one it is of. Nothing here searches.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.quality import DATA, QualitySet, Query, as_messages
from memory.values import MESSAGES_MEDIA_TYPE, Attributes, Content, JsonValue

NAME = "long chats"
_SPEAKER = re.compile(r"^([A-Z][\w-]{1,40}):", re.MULTILINE)


def load_long_chats(data: Path = DATA) -> QualitySet:
    """Read LiHua as threads; raise ``FileNotFoundError`` where the data is absent."""
    folder = data / "lihua"
    lines = (folder / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {chat["id"]: chat["text"] for chat in map(json.loads, lines)}
    asked = map(json.loads, (folder / "queries.jsonl").open(encoding="utf-8"))
    queries = tuple(Query(query["query"], frozenset(query["relevant"])) for query in asked)
    documents = {name: _as_content(name, texts, ids) for name, ids in join(texts).items()}
    return QualitySet(NAME, documents, queries)


def join(texts: dict[str, str]) -> dict[str, list[str]]:
    """Return thread → its chats' ids, oldest first.

    Friends are those who are in some chat of two. A thread is named by the friends in it, so that groups
    whose other members come and go stay one thread.
    """
    speakers = {chat_id: frozenset(_SPEAKER.findall(text)) - {"Time"} for chat_id, text in texts.items()}
    friends = frozenset[str]().union(*(names for names in speakers.values() if len(names) <= 2))
    threads: dict[str, list[str]] = defaultdict(list)
    for chat_id in sorted(texts):
        names = speakers[chat_id]
        group = "group " if len(names) > 2 else ""
        threads[group + " ".join(sorted(names & friends))].append(chat_id)
    return dict(threads)


def chats_of(messages: Iterable[str]) -> list[str]:
    """Return the chats that messages are of, by their ids, in order and without repeats."""
    return list(dict.fromkeys(message.partition("/")[0] for message in messages))


def _as_content(name: str, texts: dict[str, str], chat_ids: Sequence[str]) -> Content:
    messages: list[JsonValue] = []
    for chat_id in chat_ids:
        for at, message in enumerate(as_messages(texts[chat_id])):
            assert isinstance(message, dict)
            messages.append({**message, "id": f"{chat_id}/{at}"})
    body = json.dumps(messages, ensure_ascii=False).encode()
    return Content("memory", MESSAGES_MEDIA_TYPE, body, Attributes(external_id=name))
