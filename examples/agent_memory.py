"""An agent's loop with Lethe as its memory: what you tell it is kept, what you ask is answered from it.

Start ``lethe serve``, put the key of its ``admin.key`` into ``LETHE_KEY``, and run
``python examples/agent_memory.py``. A line that ends with "?" is a question, an empty line ends the loop.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from api.client import LetheClient, MessageFields

CHAT = Path(__file__).parent / "harbour" / "open-day-assistant.jsonl"
USER = "pia"


def remember_past(lethe: LetheClient) -> None:
    """Remember an earlier chat; under the same external id a second run changes nothing."""
    messages = [json.loads(line) for line in CHAT.read_text(encoding="utf-8").splitlines()]
    lethe.remember_messages(messages, title="Planning", external_id="agent-past", user_id=USER, wait=60)


def ask(lethe: LetheClient, question: str) -> None:
    """Print a checked answer with its quotes; where there is none, what comes nearest."""
    mine = {"user_id": USER}
    reply = lethe.answer(question, filter=mine)
    if not reply["abstained"]:
        print(f"agent: {reply['answer']}")
        for citation in reply["citations"]:
            messages = ", ".join(citation["span"].get("messages", []))
            print(f"       “{citation['quote']}” [{messages}]")
        return
    print("agent: That I cannot say. Nearest to it comes:")
    for hit in lethe.recall(question, limit=2, filter=mine)["hits"]:
        print(f"       {hit['text']}")


def note(lethe: LetheClient, line: str) -> None:
    """Remember one thing the user said."""
    said: MessageFields = {"role": "user", "content": line, "at": datetime.now(UTC)}
    lethe.remember_messages([said], user_id=USER, wait=60)
    print("agent: I shall remember it.")


def main() -> None:
    """Talk until an empty line or the end of the input."""
    url = os.environ.get("LETHE_URL", "http://127.0.0.1:8700")
    with LetheClient(url, os.environ["LETHE_KEY"]) as lethe:
        remember_past(lethe)
        try:
            while line := input("you:   ").strip():
                (ask if line.endswith("?") else note)(lethe, line)
        except EOFError:
            print()


if __name__ == "__main__":
    main()
