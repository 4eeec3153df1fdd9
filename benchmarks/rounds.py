"""Fair turns: variants run round-robin in one run, on a machine that is otherwise quiet, judged by their medians.

Other people's work on the machine slows each variant by another amount, so before each turn we wait (with a bound)
until the rest of the machine is quiet, and a turn during which others used more than a quarter of a core is run again
while there is patience left for it.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

_log = logging.getLogger("benchmarks")

#: Cores that others may use before a turn starts, and while it runs.
QUIET_BEFORE, QUIET_DURING = 0.15, 0.25

_LOOK_S = 0.3


@dataclass(frozen=True, slots=True)
class Sample:
    """What one turn of a variant gave.

    Attributes:
        value: the figure that is compared (frames per second, microseconds, ...).
        facts: further figures of the turn.
        others: cores that the rest of the machine used meanwhile.
    """

    value: float
    facts: Mapping[str, float] = field(default_factory=dict)
    others: float = 0.0


class Machine:
    """What the rest of the machine does: /proc/stat less our own process tree."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._stat = Path("/proc/stat")

    def wait_for_quiet(self) -> None:
        """Waits until others use little, or until all the patience of this run is spent."""
        begun = time.monotonic()
        while self._patience_s > time.monotonic() - begun:
            before = self.mark()
            time.sleep(_LOOK_S)
            if self.others_since(before) < QUIET_BEFORE:
                break
        self._patience_s -= time.monotonic() - begun

    def lose(self, seconds: float) -> None:
        """Takes the time of a turn that was disturbed off the patience."""
        self._patience_s -= seconds

    @property
    def patient(self) -> bool:
        """Whether a disturbed turn may be run again."""
        return self._patience_s > 0

    def mark(self) -> tuple[float, float, float]:
        """A moment: clock, busy seconds of all cores, busy seconds of our own processes."""
        return time.monotonic(), self._busy_s(), own_cpu_s()

    def others_since(self, mark: tuple[float, float, float]) -> float:
        """Cores that others have used since, on average; 0 where the system does not tell."""
        clock, busy, own = (now - then for now, then in zip(self.mark(), mark, strict=True))
        return max(0.0, (busy - own) / clock) if clock > 0 else 0.0

    def _busy_s(self) -> float:
        if not self._stat.exists():
            return 0.0
        user, nice, system, _, _, irq, softirq, *_ = map(int, self._stat.read_text().split("\n", 1)[0].split()[1:])
        return (user + nice + system + irq + softirq) / self._ticks


def own_cpu_s() -> float:
    """User and system seconds of this process and all its descendants, gone ones included."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    for child in psutil.Process().children(recursive=True):
        total += cpu_s(child.pid)
    return total


def cpu_s(pid: int) -> float:
    """User and system seconds of one process, those of its dead children included; 0 when it has gone."""
    try:
        return float(sum(psutil.Process(pid).cpu_times()[:4]))
    except psutil.Error:
        return 0.0


def interleaved(
    variants: Mapping[str, Callable[[], Sample]], repeats: int, machine: Machine
) -> dict[str, list[Sample]]:
    """Each variant `repeats` times, in turns; turns that others disturbed are run again while patience lasts.

    Where the machine never was quiet, the disturbed turns count: their `others` tells.
    """
    kept: dict[str, list[Sample]] = {name: [] for name in variants}
    disturbed: dict[str, list[Sample]] = {name: [] for name in variants}
    while missing := [name for name in variants if len(kept[name]) < repeats]:
        for name in missing:
            machine.wait_for_quiet()
            mark = machine.mark()
            sample = variants[name]()
            sample = Sample(sample.value, sample.facts, machine.others_since(mark))
            quiet = sample.others <= QUIET_DURING
            if not quiet:
                machine.lose(time.monotonic() - mark[0])
            (kept if quiet else disturbed)[name].append(sample)
            told = " (disturbed)" if not quiet else ""
            _log.info("  %s: %.4g%s", name, sample.value, told)
            if not machine.patient and len(kept[name]) < repeats:
                kept[name].extend(disturbed[name][: repeats - len(kept[name])])
                del disturbed[name][:repeats]
    return kept


def middle(samples: list[Sample]) -> float:
    """The median of the figures."""
    return median(sample.value for sample in samples)


def middle_fact(samples: list[Sample], name: str) -> float:
    """The median of one of the further figures."""
    return median(sample.facts[name] for sample in samples)


def ratio(samples: Mapping[str, list[Sample]], of: str, to: str) -> float:
    """The median of one variant against the median of another."""
    return middle(samples[of]) / middle(samples[to])


def disturbance(samples: Mapping[str, list[Sample]]) -> str:
    """A remark where others used the machine during turns that count; empty where they did not."""
    most = max((sample.others for turns in samples.values() for sample in turns), default=0.0)
    return f"others used up to {most:.1f} cores meanwhile" if most > QUIET_DURING else ""
