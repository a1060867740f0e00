"""Load Lethe with a mix of requests for ten minutes and write ``bench/results/load.json``.

    python -m bench.load [--backends sqlite,postgresql] [--seconds 600] [--quick] [--data DIR] [--results F]

For each backend: a closed loop with more and more clients finds how many requests a second the service can
take, with the work they leave behind (indexing, erasing) counted in; then an open loop sends four fifths of
that, and after it everything that was acknowledged is looked for. This process is the load's generator and
holds nothing of the service. ``LETHE_MODELS_CACHE`` says where the weights are kept, LETHE_BENCH_POSTGRES and
LETHE_BENCH_BROKER may name servers (see ``bench.fleet``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from api.client import LetheClient
from bench.asking import FORGET_AT_ONCE, Asker
from bench.books import Books
from bench.chart import draw_latency
from bench.figures import Figures, describe_run, percentile
from bench.fleet import BACKENDS, POSTGRES, Fleet
from bench.main import keep
from bench.processes import cpu_seconds, find_trees, growth_ratio, memory_mib
from bench.quality import DATA
from bench.texts import read_questions, short_documents
from bench.traffic import (
    Step,
    Timed,
    closed_loop,
    count_errors,
    iter_mix,
    open_loop,
    route_figures,
)
from memory.errors import NotFoundError, UnavailableError

RESULTS = Path(__file__).resolve().parent / "results" / "load.json"
MIX = {"recall": 64, "answer": 10, "ingest": 18, "forget": 2, "get": 5, "list": 1}
"""Of a hundred requests. A forget names nine documents: as many go as come, so that the store keeps its size,
and memory that grows does so for no good reason."""
SHARE_OF_CAPACITY = 0.8
DRAIN_SECONDS = 900
TEXTS, QUESTIONS = 20_000, 400
BATCH = 256


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    seconds: float = 600
    warm_up_seconds: float = 60
    window_seconds: float = 60
    step_seconds: float = 30
    clients: tuple[int, ...] = (1, 2, 4, 8)
    documents: int = 1_000


QUICK = Sizes(seconds=20, warm_up_seconds=5, window_seconds=5, step_seconds=5, clients=(1, 4), documents=200)


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of the service's processes while the load was on."""

    memory: Mapping[str, list[tuple[float, float]]]
    """By process tree: (seconds, MiB)."""
    cores: Mapping[str, float]
    """CPU seconds used per second, by process tree and for the generator."""


def main() -> None:
    """Measure the backends asked for, one after the other, keeping each as soon as it is done."""
    options = _parse()
    if not options.data.is_dir():
        sys.exit(f"bench: the data sets are absent; they are looked for in {options.data}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))  # so that no service is left behind
    console = Console(stderr=True)
    texts = [document["text"] for document in short_documents(TEXTS, options.data)]
    questions = read_questions(QUESTIONS, options.data)
    for backend in options.backends:
        run = describe_run() | {"command": command_of(options)}
        with BACKENDS[backend](options.threads) as fleet:
            load = Load(fleet, texts, questions, options.sizes, console)
            figures = asyncio.run(load.measure())
        keep(options.results, backend, {"run": run, "torch_threads": options.threads, **figures})
        draw_latency(options.results.with_name(f"load-{backend}.svg"), load.timed, title=backend)
        console.print(f"{backend}: {json.dumps(figures['summary'])}", highlight=False, soft_wrap=True)
        console.print(f"{backend}: written to {options.results}", highlight=False, soft_wrap=True)


class Load:
    """One backend's measurement."""

    def __init__(
        self, fleet: Fleet, texts: Sequence[str], questions: Sequence[str], sizes: Sizes, console: Console
    ) -> None:
        self._fleet = fleet
        self._sizes = sizes
        self._console = console
        self._questions = questions
        self._books = Books(texts)
        self._errors: Counter[str] = Counter()
        self.timed: list[Timed] = []

    async def measure(self) -> Figures:
        """Fill the store, find the capacity, load it, and look for everything."""
        service, sizes = self._fleet.service, self._sizes
        routes = iter_mix(MIX)
        async with Asker(service.url, service.key, self._books, self._questions) as asker:
            documents = [self._books.write() for _ in range(sizes.documents)]
            for at in range(0, len(documents), BATCH):
                await asker.remember(documents[at : at + BATCH])
            await self._drain()
            steps = await self._ramp(asker, routes)
            rate = SHARE_OF_CAPACITY * max(step.rate for step in steps)
            self._say(f"sending {rate:.1f} requests/s for {sizes.seconds:.0f} s")
            self._note(await open_loop(asker.perform, routes, rate=rate, seconds=sizes.warm_up_seconds))
            watching = asyncio.create_task(self._watch())
            started = time.monotonic()
            self.timed = await open_loop(asker.perform, routes, rate=rate, seconds=sizes.seconds)
            answered = time.monotonic() - started
            self._note(self.timed)
            watched = await watching
            left = dict(service.client.stats()["jobs"])
            drained = await self._drain()
            self._say("looking for every document")
            lost, errors = await asker.audit()
            self._errors.update(errors)
            self._errors.update(await asker.count_failed_jobs())
        lost |= asker.vanished
        return {
            "summary": summary(
                self.timed,
                answered,
                errors=self._errors,
                lost=len(lost),
                resurrected=len(asker.resurrected),
                memory=watched.memory,
                window=sizes.window_seconds,
            ),
            "servers": dict(self._fleet.servers),
            "mix_percent": {**MIX, "documents_per_forget": FORGET_AT_ONCE},
            "capacity": {
                "requests_per_second": round(max(step.rate for step in steps), 2),
                "steps": [
                    {
                        "clients": step.clients,
                        "requests": step.requests,
                        "seconds": round(step.seconds, 1),
                        "seconds_until_done_after_that": round(step.drained, 1),
                        "requests_per_second": round(step.rate, 2),
                    }
                    for step in steps
                ],
            },
            "load": {
                "offered_per_second": round(rate, 2),
                "answered_per_second": round(len(self.timed) / answered, 2),
                "seconds": sizes.seconds,
                "warm_up_seconds": sizes.warm_up_seconds,
                "seconds_until_answered_after_that": round(max(0.0, answered - sizes.seconds), 2),
                "open_jobs_at_the_end": left,
                "seconds_until_done_after_that": round(drained, 1),
                "generator_late_p99_ms": round(
                    1000 * percentile([one.sent - one.due for one in self.timed], 0.99), 2
                ),
            },
            "routes": route_figures(self.timed, seconds=answered),
            "errors": dict(self._errors),
            "memory": {
                name: memory_figures(samples, sizes.window_seconds)
                for name, samples in watched.memory.items()
            },
            "cores_used": {name: round(cores, 2) for name, cores in watched.cores.items()},
            "documents": {
                "kept": len(self._books.kept),
                "forgotten": len(self._books.gone),
                "lost": sorted(document.external_id for document in lost)[:20],
                "resurrected": {document.external_id: where for document, where in asker.resurrected.items()},
            },
            "forgets": _forget_figures(service.client, asker.forgets),
        }

    def _say(self, text: str) -> None:
        self._console.print(f"{' + '.join(self._fleet.roots)}: {text}", highlight=False, soft_wrap=True)

    def _note(self, timed: Sequence[Timed]) -> None:
        self._errors.update(count_errors(timed))

    async def _ramp(self, asker: Asker, routes: Iterator[str]) -> list[Step]:
        """Return steps with more and more clients."""
        steps: list[Step] = []
        for clients in self._sizes.clients:
            started = time.monotonic()
            timed = await closed_loop(
                asker.perform, routes, clients=clients, seconds=self._sizes.step_seconds
            )
            seconds = time.monotonic() - started
            self._note(timed)
            steps.append(Step(clients, len(timed), seconds, await self._drain()))
            self._say(f"{clients} clients: {steps[-1].rate:.1f} requests/s")
        return steps

    async def _drain(self) -> float:
        """Return the seconds until no job is open; jobs that do not end are an error like any other."""
        wait = partial(self._fleet.service.wait_for, limit_seconds=DRAIN_SECONDS)
        try:
            return await asyncio.to_thread(wait)
        except UnavailableError as error:
            self._errors[str(error).partition("\n")[0]] += 1
            return DRAIN_SECONDS

    async def _watch(self) -> Watched:
        """Look at the processes' memory all through the measured run."""
        interval = min(5.0, self._sizes.window_seconds / 5)
        memory: dict[str, list[tuple[float, float]]] = {name: [] for name in self._fleet.roots}
        started, own = time.monotonic(), time.process_time()
        before = {name: cpu_seconds(pids) for name, pids in find_trees(self._fleet.roots).items()}
        while (now := time.monotonic() - started) <= self._sizes.seconds:
            for name, pids in find_trees(self._fleet.roots).items():
                memory[name].append((now, memory_mib(pids, shared=name == POSTGRES)))
            await asyncio.sleep(interval)
        elapsed = time.monotonic() - started
        after = {name: cpu_seconds(pids) for name, pids in find_trees(self._fleet.roots).items()}
        cores = {name: (after[name] - before[name]) / elapsed for name in before}
        return Watched(memory, cores | {"generator": (time.process_time() - own) / elapsed})


def summary(
    timed: Sequence[Timed],
    seconds: float,
    *,
    errors: Mapping[str, int],
    lost: int,
    resurrected: int,
    memory: Mapping[str, Sequence[tuple[float, float]]],
    window: float,
) -> Figures:
    """Return the figures that a load test is judged by; memory is that of all processes together."""
    recalls = [1000 * (one.done - one.due) for one in timed if one.route == "recall"]
    whole = [(moment[0][0], sum(mib for _, mib in moment)) for moment in zip(*memory.values(), strict=True)]
    return {
        "recall_rps": round(len(recalls) / seconds, 2),
        "recall_p95_ms": round(percentile(recalls, 0.95), 1),
        "errors": sum(errors.values()),
        "lost": lost,
        "resurrected": resurrected,
        "rss_growth_ratio": round(growth_ratio(whole, window), 3),
    }


def memory_figures(samples: Sequence[tuple[float, float]], window: float) -> Figures:
    """Return how much memory was resident at first, at last and at most, and how it grew."""
    return {
        "first_mib": round(samples[0][1], 1),
        "last_mib": round(samples[-1][1], 1),
        "most_mib": round(max(mib for _, mib in samples), 1),
        "growth_ratio": round(growth_ratio(samples, window), 3),
    }


def _forget_figures(client: LetheClient, forget_ids: Sequence[str]) -> Figures:
    """Return how long certificates took from their request on."""
    seconds: list[float] = []
    for forget_id in forget_ids:
        try:
            said = client.get_certificate(forget_id)["payload"]
        except NotFoundError:
            continue
        asked, certified = (datetime.fromisoformat(said[name]) for name in ("requested_at", "certified_at"))
        seconds.append((certified - asked).total_seconds())
    return {
        "requested": len(forget_ids),
        "certified": len(seconds),
        "seconds_until_certified": {
            name: round(percentile(seconds, share), 1)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
            if seconds
        },
    }


def command_of(options: argparse.Namespace) -> str:
    """Return the command that measures this again, without the paths of this machine."""
    sizes = options.sizes
    parts = ["python -m bench.load", f"--backends {','.join(options.backends)}"]
    parts += ["--quick"] if options.quick else []
    return " ".join([*parts, f"--seconds {sizes.seconds:g}", f"--threads {options.threads}"])


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backends", type=_backends, default=tuple(BACKENDS), help=",".join(BACKENDS))
    parser.add_argument("--seconds", type=float, help="length of the measured run (default 600)")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look in two minutes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process's models")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to merge the figures into")
    options = parser.parse_args(arguments)
    base = QUICK if options.quick else Sizes()
    options.sizes = base if options.seconds is None else replace(base, seconds=options.seconds)
    return options


def _backends(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = sorted(set(names) - set(BACKENDS))
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no backend {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
