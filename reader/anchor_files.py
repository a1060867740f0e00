"""Keep a model's anchors in a small file, so that they are found once.

The file is named by the weights and by all else that anchors follow from, and holds a checksum: what was
damaged is not read but found anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from memory.canonical import canonical_json
from memory.ledger import Recipe
from memory.values import JsonValue
from reader.anchors import COUNT, METHOD
from reader.routing import Anchors

_log = structlog.get_logger(__name__)


def keep_anchors(
    folder: Path | None, weights: str, read: Mapping[str, JsonValue], find: Callable[[], Anchors]
) -> Anchors:
    """Return the anchors kept in ``folder`` for these weights and what was read, else what ``find`` finds.

    ``weights`` is a digest, the first part of the file's name; without it, or without a folder, nothing is
    kept. A file that cannot be written is logged: the next start finds anchors anew.
    """
    recipe = Recipe("anchors", METHOD, {**read, "weights": weights, "count": COUNT})
    path = None if folder is None or not weights else folder / f"{weights}-{recipe.digest.hex()[:16]}.json"
    kept = None if path is None else _read(path)
    if kept is not None:
        return kept
    started = time.perf_counter()
    found = find()
    seconds = round(time.perf_counter() - started, 1)
    _log.info("anchors found", weights=weights[:16], layers=list(found.layers), seconds=seconds)
    if path is not None:
        try:
            _write(path, found)
        except OSError as error:
            _log.warning("anchors not kept", file=path.name, reason=str(error))
    return found


def _read(path: Path) -> Anchors | None:
    """Return what a file holds, ``None`` where there is none or not what was written."""
    try:
        told = json.loads(path.read_bytes())
        if told["sha256"] != _checksum(path.name, told["anchors"]):
            raise ValueError("the checksum is another")
        layers, heads = told["anchors"]["layers"], told["anchors"]["heads"]
        return Anchors(layers, {int(layer): own for layer, own in heads.items()})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        _log.warning("kept anchors cannot be read", file=path.name, error=type(error).__name__)
        return None


def _write(path: Path, found: Anchors) -> None:
    """Write a file whole or not at all, whoever else writes it."""
    heads: JsonValue = {str(layer): list(own) for layer, own in found.heads.items()}
    anchors: JsonValue = {"layers": list(found.layers), "heads": heads}
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix="writing-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(canonical_json({"anchors": anchors, "sha256": _checksum(path.name, anchors)}))
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _checksum(name: str, anchors: JsonValue) -> str:
    """Return what a file of this name says of its anchors: a copy under another name does not."""
    return hashlib.sha256(canonical_json([name, anchors])).hexdigest()
