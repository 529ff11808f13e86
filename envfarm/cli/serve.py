"""``envfarm serve``."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
from typing import Annotated

import typer

from envfarm.core.errors import ConfigError, EnvfarmError, Reason

from .common import ConfigFile, Home, configuration, note

app = typer.Typer(add_completion=False)

_BACKLOG = 128


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8321,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines in. There is no log-in.")
    ] = False,
    home: Home = None,
    config: ConfigFile = None,
) -> None:
    """Serve the dashboard and the JSON API, read only. Ctrl-C ends it."""
    settings = configuration(config, home)
    if not allow_remote and not is_loopback(host):
        raise ConfigError(
            f"The dashboard has no log-in, so it does not listen on '{host}', where other machines reach it.",
            reason=Reason.usage,
            phase="serve",
            remedy="Use 127.0.0.1, or add --allow-remote if everyone on that network may read it.",
        )
    # heavy imports happen here, after the command line was parsed
    import uvicorn

    from envfarm.api import create_app
    from envfarm.api.guard import LOOPBACK_NAMES
    from envfarm.wiring.app import open_store

    with contextlib.closing(listen(host, port)) as listener:
        store, blobs = open_store(settings)
        with store:
            application = create_app(
                store, blobs, settings.home_path, allowed_hosts=None if allow_remote else LOOPBACK_NAMES
            )
            note(f"Serving {settings.home_path} at {address(listener)} (Ctrl-C ends it)")
            options = uvicorn.Config(application, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
            # uvicorn ends in order on a signal and then raises it again; for a server that is the normal way to end
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(options).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than ``localhost`` is not looked up: no."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ``EnvfarmError`` (usage) where the address cannot be had."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:  # the boundary to the name resolver
        raise _unusable(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:  # the boundary to the kernel
        listener.close()
        raise _unusable(host, port, error) from error
    return listener


def address(listener: socket.socket) -> str:
    """What to type into a browser."""
    bound, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(bound), str(bound))
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _unusable(host: str, port: int, error: OSError) -> EnvfarmError:
    return EnvfarmError(
        f"The dashboard cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}.",
        reason=Reason.config,
        phase="serve",
        remedy="Choose another with --port or --host.",
    )
