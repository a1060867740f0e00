"""Forget all that is known about one subject, and keep the certificate.

    python examples/forget_person.py person:mara-lindqvist certificate.json
    lethe verify certificate.json

Needs a running ``lethe serve`` and the key of its ``admin.key`` in ``LETHE_KEY``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from api.client import LetheClient


def main(subject: str, certificate: Path) -> None:
    """Count first, then forget, then write the proof."""
    url = os.environ.get("LETHE_URL", "http://127.0.0.1:8700")
    with LetheClient(url, os.environ["LETHE_KEY"]) as lethe:
        print("would be forgotten:", lethe.forget({"subjects": [subject]}, preview=True)["counts"])
        done = lethe.forget({"subjects": [subject]}, wait=60)
        print(f"forget {done['id']}: {done['state']}")
        proof = lethe.get_certificate(done["id"])
    certificate.write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"certificate written; check it with: lethe verify {certificate}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
