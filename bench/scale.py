"""Recall and forgetting as the store grows: one service, measured at each size, then filled further.

Every document is one short passage, the worst case for all that is kept per document.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rich.progress import Progress, TaskID

from api.client import DocumentFields, ScopeFields
from bench.figures import Figures, latency, spread
from bench.serving import Service, StageTotals
from bench.texts import read_questions, short_documents

WARM_UP = 20
CLIENTS = 4
POLL_SECONDS = 0.02
FORGET_SECONDS = 3600
LARGE = 50_000
"""From this many passages on, one per cent is forgotten once only."""


def measure(
    wanted: Collection[str],
    *,
    sizes: Sequence[int],
    queries: int,
    rounds: int,
    forgets: int,
    threads: int,
    progress: Progress,
    told: Callable[[Mapping[str, Figures]], None],
) -> None:
    """Tell the figures of the wanted ones of ``latency`` and ``forget``, by size in passages.

    Those so far are told after each size, for the last one takes long.
    """
    by_size: dict[str, Figures] = {name: {} for name in wanted}
    spare = sum(forgets * 2 + forgets * (size // 100) for size in sizes)
    documents = short_documents(max(sizes) + spare * ("forget" in wanted))
    questions = read_questions(WARM_UP + queries)
    posted = 0
    with Service(threads=threads) as service:
        for size in sizes:
            held = service.client.stats()["passages"]
            task = progress.add_task(f"fill to {size:,} passages", total=size, completed=held)
            fresh = documents[posted : posted + size - held]
            seconds = service.remember(fresh, partial(show, progress, task))
            posted += len(fresh)
            settled = service.wait_for()
            progress.remove_task(task)
            grown = {
                "filled_passages_per_second": round(len(fresh) / seconds, 1),
                "seconds_until_folded_after_that": round(settled, 2),
            }
            if "latency" in wanted:
                by_size["latency"][str(size)] = grown | _latency(
                    service, questions, rounds=rounds, progress=progress, size=size
                )
            if "forget" in wanted:
                by_size["forget"][str(size)] = _forget(
                    service, documents[:posted], times=forgets, progress=progress, size=size
                )
            told(by_size)


def show(progress: Progress, task: TaskID, passages: int) -> None:
    """Show how many passages are there by now."""
    progress.update(task, completed=passages)


def _latency(
    service: Service, questions: Sequence[str], *, rounds: int, progress: Progress, size: int
) -> Figures:
    warm, asked = questions[:WARM_UP], questions[WARM_UP:]
    task = progress.add_task(f"recall at {size:,}", total=2 * rounds)
    for question in warm:
        service.client.recall(question)
    memory = service.resident_mib()
    before = service.stage_totals("recall")
    alone = []
    for _ in range(rounds):
        alone.append([timed_recall(service, question) for question in asked])
        progress.advance(task)
    after = service.stage_totals("recall")
    together, rates = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        together.append(_recall_together(service, asked))
        rates.append(len(asked) / (time.perf_counter() - started))
        progress.advance(task)
    stopping = service.stop()
    starting = service.start()
    progress.remove_task(task)
    return {
        "one_client": latency(alone),
        f"{CLIENTS}_clients": latency(together) | {"recalls_per_second": spread(rates, digits=1)},
        "one_client_mean_ms": mean_stages(before, after, alone),
        "resident_mib": memory,
        "resident_mib_after_restart": service.resident_mib(),
        "data_folder_mib": service.disk_mib(),
        "stop_seconds": round(stopping, 2),
        "start_seconds": round(starting, 2),
    }


def timed_recall(service: Service, question: str) -> float:
    """Return how many seconds a recall takes."""
    started = time.perf_counter()
    service.client.recall(question)
    return time.perf_counter() - started


def mean_stages(before: StageTotals, after: StageTotals, rounds: Sequence[Sequence[float]]) -> Figures:
    """Return where the mean recall's time went; ``outside`` is HTTP, both sides of it, and the last check."""
    count = sum(len(times) for times in rounds)
    whole = 1000 * sum(sum(times) for times in rounds) / count
    stages: dict[str, float] = {}
    for stage, (seconds, calls) in after.items():
        seconds_before, calls_before = before.get(stage, (0.0, 0.0))
        if calls > calls_before:
            stages[stage] = 1000 * (seconds - seconds_before) / (calls - calls_before)
    parts = stages | {"outside": whole - sum(stages.values()), "whole": whole}
    return {stage: round(milliseconds, 2) for stage, milliseconds in parts.items()}


def _recall_together(service: Service, questions: Sequence[str]) -> list[float]:
    """Share the questions between clients that ask at the same time; return the seconds of each."""

    def ask(own: Sequence[str]) -> list[float]:
        times = []
        with service.connect() as client:
            for question in own:
                started = time.perf_counter()
                client.recall(question)
                times.append(time.perf_counter() - started)
        return times

    with ThreadPoolExecutor(CLIENTS) as pool:
        parts = pool.map(ask, [questions[at::CLIENTS] for at in range(CLIENTS)])
        return [seconds for part in parts for seconds in part]


def _forget(
    service: Service, held: Sequence[DocumentFields], *, times: int, progress: Progress, size: int
) -> Figures:
    """Forget single documents, then one per cent at once, the newest of ``held`` first."""
    percent = size // 100
    percent_times = 1 if size >= LARGE else times
    task = progress.add_task(f"forget at {size:,}", total=times + percent_times)
    figures: Figures = {}
    at = len(held)
    for name, count, repeats in (("1_document", 1, times), ("1_percent", percent, percent_times)):
        fences, certified = [], []
        for _ in range(repeats):
            going = held[at - count : at]
            at -= count
            fence, whole = forget_once(service, going)
            fences.append(1000 * fence)
            certified.append(whole)
            service.wait_for()
            progress.advance(task)
        figures[name] = {
            "documents": count,
            "fence_ms": spread(fences, digits=1),
            "certificate_seconds": spread(certified),
        }
    progress.remove_task(task)
    return figures


def forget_once(service: Service, going: Sequence[DocumentFields]) -> tuple[float, float]:
    """Return the seconds from the request to its acknowledgement, and to its certificate."""
    names = [str(document["external_id"]) for document in going]
    scope: ScopeFields = {"external_ids": names}
    started = time.perf_counter()
    reply = service.client.forget(scope)
    fence = time.perf_counter() - started
    seen = service.client.recall(going[0]["text"], limit=100)
    if {hit["external_id"] for hit in seen["hits"]} & set(names):
        raise AssertionError("recall found what a forget was acknowledged for")
    while (state := service.client.get_forget(reply["id"])["state"]) != "certified":
        if state == "failed" or time.perf_counter() - started > FORGET_SECONDS:
            raise AssertionError(f"the forget is {state}\n{service.log_tail()}")
        time.sleep(POLL_SECONDS)
    whole = time.perf_counter() - started
    if service.client.get_certificate(reply["id"]) == {}:
        raise AssertionError("the certificate is empty")
    if reply["counts"]["entries"] != len(going):
        raise AssertionError(f"{reply['counts']} were fenced, not {len(going)}")
    return fence, whole
