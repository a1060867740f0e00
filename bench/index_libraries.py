"""Peers that are libraries: FAISS's HNSW, hnswlib, usearch. Each is imported where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.index_data import DIMENSION, Keys, Matrix
from bench.index_kinds import BATCH, Kind, NotOfferedError

LINKS, CONSTRUCTION = 32, 200
"""Of every graph here: edges a node, and candidates while building."""


class FaissHnsw(Kind):
    """FAISS ``HNSW32,Flat``."""

    name = "faiss hnsw32"
    package = "faiss-cpu"
    about = f"IndexHNSWFlat, inner product, fp32, M={LINKS}, efConstruction={CONSTRUCTION}"
    settings = (32, 64, 128, 256, 512, 1024)

    def build(self, rows: Matrix, buckets: Keys) -> None:
        import faiss

        self.faiss: Any = faiss
        faiss.omp_set_num_threads(self.threads)
        self.index = self.faiss.IndexHNSWFlat(DIMENSION, LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = CONSTRUCTION
        for start in range(0, len(rows), BATCH):
            self.index.add(np.ascontiguousarray(rows[start : start + BATCH]))
        self.settle()
        np.save(self.folder / "buckets.npy", buckets.astype(np.int16))

    def open(self) -> None:
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(self.threads)
        self.index = self.faiss.read_index(str(self.folder / "index"))
        self.buckets = np.load(self.folder / "buckets.npy")

    def prepare(self, setting: int, bound: int | None) -> None:
        parameters = self.faiss.SearchParametersHNSW(efSearch=setting)
        if bound is not None:
            self.bits = np.packbits(self.buckets < bound, bitorder="little")
            parameters.sel = self.selector = self.faiss.IDSelectorBitmap(self.bits)
        self.parameters = parameters

    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        keys: Keys = self.index.search(query[None], limit, params=self.parameters)[1][0]
        return keys[keys >= 0]

    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        self.index.add(rows)

    def remove(self, keys: Keys) -> None:
        raise NotOfferedError("IndexHNSWFlat has no remove_ids")

    def settle(self) -> None:
        self.faiss.write_index(self.index, str(self.folder / "index"))


class Hnswlib(Kind):
    """hnswlib, single precision."""

    name = "hnswlib"
    package = "hnswlib"
    about = (
        f"inner product, fp32, M={LINKS}, ef_construction={CONSTRUCTION}; "
        "removal is mark_deleted; a filter is a Python function"
    )
    settings = (32, 64, 128, 256, 512, 1024)

    def build(self, rows: Matrix, buckets: Keys) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", DIMENSION)
        self.index.init_index(len(rows), M=LINKS, ef_construction=CONSTRUCTION, random_seed=1)
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            self.index.add_items(part, np.arange(start, start + len(part)), num_threads=self.threads)
        self.settle()
        np.save(self.folder / "buckets.npy", buckets.astype(np.int16))

    def open(self) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", DIMENSION)
        self.index.load_index(str(self.folder / "index"))
        self.index.set_num_threads(self.threads)
        self.buckets = np.load(self.folder / "buckets.npy")

    def prepare(self, setting: int, bound: int | None) -> None:
        self.index.set_ef(setting)
        self.filter = None
        if bound is not None:
            allowed = (self.buckets < bound).tolist()
            self.filter = lambda key: allowed[key]

    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        try:
            keys: Keys = self.index.knn_query(query, k=limit, num_threads=1, filter=self.filter)[0][0]
        except RuntimeError:  # it raises where it came by fewer than ``limit`` allowed ones
            if self.filter is None:
                raise
            return np.empty(0, np.int64)
        return keys.astype(np.int64)

    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        short = self.index.get_current_count() + len(keys) - self.index.get_max_elements()
        if short > 0:
            self.index.resize_index(self.index.get_max_elements() + max(short, 2_000))
        self.index.add_items(rows, keys, num_threads=1)

    def remove(self, keys: Keys) -> None:
        for key in keys.tolist():
            self.index.mark_deleted(key)

    def settle(self) -> None:
        self.index.save_index(str(self.folder / "index"))


class Usearch(Kind):
    """usearch, half precision."""

    name = "usearch f16"
    package = "usearch"
    about = (
        f"inner product, f16, connectivity={LINKS}, expansion_add={CONSTRUCTION}; "
        "removal is remove(compact=True)"
    )
    settings = (32, 64, 128, 256, 512, 1024)
    filters = False

    def _empty(self) -> Any:
        from usearch.index import Index

        return Index(ndim=DIMENSION, metric="ip", dtype="f16", connectivity=LINKS, expansion_add=CONSTRUCTION)

    def build(self, rows: Matrix, buckets: Keys) -> None:
        self.index = self._empty()
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            self.index.add(np.arange(start, start + len(part)), part, threads=self.threads)
        self.settle()

    def open(self) -> None:
        self.index = self._empty()
        self.index.load(str(self.folder / "index"))

    def prepare(self, setting: int, bound: int | None) -> None:
        if bound is not None:
            raise NotOfferedError("its Python interface has no filters")
        self.index.expansion_search = setting

    def search(self, query: npt.NDArray[np.float32], limit: int, setting: int, bound: int | None) -> Keys:
        return np.asarray(self.index.search(query, limit, threads=1).keys, np.int64)

    def insert(self, keys: Keys, rows: Matrix, buckets: Keys) -> None:
        self.index.add(keys, rows, threads=1)

    def remove(self, keys: Keys) -> None:
        self.index.remove(keys, compact=True)

    def settle(self) -> None:
        self.index.save(str(self.folder / "index"))


LIBRARIES: tuple[type[Kind], ...] = (FaissHnsw, Hnswlib, Usearch)
