"""All of it joined: guard, API, pages, and errors told in one form.

In:  a Site.  Out: an ASGI application.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

from btx_core.problems import BtxError
from registry.errors import Conflict, Damaged, Invalid, NotFound, Refused, Unavailable
from registry.web import api, pages
from registry.web.middleware import HEADERS, Guard
from registry.web.rendering import STATIC
from registry.web.site import Site

STATUS: dict[type[Exception], int] = {
    NotFound: 404,
    Invalid: 422,
    Conflict: 409,
    Refused: 403,
    Unavailable: 503,
    Damaged: 500,
}


def application(site: Site) -> FastAPI:
    app = FastAPI(
        title="btx registry",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.site = site
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(StarletteHTTPException, _plain)
    app.add_exception_handler(BtxError, _problem)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(
        Guard, hosts=site.hosts, identify=lambda headers: _key(site, headers), limits=site.limits
    )
    return app


def _key(site: Site, headers: Any) -> str | None:
    found = api.identified(site, headers)
    return found.token if found else None


async def _problem(request: Request, error: Exception) -> Response:
    """Answer a known error with its own words; bytes or rows that are damaged are our fault."""
    assert isinstance(error, BtxError)
    status = STATUS.get(type(error), 422)
    words = {name: str(getattr(error, name)) for name in ("subject", "found", "expected", "next")}
    return _answer(request, status, words)


async def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    problem = {
        "subject": where,
        "found": str(first.get("input"))[:80],
        "expected": first["msg"],
        "next": "see /api/openapi.json",
    }
    return _answer(request, 422, problem)


async def _broken(request: Request, error: Exception) -> Response:
    """Ours to mend: the server's own log tells more. The guard is inside of what calls this, so the headers are set here."""
    problem = {
        "subject": f"{request.method} {request.url.path}"[:200],
        "found": type(error).__name__,
        "expected": "an answer",
        "next": "tell who runs btx serve",
    }
    return _answer(request, 500, problem, HEADERS)


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException | StarletteHTTPException)
    if error.status_code == 401 and not request.url.path.startswith("/api"):
        return pages.to_login(request)
    problem = {
        "subject": f"{request.method} {request.url.path}"[:200],
        "found": str(error.detail),
        "expected": "",
        "next": "",
    }
    return _answer(request, error.status_code, problem, dict(error.headers or {}))


def _answer(
    request: Request, status: int, problem: dict[str, str], headers: Mapping[str, str] | None = None
) -> Response:
    if request.url.path.startswith("/api"):
        return JSONResponse(problem, status, headers)
    return HTMLResponse(pages.problem(request, status, problem), status, headers)
