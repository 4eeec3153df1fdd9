"""The bars P1 to P15, T1 to T5, D1 to D5, M1 to M4: what must be reached, is aimed at, and how a figure is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Facts beside a figure: what it was made of.
Facts = Mapping[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar.

    Attributes:
        id: "P1" to "P15" for the pipeline, "T1" to "T5" for training, "D1" to "D5" for the daemon, "M1"
            to "M4" for marks and signing.
        what: the ratio or figure, in words.
        must: what has been shown to be reachable on two cores; `aim`: what a good day would give.
        at_most: whether smaller is better.
        unit: what the figures count; "x" is a ratio.
    """

    id: str
    what: str
    must: float
    aim: float
    at_most: bool = False
    unit: str = "x"

    def reached(self, measured: float) -> bool:
        """Whether `measured` satisfies what must be."""
        return measured <= self.must if self.at_most else measured >= self.must

    def aimed(self, measured: float) -> bool:
        """Whether `measured` satisfies what is aimed at."""
        return measured <= self.aim if self.at_most else measured >= self.aim

    def short_by(self, measured: float) -> float:
        """By which share of the bar `measured` misses it; 0 where it is reached."""
        if self.reached(measured):
            return 0.0
        if not self.must:
            return 1.0
        return abs(measured - self.must) / self.must


BARS: tuple[Bar, ...] = (
    Bar("P1", "hand-off of a frame's descriptor, cpu at both ends", 15, 5, True, "us"),
    Bar("P2", "decode-to-next-stage hop / memcpy of the same bytes", 1.35, 1.15, True),
    Bar("P3", "ring / mp.Queue of pickled arrays, frames per second", 15, 24),
    Bar("P4", "no-op job / ffmpeg's own program, frames per second", 0.85, 0.95),
    Bar("P5", "efficiency: fps x cpu seconds per frame / cores", 0.80, 0.90),
    Bar("P6", "with idle cores: fps / slowest stage alone", 0.90, 0.95),
    Bar("P7", "staged / the same kernels in one process", 1.15, 1.25),
    Bar("P8", "whole job / naive script", 5, 6.7),
    Bar("P9", "six processes / three", 0.95, 1.0),
    Bar("P10", "blend of one 400 px face in 1080p / whole-frame float paste", 15, 27),
    Bar("P11", "swap of a batch of 8 / fp32 one by one, faces per second", 5, 11),
    Bar("P12", "training step / separate fp32 passes", 2, 2.3),
    Bar("P13", "peak memory of a clip six times as long, and with encode slowed, / the clip's", 1.05, 1.01, True),
    Bar("P14", "bytes outside the face's region that differ before encode", 0, 0, True, "bytes"),
    Bar("P15", "first output byte after a job reaches a warm engine", 0.5, 0.2, True, "s"),
    Bar("T1", "training from the same files / the textbook loop, steps per second", 2, 3),
    Bar("T2", "training with faces drawn for each step / with a batch that lies ready", 0.9, 0.97),
    Bar("T3", "training in bf16 / in fp32", 1.3, 1.8),
    Bar("T4", "training, compiled / eager", 1, 1.1),
    Bar("T5", "share of a training's time in which the GPU computes", 0.9, 0.95, unit=""),
    Bar("D1", "200 clips of two seconds / the same frames in long clips, time per frame", 1.15, 1.05, True),
    Bar("D2", "a short clip, settled to published, by an idle daemon / by a warm engine alone", 1.5, 1.25, True),
    Bar("D3", "cpu seconds a minute at rest, with 50 000 finished clips", 0.6, 0.3, True, "s"),
    Bar("D4", "a clip with a checkpoint every ten seconds / in one go, time", 1.05, 1.02, True),
    Bar("D5", "work lost when the daemon is killed / the work of one segment", 1.25, 0.75, True),
    Bar("M1", "share of a 10 s 1080p clip's time that marks and signing take", 5, 3, True, "%"),
    Bar("M2", "laying the watermark into a 1080p frame, cpu", 4, 2, True, "ms"),
    Bar("M3", "most memory that signing a long result takes", 640, 560, True, "MiB"),
    Bar("M4", "bytes that marks change where, or by more than, they must not", 0, 0, True, "bytes"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """A bar's figure in this run.

    Attributes:
        measured: None where it cannot be measured here; `note` says why.
        facts: what the figure was made of.
        unmet: a further condition of the bar that failed, in words; empty where there is none.
    """

    id: str
    measured: float | None
    facts: Facts = field(default_factory=dict)
    note: str = ""
    unmet: str = ""


def bar(bar_id: str) -> Bar:
    """The bar of that id; KeyError where there is none."""
    return {known.id: known for known in BARS}[bar_id]


def verdict(result: Result) -> str:
    """In words: reached, reached with the aim too, short by so many percent, or why there is no figure."""
    if result.measured is None:
        return result.note or "not measured"
    judged = bar(result.id)
    if result.unmet:
        return f"NOT reached: {result.unmet}"
    if not judged.reached(result.measured):
        return f"NOT reached: {100 * judged.short_by(result.measured):.0f} % short"
    return "reached, and the aim" if judged.aimed(result.measured) else "reached"


def failed(result: Result) -> bool:
    """Whether a figure is there and does not reach its bar."""
    return result.measured is not None and (bool(result.unmet) or not bar(result.id).reached(result.measured))


def as_json(result: Result) -> dict[str, object]:
    """One bar's line for a machine."""
    judged = bar(result.id)
    return {
        "id": judged.id,
        "what": judged.what,
        "unit": judged.unit,
        "measured": result.measured,
        "must": judged.must,
        "aim": judged.aim,
        "better": "less" if judged.at_most else "more",
        "reached": None if result.measured is None else not failed(result),
        "verdict": verdict(result),
        "note": result.note,
        "facts": dict(result.facts),
    }


def line(result: Result) -> str:
    """One bar's line for a person."""
    judged = bar(result.id)
    sign = "<=" if judged.at_most else ">="
    measured = "-" if result.measured is None else f"{result.measured:.3g}"
    return (
        f"{judged.id:<4} {judged.what:<82} {measured:>8} {judged.unit:<5} "
        f"must {sign} {judged.must:<5g} aim {sign} {judged.aim:<5g} {verdict(result)}"
    )


def explained(result: Result) -> str:
    """The facts behind a figure, on one indented line; empty where there are none."""
    parts = [f"{name} {_figure(value)}" for name, value in result.facts.items()]
    parts += [result.note] if result.note and result.measured is not None else []
    return f"     {', '.join(parts)}" if parts else ""


def _figure(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
