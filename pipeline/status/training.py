"""The page of one training: where it is, what it can do by now, how it got there.

It is made here in whole, and works without scripts; a small one of ours fetches it again every few seconds and puts
what has changed in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.errors import UnderstudyError
from pipeline.status import pages

#: What is shown of the model's folder, by name and kind; nothing else of it can be asked for.
FILES: Mapping[str, str] = {"preview.png": "image/png", "curves.png": "image/png", "report.html": "text/html"}

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
    page = pages.environment({"metric": _metric, "loss": _loss}).get_template("training.html")

    def shown(request: Request) -> Response:
        state = _state(source)
        return pages.tagged(request, page.render(state=state).encode(), "text/html")

    def state(request: Request) -> Response:
        return pages.tagged(request, bytes(JSONResponse(_state(source)).body), "application/json")

    routes = [Route("/", shown), Route("/state.json", state)]
    routes += [Route(f"/{name}", _file(source, name, kind)) for name, kind in FILES.items()]
    routes += pages.own(("base.css", "training.css", "training.js"))
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
        return pages.tagged(request, content, kind, {"Content-Security-Policy": _REPORT} if kind == "text/html" else {})

    return endpoint


def _metric(value: float, name: str) -> str:
    return f"{value:.{_PLACES.get(name, 3)}f}"


def _loss(loss: Mapping[str, float], most: int = 3) -> str:
    """Each person's, or the mean where there are many."""
    if len(loss) > most:
        return f"{sum(loss.values()) / len(loss):.4f} (mean of {len(loss)})"
    return ", ".join(f"{person} {value:.4f}" for person, value in loss.items())
