"""The page of one training: where it is, what it can do by now, how it got there.

It is made here in whole, and works without scripts; a small one of ours fetches it again every few seconds and puts
what has changed in its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.errors import UnderstudyError

#: What is shown of the model's folder, by name and kind; nothing else of it can be asked for.
FILES: Mapping[str, str] = {"preview.png": "image/png", "curves.png": "image/png", "report.html": "text/html"}

_HERE = Path(__file__).parent
_OWN = {"training.css": "text/css", "training.js": "text/javascript"}
#: A report is a page of its own, with styles and pictures inside; it may do nothing else, whoever wrote it.
_REPORT = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
_PLACES = {"psnr": 1, "identity": 2, "sharpness": 2}


class Source(Protocol):
    """Where the page has it from. Threads may ask at the same time."""

    def state(self) -> Mapping[str, Any]:
        """The training, in JSON's types (as `models.reports.present`); "files": a version of each of FILES there is.

        Raises:
            UnderstudyError: it cannot be read now.
        """
        ...

    def content(self, name: str) -> bytes | None:
        """One of FILES; None where it is not there."""
        ...


def app(source: Source) -> Starlette:
    """The application: `/` for people, `/state.json` for programs, and what they refer to."""
    page = _templates().get_template("training.html")

    def shown(request: Request) -> Response:
        state = _state(source)
        return _tagged(request, page.render(state=state).encode(), "text/html")

    def state(request: Request) -> Response:
        return _tagged(request, bytes(JSONResponse(_state(source)).body), "application/json")

    routes = [Route("/", shown), Route("/state.json", state)]
    routes += [Route(f"/{name}", _file(source, name, kind)) for name, kind in FILES.items()]
    routes += [Route(f"/{name}", _own(name, kind)) for name, kind in _OWN.items()]
    made = Starlette(routes=routes)
    made.router.redirect_slashes = False
    return made


def _state(source: Source) -> Mapping[str, Any]:
    try:
        return {**source.state(), "trouble": ""}
    except UnderstudyError as error:
        return {"trouble": str(error)}


def _file(source: Source, name: str, kind: str) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        content = source.content(name)
        if content is None:
            return Response(f"there is no {name} yet\n", 404, media_type="text/plain")
        return _tagged(request, content, kind, {"Content-Security-Policy": _REPORT} if kind == "text/html" else {})

    return endpoint


def _own(name: str, kind: str) -> Callable[[Request], Response]:
    content = (_HERE / name).read_bytes()
    return lambda request: _tagged(request, content, kind)


def _tagged(request: Request, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> Response:
    """The content, or 304 for somebody who has it."""
    tag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
    given = {**(headers or {}), "ETag": tag}
    if tag in (known.strip() for known in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=given)
    return Response(content, headers=given, media_type=kind)


def _templates() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"count": _count, "duration": _duration, "metric": _metric, "when": _when, "loss": _loss}
    return made


def _count(number: float) -> str:
    """12 300, with narrow spaces that do not break."""
    return f"{number:,.0f}".replace(",", "\u202f")


def _duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _metric(value: float, name: str) -> str:
    return f"{value:.{_PLACES.get(name, 3)}f}"


def _loss(loss: Mapping[str, float], most: int = 3) -> str:
    """Each person's, or the mean where there are many."""
    if len(loss) > most:
        return f"{sum(loss.values()) / len(loss):.4f} (mean of {len(loss)})"
    return ", ".join(f"{person} {value:.4f}" for person, value in loss.items())


def _when(time: str) -> str:
    """2026-01-31 22:00:00; UTC, as it came."""
    return time[:19].replace("T", " ")
