"""Commands that run the service: ``serve``, ``worker`` and ``db``."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.terminal import Data, errors, output
from memory.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from service.lethe import Lethe
    from service.settings import Settings

database = typer.Typer(help="The database's schema.", no_args_is_help=True)


def serve(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="address to listen on (default 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="port (default 8700)")] = None,
) -> None:
    """Serve over HTTP until stopped."""
    from api.app import create_app
    from api.server import server_of

    settings = _settings(data, host=host, port=port)
    listening = bind(settings.host, settings.port)
    if not is_loopback(settings.host):
        errors().print(
            f"WARNING: {settings.host} is not loopback. Lethe speaks plain HTTP: keys and memories can be "
            "read on the network unless a proxy in front of it does TLS.",
            style="bold red",
        )
    app = create_app(_build(settings), max_body_bytes=settings.max_body_bytes)
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    shown_port = listening.getsockname()[1]
    errors().print(f"Lethe listens on http://{shown_host}:{shown_port}; its data is in {settings.data}")
    server_of(app, host=settings.host, port=shown_port).run(sockets=[listening])


def worker(data: Data = None) -> None:
    """Work through the jobs of a data folder without serving HTTP, until stopped."""
    lethe = _build(_settings(data))
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    lethe.start()
    try:
        errors().print("working; stop with Ctrl+C")
        stopping.wait()
    finally:
        lethe.stop()


@database.command()
def upgrade(data: Data = None) -> None:
    """Bring the schema to the newest revision."""
    from service.wiring import upgrade_database

    for plane, revision in upgrade_database(_settings(data)).items():
        output().print(f"{plane}: {revision}")


@database.command()
def current(data: Data = None) -> None:
    """Print the schema's revisions, and the newest ones there are."""
    from memory.database import connect
    from migrations import get_revisions

    settings = _settings(data)
    for path in (settings.data / "lethe.db", settings.data / "keys.db"):
        if settings.database_url is None and not path.exists():
            raise NotFoundError("database", str(path))
    planes: tuple[tuple[Literal["data", "keys"], str], ...] = (
        ("data", settings.resolved_database_url),
        ("keys", settings.resolved_keys_url),
    )
    for plane, url in planes:
        opened = connect(url)
        found, newest = get_revisions(plane, opened.engine)
        opened.close()
        output().print(f"{plane}: {found or 'none'} (newest: {newest})")


def _build(settings: Settings) -> Lethe:
    """Return the service wired with its embedded worker, this process's alone for its data folder."""
    from api.cli_models import fetch
    from embedding.models import ModelStore
    from service.stores import BROKER_FOLDER
    from service.wiring import build, configure_logs, lock_data_folder
    from workers.broker import EmbeddedBroker
    from workers.worker import EmbeddedWorker

    configure_logs(settings.log_level)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock_data_folder(settings.data)
    if settings.engine_url is None:
        fetch(ModelStore(settings.models_cache), settings.embedder)
    broker = None if settings.broker_url else EmbeddedBroker(settings.data / BROKER_FOLDER)
    waker = EmbeddedWorker(broker_url=settings.broker_url, broker=broker, threads=settings.worker_threads)
    return build(settings, waker)


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Take the address now, to fail early; connections are refused until the service is ready."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UnavailableError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from error
    return bound


def _settings(data: Path | None, *, host: str | None = None, port: int | None = None) -> Settings:
    from service.settings import Settings

    given = {"data": data, "host": host, "port": port}
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
