"""What all pages have in common: how they are made from templates, their own files, answers that are not sent twice.

Whatever a template shows is safe to print first (`logs.printable`) and escaped then, so that a name may hold anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.logs import printable

_HERE = Path(__file__).parent
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_UNITS = ("B", "kB", "MB", "GB", "TB")


def environment(filters: Mapping[str, Callable[..., str]] | None = None) -> Environment:
    """Of the templates that lie here; with `filters` beside count, duration, size and when."""
    made = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    made.filters |= {"count": count, "duration": duration, "size": size, "when": when, **(filters or {})}
    return made


def own(names: Iterable[str]) -> list[Route]:
    """Routes to styles and scripts that lie here."""
    return [Route(f"/{name}", _own(name)) for name in names]


def tagged(request: Request, content: bytes, kind: str, headers: Mapping[str, str] | None = None) -> Response:
    """The content, or 304 for somebody who has it."""
    tag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
    given = {**(headers or {}), "ETag": tag}
    if tag in (known.strip() for known in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=given)
    return Response(content, headers=given, media_type=kind)


def count(number: float) -> str:
    """12 300, with narrow spaces that do not break."""
    return Markup(f"{number:,.0f}".replace(",", "\u202f"))  # noqa: S704  digits and the spaces, which are not printable


def duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def size(nbytes: float) -> str:
    """12.3 MB."""
    for unit in _UNITS[:-1]:
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.4g} {_UNITS[-1]}"


def when(time: str) -> str:
    """2026-01-31 22:00:00; UTC, as it came."""
    return time[:19].replace("T", " ")


def _own(name: str) -> Callable[[Request], Response]:
    content = (_HERE / name).read_bytes()
    kind = _KINDS[Path(name).suffix]
    return lambda request: tagged(request, content, kind)


def _shown(value: Any) -> Any:
    # What a macro has made is Markup, and may have several lines.
    return printable(value) if type(value) is str else value
