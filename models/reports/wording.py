"""How figures are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def count(number: int) -> str:
    """12 300."""
    return f"{number:,}".replace(",", " ")


def duration(seconds: float) -> str:
    """41 s, 12 min 5 s, 7 h 40 min, 2 d 3 h."""
    whole = max(0, round(seconds))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def when(moment: datetime) -> str:
    """2026-01-31 22:00:00, in the moment's own zone."""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def losses(loss: Mapping[str, float], most: int = 4) -> str:
    """a 0.0426, b 0.0471; the mean where there are more than `most` people."""
    if len(loss) > most:
        return f"mean of {len(loss)} people {sum(loss.values()) / len(loss):.4f}"
    return ", ".join(f"{person} {value:.4f}" for person, value in loss.items())
