"""Every named point is there, is reached, and is survived: the story's faults, all or a sample of them.

With LETHE_FAULTS=all every fault is injected (`make faults`), else as many as a minute allows.
"""

from __future__ import annotations

import ast
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.encoder import TextEncoder
from memory.faults import POINTS
from tests import postgres as postgres_server
from tests.conftest import BACKENDS
from tests.faults.injected import SCENES, Scene, Theatre, count

ROOT = Path(__file__).parents[2]
ALL = os.environ.get("LETHE_FAULTS") == "all"
PARTS = 4 if ALL else 1
EVERY = 1 if ALL else 45
"""Every so many-th fault is injected; a scene of fewer has one."""

CHANGES = frozenset({"rename", "fsync", "unlink", "rmtree", "commit", "begin"})
PACKAGES = (
    "memory",
    "sources",
    "embedding",
    "retrieval",
    "reader",
    "unlearning",
    "service",
    "workers",
    "api",
)
ELSEWHERE = {
    "service/backup.py": "a file apart, written beside, synced and renamed: what breaks off leaves no backup",
    "embedding/wheels.py": "the cache of models holds no memories, and has tests of its own",
    "embedding/models.py": "the cache of models holds no memories, and has tests of its own",
    "reader/loading.py": "the cache of models holds no memories, and has tests of its own",
    "reader/anchor_files.py": "the cache of models holds no memories, and has tests of its own",
    "workers/broker.py": "the folder of a socket, beside the data folder",
    "service/generation.py _append": "LexicalIndex.commit has the point",
    "service/loading.py add_words": "LexicalIndex.commit has the point",
    "retrieval/lexical.py write_lexical": "LexicalIndex.commit has the point",
    "memory/postgres.py read": "changes nothing",
    "memory/sqlite.py read": "changes nothing",
    "memory/postgres.py _await_commits": "changes nothing",
}
"""What needs no point, and why."""


@pytest.fixture(scope="session")
def theatres(encoder: TextEncoder, postgres: postgres_server.Server) -> Iterator[dict[str, Theatre]]:
    """The theatres that were asked for, by backend; in memory, where there is room, for syncing takes long."""
    opened: dict[str, Theatre] = {}
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="lethe-faults-", dir=memory if memory.is_dir() else None
    ) as folder:
        opened[""] = folder  # type: ignore[assignment]
        yield opened
        del opened[""]
        for theatre in opened.values():
            theatre.close()


def open_theatre(
    theatres: dict[str, Theatre], backend: str, encoder: TextEncoder, request: pytest.FixtureRequest
) -> Theatre:
    if backend not in theatres:
        server: postgres_server.Server | None = None
        if backend == "postgresql":
            server = request.getfixturevalue("postgres")
        theatres[backend] = Theatre(Path(str(theatres[""])) / backend, encoder, server)
    return theatres[backend]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fault_changes_nothing_in_the_end(
    backend: str,
    scene: Scene,
    part: int,
    theatres: dict[str, Theatre],
    encoder: TextEncoder,
    request: pytest.FixtureRequest,
    record_property: pytest.RecordProperty,
) -> None:
    """Acknowledged is there, forgotten is gone, contents are the undisturbed run's, no stray file is left."""
    theatre = open_theatre(theatres, backend, encoder, request)
    # Another fault of each scene is in the sample of each backend.
    first = 0 if ALL else SCENES.index(scene) * 7 % EVERY + BACKENDS.index(backend)
    faults = theatre.list_faults(scene)
    chosen = faults[first % len(faults) :: EVERY][part::PARTS]

    outcomes = [theatre.inject(scene, at, kind) for at, kind in chosen]

    record_property("faults", {f"{backend} {kind}": told for kind, told in count(outcomes).items()})
    assert [f"{outcome.place}: {outcome.broken}" for outcome in outcomes if outcome.broken] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_story_reaches_every_point(
    backend: str, theatres: dict[str, Theatre], encoder: TextEncoder, request: pytest.FixtureRequest
) -> None:
    theatre = open_theatre(theatres, backend, encoder, request)
    reached = {point for before in theatre.before.values() for point in before.points}
    assert reached == POINTS.keys()


def iter_functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function of the product with the file it is in."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    yield path.relative_to(ROOT).as_posix(), node


def list_points(function: ast.FunctionDef) -> list[str]:
    """Return the names of the points in a function; each is said in full."""
    return [
        str(node.args[0].value)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "point"
        if isinstance(node.args[0], ast.Constant)
    ]


def count_changes(function: ast.FunctionDef) -> int:
    """Return how many calls commit, or rename, sync or delete a file."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    named = [(call, call.func.attr) for call in calls if isinstance(call.func, ast.Attribute)]
    changes = [
        name for call, name in named if name in CHANGES and (name not in ("commit", "begin") or not call.args)
    ]
    # Path.replace and os.replace; those of texts take two arguments, those of times names.
    over_paths = [
        call
        for call, name in named
        if name == "replace"
        and len(call.args) == 1
        and not call.keywords
        and not isinstance(call.args[0], ast.Starred)
    ]
    return len(changes) + len(over_paths)


def test_every_point_in_the_code_is_registered_and_stands_once() -> None:
    used = [
        name
        for file, function in iter_functions()
        if file != "memory/faults.py"
        for name in list_points(function)
    ]
    twice = {"commit", "committed", "purge", "purged"}  # once a backend
    assert sorted(used) == sorted([*POINTS, *twice])


def test_nothing_is_committed_renamed_synced_or_deleted_without_a_point() -> None:
    found = {}
    for file, function in iter_functions():
        changes = count_changes(function)
        if changes and file not in ELSEWHERE and f"{file} {function.name}" not in ELSEWHERE:
            found[f"{file} {function.name}"] = (changes, len(list_points(function)))
    assert len(found) >= 7, "the scan still finds what it is for"
    assert {place: told for place, told in found.items() if told[1] < told[0]} == {}


def test_a_point_costs_one_comparison_when_nothing_strikes() -> None:
    """The body is one `if` on a module global."""
    (body,) = [f.body for file, f in iter_functions() if file == "memory/faults.py" and f.name == "point"]
    statements = [node for node in body if not isinstance(node, ast.Expr)]
    assert len(statements) == 1 and isinstance(statements[0], ast.If)
