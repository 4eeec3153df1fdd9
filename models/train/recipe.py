"""How a model is trained: everything that can be chosen, with what is usual as the default. Loads no torch.

The sections stand in the order of a training: what is learned from, how it is distorted, what an error costs, how the
weights follow, what it may take, how it is kept, shown and judged.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from models.layer_options import LayerOptions
from pipeline.errors import ConfigError

#: The metrics that a judgement can be led by, and whether more of it is better.
METRICS = {"ssim": True, "psnr": True, "identity": True, "expression": False, "pose": False, "sharpness": True}

LOSSES = (
    "focal_frequency",
    "gmsd",
    "gradient",
    "laplacian",
    "linf",
    "log_cosh",
    "mae",
    "ms_ssim",
    "mse",
    "smooth_l1",
    "ssim",
)

OPTIMISERS = ("adabelief", "adam", "adamw", "lion", "nadam", "rmsprop")


def _check(section: str, config: Any, ranges: dict[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not math.isfinite(value) or not low <= value <= high:
            raise ConfigError(f"{section}.{name} must be from {low:g} to {high:g}, not {value!r}")


@dataclass(frozen=True, slots=True)
class Data:
    """Where faces come from.

    Attributes:
        held_out: share of each person's faces that is never trained on, for the judgement.
        memory_mb: MiB that all decoded faces may take, on the device or in memory.
        workers: processes that decode and distort ahead; 0 for none. With `auto` there are some where faces do not
            all fit into `memory_mb` or the device is a GPU too small to hold them.
        prefetch: batches that each worker has ready.
    """

    held_out: float = 0.1
    memory_mb: int = 2048
    workers: int | Literal["auto"] = "auto"
    prefetch: int = 2

    def __post_init__(self) -> None:
        _check("train.data", self, {"held_out": (0, 0.5), "memory_mb": (1, 10**7), "prefetch": (1, 64)})
        if self.workers != "auto":
            _check("train.data", self, {"workers": (0, 256)})


@dataclass(frozen=True, slots=True)
class Augment:
    """How faces are distorted before they are learned from; 0 (or "off") switches each off.

    Attributes:
        zoom, shift: at most so much of the square's side; rotation: degrees; flip: chance.
        lightness: at most so much of CIELAB's L* range; colour: of a* and b*.
        clahe: chance of contrast-limited adaptive histogram equalisation; `clahe_grid` tiles a side at most,
            `clahe_limit` at most.
        transfer: chance that a face takes the colours of a random face of another person.
        blur: chance of motion blur; `blur_px` its longest length, in px of the input.
        compression: chance of JPEG's traces; `compression_quality` the worst quality.
        warp: what bends the input against its target: "grid" (random points of a grid), "landmarks" (towards a face
            with a similar look of another person) or "off". `warp_points`: of the grid; `warp_amount`: their
            standard deviation against the square's side.
    """

    zoom: float = 0.05
    rotation: float = 10.0
    shift: float = 0.05
    flip: float = 0.5
    lightness: float = 0.15
    colour: float = 0.03
    clahe: float = 0.0
    clahe_grid: int = 8
    clahe_limit: float = 4.0
    transfer: float = 0.0
    blur: float = 0.0
    blur_px: float = 6.0
    compression: float = 0.0
    compression_quality: int = 30
    warp: Literal["grid", "landmarks", "off"] = "grid"
    warp_points: int = 5
    warp_amount: float = 5 / 256

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("flip", "clahe", "transfer", "blur", "compression"), (0.0, 1.0))
        amounts: dict[str, tuple[float, float]] = {
            "zoom": (0, 0.5),
            "rotation": (0, 180),
            "shift": (0, 0.5),
            "lightness": (0, 1),
            "colour": (0, 1),
            "clahe_grid": (1, 32),
            "clahe_limit": (1, 40),
            "blur_px": (1, 64),
            "compression_quality": (1, 100),
            "warp_points": (3, 33),
            "warp_amount": (0, 0.2),
        }
        _check("train.augment", self, shares | amounts)


@dataclass(frozen=True, slots=True)
class Losses:
    """What an error costs.

    Attributes:
        terms: up to four losses (files of models/train/losses) and their weights.
        background: what an error outside the face costs, the face being 1; 1 makes the loss unmasked.
        eyes, mouth: what an error there costs.
        mask: weight of the learned mask's own error.
        style: power of the style loss: a swap's textures against the real face's (Gram matrices).
        gan: power of the discriminator of patches; true_face: of the discriminator of codes. Both learn beside the
            model, and are best turned on late.
        adversary_lr: step size of both discriminators, as a multiple of the model's.
    """

    terms: dict[str, float] = field(default_factory=lambda: {"ssim": 1.0, "mae": 1.0})
    background: float = 0.1
    eyes: float = 3.0
    mouth: float = 3.0
    mask: float = 1.0
    style: float = 0.0
    gan: float = 0.0
    true_face: float = 0.0
    adversary_lr: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.terms) <= 4:
            raise ConfigError(f"train.losses.terms takes one to four losses, not {len(self.terms)}")
        for name, weight in self.terms.items():
            if name not in LOSSES:
                raise ConfigError(f"train.losses.terms: there is no loss {name!r}; there are: {', '.join(LOSSES)}")
            if not (math.isfinite(weight) and 0 < weight <= 1000):
                raise ConfigError(f"train.losses.terms.{name} must be above 0, up to 1000, not {weight!r}")
        unit: dict[str, tuple[float, float]] = {"background": (0, 1), "eyes": (1, 100), "mouth": (1, 100)}
        powers = dict.fromkeys(("mask", "style", "gan", "true_face", "adversary_lr"), (0.0, 100.0))
        _check("train.losses", self, unit | powers)


@dataclass(frozen=True, slots=True)
class Optimiser:
    """How the weights follow the loss.

    Attributes:
        name: "adam", "adamw", "rmsprop", "nadam", "adabelief" or "lion".
        lr: the step size; beta1, beta2, eps, weight_decay: as the algorithm's paper says, where it has them.
        warmup: the model's first steps, over which the step size rises from nothing.
        lr_end: what share of `lr` is left at the nearer end (`iterations` or `minutes`), after falling along half a
            cosine; 1 keeps it.
        lr_dropout: share of the weights, drawn anew each step, that a step changes; 1 for all.
        clip: the gradient's greatest norm, all weights together; 0 for any.
        accumulate: a step's faces go through the network in so many parts, which takes less memory.
    """

    name: Literal["adabelief", "adam", "adamw", "lion", "nadam", "rmsprop"] = "adam"
    lr: float = 5e-5
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-7
    weight_decay: float = 0.0
    warmup: int = 0
    lr_end: float = 1.0
    lr_dropout: float = 1.0
    clip: float = 0.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "lr": (1e-9, 1),
            "beta1": (0, 0.9999),
            "beta2": (0, 0.99999),
            "eps": (1e-16, 1),
            "weight_decay": (0, 1),
            "warmup": (0, 10**7),
            "lr_end": (0, 1),
            "lr_dropout": (0.01, 1),
            "clip": (0, 10**6),
            "accumulate": (1, 1024),
        }
        _check("train.optimiser", self, ranges)


@dataclass(frozen=True, slots=True)
class Memory:
    """What trades memory for time.

    Attributes:
        checkpointing: forget activations and compute them again (memory-saving gradients).
        optimiser_on_cpu: keep the optimiser's state, and do its arithmetic, in the computer's memory.
        one_person: one person after the other goes through the network within a step.
        channels_last: keep pictures' channels together in memory.
        compile: let torch.compile make kernels for the model; it takes minutes before the first step.
    """

    checkpointing: bool = False
    optimiser_on_cpu: bool = False
    one_person: bool = False
    channels_last: bool = True
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Safety:
    """How the training is kept.

    Attributes:
        save_minutes: time between saves; save_iterations: steps between saves (0: by time alone). The end always saves.
        backups: how many saves are kept in which the loss had fallen; the newest ones.
        snapshot_iterations: steps between snapshots, which are kept for good; 0 for none.
        collapse: a person's loss that is so many times its smoothed value counts as a breakdown, as does one that is no
            number; 0 for any.
        rollbacks: how often a session that breaks down goes back to the last save, with other draws and half the step
            size, before it gives up.
    """

    save_minutes: float = 5.0
    save_iterations: int = 0
    backups: int = 2
    snapshot_iterations: int = 0
    collapse: float = 8.0
    rollbacks: int = 3

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "save_minutes": (0.01, 10**6),
            "save_iterations": (0, 10**9),
            "backups": (0, 100),
            "snapshot_iterations": (0, 10**9),
            "collapse": (0, 10**6),
            "rollbacks": (0, 100),
        }
        _check("train.safety", self, ranges)


@dataclass(frozen=True, slots=True)
class Monitor:
    """What a training shows of itself.

    Attributes:
        report_s: seconds between two lines of the journal.
        preview: renew preview.png with each save; previews_kept: older ones that are kept beside it.
        timelapse: keep a picture of the same faces with each save, and make a video of them in the end.
        tensorboard: also write TensorBoard's event files.
        report: renew report.html and the loss curves with each save.
    """

    report_s: float = 10.0
    preview: bool = True
    previews_kept: int = 20
    timelapse: bool = False
    tensorboard: bool = False
    report: bool = True

    def __post_init__(self) -> None:
        _check("train.monitor", self, {"report_s": (0.1, 3600), "previews_kept": (0, 10**6)})


@dataclass(frozen=True, slots=True)
class Judge:
    """How the model is judged without a person's eye, on faces it was not trained on.

    Attributes:
        every: steps between judgements; 0 for none.
        faces: how many held-out faces of each person are looked at.
        best: the metric of which the best model is kept: "ssim", "psnr", "identity", "expression", "pose", "sharpness".
        patience: judgements without a better `best` after which training stops; 0 never stops it.
    """

    every: int = 0
    faces: int = 32
    best: Literal["ssim", "psnr", "identity", "expression", "pose", "sharpness"] = "ssim"
    patience: int = 0

    def __post_init__(self) -> None:
        _check("train.judge", self, {"every": (0, 10**9), "faces": (1, 4096), "patience": (0, 10**6)})


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a new model starts from.

    Attributes:
        start_from: a model's folder whose weights it starts with, wherever name and shape agree.
        people: whose decoder each new person starts from, as `new: old`; those not named take the first one's.
        freeze: parts that are not trained, by the beginning of their name, for example "encoder".
    """

    start_from: Path | None = None
    people: dict[str, str] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.freeze:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", name):
                raise ConfigError(f"train.transfer.freeze takes names of a model's parts, not {name!r}")


@dataclass(frozen=True, slots=True)
class Config:
    """A training's settings. Where several ends are given, the first one reached ends it; with none, `stop` does.

    Attributes:
        architecture: a file of models/autoencoders; empty for "original" or, where the model is there already, for
            whatever it is: then the settings from here to `coverage` are the model's own.
        preset: a name in its PRESETS, empty for its defaults; options: its own options, over the preset's.
        layers: what every architecture lets one choose.
        crop: what the square is centred on: the face (brow to chin), or the whole head.
        coverage: the crop's side against the face's own; the face sets' crops must cover at least as much.
        iterations: steps the model shall have had in all, earlier sessions included; 0 for no such end.
        minutes: how long this session lasts; 0 for no such end.
        batch: faces of each person in every step, on all GPUs together.
        people_per_step: how many of many people are drawn for a step; 0 for all.
        seed: of the weights and of every draw.
        device: "auto", "cpu", "cuda" or "cuda:N"; precision: "auto", "fp32", "bf16" or "fp16", of the
            activations; weights and the optimiser's state are always fp32.
        threads: CPU threads; 0 for as many as prove fastest, tried out on the way.
    """

    architecture: str = ""
    preset: str = ""
    options: dict[str, bool | int | float | str | tuple[int, ...]] = field(default_factory=dict)
    layers: LayerOptions = field(default_factory=LayerOptions)
    crop: Literal["face", "head"] = "face"
    coverage: float = 1.0
    iterations: int = 0
    minutes: float = 0.0
    batch: int = 16
    people_per_step: int = 0
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: int = 0
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    losses: Losses = field(default_factory=Losses)
    optimiser: Optimiser = field(default_factory=Optimiser)
    memory: Memory = field(default_factory=Memory)
    safety: Safety = field(default_factory=Safety)
    monitor: Monitor = field(default_factory=Monitor)
    judge: Judge = field(default_factory=Judge)
    transfer: Transfer = field(default_factory=Transfer)

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "coverage": (0.5, 4),
            "iterations": (0, 10**9),
            "minutes": (0, 10**6),
            "batch": (1, 4096),
            "people_per_step": (0, 4096),
            "seed": (0, 2**63 - 1),
            "threads": (0, 1024),
        }
        _check("train", self, ranges)
        if self.people_per_step == 1:
            raise ConfigError("train.people_per_step must be 0 (all) or at least 2")
