"""Fetch model files from the Hugging Face hub; the only importer of its client.

A machine without a hub must not wait for it: it is asked once, briefly, and ``HF_HUB_OFFLINE`` and
``HF_ENDPOINT`` are honoured. Nothing here checks a digest; see ``embedding.models``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import constants, get_session, hf_hub_download, is_offline_mode, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from tqdm import tqdm  # type: ignore[import-untyped]

from embedding.manifest import HubSource, ModelFile

PROBE_SECONDS = 2.0
OTHER_FORMATS = ["*.bin", "*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf", "openvino/*"]
"""Copies of the same weights that are not read; pickled ones would run code."""


class HubError(Exception):
    """The hub cannot be reached, or does not have what was asked for."""


def fetch_from_hub(
    source: HubSource, files: Sequence[ModelFile], folder: Path, report: Callable[[int], None]
) -> list[Path]:
    """Download the files under ``folder``; return their paths in the same order.

    ``report`` is given the bytes had so far. Raises ``HubError``.
    """
    _require_hub()
    paths: list[Path] = []
    have = 0
    for file in files:
        bar = _reporting_bar(report, have)
        try:
            path = hf_hub_download(
                source.repo,
                file.name,
                revision=source.revision,
                local_dir=folder,
                tqdm_class=bar,
            )
        except (OSError, httpx2.HTTPError, EntryNotFoundError, HFValidationError) as failure:
            raise HubError(f"{file.name}: {failure}") from failure
        paths.append(Path(path))
        have += paths[-1].stat().st_size
        report(have)
    return paths


def fetch_repository(repo: str, *, offline: bool) -> Path:
    """Return the folder of a whole repository's newest revision, in the hub client's own cache.

    Only safetensors weights are taken. Raises ``HubError``.
    """
    if not offline:
        _require_hub()
    try:
        return Path(snapshot_download(repo, local_files_only=offline, ignore_patterns=OTHER_FORMATS))
    except (OSError, httpx2.HTTPError, EntryNotFoundError, HFValidationError) as failure:
        raise HubError(f"{repo}: {failure}") from failure


def _require_hub() -> None:
    if is_offline_mode():
        raise HubError("HF_HUB_OFFLINE is set")
    if not _answers(constants.ENDPOINT):
        raise HubError(f"{constants.ENDPOINT} does not answer within {PROBE_SECONDS:g} s")


@cache
def _answers(endpoint: str) -> bool:
    """Ask the hub for a sign of life, through the client's own session (proxies, certificates)."""
    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=PROBE_SECONDS)
        except (OSError, httpx2.HTTPError):
            return
        answered.set()

    # A name server that does not answer takes longer than any timeout of the client: wait beside it.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PROBE_SECONDS + 0.5)
    return answered.is_set()


def _reporting_bar(report: Callable[[int], None], before: int) -> type[Any]:
    """Return a tqdm class that draws nothing and reports the bytes had ``before`` and since."""

    class ReportingBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.had = before + int(options.get("initial") or 0)
            options.pop("name", None)  # the hub client's bars take it, tqdm's do not
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.had += int(n or 0)
            report(self.had)
            return None

    return ReportingBar
