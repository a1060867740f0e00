"""Keep a data folder as this code leaves it, for the releases to come to open.

    python -m tests.upgrade.keep NAME

writes ``tests/upgrade/NAME.tar.gz``. Done once for each release that changed how things are stored.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

from tests.served import Served
from tests.tiny import build_tiny_encoder
from tests.upgrade.story import tell

KEPT = Path(__file__).parent


def main() -> None:
    """Tell the story to a fresh folder and pack it."""
    (name,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        model = build_tiny_encoder(Path(folder) / "model")
        served = Served(Path(folder) / "data", model, Path(folder) / "log")
        served.wait()
        tell(served)
        with tarfile.open(KEPT / f"{name}.tar.gz", "x:gz") as archive:
            for path in sorted((Path(folder) / "data").rglob("*")):
                if path.is_file():  # not the broker's socket
                    archive.add(path, str(path.relative_to(Path(folder) / "data")), recursive=False)


if __name__ == "__main__":
    main()
