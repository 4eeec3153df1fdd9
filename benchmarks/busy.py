"""For how much of a stretch of time a GPU was at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile


def share(step: Callable[[], None], steps: int) -> float:
    """The share 0..1 of the time of `steps` calls of `step` in which the GPU does something.

    What it does is timed under torch's profiler, how long the steps take without it: recording slows the CPU's part
    down, and would have the GPU wait for it.
    """
    step()
    begun = time.perf_counter()
    _called(step, steps)
    seconds = time.perf_counter() - begun
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        _called(step, steps)
    spans = (
        (event.time_range.start, event.time_range.end)
        for event in recorded.events()
        if event.device_type == DeviceType.CUDA
    )
    return min(1.0, covered(spans) / 1e6 / seconds)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long it is, in all, that at least one of the (begin, end) spans lasts."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _called(step: Callable[[], None], steps: int) -> None:
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
