"""What holds for every request and answer: whom it is addressed to, and what a browser may do with it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_HEADERS = {
    # Pages show text of strangers. It is escaped; should an escape ever fail, nothing it says is run or loaded.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware: refuses requests addressed to other hosts, adds the security headers."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str] | None) -> None:
        self._app = app
        self._allowed = None if allowed_hosts is None else {host.lower() for host in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        host = host_name(Headers(scope=scope).get("host", ""))
        if self._allowed is not None and host not in self._allowed:
            body = {
                "reason": "host_refused",
                "message": "This server answers on this machine's own names alone.",
                "remedy": "Open http://127.0.0.1, or start it with --allow-remote.",
            }
            await JSONResponse(body, status_code=421)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def host_name(header: str) -> str:
    """The name in a Host header, without the port: ``[::1]:80`` gives ``[::1]``."""
    name = header.strip().lower()
    return name[: name.find("]") + 1] if name.startswith("[") else name.partition(":")[0]
