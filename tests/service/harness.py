"""A whole service over a temporary folder: real SQLite, vault and indexes; jobs run when a test says so."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from memory.ports import Encoder, Reader
from memory.values import Attributes, Content, TenantId
from reader.extractive import ExtractiveReader
from service.lethe import Lethe
from service.settings import Settings
from service.wiring import build, build_kernel, upgrade_database
from sources.parse import SourceParser

TENANT = TenantId("default")

CODED_ROWS = 12


class StepWaker:
    """Runs nothing by itself: ``drain`` does every due job in this thread, oldest first."""

    def __init__(self) -> None:
        self.run_job: Callable[[str], None] | None = None
        self.list_due: Callable[[int], Sequence[str]] | None = None

    def start(self, run_job: Callable[[str], None], list_due: Callable[[int], Sequence[str]]) -> None:
        self.run_job, self.list_due = run_job, list_due

    def wake(self, job_id: str) -> None:
        pass

    def stop(self) -> None:
        pass

    def drain(self) -> int:
        assert self.run_job is not None and self.list_due is not None
        done = 0
        while due := self.list_due(1_000):
            for job_id in due:
                self.run_job(job_id)
                done += 1
        return done


class Ids:
    """Ids given by the test first, then numbered ones: equal histories get equal ids."""

    def __init__(self) -> None:
        self.given: list[str] = []
        self.count = 0

    def __call__(self) -> str:
        if self.given:
            return self.given.pop(0)
        self.count += 1
        return f"{self.count:032x}"


class TestClock:
    """Stands still until it is set; a second between operations."""

    __test__ = False

    def __init__(self) -> None:
        self.now_us = 1_750_000_000_000_000

    def __call__(self) -> int:
        return self.now_us


class House:
    """One service and what drives it."""

    waker_type: type[StepWaker] = StepWaker
    begins_migrated = True
    """Its SQLite databases begin as copies of migrated ones: seconds in which nothing is tested."""

    def __init__(
        self,
        data: Path,
        encoder: Encoder,
        reader: Reader | None = None,
        guarded: bool = False,
        waker: StepWaker | None = None,
        **settings: object,
    ) -> None:
        self.given_waker = waker
        self.data = data
        self.encoder = encoder
        self.clock = TestClock()
        self.ids = Ids()
        self.settings = Settings(data=data, reader="extractive", **settings)  # type: ignore[arg-type]
        self.reader = reader or ExtractiveReader(encoder)
        # In this process by default: most houses stand too short a time to begin another for.
        self.guarded = guarded
        if self.begins_migrated:
            lay_databases(self.settings)
        self.open()

    def open(self) -> None:
        self.waker = self.given_waker or self.waker_type()
        kernel = build_kernel(self.settings, clock=self.clock, new_id=self.ids)
        self.lethe: Lethe = build(
            self.settings,
            self.waker,
            encoder=self.encoder,
            reader=self.reader,
            parser=None if self.guarded else SourceParser(),
            kernel=kernel,
        )
        # In life only large sets have codes; here nearly all are searched through them.
        self.lethe.indexes.coded_rows = CODED_ROWS
        self.lethe.start()

    def restart(self) -> None:
        self.lethe.stop()
        self.open()

    def remember(self, text: str, entry_id: str | None = None, **attributes: object) -> str:
        """Remember one text and do its job; returns the source id."""
        if entry_id is not None:
            self.ids.given = [entry_id]
        done = self.lethe.remember(TENANT, [text_content(text, **attributes)])
        self.waker.drain()
        return done[0].source_id

    def digest(self) -> dict[str, str]:
        from memory.digest import digest_content

        return digest_content(self.lethe.stores, TENANT)

    def found(self, query: str, limit: int = 20, **kwargs: object) -> list[tuple[str, str, float]]:
        recalled = self.lethe.recall(TENANT, query, limit=limit, **kwargs)  # type: ignore[arg-type]
        with self.lethe.reading(TENANT):
            recalled = self.lethe.recheck_recall(TENANT, recalled)
        return [(hit.source_id, hit.text, hit.score) for hit in recalled.hits]

    def close(self) -> None:
        self.lethe.stop()


@cache
def _migrate() -> Path:
    """Return a folder with new databases, made once for a process of tests."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    upgrade_database(Settings(data=folder))
    return folder


def lay_databases(settings: Settings) -> None:
    """Put migrated SQLite databases where settings have them by default and none are yet."""
    settings.data.mkdir(parents=True, exist_ok=True)
    for name, url in (("lethe.db", settings.database_url), ("keys.db", settings.keys_url)):
        if url is None and not (settings.data / name).exists():
            shutil.copyfile(_migrate() / name, settings.data / name)


def text_content(
    text: str, *, media_type: str = "text/plain", kind: str = "document", **attributes: object
) -> Content:
    return Content(kind, media_type, text.encode(), Attributes(**attributes))  # type: ignore[arg-type]


def iter_files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file())
