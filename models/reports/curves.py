"""A training's curves as one picture: losses, step size and speed, and how the model was judged."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.durable import replacing
from models.reports.history import History, Judgement, Session
from models.reports.samples import Sample
from models.train.journal import ROLLED_BACK
from models.train.recipe import METRICS
from pipeline.errors import WeightsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "curves.png"
WIDTH, HEIGHT = 1200, 800  # px

#: Curves of single people in a panel; where there are more, only their mean is drawn, and how far they reach.
PEOPLE = 8

_DPI = 100
_SMOOTH = 40  # the smoothed curve forgets within so many parts of the whole
_INK, _FAINT, _GRID = "#222222", "#8a8a8a", "#e4e4e4"
# Told apart by the colour-blind too: Okabe and Ito 2008, "Color universal design".
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b5ea7", "#5f5f5f")
_TITLES = {
    "ssim": "SSIM",
    "psnr": "PSNR, dB",
    "identity": "identity of the swaps",
    "expression": "error of the expression",
    "pose": "error of the pose",
    "sharpness": "sharpness against the real",
}
_NAMED = "named"  # lines that the legend names
_QUIET = ("", "saved", "backup", "best", "snapshot")  # events that say only that all is well
_NOTES = 12  # sessions and events that are named
_AT_THE_EDGE: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}


@dataclass(frozen=True, slots=True)
class _Curve:
    """y over x, and how far the values it stands for reach."""

    name: str
    x: Sequence[int]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def draw(history: History) -> bytes:
    """The curves as a PNG of `WIDTH` x `HEIGHT` px, over the model's steps.

    Losses have a logarithmic scale; they are faint as they were (a band where points were joined) and bold smoothed.
    Dashed lines are where sessions begin, with their numbers; events other than saves are named.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    if history.points or history.judgements:
        _fill(figure, history)
    else:
        figure.text(0.5, 0.5, "nothing has been recorded yet", ha="center", va="center", size=16, color=_FAINT)
    out = io.BytesIO()
    canvas.print_png(out)
    return out.getvalue()


def write(folder: Path, picture: bytes) -> Path:
    """Puts the picture into the model's folder, whole or not at all. Raises WeightsError."""
    file = folder / FILE
    try:
        with replacing(file) as out:
            out.write(picture)
    except OSError as error:
        raise WeightsError(f"the curves {file} cannot be written: {error}") from error
    return file


def _fill(figure: Figure, history: History) -> None:
    metrics = _metrics(history.judgements)
    sides = figure.add_gridspec(1, 2 if metrics else 1, width_ratios=(2, 1) if metrics else None)
    places = sides[0].subgridspec(3, 1, height_ratios=(5, 1.3, 1.3))
    losses, lr, speed = left = [figure.add_subplot(place) for place in places]  # type: ignore[attr-defined]
    _losses(losses, history)
    _one(lr, "step size", [(sample.iteration, sample.lr) for sample in history.points])
    _one(speed, "faces per second", [(sample.iteration, sample.faces_per_s) for sample in history.points])
    right: list[Axes] = []
    if metrics:
        rows = sides[1].subgridspec(len(metrics), 1)
        right = [figure.add_subplot(rows[place]) for place in range(len(metrics))]
        for axes, (name, curves) in zip(right, metrics.items(), strict=True):
            _judged(axes, name, curves)
    reached = [sample.iteration for sample in history.points[-1:]]
    last = max(reached + [judgement.iteration for judgement in history.judgements[-1:]])
    for column in (left, right):
        for axes in column:
            _finish(axes, history, last, labelled=axes is column[-1])
    _notes(losses, history, last)


def _losses(axes: Axes, history: History) -> None:
    people = history.people
    axes.set_title("loss", loc="left", size=11, color=_INK)
    if len(people) <= PEOPLE:
        curves = [_of_person(history.points, person) for person in people]
    else:
        curves = [_of_all(history.points, f"mean of {len(people)} people")]
    if not any(value > 0 for curve in curves for value in curve.y):
        return
    axes.set_yscale("log")
    for colour, curve in zip(_COLOURS, curves, strict=False):
        joined = any(low < high for low, high in zip(curve.low, curve.high, strict=True))
        if joined:
            axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        else:
            axes.plot(curve.x, curve.y, color=colour, alpha=0.25, linewidth=0.6)
        smooth = _smoothed(curve.y)
        label = f"{_shortened(curve.name)}  {smooth[-1]:.4f}"
        axes.plot(curve.x, smooth, color=colour, linewidth=1.8, label=label, gid=_NAMED, **_mark(curve))
    _legend(axes)
    _scale_to(axes, [value for curve in curves for value in curve.y])


def _of_person(points: Iterable[Sample], person: str) -> _Curve:
    known = [sample for sample in points if sample.loss.get(person, 0) > 0]
    low, high = [s.lowest[person] for s in known], [s.highest[person] for s in known]
    return _Curve(person, [s.iteration for s in known], [s.loss[person] for s in known], low, high)


def _of_all(points: Iterable[Sample], name: str) -> _Curve:
    known = [(sample.iteration, [v for v in sample.loss.values() if v > 0]) for sample in points]
    known = [(iteration, values) for iteration, values in known if values]
    means = [sum(values) / len(values) for _, values in known]
    low, high = [min(values) for _, values in known], [max(values) for _, values in known]
    return _Curve(name, [iteration for iteration, _ in known], means, low, high)


def _metrics(judgements: Sequence[Judgement]) -> dict[str, list[_Curve]]:
    """Curves by metric, those of all people together first."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for judgement in judgements:
        for name, value in judgement.metrics.items():
            metric, _, whose = name.partition("/")
            if metric in METRICS:
                found.setdefault(metric, {}).setdefault(whose, []).append((judgement.iteration, value))
    return {
        metric: [_plain(whose, found[metric][whose]) for whose in _chosen(found[metric])]
        for metric in METRICS
        if metric in found
    }


def _chosen(known: Iterable[str]) -> list[str]:
    """All together ("") always, single people only while they can be told apart."""
    single = [whose for whose in known if whose]
    return [""] * ("" in known) + single if len(single) <= PEOPLE else [""] if "" in known else single[:PEOPLE]


def _plain(name: str, points: Sequence[tuple[int, float]]) -> _Curve:
    x, y = [iteration for iteration, _ in points], [value for _, value in points]
    return _Curve(name, x, y, y, y)


def _judged(axes: Axes, metric: str, curves: Sequence[_Curve]) -> None:
    better = "more is better" if METRICS[metric] else "less is better"
    axes.set_title(f"{_TITLES.get(metric, metric)}  ({better})", loc="left", size=9, color=_INK)
    single = iter(_COLOURS)
    for curve in curves:
        whole = not curve.name
        colour = _INK if whole else next(single)
        name = "all" if whole else _shortened(curve.name.replace(">", " as "))
        label, width = f"{name}  {curve.y[-1]:.3g}", 1.6 if whole else 1.1
        axes.plot(curve.x, curve.y, color=colour, linewidth=width, label=label, gid=_NAMED, **_mark(curve))
    _legend(axes, small=True)


def _one(axes: Axes, title: str, points: Sequence[tuple[int, float | None]]) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_title(title, loc="left", size=9, color=_INK)
    curve = _plain("", [(iteration, value) for iteration, value in points if value is not None])
    axes.plot(curve.x, curve.y, color=_COLOURS[-1], linewidth=1.1, **_mark(curve))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    if curve.y:
        axes.set_ylim(0, 1.15 * max(*curve.y, 1e-12))


def _shortened(text: str) -> str:
    """What the picture's font can show, and has room for."""
    shown = text.encode("ascii", "replace").decode()
    return shown if len(shown) <= 32 else f"{shown[:29]}..."


def _mark(curve: _Curve) -> dict[str, Any]:
    """A line of few points would be hard to see, one of a single point is nothing."""
    return {"marker": "o", "markersize": 3} if len(curve.x) <= 12 else {}


def _smoothed(values: Sequence[float]) -> list[float]:
    """An exponential mean without the bias towards its start, taken of the logarithms: a spike leaves no trace."""
    keep = 1 - min(1.0, _SMOOTH / max(len(values), 1))
    smooth, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * math.log(value), keep * weight + (1 - keep)
        smooth.append(math.exp(mean / weight))
    return smooth


def _scale_to(axes: Axes, values: list[float]) -> None:
    """What lies between the 200th parts at either end decides what is shown: one spike shall not flatten the rest."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values.sort()
    low, high = values[len(values) // 200], values[-1 - len(values) // 200]
    axes.set_ylim(low / 1.5, high * 1.35)
    ticks = range(1, 10) if high < 4 * low else (1, 2, 3, 5) if high < 50 * low else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes, small: bool = False) -> None:
    lines = [line for line in axes.get_lines() if line.get_gid() == _NAMED]
    if not lines:
        return
    # Given one by one: of its own accord a legend leaves out names that begin with an underscore.
    size = 7 if small else 10
    legend = axes.legend(lines, [""] * len(lines), fontsize=size, frameon=False, labelcolor=_INK, handlelength=1.2)
    for text, line in zip(legend.get_texts(), lines, strict=True):
        text.set_parse_math(False)
        text.set_text(str(line.get_label()))


def _finish(axes: Axes, history: History, last: int, labelled: bool) -> None:
    """What all panels have in common."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, max(1, last) * 1.01)
    axes.grid(True, which="major", color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(labelsize=8, colors=_INK, which="both", labelbottom=labelled)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))
    if labelled:
        axes.set_xlabel("steps of the model", size=9, color=_INK)
    for session in _shown(history, last):
        axes.axvline(session.first, color=_FAINT, linewidth=1, linestyle=(0, (2, 3)))


def _shown(history: History, last: int) -> list[Session]:
    """The sessions whose beginnings are worth a line."""
    return [session for session in history.sessions[-200:] if 0 < session.first <= last]


def _notes(axes: Axes, history: History, last: int) -> None:
    """Names the newest sessions at the top, the newest events at the bottom."""
    for session in _shown(history, last)[-_NOTES:]:
        axes.annotate(str(session.number), (session.first, 1.0), (2, -9), **_AT_THE_EDGE, size=8, color=_FAINT)
    events = [event for event in history.events if event.what not in _QUIET and event.iteration <= last]
    for place, event in enumerate(events[-_NOTES:]):
        colour = "#b00020" if event.what == ROLLED_BACK else "#5f5f5f"
        height = 0.02 + 0.035 * (place % 4)
        axes.axvline(event.iteration, ymax=height + 0.02, color=colour, linewidth=1.4)
        words = _shortened(event.what)
        late = event.iteration > last * 0.85
        side: dict[str, Any] = {"ha": "right" if late else "left", "xytext": (-4 if late else 4, 0)}
        axes.annotate(words, (event.iteration, height), **_AT_THE_EDGE, **side, size=8, color=colour, parse_math=False)
