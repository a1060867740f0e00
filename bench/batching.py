"""Tokens a second of processor time that readings write together and in turn: ``python -m bench.batching``
writes bench/results/batching.json.

So many readings of a paragraph of a few hundred tokens each write so many tokens, a token a step, without
guesses: in passes that they share, as readers do, and each step by itself. Processor time, not the clock's:
other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.figures import Figures, describe_machine, describe_run, spread
from bench.squad13 import Squad
from embedding.models import ModelStore
from reader.attention.function import run, use_slots
from reader.attention.rotary import Rotary
from reader.attention.slots import Segment
from reader.batching import Batch
from reader.loading import load_language_model
from reader.placing import Passage, Placed, lay_out
from service.models import find_weights
from service.settings import Settings

RESULTS = Path(__file__).parent / "results" / "batching.json"
TOGETHER = (1, 2, 4, 8)
TOKENS = 256
"""Of each prompt."""

Step = Callable[[Sequence[int], Segment, int], torch.Tensor]


def main() -> None:
    """Measure and write."""
    options = _parse()
    torch.set_num_threads(options.threads)
    settings = Settings()
    path, digest = find_weights(ModelStore(settings.models_cache).get(options.model))
    model, tokenizer = load_language_model(path, digest=digest, converted=settings.models_cache / "converted")
    use_slots(model)
    texts = list(Squad().texts.values())
    prompts = [tokenizer("\n".join(texts[at : at + 9]))["input_ids"][:TOKENS] for at in range(max(TOGETHER))]
    sizes = {}
    for count in TOGETHER:
        rounds = [measure(model, prompts[:count], options.steps) for _ in range(options.rounds)]
        sizes[str(count)] = {
            "together_tokens_per_cpu_second": spread([one[0] for one in rounds]),
            "in_turn_tokens_per_cpu_second": spread([one[1] for one in rounds]),
            "passes": spread([one[2] for one in rounds]),
            "ratio": spread([one[0] / one[1] for one in rounds]),
        }
    figures: Figures = {
        "machine": describe_machine(),
        "run": describe_run(),
        "model": options.model,
        "dtype": str(model.dtype),
        "threads": options.threads,
        "steps": options.steps,
        "prompt_tokens": TOKENS,
        "readings": sizes,
    }
    options.results.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(model: Any, prompts: Sequence[Sequence[int]], steps: int) -> tuple[float, float, int]:
    """Return tokens a second of processor time together and in turn, and how many passes were shared."""
    count = len(prompts)
    in_turn = partial(_run_one, model)
    begun = [_begin(model, prompt, steps) for prompt in prompts]
    apart = _seconds(lambda: [_write(in_turn, *one, steps) for one in begun])
    begun = [_begin(model, prompt, steps) for prompt in prompts]
    passes = 0

    def counted(*_: Any) -> None:
        nonlocal passes
        passes += 1

    hook = model.register_forward_hook(counted)
    batch = Batch(model)
    with ThreadPoolExecutor(count) as threads:
        together = _seconds(lambda: list(threads.map(lambda one: _write(batch.run, *one, steps), begun)))
    hook.remove()
    return count * steps / together, count * steps / apart, passes


def _run_one(model: Any, tokens: Sequence[int], segment: Segment, keep: int) -> torch.Tensor:
    return run(model, tokens, [segment], keep=keep)


def _begin(model: Any, prompt: Sequence[int], steps: int) -> tuple[Placed, int]:
    """Read a prompt; return it and the first token after it."""
    placed = lay_out(use_slots(model), Rotary(model), Passage((), (), None), [], prompt, spare=steps + 1)
    return placed, int(run(model, placed.tokens, [placed.segment], keep=1)[-1].argmax())


def _write(step: Step, placed: Placed, token: int, steps: int) -> None:
    for end in range(placed.end, placed.end + steps):
        position = torch.tensor([end], device=placed.slots.shape.device)
        segment = Segment(placed.slots, 0, placed.slots.place(position), position, (0, 1))
        token = int(step([token], segment, 1)[-1].argmax())


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="qwen2.5-coder-0.5b-instruct", help="a name of `lethe models list`"
    )
    parser.add_argument("--steps", type=int, default=32, help="tokens that each writes")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is measured")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write the figures to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
