"""What was told to each kept data folder, over HTTP alone, so that any release can tell it.

It ends hard: a batch that nobody has worked on and a forget that is fenced but not certified are left behind.
"""

from __future__ import annotations

import time
from typing import Any

from tests.served import PATIENCE, Served
from unlearning.certificate import verify_certificate

DOCUMENTS = {
    "ferry": "The ferry leaves pier four at noon. In winter it leaves an hour earlier.",
    "tower": "# The tower\n\n## Stones\n\nThe tower was built of grey stone.\n\n## Garden\n\nA garden lies behind it.",
}
EARLIER, LATER = "The harbour opens at six.", "The harbour opens at seven."
CHAT = [
    {"id": "m1", "role": "user", "content": "Where is the letter of the winter?", "name": "bob"},
    {"id": "m2", "role": "assistant", "content": "The letter lies under the glass."},
]
GONE, GOING = "zquorvex", "yplimdar"
"""Words of what was forgotten, and of what was being forgotten."""
UNTOUCHED = {f"late-{at}": f"Music number {at} is played in the garden." for at in range(40)}


def tell(served: Served) -> None:
    """Tell the story, and end the process in the midst of its work."""
    for name, text in DOCUMENTS.items():
        served.ask("/v1/documents", {"text": text, "external_id": name, "metadata": {"kind": name}}, wait=60)
    first = served.ask("/v1/documents", {"text": EARLIER, "external_id": "harbour"}, wait=60)
    served.ask(f"/v1/documents/{first['id']}", {"text": LATER}, method="PUT", wait=60)
    served.ask("/v1/memories", {"messages": CHAT, "user_id": "bob", "external_id": "chat"}, wait=60)
    for name, word in (("alice", GONE), ("carol", GOING)):
        text = f"{name} carries {word} lanterns to the tower."
        body = {"text": text, "external_id": name, "subjects": [f"person:{name}"]}
        served.ask("/v1/documents", body, wait=60)
    request = {"scope": {"subjects": ["person:alice"]}, "mode": "execute"}
    assert served.ask("/v1/forget", request, wait=60)["state"] == "certified"
    bodies = [{"text": text, "external_id": name} for name, text in UNTOUCHED.items()]
    served.ask("/v1/documents/batch", bodies)
    served.ask("/v1/forget", {"scope": {"subjects": ["person:carol"]}, "mode": "execute"})
    served.kill()


def check(served: Served, forgets: list[str]) -> None:
    """Assert that everything told is there as it was told, and that what was forgotten is gone or goes."""
    late = time.monotonic() + PATIENCE
    ask = served.ask
    assert not find(served, f"{GONE} {GOING} lanterns", words=(GONE, GOING)), "fenced from the start"
    while ask("/v1/stats")["jobs"] or {ask(f"/v1/forget/{name}")["state"] for name in forgets} != {
        "certified"
    }:
        assert time.monotonic() < late, (ask("/v1/stats")["jobs"], served.log.read_text()[-4000:])
        time.sleep(0.1)
    for name in forgets:
        assert verify_certificate(ask(f"/v1/forget/{name}/certificate")).valid
    items = {item["external_id"]: item for item in ask("/v1/documents?limit=100")["items"]}
    texts = {name: ask(f"/v1/documents/{item['id']}")["text"] for name, item in items.items()}
    texts.pop("new", None)  # of the end of an earlier check
    assert texts == {**DOCUMENTS, **UNTOUCHED, "harbour": LATER}
    assert items["harbour"]["version"] == 2
    assert [m["external_id"] for m in ask("/v1/memories?user_id=bob")["items"]] == ["chat"]
    (hit, *_) = recall(served, "letter under the glass")
    assert hit["external_id"] == "chat" and "m2" in hit["span"]["messages"]
    (hit, *_) = recall(served, "grey stone", filter={"external_id": "tower"})
    assert hit["metadata"] == {"kind": "tower"}
    assert not find(served, f"{GONE} {GOING} lanterns", words=(GONE, GOING))
    served.ask("/v1/documents", {"text": "The engine hums.", "external_id": "new"}, wait=60)
    assert recall(served, "engine hums", limit=1)[0]["external_id"] == "new"


def recall(served: Served, query: str, **options: object) -> list[dict[str, Any]]:
    """Return the hits of a query."""
    hits: list[dict[str, Any]] = served.ask("/v1/recall", {"query": query, **options})["hits"]
    return hits


def find(served: Served, query: str, *, words: tuple[str, ...]) -> list[str]:
    """Return the texts found that have one of the words."""
    return [hit["text"] for hit in recall(served, query, limit=50) if any(w in hit["text"] for w in words)]
