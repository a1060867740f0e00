"""Commands that run the service: ``serve``, ``worker`` and ``db``."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from api.terminal import Data, errors, output
from memory.errors import InvalidInputError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from service.lethe import Lethe
    from service.settings import Settings

Role = Literal["all", "api", "worker"]

schema = typer.Typer(help="The database's schema.", no_args_is_help=True)


def serve(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="address to listen on (default 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="port (default 8700)")] = None,
) -> None:
    """Serve over HTTP until stopped."""
    _listen(settings_of(data, host=host, port=port), "all")


def serve_api(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="address to listen on (default 127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="port (default 8700)")] = None,
) -> None:
    """Serve over HTTP beside other processes; `lethe worker` does the work."""
    _listen(settings_of(data, host=host, port=port), "api")


def _listen(settings: Settings, role: Role) -> None:
    from api.app import create_app
    from api.limits import make_limits
    from api.server import server_of

    listening = bind(settings.host, settings.port)
    if not is_loopback(settings.host):
        errors().print(
            f"WARNING: {settings.host} is not loopback. Lethe speaks plain HTTP: keys and memories can be "
            "read on the network unless a proxy in front of it does TLS.",
            style="bold red",
        )
    limits = make_limits(
        read_per_second=settings.rate_read_per_second,
        write_per_second=settings.rate_write_per_second,
        answer_per_second=settings.rate_answer_per_second,
        burst_seconds=settings.rate_burst_seconds,
        failures_per_minute=settings.failed_keys_per_minute or None,
    )
    app = create_app(
        _build(settings, role),
        max_body_bytes=settings.max_body_bytes,
        limits=limits,
        readings=settings.reader_places + settings.reader_waiting,
    )
    shown_host = f"[{settings.host}]" if ":" in settings.host else settings.host
    shown_port = listening.getsockname()[1]
    errors().print(f"Lethe listens on http://{shown_host}:{shown_port}; its data is in {settings.data}")
    server = server_of(
        app,
        host=settings.host,
        port=shown_port,
        trusted_proxies=settings.trusted_proxies,
        drain_seconds=settings.drain_seconds,
    )
    server.run(sockets=[listening])


def worker(data: Data = None) -> None:
    """Work through jobs without serving HTTP, until stopped."""
    lethe = _build(settings_of(data), "worker")
    stopping = threading.Event()

    def stop(number: int, _: object) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    lethe.start()
    unfinished = 0
    try:
        errors().print("working; stop with Ctrl+C")
        stopping.wait()
    finally:
        unfinished = lethe.stop()
    if unfinished:
        os._exit(0)  # the threads that hold them would keep the process from ending


@schema.command()
def upgrade(data: Data = None) -> None:
    """Bring the schema to the newest revision."""
    from service.wiring import upgrade_database

    for plane, revision in upgrade_database(settings_of(data)).items():
        output().print(f"{plane}: {revision}")


@schema.command()
def current(data: Data = None) -> None:
    """Print the schema's revisions, and the newest ones there are."""
    from memory.database import connect
    from migrations import get_revisions

    settings = settings_of(data)
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


def _build(settings: Settings, role: Role) -> Lethe:
    """Return the service wired for what this process is to do.

    ``all`` has its worker embedded. ``api`` and ``worker`` stand beside each other over one database and one
    data folder, which takes servers for database and broker. Else the folder is this process's alone.
    """
    from api.cli_models import fetch
    from embedding.models import ModelStore
    from memory.database import connect
    from service.stores import BROKER_FOLDER
    from service.wiring import build, configure_logs, configure_traces, lock_data_folder
    from workers.broker import EmbeddedBroker
    from workers.sender import Sender
    from workers.worker import EmbeddedWorker

    configure_logs(settings.log_level)
    configure_traces(settings)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = connect(settings.resolved_database_url)
    if role == "api" and not (database.is_shared and settings.broker_url):
        raise InvalidInputError(
            "several processes need a database and a broker that are servers: set LETHE_DATABASE_URL to a "
            "postgresql:// URL and LETHE_BROKER_URL to a redis:// one, or use `lethe serve`"
        )
    if not database.is_shared or settings.broker_url is None:
        lock_data_folder(settings.data)
    database.close()
    if settings.engine_url is None:
        fetch(ModelStore(settings.models_cache), settings.embedder)
    broker = None if settings.broker_url else EmbeddedBroker(settings.data / BROKER_FOLDER)
    if role == "api":
        assert settings.broker_url is not None
        return build(settings, Sender(settings.broker_url))
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


def settings_of(data: Path | None, *, host: str | None = None, port: int | None = None) -> Settings:
    """Return the settings; what the command line gives comes before the environment."""
    from service.settings import Settings

    given = {"data": data, "host": host, "port": port}
    return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
