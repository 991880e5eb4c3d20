"""All of it joined: the checks of every request, API, pages, and errors answered in one form.

In:  a Site.  Out: an ASGI application.
"""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from btx_core.problems import BtxError
from registry.errors import Conflict, Damaged, Invalid, NotFound, Refused, Unavailable
from registry.records.answers.failure import ErrorAnswer, failure_of
from registry.web import api, html_pages, officer_api, officer_pages
from registry.web.middleware import HEADERS, RequestChecks
from registry.web.public import UnderPrefix
from registry.web.rendering import STATIC
from registry.web.site import Site

# What is damaged is our fault; of what is not listed, the request is.
STATUS: Mapping[type[Exception], int] = {
    NotFound: 404,
    Invalid: 422,
    Conflict: 409,
    Refused: 403,
    Unavailable: 503,
    Damaged: 500,
}
UNREADABLE = 422
KIND_OF_STATUS: Mapping[int, str] = {
    **{status: kind.__name__ for kind, status in STATUS.items()},
    401: Refused.__name__,
    429: Unavailable.__name__,
}


def application(site: Site) -> FastAPI:
    """Return the server's application."""
    app = FastAPI(
        title="btx registry",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.site = site
    app.include_router(api.router)
    app.include_router(officer_api.router)
    app.include_router(html_pages.router)
    app.include_router(officer_pages.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(RequestValidationError, _answer_unreadable)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(BtxError, _answer_known_error)
    app.add_exception_handler(Exception, _answer_unknown_error)
    app.add_api_route("/health", lambda: _health(site), include_in_schema=False)
    app.add_middleware(
        RequestChecks,
        hosts=site.hosts,
        identify=lambda headers: _key(site, headers),
        limits=site.limits,
    )
    if site.public:
        app.add_middleware(UnderPrefix, address=site.public)
    return app


def _health(site: Site) -> JSONResponse:
    """Say whether the registry can be read; nothing of what is in it."""
    site.catalog.last()
    return JSONResponse({"status": "ok"})


def _key(site: Site, headers: Headers) -> str | None:
    person = api.identified(site, headers)
    return person.token if person else None


async def _answer_known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BtxError)
    return _answer(request, STATUS.get(type(error), UNREADABLE), failure_of(error).error)


async def _answer_unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    answer = ErrorAnswer(
        kind=Invalid.__name__,
        subject=".".join(str(part) for part in first["loc"]),
        found=str(first.get("input"))[:80],
        expected=first["msg"],
        next="see /api/openapi.json",
    )
    return _answer(request, UNREADABLE, answer)


async def _answer_unknown_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours, which the server's own log tells more of."""
    answer = ErrorAnswer(
        kind=type(error).__name__,
        subject=_asked(request),
        found=type(error).__name__,
        expected="an answer",
        next="tell whoever runs btx serve",
    )
    # The middleware is inside of what calls this, so the headers are set here.
    return _answer(request, 500, answer, HEADERS)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 401 and not _for_programs(request):
        return html_pages.to_login(request)
    answer = ErrorAnswer(
        kind=KIND_OF_STATUS.get(error.status_code, Invalid.__name__),
        subject=_asked(request),
        found=str(error.detail),
        expected="",
        next="",
    )
    return _answer(request, error.status_code, answer, error.headers)


def _answer(
    request: Request, status: int, answer: ErrorAnswer, headers: Mapping[str, str] | None = None
) -> Response:
    # What was sent may hold half a character, which no answer can.
    texts = {
        key: text.encode("utf-8", "backslashreplace").decode()
        for key, text in answer.model_dump().items()
        if isinstance(text, str)
    }
    answer = answer.model_copy(update=texts)
    if _for_programs(request):
        return JSONResponse(answer.to_json(), status, headers)
    return HTMLResponse(html_pages.problem(request, status, answer), status, headers)


def _for_programs(request: Request) -> bool:
    return request.url.path.startswith("/api")


def _asked(request: Request) -> str:
    return f"{request.method} {request.url.path}"[:200]
