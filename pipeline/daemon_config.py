"""What the configuration says of a daemon: its own settings, and its watched folders with what their clips become."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.inbox import WatchConfig
from pipeline.lanes import Station
from pipeline.publish import NAME_MAX
from pipeline.rebuild import Place
from pipeline.retries import RetryConfig
from pipeline.status.page import PageConfig


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """The daemon's own settings.

    Attributes:
        state: the folder of the table of jobs, the log, the lock and all else that it has to remember.
        work: where clips are made until they are whole; None: in the state folder.
        engines: how many models are loaded at once, at most; 0: one, or one for each of `devices`.
        devices: where engines run, one after the other: cpu, cuda:0, cuda:1 ...; none: where swap.device says.
        checkpoint_s: seconds of a clip between two checkpoints, about.
        least_free_mb: MiB that must be free on the disks of state, work and out for a clip to be begun.
        drain_s: how long what is being published has to end when the daemon is told to.
        sheets: how many contact sheets of finished clips are kept; 0: none are made.
        retry: what is tried again, how often and when.
        page: where the page is served.
    """

    state: Path = Path(".understudy")
    work: Path | None = None
    engines: int = 0
    devices: tuple[str, ...] = ()
    checkpoint_s: float = 10.0
    least_free_mb: int = 512
    drain_s: float = 20.0
    sheets: int = 200
    retry: RetryConfig = field(default_factory=RetryConfig)
    page: PageConfig = field(default_factory=PageConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.engines <= 64:
            raise ValueError(f"engines must be from 0 to 64, not {self.engines}")
        if not 0.5 <= self.checkpoint_s <= 3600:
            raise ValueError(f"checkpoint_s must be from 0.5 to 3600, not {self.checkpoint_s:g}")
        if not 0 <= self.drain_s <= 3600:
            raise ValueError(f"drain_s must be from 0 to 3600, not {self.drain_s:g}")
        if self.least_free_mb < 0 or self.sheets < 0:
            raise ValueError("least_free_mb and sheets cannot be negative")

    @property
    def work_folder(self) -> Path:
        """Where clips are made until they are whole."""
        return self.work or self.state / "work"


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched folder.

    `station` composes what its clips have in common, anew each time, for a model may have been trained on meanwhile; it
    raises ConfigError or WeightsError where that cannot be. `suffix_for` tells the extension of what a clip becomes.
    """

    config: WatchConfig
    station: Callable[[], Station]
    suffix_for: Callable[[str], str]

    @property
    def name(self) -> str:
        """The folder, absolute: what the table of jobs calls it."""
        return str(self.config.inbox.absolute())

    @property
    def place(self) -> Place:
        """The folder for whoever looks there for what had been made."""
        config = self.config
        return Place(Path(self.name), config.out.absolute(), config.failed_folder.absolute(), self.targets)

    def targets(self, source: Path) -> tuple[Path, Path]:
        """What a clip becomes: under its own name, or where another clip becomes that already, under its whole name."""
        beside = self.config.out.absolute() / source.parent.relative_to(self.name)
        suffix = self.suffix_for(str(source))
        return beside / _named(source.stem, suffix), beside / _named(source.name, suffix)


def _named(stem: str, suffix: str) -> str:
    """The name, shortened where file systems take none that is so long; then its digest tells it from its like."""
    whole = os.fsencode(stem + suffix)
    if len(whole) <= NAME_MAX:
        return stem + suffix
    tail = f".{hashlib.sha256(whole).hexdigest()[:16]}{suffix}"
    return whole[: NAME_MAX - len(tail)].decode("utf-8", "ignore") + tail


@dataclass(frozen=True, slots=True)
class Setup:
    """All that the configuration says of a daemon."""

    config: DaemonConfig
    folders: tuple[Watched, ...]
