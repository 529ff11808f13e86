"""Errors leave in one shape: JSON with a stable ``reason`` below ``/api``, a page elsewhere."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from envfarm.core.errors import EnvfarmError, Reason
from envfarm.dashboard.templating import render


class ErrorBody(BaseModel):
    """What every error answer of the API holds."""

    reason: str
    """A stable slug: a ``Reason`` of envfarm's, or ``host_refused``."""
    message: str
    """One sentence for a person."""
    remedy: str = ""


RESPONSES: dict[int | str, dict[str, object]] = {
    404: {"model": ErrorBody, "description": "Not in the store."},
    422: {"model": ErrorBody, "description": "A parameter cannot be used."},
    503: {"model": ErrorBody, "description": "The store cannot be reached."},
}

_STATUS = {
    Reason.not_found: 404,
    Reason.blob_missing: 404,
    Reason.usage: 422,
    Reason.config: 422,
    Reason.store_unreachable: 503,
}
_TITLES = {404: "Not found", 405: "Not allowed", 422: "Not understood", 503: "The store cannot be reached"}


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(EnvfarmError, _envfarm)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


def _envfarm(request: Request, error: Exception) -> Response:
    assert isinstance(error, EnvfarmError)
    status = _STATUS.get(error.reason, 500)
    return answer(request, status, ErrorBody(reason=error.reason, message=error.message, remedy=error.remedy))


def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    message = f"Parameter '{name}' cannot be used: {str(first['msg']).lower()}."
    return answer(request, 422, ErrorBody(reason=Reason.usage, message=message))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        body = ErrorBody(reason=Reason.not_found, message=f"There is nothing at {request.url.path}.")
    else:
        body = ErrorBody(reason=Reason.usage, message=f"{error.detail}.")
    return answer(request, error.status_code, body, dict(error.headers or {}))


def _unexpected(request: Request, error: Exception) -> Response:
    # The server's own log gets the traceback: Starlette raises the error again after this answer.
    message = f"The server met an error of its own: {type(error).__name__}."
    return answer(request, 500, ErrorBody(reason=Reason.internal, message=message, remedy="Its log says where."))


def answer(request: Request, status: int, body: ErrorBody, headers: dict[str, str] | None = None) -> Response:
    """The error in the form the address promises."""
    if request.url.path.startswith("/api") or request.url.path == "/healthz":
        return JSONResponse(body.model_dump(), status_code=status, headers=headers)
    message = f"{body.message} {body.remedy}".strip()
    html = render("error.html", title=_TITLES.get(status, "Error"), message=message, reason=body.reason)
    return HTMLResponse(html, status_code=status, headers=headers)
