"""The daemon's figures in the text that Prometheus and its like read (exposition format 0.0.4).

Labels hold folders, models and devices, never names of clips: a label's values have to be few.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.jobs import State
from pipeline.live import Lane, Live
from pipeline.logs import printable

#: What the text is, as the header of an answer says it.
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: A daemon that has not been heard from for longer is not alive.
ALIVE_S = 30.0

Labels = Mapping[str, str]


def is_alive(live: Live | None, now: float) -> bool:
    """Whether a daemon was heard from lately; `now` in seconds since the epoch."""
    return live is not None and now - live.time <= ALIVE_S


def render(live: Live | None, counts: Mapping[State, int], free: Mapping[str, int], now: float) -> str:
    """All figures.

    Args:
        live: what the daemon last said; None where it has never run.
        counts: jobs in each state; empty where the table cannot be read.
        free: bytes that are free, by folder.
        now: seconds since the epoch.
    """
    alive = is_alive(live, now)
    families = [
        _Family("up", "Whether the daemon was heard from lately.").add(alive),
        _Family("ready", "Whether it takes clips and can make them.").add(alive and live is not None and live.ready),
        _jobs(counts),
        _free(free),
    ]
    if live is not None:
        families += _daemon(live, now)
    if live is not None and alive:
        families += [*_folders(live), *_lanes(live.lanes), *_running(live)]
    return "".join(family.text() for family in families if family.samples)


@dataclass(slots=True)
class _Family:
    """Samples of one name; of several with the same labels the last one counts."""

    name: str
    about: str
    kind: str = "gauge"
    samples: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)

    def add(self, value: float, **labels: str) -> _Family:
        self.samples[tuple(labels.items())] = float(value)
        return self

    def text(self) -> str:
        name = f"understudy_{self.name}"
        lines = [f"# HELP {name} {self.about}", f"# TYPE {name} {self.kind}"]
        lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in self.samples.items()]
        return "\n".join(lines) + "\n"


def _daemon(live: Live, now: float) -> Iterable[_Family]:
    yield _Family("info", "The program that runs.").add(1, version=live.version)
    yield _Family("start_time_seconds", "When the daemon started, since the epoch.").add(live.started)
    yield _Family("heartbeat_age_seconds", "How long ago it was heard from.").add(max(0.0, now - live.time))
    yield _Family("paused", "Whether no clips are begun for now, a full disk for instance.").add(live.state == "paused")
    yield _Family("draining", "Whether it is about to end.").add(live.state == "draining")


def _jobs(counts: Mapping[State, int]) -> _Family:
    family = _Family("jobs", "Jobs in the table, by state.")
    for state, count in counts.items():
        family.add(count, state=str(state))
    return family


def _free(free: Mapping[str, int]) -> _Family:
    family = _Family("disk_free_bytes", "Bytes that are free where the folder lies.")
    for folder, count in free.items():
        family.add(count, folder=folder)
    return family


def _folders(live: Live) -> Iterable[_Family]:
    arriving = _Family("folder_arriving", "Files that lie in a watched folder and are not taken yet.")
    trouble = _Family("folder_trouble", "Whether a watched folder cannot be read.")
    for folder in live.folders:
        arriving.add(len(folder.arriving), inbox=folder.inbox)
        trouble.add(bool(folder.trouble), inbox=folder.inbox)
    return arriving, trouble


def _lanes(lanes: Iterable[Lane]) -> Iterable[_Family]:
    restarts = _Family("lane_restarts_total", "How often an engine's processes were started again.", "counter")
    up = _Family("lane_up", "Whether an engine is at work or rests, and is not down.")
    workers = _Family("stage_workers", "Processes of a stage.")
    busy = _Family("stage_busy_ratio", "The share of the last seconds in which a stage worked, per worker.")
    wait_in = _Family("stage_wait_in_ratio", "The share in which it waited for frames.")
    wait_out = _Family("stage_wait_out_ratio", "The share in which it waited for the next stage to take one.")
    for lane in lanes:
        name = f"{lane.model}:{lane.to}@{lane.device}"
        restarts.add(lane.restarts, lane=name)
        up.add(lane.state in ("ready", "resting"), lane=name)
        for stage in lane.stages:
            workers.add(stage.workers, lane=name, stage=stage.name)
            busy.add(stage.busy, lane=name, stage=stage.name)
            wait_in.add(stage.wait_in, lane=name, stage=stage.name)
            wait_out.add(stage.wait_out, lane=name, stage=stage.name)
    return restarts, up, workers, busy, wait_in, wait_out


def _running(live: Live) -> Iterable[_Family]:
    progress = _Family("running_clip_progress", "How much of a clip is made, 0 to 1, where its length is known.")
    fps = _Family("running_clip_frames_per_second", "How fast a clip is made.")
    for clip in live.running:
        fps.add(clip.fps, job=str(clip.job))
        if clip.frames:
            progress.add(min(1.0, clip.frame / clip.frames), job=str(clip.job))
    return progress, fps


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(value: str) -> str:
    """A label's value; what no text file should hold has become an escape, which keeps names apart."""
    return printable(value).replace("\\", "\\\\").replace('"', '\\"')


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else repr(value)
