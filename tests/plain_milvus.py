"""A stand-in for ``retrieval.milvus_vectors``: the same surface over plain indexes, and it can fall silent.

What Milvus itself does is tested against a real one; this is for what the service does with it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from memory.errors import UnavailableError
from retrieval.engine_residue import Compacted
from retrieval.vectors import NumpyVectors, best, products


class PlainMilvus:
    """One engine: its collections by name, and whether it answers."""

    address = "http://plain:19530"

    def __init__(self) -> None:
        self.collections: dict[str, NumpyVectors] = {}
        self.is_silent = False
        self.searches = 0
        self.compactions = 0

    def answer(self) -> None:
        if self.is_silent:
            raise UnavailableError(f"Milvus at {self.address} does not answer")

    def as_module(self) -> ModuleType:
        """Return what stands in for the module."""
        engine = self

        class MilvusVectors:
            def __init__(
                self, dimension: int, *, address: str, collection: str, must_exist: bool, **options: Any
            ) -> None:
                engine.answer()
                assert address == engine.address
                self.name = collection
                if collection not in engine.collections:
                    if must_exist:
                        raise UnavailableError(f"there is no collection {collection}")
                    engine.collections[collection] = NumpyVectors(dimension)

            @property
            def held(self) -> NumpyVectors:
                engine.answer()
                if self.name not in engine.collections:
                    raise UnavailableError(f"there is no collection {self.name}")
                return engine.collections[self.name]

            def __len__(self) -> int:
                return len(self.held)

            def keys(self) -> Any:
                return self.held.keys()

            def find(self, keys: Any) -> Any:
                return np.intersect1d(self.held.keys(), keys)

            def put(self, keys: Any, vectors: Any) -> None:
                self.held.remove(keys)
                self.held.add(keys, vectors)

            def remove(self, keys: Any) -> int:
                return self.held.remove(keys)

            def search_where(
                self, query: Any, *, limit: int, admits: Any, list_admitted: Any, share: float
            ) -> Any:
                assert 0 < share <= 1
                assert len(list_admitted())
                engine.searches += 1
                keys = self.held.keys()
                keys = keys[admits(keys)]
                return best(keys, products(self.held.rows(keys), query), limit)

            def compact(self, *, timeout_seconds: float) -> Compacted:
                engine.compactions += 1
                return Compacted("plain", 1, len(self.held), 1, 0.0)

        def list_collections(address: str, token: str = "") -> tuple[str, list[str]]:
            engine.answer()
            return "plain", list(engine.collections)

        def drop_collection(address: str, name: str, token: str = "") -> None:
            engine.answer()
            del engine.collections[name]

        module = ModuleType("retrieval.milvus_vectors")
        module.__dict__.update(
            MilvusVectors=MilvusVectors, list_collections=list_collections, drop_collection=drop_collection
        )
        return module
