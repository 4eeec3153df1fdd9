"""Which step size? The range test: ever longer steps until the loss breaks away, and a look at where it fell.

Smith 2017, "Cyclical learning rates for training neural networks", https://arxiv.org/abs/1506.01186, section 3.3, with
rates that grow by the same factor each step. Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

_AWAY = 4.0  # times its lowest: from there on the loss has broken away
_FOLLOWS = 0.3  # how much of each loss the running mean takes that is held against it
_WIDTH = 0.02  # of the smoothing's Gaussian, as a share of the sweep
_FELL = 0.02  # by so much of the beginning the loss must have fallen for its lowest point to mean anything


@dataclass(frozen=True, slots=True)
class Finding:
    """What the sweep showed.

    Attributes:
        rates: ascending; losses: of the step at each, as measured; smoothed: the same without the batches' noise.
        suggested: a tenth of the rate at which the smoothed loss was lowest; None where it never fell.
        diverged: the rate at which the loss broke away; None where it never did.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float | None
    diverged: float | None


def find(step: Callable[[float], float], low: float = 1e-7, high: float = 1.0, steps: int = 100) -> Finding:
    """Takes up to `steps` steps, from the rate `low` up to `high`, and stops where the loss breaks away.

    The suggestion is a tenth of the rate where the loss was lowest: at the lowest point itself long steps already undo
    what they win, and the place where the loss falls most steeply, the other usual choice, jumps by powers of ten from
    sweep to sweep when the batches are small.

    Args:
        step: trains one step at that rate and gives its loss. It changes the weights; put them back afterwards.

    Raises:
        ConfigError: the rates do not ascend from above 0, or there are fewer than ten steps.
    """
    if not (0 < low < high and math.isfinite(high)):
        raise ConfigError(f"the step sizes to try must ascend from above 0, not from {low:g} to {high:g}")
    if steps < 10:
        raise ConfigError(f"a step size is found in ten steps or more, not in {steps}")
    rates: list[float] = []
    losses: list[float] = []
    diverged: float | None = None
    running, lowest = math.nan, math.inf
    for rate in np.geomspace(low, high, steps).tolist():
        loss = step(rate)
        if not math.isfinite(loss):
            diverged = rate
            break
        rates.append(rate)
        losses.append(loss)
        running = loss if math.isnan(running) else running + _FOLLOWS * (loss - running)
        lowest = min(lowest, running)
        if running > _AWAY * lowest:
            diverged = rate
            break
    smoothed = _smoothed(np.minimum(losses, _AWAY * lowest), max(1.0, _WIDTH * steps))
    return Finding(tuple(rates), tuple(losses), tuple(smoothed.tolist()), _suggested(rates, smoothed), diverged)


def _smoothed(losses: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """By a Gaussian around each loss: unlike a running mean it does not lag behind, towards longer steps."""
    place = np.arange(len(losses))
    weights = np.exp(-0.5 * ((place[:, None] - place[None, :]) / width) ** 2)
    smoothed: NDArray[np.float64] = weights @ losses / weights.sum(1)
    return smoothed


def _suggested(rates: list[float], smoothed: NDArray[np.float64]) -> float | None:
    if not rates:
        return None
    lowest = int(smoothed.argmin())
    begun = float(smoothed[: max(1, len(rates) // 10)].mean())
    return rates[lowest] / 10 if smoothed[lowest] < begun - _FELL * abs(begun) else None


def picture(finding: Finding) -> NDArray[np.uint8]:
    """The losses over the rates, with the suggestion marked: (480, 800, 3) uint8 RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: slow to load, and only a picture needs it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(finding.rates, finding.losses, ".", color="0.7", label="each step")
    axes.plot(finding.rates, finding.smoothed, color="C0", label="smoothed")
    if finding.suggested is not None:
        axes.axvline(finding.suggested, color="C2", label=f"suggested: {finding.suggested:.1e}")
    if finding.diverged is not None:
        axes.axvline(finding.diverged, color="C3", linestyle=":", label=f"broke away at {finding.diverged:.1e}")
    if finding.smoothed:
        top = max(max(finding.smoothed), float(np.percentile(finding.losses, 90)))
        axes.set_ylim(top=top + 0.05 * (top - min(finding.losses)) or None)
    axes.set_xscale("log")
    axes.set_xlabel("step size")
    axes.set_ylabel("loss")
    axes.legend()
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()
