"""How a model is trained: everything that can be chosen, with what is usual as the default."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Config:
    """A training's settings. Where several ends are given, the first one reached ends it; with none, `stop` does.

    Attributes:
        architecture: a file of models/autoencoders; preset: a name in its PRESETS.
        coverage: the crop's side against the face's own; the face sets' crops must cover at least as much.
        iterations: steps the model shall have had in all, earlier sessions included; 0 for no such end.
        minutes: how long this session lasts; 0 for no such end.
        batch: faces of each person in every step.
        lr: Adam's step size; it falls along a half cosine to `lr * lr_end` at the session's end.
        beta1, beta2, eps: Adam's others.
        dssim: how much of the loss is structural dissimilarity; the rest is mean absolute error.
        seed: of the weights and of every draw.
        device: "auto", "cpu", "cuda" or "cuda:N"; precision: "auto", "fp32" or "bf16", of the
            activations; weights and Adam's state are always fp32.
        warp: distort the input against the target, which keeps the encoder from learning faces by heart.
        flip: mirror half of the faces; colour: vary brightness, contrast and tint.
        threads: CPU threads; 0 for as many as prove fastest, tried out on the way.
        memory_mb: MiB that both people's decoded faces may take; evenly spaced faces are kept of a larger set.
        save_minutes: time between saves; the end always saves. preview: renew preview.png with each save.
    """

    architecture: str = "original"
    preset: str = "original"
    coverage: float = 1.0
    iterations: int = 0
    minutes: float = 0.0
    batch: int = 16
    lr: float = 5e-5
    lr_end: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-7
    dssim: float = 0.5
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    warp: bool = True
    flip: bool = True
    colour: bool = True
    threads: int = 0
    memory_mb: int = 2048
    save_minutes: float = 5.0
    preview: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"train.precision must be auto, fp32 or bf16, not {self.precision!r}")
        ranges: dict[str, tuple[float, float]] = {
            "coverage": (0.5, 4),
            "iterations": (0, 10**9),
            "minutes": (0, 10**6),
            "batch": (1, 4096),
            "lr": (1e-9, 1),
            "lr_end": (0, 1),
            "beta1": (0, 0.9999),
            "beta2": (0, 0.99999),
            "eps": (1e-12, 1),
            "dssim": (0, 1),
            "seed": (0, 2**63 - 1),
            "threads": (0, 1024),
            "memory_mb": (1, 10**6),
            "save_minutes": (0.01, 10**6),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
                raise ConfigError(f"train.{name} must be from {low} to {high}, not {value!r}")
