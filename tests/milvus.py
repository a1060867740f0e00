"""A real Milvus: the server named by LETHE_TEST_MILVUS, else one started from the wheel ``milvus``.

Neither the client (the extra ``[milvus]``) nor the server is among what tests need by default.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GIVEN = "LETHE_TEST_MILVUS"
START_SECONDS = 120.0
GARBAGE_SECONDS = 3
KEPT = {
    "dataCoord.gc.interval": GARBAGE_SECONDS,
    # Not missingTolerance: files whose segment is not registered yet would go, and the server with them.
    "dataCoord.gc.dropTolerance": GARBAGE_SECONDS,
    # The engine's clock, which strong reads wait for: twenty times as fast as it is shipped.
    "proxy.timeTickInterval": 10,
}


@dataclass(frozen=True)
class Server:
    """Where it listens, and its files where they are ours to look at."""

    address: str
    files: Path | None


def missing() -> str | None:
    """Say what keeps tests from running against Milvus, if anything does."""
    if importlib.util.find_spec("pymilvus") is None:
        return "needs the extra [milvus]"
    if GIVEN not in os.environ and importlib.util.find_spec("milvus") is None:
        return f"needs {GIVEN} or the wheel milvus==2.3.5"
    return None


@contextmanager
def serve() -> Iterator[Server]:
    """Yield the server that is given, else one of our own that goes with the block."""
    if given := os.environ.get(GIVEN):
        yield Server(given, None)
        return
    # Deferred: neither is there by default.
    from milvus import MilvusServer
    from pymilvus import MilvusClient, MilvusException

    folder = Path(tempfile.mkdtemp(prefix="lethe-milvus-"))
    server = MilvusServer(wait_for_started=False)
    server.set_base_dir(str(folder))
    for name, value in KEPT.items():
        server.config.set(name, value)
    try:
        server.start()
        address = f"http://127.0.0.1:{server.listen_port}"
        late = time.monotonic() + START_SECONDS
        while True:
            try:
                client = MilvusClient(uri=address, timeout=2)
                client.list_collections()
                break
            except MilvusException:
                assert server.server_proc.poll() is None, "it ended"
                assert time.monotonic() < late, "it does not start"
                time.sleep(0.2)
        client.close()
        yield Server(address, folder / "data")
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
