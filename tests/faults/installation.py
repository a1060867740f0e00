"""An installation of Lethe in processes that are killed with -9 and started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from redis import Redis

from tests.postgres import OwnServer
from tests.served import Served
from tests.tiny import build_tiny_encoder
from workers.broker import EmbeddedBroker


class Installation:
    """The processes of one installation, and the supervisor that starts them again."""

    def __init__(self, folder: Path, roles: tuple[str, ...], settings: Mapping[str, str]) -> None:
        self.folder, self.settings = folder, settings
        self.model = build_tiny_encoder(folder / "model")
        self.data = folder / "data"
        self._starts = 0
        self.broker: EmbeddedBroker | None = None
        self.database: OwnServer | None = None
        self.processes = {f"{role} {at}": self._start(role) for at, role in enumerate(roles)}

    def _start(self, role: str) -> Served:
        self._starts += 1
        process = Served(
            self.data, self.model, self.folder / f"{role}-{self._starts}.log", role, self.settings
        )
        process.wait()
        return process

    @property
    def door(self) -> Served:
        return next(p for p in self.processes.values() if p.role in ("serve", "api"))

    def kill(self, target: str) -> None:
        if target == "database" and self.database is not None:
            return self.database.kill()
        if target != "broker":
            return self.processes[target].kill()
        broker = self.broker or EmbeddedBroker(self.data / "broker")
        client = Redis(unix_socket_path=str(broker.socket))
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
        return client.close()

    def restore(self) -> None:
        """Start again what ended; an embedded broker is its worker's business."""
        if self.database is not None:
            self.database.ensure()
        if self.broker is not None:
            self.broker.ensure()
        for name, process in self.processes.items():
            if process.process.poll() is not None:
                self.processes[name] = self._start(process.role)

    def stop(self) -> None:
        for process in self.processes.values():
            process.stop()
