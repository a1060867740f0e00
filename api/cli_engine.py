"""The command that runs the engine: ``lethe engine``."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli_serve import bind, is_loopback
from api.terminal import errors
from memory.errors import ForbiddenError


def engine(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="port (default 8710)")] = None,
) -> None:
    """Hold the models and serve them to other processes of this installation, until stopped."""
    from api.cli_models import fetch
    from api.engine import Gates, create_engine
    from api.server import server_of
    from embedding.models import ModelStore
    from service.models import build_engine, load_engine_key
    from service.settings import Settings
    from service.wiring import configure_logs

    settings = Settings()
    key = load_engine_key(settings)
    if key is None and not is_loopback(host):
        raise ForbiddenError(
            f"{host} is not loopback, and there is no key: whoever reaches the port could use the models. "
            "Name a file with a key in LETHE_ENGINE_KEY_FILE, here and for the service "
            "(to make one: openssl rand -hex 32 > engine.key)"
        )
    listening = bind(host, settings.engine_port if port is None else port)
    if not is_loopback(host):
        errors().print(
            f"WARNING: {host} is not loopback. The engine speaks plain HTTP: memories and the key can be "
            "read on the network unless it is a private one, or a proxy does TLS.",
            style="bold red",
        )
    configure_logs(settings.log_level)
    fetch(ModelStore(settings.models_cache), settings.embedder)
    encoder, reader, loader = build_engine(settings)
    gates = Gates(settings.reader_places + settings.reader_waiting + 1)
    app = create_engine(encoder, reader, loader, key=key, gates=gates, max_body_bytes=settings.max_body_bytes)
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = listening.getsockname()[1]
    errors().print(
        f"The engine listens on http://{shown_host}:{shown_port}; it encodes with {encoder.space.model} "
        f"({encoder.space.numeric_class})",
        soft_wrap=True,
    )
    server_of(app, host=host, port=shown_port).run(sockets=[listening])
