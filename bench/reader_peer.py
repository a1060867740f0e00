"""llama.cpp with its prefix cache, in a process of its own: how long it takes to a first token.

``time_prompts`` starts ``python -m bench.reader_peer``, which loads the same GGUF file through xllamacpp,
reads prompts one after another, given as tokens, and says by the clock and by llama.cpp's own timing how long
each took, and how many tokens its cache spared it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.processes import peak_mib

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 64
ROOM = 64
"""Tokens that a context has beyond the longest prompt."""


def time_prompts(model: Path, prompts: Mapping[str, Sequence[int]], threads: int) -> Figures | None:
    """Return seconds to the first token by prompt, in their order, each behind what those before left cached.

    ``None`` where xllamacpp is not installed or the model is no GGUF file. Raises ``CalledProcessError``.
    """
    if find_spec("xllamacpp") is None:
        print("no llama.cpp: xllamacpp is not installed (bench/requirements-peers.txt)", file=sys.stderr)
        return None
    if model.suffix != ".gguf":
        print("no llama.cpp: the model is no GGUF file", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory(prefix="lethe-reader-") as folder:
        asked, told = Path(folder) / "asked.json", Path(folder) / "told.json"
        asked.write_text(
            json.dumps(
                {
                    "model": str(model),
                    "threads": threads,
                    "prompts": {name: list(tokens) for name, tokens in prompts.items()},
                }
            ),
            encoding="utf-8",
        )
        subprocess.run(
            [sys.executable, "-m", "bench.reader_peer", str(asked), str(told)],
            cwd=ROOT,
            check=True,
            stderr=subprocess.DEVNULL,  # it logs every step
        )
        figures: Figures = json.loads(told.read_text(encoding="utf-8"))
    return figures


def main() -> None:
    """Read the prompts of a file, write what they took into another."""
    asked, told = map(Path, sys.argv[1:])
    task = json.loads(asked.read_text(encoding="utf-8"))
    told.write_text(json.dumps(_measure(task)), encoding="utf-8")


def _measure(task: Mapping[str, Any]) -> Figures:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = task["model"]
    params.n_ctx = max(map(len, task["prompts"].values())) + ROOM
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = task["threads"]
    started = time.perf_counter()
    server = xllamacpp.Server(params)
    figures: Figures = {
        "version": version("xllamacpp"),
        "built_for": xllamacpp.get_system_info().strip(),
        "load_seconds": round(time.perf_counter() - started, 2),
        "rss_loaded_mib": peak_mib(),
    }
    _ask(server, list(range(1000, 1000 + WARM_UP)))
    for name, tokens in task["prompts"].items():
        figures[name] = _ask(server, tokens)
    return figures | {"peak_rss_mib": peak_mib()}


def _ask(server: Any, tokens: Sequence[int]) -> Figures:
    """Return what one token after a prompt took."""
    started = time.perf_counter()
    reply = server.handle_completions({"prompt": list(tokens), "max_tokens": 1, "temperature": 0})
    seconds = time.perf_counter() - started
    timings = reply["timings"]
    return {
        "seconds": round(seconds, 3),
        "own_prompt_seconds": round(timings["prompt_ms"] / 1000, 3),
        "tokens_read": timings["prompt_n"],
        "tokens_cached": timings["cache_n"],
    }


if __name__ == "__main__":
    main()
