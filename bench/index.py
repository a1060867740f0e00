"""Lethe's vector indexes beside their peers, in the same run: ``bench/results/index.json`` and ``.png``.

    python -m bench.index --vectors FOLDER [--sets real,synthetic] [--sizes 100k,1m,10m] [--only NAME,...]

Each index is built in one process, searched in a second (so that its memory stands alone) and changed in a
third, on a copy. Building may use every core; everything else is pinned to one, with whatever it starts, so
that queries a second are per core. Figures are kept after each index; medians of three rounds with the least
and the greatest. With ``--built FOLDER`` built indexes stay and are used again while set, parameters and
version (of Lethe: its source) are the same: at a million most of the time goes into building peers. At a
million only the two peers are measured that were the fastest at 100k on that set (or those of ``--only``);
of ten million rows only Lethe.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.figures import Figures, describe_machine, describe_run
from bench.index_chart import draw
from bench.index_child import KINDS
from bench.index_data import EXTRA, NEIGHBOURS, QUERIES, SETS, SIZES, load_set, local_dimension
from bench.index_figures import best_peers, summarise
from bench.index_kinds import Kind

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "index.json"
PEERS_AT_A_MILLION = 2
ALONE = {"10m": ["lethe tiered"]}
"""Sizes that no peer is built at: what is measured there."""
MODULE = "bench.index_child"


def main() -> None:
    """Measure what is asked for, set by set and index by index, and keep every figure at once."""
    options = _parse()
    options.vectors.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lethe-index-") as scratch:
        Path(scratch).chmod(0o755)  # PostgreSQL may run as a user of its own
        built = options.built or Path(scratch) / "built"
        for size in options.sizes:
            for name in options.sets:
                if name == "real" and SIZES[size] > SIZES["100k"]:
                    _tell(f"real-{size}: LEFT OUT, there are real texts for 100,000 vectors only")
                    continue
                _measure_set(name, size, built, Path(scratch), options)
    results = _read(options.results)
    draw(results, options.results.with_suffix(".png"))
    _tell(f"written to {options.results}")


def _measure_set(name: str, size: str, built: Path, scratch: Path, options: argparse.Namespace) -> None:
    data = load_set(name, size, options.vectors)
    place = f"{name}-{size}"
    dimension = round(local_dimension(data.nearest[None][1]), 1)
    about: Figures = {
        "vectors": len(data.rows),
        "dimension": data.rows.shape[1],
        "queries": QUERIES,
        "inserted": EXTRA,
        "local_intrinsic_dimension": dimension,
        "local_intrinsic_dimension_how": f"Levina & Bickel, {NEIGHBOURS} neighbours, mean over the queries",
    }
    _keep(options.results, place, about)
    _tell(f"{place}: local intrinsic dimension {dimension}")
    for kind in _chosen(name, size, options):
        try:
            told = _measure(kind, name, size, built / place / kind.name.replace(" ", "-"), scratch, options)
        except subprocess.CalledProcessError as error:
            _tell(
                f"{place} {kind.name}: FAILED, exit status {error.returncode}; what it printed stands above"
            )
            told = {"failed": f"exit status {error.returncode}"}
        _keep(options.results, place, about, kind.name, told)


def _chosen(name: str, size: str, options: argparse.Namespace) -> list[type[Kind]]:
    """Return the kinds to measure; those whose package is absent are named and left out."""
    names = list(options.only or ALONE.get(size, KINDS))
    if not options.only and size not in ALONE and SIZES[size] > SIZES["100k"]:
        at_100k = _read(options.results).get("sets", {}).get(f"{name}-100k", {}).get("kinds", {})
        best = best_peers(at_100k, PEERS_AT_A_MILLION)
        _tell(f"{name}-{size}: of the peers {', '.join(best) or 'NONE (measure 100k first)'}")
        names = [each for each in names if each.startswith("lethe") or each in best]
    chosen = []
    for each in names:
        try:
            version(KINDS[each].package)
        except PackageNotFoundError:
            _tell(f"{each}: LEFT OUT, {KINDS[each].package} is not installed (bench/requirements-peers.txt)")
            continue
        chosen.append(KINDS[each])
    return chosen


def _measure(
    kind: type[Kind], name: str, size: str, folder: Path, scratch: Path, options: argparse.Namespace
) -> Figures:
    about: Figures = {"package": f"{kind.package} {version(kind.package)}", "set_up": kind.about}
    if kind.package == "lethe":  # whose version stands still while it is written
        about["source"] = _digest_source("embedding/codes.py", "retrieval/*.py")
    run = _describe(options)
    common = ["--kind", kind.name, "--set", name, "--size", size, "--vectors", str(options.vectors)]
    note = folder / "built.json"
    index = folder / "index"
    known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if known.get("about") != about:
        shutil.rmtree(folder, ignore_errors=True)
        index.mkdir(parents=True)
        cores = os.cpu_count() or 1
        told = _run("build", [*common, "--threads", str(cores)], index, scratch, None)
        known = {"about": about, "told": told | {"built": run["date"]}}
        note.write_text(json.dumps(known), encoding="utf-8")
    _tell(f"{name}-{size} {kind.name}: {known['told']['build']['seconds']} s to build")
    core = options.core
    served = _run("serve", common, index, scratch, core)
    for each in served["curve"]:
        _tell(f"    {each['setting']:5d}  recall {each['recall@10']:.4f}  {each['qps']['median']:9.1f} QPS")
    copy = scratch / "copy"
    subprocess.run(["cp", "-a", index, copy], check=True)  # owners too: PostgreSQL looks at its own
    try:
        changed = _run("change", common, copy, scratch, core)
    except subprocess.CalledProcessError as error:  # what was searched before still counts
        _tell(f"{name}-{size} {kind.name}: CHANGING IT FAILED, exit status {error.returncode}")
        changed = {"insert": None, "removal": {"failed": f"exit status {error.returncode}"}}
    finally:
        shutil.rmtree(copy)
        if options.built is None:
            shutil.rmtree(folder)
    _tell(f"    removal: {changed['removal']}")
    return {"run": run, **about, **known["told"], **served, **changed}


def _digest_source(*patterns: str) -> str:
    """Return a digest of Lethe's own files, by which a built index is known to be today's."""
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _describe(options: argparse.Namespace) -> Figures:
    told = {name: list(getattr(options, name) or ()) for name in ("sets", "sizes", "only")}
    asked = [f"--{name} {','.join(values)}" for name, values in told.items() if values]
    command = " ".join(["python -m bench.index --vectors FOLDER", *asked])
    return describe_run() | {"command": command, "pinned_to_core": options.core}


def _run(phase: str, arguments: list[str], index: Path, scratch: Path, core: int | None) -> dict[str, Any]:
    """Run a phase in a process of its own, on one core where one is named; return what it measured."""
    out = scratch / "told.json"
    pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
    threads = str(os.cpu_count() if core is None else 1)
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    command = [*pinned, sys.executable, "-m", MODULE, phase, *arguments]
    subprocess.run([*command, "--folder", str(index), "--out", str(out)], check=True, env=os.environ | limits)
    told: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return told


def _keep(path: Path, place: str, about: Figures, kind: str = "", told: Figures | None = None) -> None:
    """Merge what is known of a set, and of one index on it, into the results; the rest stays."""
    results = _read(path)
    sets = results.setdefault("sets", {})
    own = sets.setdefault(place, {})
    own |= about
    kinds = own.setdefault("kinds", {})
    if told is not None:
        kinds[kind] = told
    results["machine"] = describe_machine()
    summary = {each: summarise(found.get("kinds", {})) for each, found in sets.items()}
    # The figures to compare runs by are those of the largest set where Lethe and a peer reached the recall.
    largest = sorted(sets, key=lambda each: (sets[each]["vectors"], each.startswith("synthetic")))
    head = next((summary[each] for each in reversed(largest) if "ram_ratio" in summary[each]), {})
    top = {figure: head[figure] for figure in ("qps_ratio_at_99", "ram_ratio") if figure in head}
    results = {"summary": top | {"by_set": summary}, **{k: v for k, v in results.items() if k != "summary"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return results


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="folder to keep the vectors in")
    parser.add_argument("--built", type=Path, help="folder to keep built indexes in, to use them again")
    parser.add_argument("--sets", type=_some(SETS), default=SETS, help=f"some of {','.join(SETS)}")
    parser.add_argument("--sizes", type=_some(SIZES), default=("100k",), help=f"some of {','.join(SIZES)}")
    parser.add_argument("--only", type=_some(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--core", type=int, default=(os.cpu_count() or 1) - 1, help="the core to search on")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to merge the figures into")
    return parser.parse_args()


def _some(known: Any) -> Any:
    def names(text: str) -> tuple[str, ...]:
        wanted = tuple(text.split(","))
        unknown = sorted(set(wanted) - set(known))
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}")
        return wanted

    return names


if __name__ == "__main__":
    main()
