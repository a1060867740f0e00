"""What Prometheus may ask of this process at any moment, looked up when it asks.

Beside the counters of ``service.metrics``, which tell what this process did, these tell how things stand:
the queue and the forget requests as the database has them, the index as this process holds it. Labels
are kinds, states and tiers, never ids, tenants or words.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from memory.errors import LetheError
from memory.kernel import Kernel
from memory.tables import forgets, jobs
from service.index import Indexes
from service.shelves import Shelves

STANDING = ("queued", "running", "failed")

log = structlog.get_logger()


class Gauges(Collector):
    """Reads the gauges of one service."""

    def __init__(self, kernel: Kernel, indexes: Indexes, shelves: Shelves) -> None:
        self.kernel = kernel
        self.indexes = indexes
        self.shelves = shelves

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing is looked up to be registered."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every gauge; without the database only that it is away."""
        up = GaugeMetricFamily("lethe_database_up", "1 when the database answers")
        try:
            found = [*self._iter_jobs(), *self._iter_forgets()]
        except (LetheError, sa.exc.SQLAlchemyError) as error:
            log.warning("metrics without the database", error=type(error).__name__)
            found = []
        up.add_metric((), 1 if found else 0)
        yield up
        yield from found
        yield self._measure_index()
        yield self._measure_shelves()

    def _iter_jobs(self) -> Iterator[GaugeMetricFamily]:
        now = self.kernel.clock()
        with self.kernel.database.read() as connection:
            rows = connection.execute(
                sa.select(jobs.c.kind, jobs.c.status, sa.func.count(), sa.func.min(jobs.c.created_us))
                .where(jobs.c.status.in_(STANDING))
                .group_by(jobs.c.kind, jobs.c.status)
            ).all()
            stale = connection.scalar(
                sa.select(sa.func.count()).where(jobs.c.status == "running", jobs.c.lease_until_us < now)
            )
        depth = GaugeMetricFamily("lethe_queue_depth", "Jobs by kind and status", labels=("kind", "status"))
        age = GaugeMetricFamily(
            "lethe_oldest_queued_seconds", "Age of the oldest job waiting", labels=("kind",)
        )
        for kind, status, count, oldest_us in rows:
            depth.add_metric((kind, status), count)
            if status == "queued":
                age.add_metric((kind,), max(0, now - oldest_us) / 1e6)
        yield depth
        yield age
        yield GaugeMetricFamily("lethe_stale_leases", "Running jobs whose lease ran out", value=stale or 0)

    def _iter_forgets(self) -> Iterator[GaugeMetricFamily]:
        with self.kernel.database.read() as connection:
            count, oldest_us = connection.execute(
                sa.select(sa.func.count(), sa.func.min(forgets.c.fenced_us)).where(
                    forgets.c.state != "certified"
                )
            ).one()
        lag = 0.0 if oldest_us is None else max(0, self.kernel.clock() - oldest_us) / 1e6
        yield GaugeMetricFamily("lethe_uncertified_forgets", "Forget requests not certified yet", value=count)
        yield GaugeMetricFamily(
            "lethe_epoch_lag_seconds",
            "Age of the oldest uncertified forget, else 0",
            value=lag,
        )

    def _measure_index(self) -> GaugeMetricFamily:
        size = GaugeMetricFamily("lethe_index_bytes", "Size of the index by tier", labels=("tier",))
        segments = words = 0
        for folder, path, nbytes in _iter_sizes(self.indexes.folder):
            if path.parent == folder:
                segments += nbytes
            else:
                words += nbytes
        size.add_metric(("segments",), segments)
        size.add_metric(("words",), words)
        size.add_metric(
            ("vectors",), self.indexes.count_new_rows() * self.indexes.encoder.space.dimension * 4
        )
        return size

    def _measure_shelves(self) -> GaugeMetricFamily:
        size = GaugeMetricFamily("lethe_kv_bytes", "Size of key/value memories by tier", labels=("tier",))
        size.add_metric(("device",), self.shelves.device_bytes)
        size.add_metric(("ram",), self.shelves.ram_bytes)
        size.add_metric(("disk",), sum(nbytes for *_, nbytes in _iter_sizes(self.shelves.files.folder)))
        return size


def _iter_sizes(root: Path) -> Iterator[tuple[Path, Path, int]]:
    """Yield (tenant's folder, file, bytes) under a folder of tenants' folders; files may go meanwhile."""
    for folder in root.glob("*"):
        for path in folder.rglob("*"):
            try:
                if path.is_file():
                    yield folder, path, path.stat().st_size
            except FileNotFoundError:
                continue


def render(gauges: Gauges) -> bytes:
    """Return this process's counters and the gauges in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(gauges)
    return generate_latest() + generate_latest(registry)
