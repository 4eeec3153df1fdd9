"""The report of a training: one HTML file that stands on its own, with the pictures inside it, and runs nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models import description
from models.durable import open_regular, replacing
from models.reports import wording
from models.reports.history import History, Judgement
from models.train.recipe import Config
from pipeline.errors import WeightsError

FILE = "report.html"

_PREVIEW = "preview.png"
_LARGEST = 64 << 20  # bytes of a preview; a sheet has a few million
_PNG = b"\x89PNG\r\n\x1a\n"
_SESSIONS, _EVENTS, _ROWS, _SETTINGS = 100, 100, 200, 400  # that are shown; the newest of the first two
_QUIET = ("saved", "")
_DEEPEST = 6  # sections of settings within sections

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --faint: #6a6a70; --line: #dcdce0; --paper: #fff; --card: #f5f5f7; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececee; --faint: #a0a0a8; --line: #3a3a40; --paper: #18181b; --card: #232327; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 78rem; font: 15px/1.5 system-ui, sans-serif;
       color: var(--ink); background: var(--paper); }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.15rem; }
p.about { margin: .2rem 0 0; color: var(--faint); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .7rem; margin: 1.3rem 0 0; }
dl div { padding: .6rem .8rem; border-radius: .5rem; background: var(--card); }
dt { font-size: .8rem; color: var(--faint); }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: .4rem; background: #fff; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-size: .8rem; font-weight: 600; color: var(--faint); white-space: nowrap; }
td.n, th.n { text-align: right; }
td.t { overflow-wrap: anywhere; min-width: 14rem; }
.bad { color: #c62828; font-weight: 600; }
summary { cursor: pointer; color: var(--faint); }
code { font-size: .9em; overflow-wrap: anywhere; }
footer { margin-top: 2.5rem; color: var(--faint); font-size: .85rem; }
"""

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{{ name }}: a training's report</title>
<style>{{ style }}</style>
</head>
<body>
<h1>{{ name }}</h1>
<p class="about">{{ about }}</p>
{% if trouble %}<p class="bad">{{ trouble }}</p>{% endif %}
<dl>
{% for term, value in summary %}<div><dt>{{ term }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% if preview %}
<h2>Preview</h2>
<p class="about">Each row is a face; the frame is what the network sees. Reconstructed: the person given back.
Swapped: the same face as another person.</p>
<p><img alt="preview sheet: original, reconstructed and swapped faces" src="{{ preview }}"></p>
{% endif %}
<h2>Curves</h2>
<p><img alt="losses, step size, speed and judgements over the model's steps" src="{{ curves }}"></p>
{% if judged %}
<h2>Judgement at step {{ judged.iteration | count }}</h2>
<div class="wide"><table>
<tr><th>of</th>{% for metric in judged.metrics %}<th class="n">{{ metric }}</th>{% endfor %}</tr>
{% for whose, values in judged.rows %}
<tr><td>{{ whose }}</td>{% for value in values %}<td class="n">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}
<h2>Sessions</h2>
{% if sessions %}
<div class="wide"><table>
<tr><th class="n">no.</th><th>start (UTC)</th><th>end (UTC)</th><th class="n">steps</th><th class="n">from</th>
<th class="n">to</th><th class="n">batch</th><th class="n">faces/s</th><th>on</th><th>ended by</th><th>loss</th></tr>
{% for s in sessions %}
<tr><td class="n">{{ s.number }}</td><td>{{ s.start | when }}</td><td>{{ s.end | when }}</td>
<td class="n">{{ s.steps | count }}</td><td class="n">{{ s.first | count }}</td><td class="n">{{ s.last | count }}</td>
<td class="n">{{ s.batch }}</td><td class="n">{{ "%.1f" | format(s.faces_per_s) }}</td>
<td>{{ s.device }} {{ s.precision }}{% if s.world > 1 %} × {{ s.world }}{% endif %}</td>
<td{% if s.reason == "killed" %} class="bad"{% endif %}>{{ s.reason }}</td><td>{{ s.loss | losses }}</td></tr>
{% endfor %}
</table></div>
{% else %}<p>None has been recorded.</p>{% endif %}
<h2>Events</h2>
{% if saves %}<p class="about">{{ saves | count }} saves, and:</p>{% endif %}
{% if events %}
<div class="wide"><table>
<tr><th class="n">step</th><th>when (UTC)</th><th>what</th><th></th></tr>
{% for e in events %}
<tr><td class="n">{{ e.iteration | count }}</td><td>{% if e.when %}{{ e.when | when }}{% endif %}</td>
<td>{{ e.what }}</td><td class="t">{{ e.text }}</td></tr>
{% endfor %}
</table></div>
{% else %}<p>Nothing out of the ordinary.</p>{% endif %}
<h2>Settings</h2>
{% macro table(rows) %}
<table>
{% for key, value in rows %}<tr><td><code>train.{{ key }}</code></td><td class="t"><code>{{ value }}</code></td></tr>
{% endfor %}
</table>
{% endmacro %}
{% if changed %}{{ table(changed) }}{% else %}<p>All as they come.</p>{% endif %}
{% if usual %}<details><summary>as they come: {{ usual | length }} settings</summary>
{{ table(usual) }}</details>{% endif %}
<footer>Written by Understudy. Nothing in this page was loaded from elsewhere.</footer>
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A judgement as a table: a row for all together, for each person and each swap."""

    iteration: int
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def render(folder: Path, history: History, drawn: bytes) -> str:
    """The report of the model in `folder`; `drawn` are its curves as a PNG.

    It shows what is there: a model.json that cannot be read is said so, a preview that is missing is left out.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "count": wording.count,
        "when": wording.when,
        "losses": wording.losses,
    }
    about, trouble, model = _model(folder)
    changed, usual = _settings(history.recipe)
    return environment.from_string(_TEMPLATE).render(
        policy=_policy(),
        style=_STYLE,
        name=folder.absolute().name,
        about=about,
        trouble=trouble,
        summary=[*model, *_totals(history)],
        preview=_data_uri(_preview(folder)),
        curves=_data_uri(drawn),
        judged=_judged(history.judgements[-1]) if history.judgements else None,
        sessions=history.sessions[: -_SESSIONS - 1 : -1],
        events=[event for event in history.events if event.what not in _QUIET][: -_EVENTS - 1 : -1],
        saves=sum(event.what == "saved" for event in history.events),
        changed=changed,
        usual=usual,
    )


def write(file: Path, text: str) -> Path:
    """Puts the report in its place, whole or not at all. Raises WeightsError."""
    try:
        with replacing(file) as out:
            out.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise WeightsError(f"the report {file} cannot be written: {error}") from error
    return file


def _policy() -> str:
    """The page may show the pictures inside it, and wear this one style; it may load and run nothing."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _model(folder: Path) -> tuple[str, str, list[tuple[str, str]]]:
    """What it is, what is wrong with it, and its own figures."""
    try:
        model = description.read(folder)
    except WeightsError as error:
        return "", str(error), []
    people = ", ".join(model.people[:12]) + (" and others" if len(model.people) > 12 else "")
    about = f"{model.architecture}, {model.input_size} px in, {model.output_size} px out; {people}"
    figures = [
        ("steps", wording.count(model.iterations)),
        ("faces seen", wording.count(model.faces)),
        ("time in training", wording.duration(model.seconds)),
        ("loss", wording.losses(model.loss) or "none yet"),
    ]
    return about, "", figures


def _totals(history: History) -> Iterator[tuple[str, str]]:
    if history.sessions:
        last = history.sessions[-1]
        yield "sessions", wording.count(last.number)
        yield "faces a second, last session", f"{last.faces_per_s:.1f}"
        yield "last session", f"{last.reason}, {wording.duration(last.seconds)}"
    if history.points and history.points[-1].waiting is not None:
        yield "waited for data", f"{100 * history.points[-1].waiting:.0f} % of the time"


def _judged(judgement: Judgement) -> _Judged:
    values: dict[str, dict[str, float]] = {}
    for name, value in judgement.metrics.items():
        metric, _, whose = name.partition("/")
        values.setdefault(whose, {})[metric] = value
    metrics = tuple(dict.fromkeys(name.partition("/")[0] for name in judgement.metrics))[:_ROWS]
    rows = tuple(
        (
            whose.replace(">", " as ") or "all",
            tuple(f"{known[metric]:.4g}" if metric in known else "" for metric in metrics),
        )
        for whose, known in sorted(values.items())[:_ROWS]
    )
    return _Judged(judgement.iteration, metrics, rows)


def _settings(recipe: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Those that differ from the defaults, and those that don't, by dotted key."""
    defaults = dict(_flat(asdict(Config()))) if recipe else {}
    rows = sorted(_flat(recipe))[:_SETTINGS]
    changed = [(key, value) for key, value in rows if defaults.get(key) != value]
    return changed, [row for row in rows if row not in changed]


def _flat(tree: Mapping[str, Any], above: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value and depth < _DEEPEST:
            yield from _flat(value, f"{above}{key}.", depth + 1)
        else:
            text = (
                ", ".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)
            )
            yield f"{above}{key}"[:200], text[:200]


def _preview(folder: Path) -> bytes:
    """The newest preview sheet, empty where there is none."""
    try:
        with open_regular(folder / _PREVIEW) as file:
            content = file.read(_LARGEST + 1)
    except OSError:
        return b""
    return content if content.startswith(_PNG) and len(content) <= _LARGEST else b""


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""
