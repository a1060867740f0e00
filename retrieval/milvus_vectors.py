"""Vectors in Milvus, on one host or on many: for sets that outgrow a machine.

Nothing is kept here between calls: what the engine holds is what every process sees. It removes by marking,
so that removed rows stay in its segments until it compacts: `compact` makes it, `engine_residue` says what
that assures and what it does not. The only importer of pymilvus.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt
from pymilvus import DataType, MilvusClient, MilvusException

from memory.errors import DimensionMismatchError, InvalidInputError, UnavailableError
from retrieval.engine_residue import Compacted
from retrieval.vectors import (
    MOST_TIES,
    Allowed,
    Keys,
    Matrix,
    Scores,
    as_keys,
    best,
    checked_query,
    checked_rows,
    load_rows,
    products,
    refuse_held,
    save_rows,
)

ADDRESS = "http://127.0.0.1:19530"
"""Where Milvus listens as shipped."""

_SPARE = 32
_CLOSE = 1e-5
"""So far the engine's single precision is trusted."""
_BATCH_BYTES = 3 << 20
"""A message of its log holds 5 MB."""
_REPLY_BYTES = 32 << 20
"""Half of what it sends at once."""
_MOST_FOUND = 16_384
"""So many hits it returns at most."""
_FEW = 10_000
"""So many keys are named in one expression, which takes it about 0.1 s to read."""
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_SEARCH_SECONDS = 15.0
"""So long the client tries a search again before it says that the engine is silent."""
_CALL_SECONDS = 60.0
_LOAD_SECONDS = 600.0
_LOCAL = ("close", "create_schema", "prepare_index_params")

Admits = Callable[[Keys], npt.NDArray[np.bool_]]
"""Says which of these keys may be found."""


class MilvusVectors:
    """One collection. ``FLAT`` compares every row; other index types of Milvus may miss some.

    ``consistency`` is Milvus's: ``Strong`` shows every process what any wrote before, and waits for the
    engine's clock (0.2 s as shipped); ``Session`` shows a process what itself wrote, ``Bounded`` what is some
    seconds old. One process at a time may add, as under a merge lease: that a key is new is looked up first.
    """

    def __init__(
        self,
        dimension: int,
        *,
        address: str = ADDRESS,
        collection: str = "lethe",
        token: str = "",
        consistency: str = "Strong",
        index_type: str = "FLAT",
        index_params: Mapping[str, Any] | None = None,
        search_params: Mapping[str, Any] | None = None,
        must_exist: bool = False,
    ) -> None:
        self._dimension = dimension
        self._address = address
        self._collection = collection
        self._level = consistency
        self._search_params = dict(search_params or {})
        self._most = min(_MOST_FOUND, _REPLY_BYTES // (4 * dimension))
        self._batch = max(1, _BATCH_BYTES // (4 * dimension + 8))
        with self._asking():
            self._client = _connect(address, token)
            if not self._client.has_collection(collection):
                if must_exist:
                    raise UnavailableError(f"Milvus at {address} has no collection {collection}")
                self._create(index_type, dict(index_params or {}))
            self._client.load_collection(collection, timeout=_LOAD_SECONDS)
            fields = self._client.describe_collection(collection)["fields"]
        held = next(int(field["params"]["dim"]) for field in fields if field["name"] == "row")
        if held != dimension:
            raise DimensionMismatchError(held, dimension)

    def _create(self, index_type: str, index_params: dict[str, Any]) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("row", DataType.FLOAT_VECTOR, dim=self._dimension)
        self._client.create_collection(self._collection, schema=schema, consistency_level=self._level)
        index = self._client.prepare_index_params()
        index.add_index("row", index_type=index_type, metric_type="IP", params=index_params)
        self._client.create_index(self._collection, index)

    @property
    def dimension(self) -> int:
        return self._dimension

    def __len__(self) -> int:
        with self._asking():
            counted = self._client.query(
                self._collection,
                filter="",
                output_fields=["count(*)"],
                consistency_level=self._level,
            )
        return int(counted[0]["count(*)"])

    def add(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        new = as_keys(keys)
        refuse_held(new, self._held(new))
        self.put(new, vectors)

    def put(self, keys: npt.ArrayLike, vectors: Matrix) -> None:
        """Add rows, in place of those that are held under the same keys."""
        new, rows = checked_rows(keys, vectors, self._dimension)
        with self._asking():
            for start in range(0, len(new), self._batch):
                part = slice(start, start + self._batch)
                # Not insert: sent twice after a lost reply, a row would be there twice.
                self._client.upsert(
                    self._collection,
                    [
                        {"id": key, "row": row}
                        for key, row in zip(new[part].tolist(), rows[part], strict=True)
                    ],
                )

    def remove(self, keys: npt.ArrayLike) -> int:
        held = sorted(self._held(as_keys(keys)))
        with self._asking():
            for start in range(0, len(held), _FEW):
                self._client.delete(self._collection, ids=held[start : start + _FEW])
        return len(held)

    def search(
        self, query: npt.NDArray[np.float32], *, limit: int, allowed: Allowed | None = None
    ) -> tuple[Keys, Scores]:
        wanted = checked_query(query, self._dimension)
        permitted = None if allowed is None else np.flatnonzero(allowed)
        if limit <= 0 or (permitted is not None and len(permitted) == 0):
            return best(np.empty(0, np.int64), np.empty(0), limit)
        if allowed is None or permitted is None:
            return self._search(wanted, limit, "", None, 1.0) or self._too_deep(limit)
        if len(permitted) <= _FEW:
            return self._search(wanted, limit, _among(permitted), None, 1.0) or self._too_deep(limit)
        # Many are allowed: so many more are asked for that enough of them are, and the rest is passed over.
        share = len(permitted) / len(allowed)
        found = self._search(wanted, limit, f"id < {len(allowed)}", lambda keys: allowed[keys], share)
        return found or self._search_parts(wanted, limit, permitted)

    def search_where(
        self,
        query: npt.NDArray[np.float32],
        *,
        limit: int,
        admits: Admits,
        list_admitted: Callable[[], Keys],
        share: float,
    ) -> tuple[Keys, Scores]:
        """``search`` for keys too large for a bitmap over them; ``limit`` ≥ 1.

        ``share`` is about how many of the rows are admitted, more than none. All admitted keys are listed,
        with at least one, only where asking for more hits does not settle it.
        """
        wanted = checked_query(query, self._dimension)
        found = self._search(wanted, limit, "", admits, share)
        return found or self._search_parts(wanted, limit, list_admitted())

    def _search_parts(
        self, query: npt.NDArray[np.float32], limit: int, permitted: Keys
    ) -> tuple[Keys, Scores]:
        """Search among keys named in several expressions."""
        parts = [
            self._search(query, limit, _among(permitted[start : start + _FEW]), None, 1.0)
            or self._too_deep(limit)
            for start in range(0, len(permitted), _FEW)
        ]
        keys, scores = zip(*parts, strict=True)
        return best(np.concatenate(keys), np.concatenate(scores), limit)

    def score(self, query: npt.NDArray[np.float32], keys: npt.ArrayLike) -> Scores:
        wanted, asked = checked_query(query, self._dimension), as_keys(keys)
        held = self._get(asked)
        known = [key for key in asked.tolist() if key in held]
        scores = np.full(len(asked), -1.0)
        scores[[key in held for key in asked.tolist()]] = products(self._stacked(held, known), wanted)
        return scores

    def rows(self, keys: npt.ArrayLike) -> Matrix:
        asked = as_keys(keys)
        return self._stacked(self._get(asked), asked.tolist())

    def keys(self) -> Keys:
        keys: list[int] = []
        with self._asking():
            pages = self._client.query_iterator(
                self._collection,
                batch_size=_FEW,
                filter="id >= 0",
                output_fields=["id"],
                consistency_level=self._level,
            )
            while page := pages.next():
                keys += [int(hit["id"]) for hit in page]
            pages.close()
        return np.array(sorted(keys), dtype=np.int64)

    def save(self, folder: Path) -> str:
        return save_rows(self, folder)

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        *,
        address: str = ADDRESS,
        collection: str = "lethe",
        **options: Any,
    ) -> Self:
        """Open what any kind saved in place of whatever the collection holds."""
        dimension, keys, rows = load_rows(folder, name)
        with _asking(address):
            client = _connect(address, options.get("token", ""))
            if client.has_collection(collection):
                client.drop_collection(collection)
            client.close()
        index = cls(dimension, address=address, collection=collection, **options)
        for start in range(0, len(keys), _FEW):
            part = slice(start, start + _FEW)
            index.add(keys[part], rows[part].astype(np.float32))
        return index

    def compact(self, *, timeout_seconds: float) -> Compacted:
        """Have the engine rewrite its segments until they hold no removed row.

        Nothing may be written meanwhile. ``UnavailableError`` when that takes longer, or does not help.
        """
        started = time.monotonic()
        with self._asking():
            self._client.flush(self._collection)
            before = {segment.segment_id for segment in self._segments()}
            while True:
                number = self._client.compact(self._collection)
                while self._client.get_compaction_state(number) != "Completed":
                    self._wait(started, timeout_seconds, "a compaction is under way")
                segments = self._segments()
                # Rows that are marked as removed count in their segments, not in the collection.
                stored, held = sum(int(segment.num_rows) for segment in segments), len(self)
                if stored == held:
                    break
                self._wait(started, timeout_seconds, f"segments hold {stored} rows, {held} are there")
            now = {segment.segment_id for segment in segments}
            return Compacted(
                version=str(self._client.get_server_version()),
                segments=len(now),
                rows=held,
                rewritten=len(before - now),
                seconds=round(time.monotonic() - started, 3),
            )

    def close(self) -> None:
        """Let go of the connection; what the engine holds stays."""
        self._client.close()

    def drop(self) -> None:
        """Take the whole collection out of the engine; its files go as those of removed rows do."""
        with self._asking():
            self._client.drop_collection(self._collection)

    def _search(
        self,
        query: npt.NDArray[np.float32],
        limit: int,
        expression: str,
        admits: Admits | None,
        share: float,
    ) -> tuple[Keys, Scores] | None:
        """Ask deeper until nothing below can be among the best; None where the engine does not go so deep."""
        depth = int((limit + _SPARE) / share * 1.5) if share < 1 else limit + _SPARE
        while True:
            depth = min(depth, self._most)
            keys, rows = self._nearest(query, depth, expression)
            scores = products(rows, query)
            whole = len(keys) < depth
            lowest = float(scores.min()) if len(keys) else 0.0
            if admits is not None:
                kept = admits(keys)
                keys, scores = keys[kept], scores[kept]
            settled = len(keys) >= limit and lowest < np.sort(scores)[-limit] - _CLOSE
            if whole or settled or len(keys) >= limit + MOST_TIES + _SPARE:
                return best(keys, scores, limit)
            if depth == self._most:
                return None
            depth *= 4

    def _too_deep(self, limit: int) -> tuple[Keys, Scores]:
        raise InvalidInputError(
            f"{limit} cannot be settled by {self._most} hits, the most there are", where="limit"
        )

    def _nearest(self, query: npt.NDArray[np.float32], depth: int, expression: str) -> tuple[Keys, Matrix]:
        params = dict(self._search_params)
        if "ef" in params:
            params["ef"] = max(params["ef"], depth)  # HNSW looks through no fewer than it returns
        with self._asking():
            hits = self._client.search(
                self._collection,
                data=[query],
                limit=depth,
                filter=expression,
                output_fields=["row"],
                search_params={"metric_type": "IP", "params": params},
                consistency_level=self._level,
                timeout=_SEARCH_SECONDS,
            )[0]
        keys = np.array([hit["id"] for hit in hits], dtype=np.int64)
        rows = np.array([hit["entity"]["row"] for hit in hits], dtype=np.float32)
        return keys, rows.reshape(len(keys), self._dimension)

    def find(self, keys: npt.ArrayLike) -> Keys:
        """Return which of these keys are held, ascending."""
        return np.array(sorted(self._held(as_keys(keys))), dtype=np.int64)

    def _asking(self) -> AbstractContextManager[None]:
        return _asking(self._address)

    def _held(self, keys: Keys) -> set[int]:
        held: set[int] = set()
        with self._asking():
            for start in range(0, len(keys), _FEW):
                found = self._client.query(
                    self._collection,
                    filter=_among(keys[start : start + _FEW]),
                    output_fields=["id"],
                    consistency_level=self._level,
                )
                held.update(int(hit["id"]) for hit in found)
        return held

    def _get(self, keys: Keys) -> dict[int, npt.NDArray[np.float32]]:
        rows: dict[int, npt.NDArray[np.float32]] = {}
        with self._asking():
            for start in range(0, len(keys), self._batch):
                for hit in self._client.query(
                    self._collection,
                    filter=_among(keys[start : start + self._batch]),
                    output_fields=["id", "row"],
                    consistency_level=self._level,
                ):
                    rows[int(hit["id"])] = np.array(hit["row"], dtype=np.float32)
        return rows

    def _stacked(self, held: Mapping[int, npt.NDArray[np.float32]], keys: list[int]) -> Matrix:
        return np.array([held[key] for key in keys], np.float32).reshape(len(keys), self._dimension)

    def _segments(self) -> list[Any]:
        return list(self._client.list_persistent_segments(self._collection))

    def _wait(self, started: float, timeout_seconds: float, why: str) -> None:
        if time.monotonic() - started > timeout_seconds:
            raise UnavailableError(f"the engine is not done after {timeout_seconds} s: {why}")
        time.sleep(_POLL_SECONDS)


def list_collections(address: str, token: str = "") -> tuple[str, list[str]]:
    """Return the version of the engine at an address, and the names of its collections."""
    with _asking(address):
        client = _connect(address, token)
        try:
            return str(client.get_server_version()), list(client.list_collections())
        finally:
            client.close()


def drop_collection(address: str, name: str, token: str = "") -> None:
    """Take a whole collection out of the engine; its files go as those of removed rows do."""
    with _asking(address):
        client = _connect(address, token)
        try:
            client.drop_collection(name)
        finally:
            client.close()


def _connect(address: str, token: str) -> Any:
    # The client's own lines are no JSON and quote what servers say; what goes wrong is raised besides.
    for name in ("pymilvus", "pymilvus.milvus_client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return _Patient(MilvusClient(uri=address, token=token, timeout=_CONNECT_SECONDS))


class _Patient:
    """Milvus's client, with an end to each call: of itself it waits for ever for a server that is silent."""

    def __init__(self, client: MilvusClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)
        return call if name in _LOCAL else partial(call, timeout=_CALL_SECONDS)


@contextmanager
def _asking(address: str) -> Iterator[None]:
    """Tell the engine's refusals and silences as one family; they are worth another try."""
    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
        where = address.rpartition("@")[2]  # without a password
        code = error.code() if isinstance(error, grpc.Call) else getattr(error, "code", "none")
        raise UnavailableError(
            f"Milvus at {where} does not answer, or refuses ({type(error).__name__}, code {code}): see "
            "that it runs and can be reached from here"
        ) from error


def _among(keys: npt.NDArray[np.integer]) -> str:
    return f"id in {keys.tolist()}"
