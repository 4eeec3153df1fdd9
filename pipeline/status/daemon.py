"""The page of the daemon: what it does, what waits, what went wrong, what has been made; and a few buttons.

It works without scripts; a small one of ours fetches it again every other second and puts what has changed in its
place. For programs there are /state.json, /jobs.json, /jobs/ID.json, /metrics, /healthz and /readyz.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pipeline import metrics
from pipeline.errors import TableError
from pipeline.jobs import Entry, Refused, State
from pipeline.logs import printable
from pipeline.rows import ENDED
from pipeline.status import pages
from pipeline.status.access import Terms
from pipeline.status.source import Now, Source
from pipeline.wording import unnamed

#: To be given to the server beside the application.
TERMS = Terms(acts=True, open=frozenset({"/healthz", "/readyz"}))

_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_PRIORITY = re.compile(r"-?[0-9]{1,7}", re.ASCII)
_QUEUE, _TROUBLES, _NEWEST, _PAGE = 100, 20, 12, 48  # how many are shown
_LONGEST = 200  # characters that are searched for
_SHOWN = 100_000  # of a report, or of a failure

#: Pictures may be kept, but are asked about each time.
_KEPT = {"Cache-Control": "private, no-cache"}

#: Where a button leads back to.
_BACK: Mapping[str, str] = {"": "/", "history": "/history", "job": "/jobs/{}"}


def app(source: Source) -> Starlette:
    """The application; serve it on `TERMS`."""
    page = _Page(source)
    routes = [
        Route("/", page.overview),
        Route("/history", page.history),
        Route("/jobs/{job}", page.job),
        Route("/jobs/{job}/preview.jpg", page.preview),
        Route("/jobs/{job}/sheet.jpg", page.sheet),
        Route("/state.json", page.state),
        Route("/jobs.json", page.jobs),
        Route("/metrics", page.metrics),
        Route("/healthz", page.healthz),
        Route("/readyz", page.readyz),
        *(_act(name, act) for name, act in _acts(source).items()),
        *pages.own(("base.css", "daemon.css", "daemon.js")),
    ]
    told = {HTTPException: page.refused, TableError: page.refused}
    made = Starlette(routes=routes, exception_handlers=told)  # type: ignore[arg-type]  # it wants wider ones
    made.router.redirect_slashes = False
    return made


class _Page:
    """The answers."""

    def __init__(self, source: Source) -> None:
        self._source = source
        filters: Mapping[str, Callable[..., str]] = {
            "inside": _inside,
            "iso": _iso,
            "name": _name,
            "pretty": _pretty,
            "why": _why,
        }
        self._templates = pages.environment(filters)

    def overview(self, request: Request) -> Response:
        now = self._source.now()
        queue, troubles, newest, begun = [], [], [], []
        if not now.trouble:
            queue = [*self._source.waiting(_QUEUE)]
            troubles = [*self._source.listing((State.FAILED, State.BLOCKED), _TROUBLES)]
            newest = [*self._source.listing((State.DONE,), _NEWEST)]
            begun = [*self._source.listing((State.RUNNING,), _QUEUE)][::-1]
        wishes = self._wishes(now)
        sheets = self._source.sheets([entry.id for entry in newest])
        working = {clip.job for clip in now.live.running} if now.live is not None else set()
        next_ = [entry for entry in begun if entry.id not in working]
        shown = {"queue": queue, "troubles": troubles, "newest": newest, "sheets": sheets, "wishes": wishes}
        return self._rendered(request, "daemon.html", now=now, next=next_, **shown)

    def history(self, request: Request) -> Response:
        states, before, search = _wanted(request)
        found = self._source.listing(states or ENDED, _PAGE, before, search)
        sheets = self._source.sheets([entry.id for entry in found if entry.state is State.DONE])
        older = found[-1].id if len(found) == _PAGE else 0
        asked = {"state": request.query_params.get("state", ""), "search": search, "older": older, "states": [*State]}
        return self._rendered(request, "daemon_history.html", found=found, sheets=sheets, **asked)

    def job(self, request: Request) -> Response:
        """For people, or with .json after the number for programs."""
        number, dot, kind = request.path_params["job"].partition(".")
        entry = self._entry(number)
        if dot and kind != "json":
            raise HTTPException(404, "there is nothing here")
        report = self._source.report(entry)
        if dot:
            return _as_json(request, {**asdict(entry), "report": report})
        now = self._source.now()
        clip = next((clip for clip in now.live.running if clip.job == entry.id), None) if now.live else None
        has_sheet = bool(self._source.sheets([entry.id]))
        shown = {"entry": entry, "report": report, "clip": clip if now.alive else None, "has_sheet": has_sheet}
        return self._rendered(request, "daemon_job.html", **shown)

    def preview(self, request: Request) -> Response:
        return _picture(request, self._source.preview(_number(request.path_params["job"])), {})

    def sheet(self, request: Request) -> Response:
        return _picture(request, self._source.sheet(_number(request.path_params["job"])), _KEPT)

    def state(self, request: Request) -> Response:
        now = self._source.now()
        return _as_json(request, {**asdict(now), "alive": now.alive, "ready": now.ready, "reason": now.reason})

    def jobs(self, request: Request) -> Response:
        states, before, search = _wanted(request)
        found = self._source.listing(states, _PAGE, before, search)
        older = found[-1].id if len(found) == _PAGE else None
        return _as_json(request, {"jobs": [asdict(entry) for entry in found], "before": older})

    def metrics(self, request: Request) -> Response:
        now = self._source.now()
        text = metrics.render(now.live, now.counts, now.free, now.time)
        return PlainTextResponse(text, media_type=metrics.MEDIA_TYPE)

    def healthz(self, request: Request) -> Response:
        now = self._source.now()
        return _told(request, now.alive, now.reason)

    def readyz(self, request: Request) -> Response:
        now = self._source.now()
        return _told(request, now.ready, now.reason or "the daemon is starting")

    def refused(self, request: Request, error: HTTPException | TableError) -> Response:
        """What cannot be done, in a sentence."""
        if isinstance(error, HTTPException):
            status, sentence = error.status_code, error.detail
        else:
            status, sentence = 409 if isinstance(error, Refused) else 503, str(error)
        if _is_for_programs(request):
            return Response(_dumped({"error": sentence}), status, media_type="application/json")
        page = self._templates.get_template("daemon_refused.html").render(sentence=sentence)
        return Response(page.encode(), status, media_type="text/html")

    def _entry(self, number: str) -> Entry:
        entry = self._source.entry(_number(number))
        if entry is None:
            raise HTTPException(404, f"there is no job {number}")
        return entry

    def _wishes(self, now: Now) -> Mapping[int, str]:
        """What has been asked for of running clips and has not happened yet."""
        running = now.live.running if now.live is not None and now.alive else ()
        entries = [] if now.trouble else [self._source.entry(clip.job) for clip in running]
        return {entry.id: entry.wish for entry in entries if entry is not None and entry.wish}

    def _rendered(self, request: Request, name: str, **shown: Any) -> Response:
        return pages.tagged(request, self._templates.get_template(name).render(**shown).encode(), "text/html")


Act = Callable[[int, Mapping[str, str]], None]


def _acts(source: Source) -> Mapping[str, Act]:
    def prioritise(job: int, form: Mapping[str, str]) -> None:
        if not _PRIORITY.fullmatch(form.get("priority", "")):
            raise HTTPException(400, "a priority is a whole number")
        source.prioritise(job, int(form["priority"]))

    return {
        "retry": lambda job, form: source.retry(job),
        "cancel": lambda job, form: source.cancel(job),
        "priority": prioritise,
    }


def _act(name: str, act: Act) -> Route:
    """A POST that does something to a job, and then leads back to where the button was."""

    async def endpoint(request: Request) -> Response:
        job, form = _number(request.path_params["job"]), _form(request, await request.body())
        await run_in_threadpool(act, job, form)
        if _is_for_programs(request):
            return Response(_dumped({"job": job}), media_type="application/json")
        return RedirectResponse(_BACK.get(form.get("back", ""), "/").format(job), 303)

    return Route(f"/jobs/{{job}}/{name}", endpoint, methods=["POST"])


def _form(request: Request, body: bytes) -> Mapping[str, str]:
    """What was posted, each field once and as text."""
    try:
        if not _is_for_programs(request):
            return {name: values[-1] for name, values in parse_qs(body.decode(), max_num_fields=8).items()}
        found = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "that is neither a form nor JSON") from error
    if not isinstance(found, dict):
        raise HTTPException(400, "that has to be an object with the fields of the form")
    return {str(name): str(value) for name, value in found.items()}


def _is_for_programs(request: Request) -> bool:
    posted = request.headers.get("content-type", "").startswith("application/json")
    return posted or request.url.path.endswith(".json")


def _wanted(request: Request) -> tuple[tuple[State, ...], int, str]:
    """Which jobs are asked for: in which states (none: any), older than which (0: any), with what in the path."""
    asked = request.query_params
    before, state, search = (asked.get(name, "") for name in ("before", "state", "search"))
    if state not in ("", *State):
        raise HTTPException(400, f"a state is one of {', '.join(State)}")
    if before and not _NUMBER.fullmatch(before):
        raise HTTPException(400, "before takes the number of a job")
    if len(search) > _LONGEST:
        raise HTTPException(400, f"at most {_LONGEST} characters can be searched for")
    return (State(state),) if state else (), int(before or 0), search


def _number(text: str) -> int:
    """The number of a job, as we write it: nothing else leads to a file."""
    if not _NUMBER.fullmatch(text):
        raise HTTPException(404, "there is no such job")
    return int(text)


def _picture(request: Request, content: bytes | None, headers: Mapping[str, str]) -> Response:
    if content is None:
        return PlainTextResponse("there is no such picture\n", 404)
    return pages.tagged(request, content, "image/jpeg", headers)


def _told(request: Request, well: bool, reason: str) -> Response:
    """Whether all is well; why it is not only to those who are known."""
    sentence = "ok" if well else reason if request.state.known else "not ok"
    return PlainTextResponse(f"{printable(sentence)}\n", 200 if well else 503)


def _as_json(request: Request, content: object) -> Response:
    return pages.tagged(request, _dumped(content), "application/json")


def _dumped(content: object) -> bytes:
    """In ASCII: a name that is no UTF-8 keeps its bytes as escapes."""
    return json.dumps(content).encode()


def _inside(entry: Entry) -> str:
    """A clip's path in its watched folder."""
    source, folder = Path(entry.source), Path(entry.folder)
    return str(source.relative_to(folder)) if source.is_relative_to(folder) else entry.source


def _why(entry: Entry) -> str:
    """The reason for a place that has the clip's name above it."""
    return unnamed(entry.reason, entry.source)


def _name(path: str) -> str:
    return Path(path).name or path


def _iso(seconds: float) -> str:
    """2026-01-31T22:00:00+00:00 of seconds since the epoch."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""


def _pretty(content: object) -> Markup:
    """JSON on many lines, as many as anybody reads; in ASCII, so it is safe to print as it is."""
    text = ""
    for piece in json.JSONEncoder(indent=2).iterencode(content):
        text += piece
        if len(text) > _SHOWN:
            return escape(f"{text[:_SHOWN]}\n...")
    return escape(text)
