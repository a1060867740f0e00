"""Real texts by the hundred thousand for the index bench: the data sets' passages, then WordNet's glosses.

Passages are cut and set in their context as Lethe does it. WordNet 3.0 comes as Debian's ``wordnet-base``
(WordNet licence: free for any use with its notice): 117,659 sets of synonyms, each a text of its words and
its gloss ("entity: that which is perceived ..."), short and all different. The package is fetched with
``apt-get download``, checked by its digest and unpacked without root. Nothing here knows vectors.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.quality import DATA, as_content
from memory.errors import InvalidInputError
from memory.values import Attributes, Content
from sources.parse import SourceParser, guess_media_type

SETS = ("cranfield", "hotpot100", "lihua", "musique100", "squad13")
WORDNET = "wordnet-base=1:3.0-37"
WORDNET_SHA256 = "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"
PARTS = ("noun", "verb", "adj", "adv")
SHORTEST = 20
"""Characters; what is shorter says too little to be looked for."""


def read_passages(data: Path = DATA) -> list[str]:
    """Return every passage of the data sets and files, as it is encoded, each text once."""
    parser = SourceParser()
    texts: list[str] = []
    for content in _contents(data):
        try:
            parsed = parser.parse(content)
        except InvalidInputError as error:  # a password, no text, a format that is not read
            print(f"left out {content.attributes.external_id}: {error}", file=sys.stderr)
            continue
        texts += [f"{each.context}\n{parsed.text[each.start : each.end]}" for each in parsed.passages]
    return [text for text in dict.fromkeys(texts) if len(text) >= SHORTEST]


def read_questions(data: Path = DATA) -> list[str]:
    """Return every different question of the data sets."""
    lines = [
        line
        for name in SETS
        for line in (data / name / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return list(dict.fromkeys(json.loads(line)["query"] for line in lines))


def read_glosses(folder: Path) -> list[str]:
    """Return WordNet's texts in an order drawn by their hashes, each once; ``folder`` keeps the package.

    Raises ``RuntimeError`` when the package is not the one that is named here.
    """
    root = _fetch(folder)
    texts = [
        text
        for part in PARTS
        for line in (root / f"data.{part}").read_text(encoding="utf-8").splitlines()
        if not line.startswith("  ")  # the licence
        for text in [_gloss(line)]
        if len(text) >= SHORTEST
    ]
    return sorted(dict.fromkeys(texts), key=lambda text: hashlib.sha256(text.encode()).digest())


def _gloss(line: str) -> str:
    """Return a line of WordNet's data as a text: see wndb(5) for the fields."""
    fields, _, gloss = line.partition(" | ")
    parts = fields.split()
    words = [word.split("(")[0].replace("_", " ") for word in parts[4 : 4 + 2 * int(parts[3], 16) : 2]]
    return f"{', '.join(words)}: {gloss.strip()}"


def _contents(data: Path) -> Iterator[Content]:
    for name in SETS:
        for line in (data / name / "documents.jsonl").read_text(encoding="utf-8").splitlines():
            document = json.loads(line)
            if name == "squad13":  # the article's name is in the id: "Article:n"
                title = document["id"].rpartition(":")[0].replace("_", " ")
                yield _plain(document["text"], f"{name}/{document['id']}", title)
            else:
                yield as_content(name, document["id"], document["text"])
    for path in sorted((data / "tofu").glob("*.jsonl")):
        for at, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            pair = json.loads(line)
            yield _plain(f"{pair['question']}\n{pair['answer']}", f"tofu/{path.stem}/{at}", None)
    for path in sorted(path for path in (data / "documents").rglob("*") if path.is_file()):
        name = str(path.relative_to(data))
        body = path.read_bytes()
        yield Content("document", guess_media_type(name, body), body, Attributes(external_id=name))


def _plain(text: str, name: str, title: str | None) -> Content:
    return Content("document", "text/plain", text.encode(), Attributes(title=title, external_id=name))


def _fetch(folder: Path) -> Path:
    root = folder / "wordnet"
    inside = root / "usr" / "share" / "wordnet"
    if not inside.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", WORDNET], cwd=folder, check=True)
        (package,) = folder.glob("wordnet-base_*.deb")
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        if digest != WORDNET_SHA256:
            raise RuntimeError(f"{package.name} is not the one the bench names: its SHA-256 is {digest}")
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    return inside
