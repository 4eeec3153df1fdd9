"""D1 to D5: what the daemon costs beside the work itself, all measured on the real one (`benchmarks/watching.py`)."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Literal

from benchmarks.bars import Result
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, middle_fact, ratio
from benchmarks.runs import engine_run
from benchmarks.watching import Place, Watching, chain, watching
from benchmarks.workshop import RATE, SIX, Workshop, table
from pipeline import result
from pipeline.inbox import Inbox, mark_of
from pipeline.jobs import FILE, Entry, State, Table
from pipeline.types import Job, Pulled
from stages import decode

_SECONDS = 2  # of a short clip


# --- D1: many short clips ------------------------------------------------------------------------------------------


def throughput(quick: bool, machine: Machine, workshop: Workshop) -> Result:
    """D1: time per frame of many short clips, from the first one's claim to the last one's end, against one long clip.

    `cpu_ratio` is the same in cpu time of all its processes, which depends less on who waits for whom: the long clip
    is verified when all its stages have nothing to do any more, the short ones while the next are made.
    """
    clips, turns = (4, 1) if quick else (50, 4)
    short = workshop.clip(1920, 1080, _SECONDS)
    long = workshop.long_clip(1920, 1080, _SECONDS, clips)
    with watching(Place(workshop.folder / "many", chain(workshop), workshop.sealer()), short) as daemon:
        numbers = count()
        variants = {
            "clips": lambda: _through(daemon, short, [f"{next(numbers):06}.mp4" for _ in range(clips)]),
            "long": lambda: _through(daemon, long, [f"{next(numbers):06}.mp4"]),
        }
        samples = interleaved(variants, turns, machine)
    return Result("D1", ratio(samples, "clips", "long"), _compared(samples, clips * turns), disturbance(samples))


#: Steps of a clip that are its own alone: while the others go on, so does the clip before.
_OWN = ("ms opened", "ms encoded", "ms joined", "ms sealed", "ms verified", "ms report", "ms published")


def _compared(samples: Mapping[str, list[Sample]], clips: int) -> dict[str, float | int | str]:
    """Where the difference goes: `extra_cpu_ms` of each process for a clip, and how long a clip's own steps take."""
    short, long = samples["clips"], samples["long"]
    stages_ms = middle_fact(long, "stages_ms")
    facts: dict[str, float | int | str] = {
        "clips": clips,
        "clips_ms": middle(short),
        "long_ms": middle(long),
        "to_long_before_verifying": middle(short) / stages_ms,
        "cpu_ratio": middle_fact(short, "cpu_ms") / middle_fact(long, "cpu_ms"),
        "clips_cpu_ms": middle_fact(short, "cpu_ms"),
        "long_cpu_ms": middle_fact(long, "cpu_ms"),
    }
    processes = sorted(name for name in short[0].facts if name.startswith("cpu_ms "))
    for name in processes:
        extra = median(one.facts.get(name, 0.0) for one in short) - median(one.facts.get(name, 0.0) for one in long)
        facts[f"extra_{name}"] = extra * _SECONDS * RATE
    return facts | {name: middle_fact(short, name) for name in _OWN}


def _through(daemon: Watching, clip: Path, names: Sequence[str]) -> Sample:
    """Milliseconds per frame of copies of a clip that are all there at once."""
    before = daemon.cpu_s()
    daemon.drop(clip, names)
    entries = daemon.ended(names)
    spent = {name: cpu - before.get(name, 0.0) for name, cpu in daemon.cpu_s().items()}
    frames = sum(entry.frames for entry in entries)
    seconds = max(entry.ended for entry in entries) - min(entry.claimed for entry in entries)
    facts = {"cpu_ms": sum(spent.values()) / frames * 1e3}
    facts |= {f"cpu_ms {name}": cpu / frames * 1e3 for name, cpu in spent.items()}
    facts |= _mean([_steps(entry) for entry in entries])
    encoded = max(_moments(entry)["encoded"] for entry in entries)
    facts["stages_ms"] = (encoded - min(entry.claimed for entry in entries)) / frames * 1e3
    daemon.clear(entries)
    return Sample(seconds / frames * 1e3, facts)


# --- D2: one short clip on an idle daemon --------------------------------------------------------------------------

#: What happens between one moment and the one before it, in order; each moment's place in the row or the report.
STEPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("settled", ("times", "accepted")),
    ("claimed", ("times", "claimed")),
    ("at the stages", ("reports", "decode", "opening_at")),
    ("opened", ("reports", "decode", "opened_at")),
    ("first frame through", ("reports", "encode", "first_at")),
    ("last frame through", ("reports", "encode", "last_at")),
    ("encoded", ("reports", "encode", "encoded_at")),
    ("at the door", ("reports", "publish", "finishing_at")),
    ("joined", ("reports", "publish", "joined_at")),
    ("sealed", ("reports", "publish", "sealed_at")),
    ("verified", ("reports", "publish", "finished_at")),
    ("report", ("times", "ended")),
)


def _moments(entry: Entry) -> dict[str, float]:
    """When each step was over, in seconds since the epoch."""
    report = result.read(result.path_for(entry.target)) or {}
    moments = {"noticed": entry.seen}
    for name, path in STEPS:
        at: object = report
        for key in path:
            at = at[key] if isinstance(at, Mapping) else 0.0
        moments[name] = float(at) if isinstance(at, int | float) else 0.0
    return moments | {"published": entry.ended}


def _steps(entry: Entry) -> dict[str, float]:
    """How long each step took, in milliseconds; some overlap those of the clip before."""
    moments = _moments(entry)
    names = list(moments)
    return {f"ms {name}": (moments[name] - moments[before]) * 1e3 for before, name in pairwise(names)}


def _mean(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(one[name] for one in steps) for name in steps[0]}


def one_clip(quick: bool, machine: Machine, workshop: Workshop) -> Result:
    """D2: from when a clip counts as whole to its result in its place, against the same clip through a bare engine.

    Both mark and sign it; `ms sealed` is what signing takes.
    `ms ...` is where the time went, from the drop on; `ms settled` is what the settings ask for (2 s by default).
    """
    turns = 2 if quick else 7
    short = workshop.clip(1920, 1080, _SECONDS)
    stages = chain(workshop)
    place = Place(workshop.folder / "one", stages, workshop.sealer(), settle_s=_SECONDS)
    alone = engine_run(workshop, stages, table(SIX), sealer=place.sealer)
    with watching(place, short) as daemon, alone as bare:
        numbers = count()
        variants = {
            "daemon": lambda: _dropped(daemon, short, f"{next(numbers)}.mp4"),
            "bare": lambda: _seconds(bare(short)),
        }
        samples = interleaved(variants, turns, machine)
    facts: dict[str, float | int | str] = {
        "drop_to_published_s": middle_fact(samples["daemon"], "drop_to_published_s"),
        "settled_to_published_s": middle(samples["daemon"]),
        "bare_engine_s": middle(samples["bare"]),
    }
    names = [name for name in samples["daemon"][0].facts if name.startswith("ms ")]
    facts |= {name: middle_fact(samples["daemon"], name) for name in names}
    return Result("D2", ratio(samples, "daemon", "bare"), facts, disturbance(samples))


def _seconds(sample: Sample) -> Sample:
    return Sample(sample.facts["seconds"], sample.facts)


def _dropped(daemon: Watching, clip: Path, name: str) -> Sample:
    dropped = daemon.drop(clip, [name])
    (entry,) = daemon.ended([name])
    steps = {"ms noticed": (entry.seen - dropped) * 1e3} | _steps(entry)
    daemon.clear([entry])
    return Sample(entry.ended - entry.accepted, {"drop_to_published_s": entry.ended - dropped} | steps)


# --- D3: at rest ---------------------------------------------------------------------------------------------------

#: After so long whatever was started is up.
_TO_REST_S = 15.0


def at_rest(quick: bool, machine: Machine, workshop: Workshop) -> Result:
    """D3: cpu seconds a minute of all processes of a daemon that has nothing to do, with many finished clips.

    Its model is loaded and its page runs. The look at everything that comes every five minutes is counted in.
    """
    clips, seconds = (2_000, 10.0) if quick else (50_000, 60.0)
    place = Place(workshop.folder / "rest", chain(workshop), workshop.sealer(), page=True)
    filled(place, clips)
    look_s = _look_s(place)
    small = workshop.clip(640, 360, 1)
    facts: dict[str, float | int | str] = {"clips": clips, "look_s": look_s}
    samples = {}
    modes: tuple[tuple[str, Literal["never", "always"]], ...] = (("events", "never"), ("polling", "always"))
    for mode, polling in modes:
        begun = time.monotonic()
        with watching(replace(place, polling=polling), None) as daemon:
            facts[f"{mode} up_s"] = time.monotonic() - begun
            daemon.drop(small, [f"{mode}.mp4"])
            daemon.ended([f"{mode}.mp4"])
            time.sleep(_TO_REST_S)
            samples[mode] = interleaved({mode: partial(_resting, daemon, seconds)}, 1, machine)[mode]
        looks = look_s * 60 / place.watched.rescan_s
        facts[f"{mode} cpu_s_a_minute"] = middle(samples[mode]) + looks
        facts |= {f"{mode} {name}": value for name, value in samples[mode][0].facts.items()}
    figure = facts["events cpu_s_a_minute"]
    assert isinstance(figure, float)
    return Result("D3", figure, facts, disturbance(samples))


def _resting(daemon: Watching, seconds: float) -> Sample:
    """CPU seconds a minute of its processes while nothing happens."""
    before = daemon.cpu_s()
    time.sleep(seconds)
    spent = {name: (cpu - before.get(name, cpu)) * 60 / seconds for name, cpu in daemon.cpu_s().items()}
    return Sample(sum(spent.values()), {f"cpu_s {name}": cpu for name, cpu in spent.items() if cpu})


def filled(place: Place, clips: int) -> None:
    """Makes a place whose inbox holds so many clips, all of them done, in a hundred folders."""
    with Table.open(place.state / FILE) as jobs, jobs.together():
        now = time.time()
        for number in range(clips):
            source = place.inbox / f"{number % 100:02}" / f"{number:06}.mp4"
            source.parent.mkdir(parents=True, exist_ok=True)
            source.touch()
            target = place.out / source.relative_to(place.inbox)
            mark = mark_of(source)
            assert mark is not None
            done = Entry(number + 1, str(place.inbox), str(source), str(target), State.DONE, mark)
            jobs.put(replace(done, frames=60, seconds=2.0, digest="0" * 64, seen=now, accepted=now, ended=now))
        jobs.filled()


def _look_s(place: Place) -> float:
    """CPU seconds of one look at everything, where all of it is known."""
    inbox = Inbox(place.watched)
    with Table.looking(place.state / FILE) as jobs:
        for path, known in jobs.known(str(place.inbox)).items():
            inbox.remember(Path(path.decode()), known.mark)
    begun = time.process_time()
    inbox.look()
    return time.process_time() - begun


# --- D4: checkpoints -----------------------------------------------------------------------------------------------


def checkpointed(quick: bool, machine: Machine, workshop: Workshop) -> Result:
    """D4: time of a clip with a checkpoint every ten seconds against one that is encoded in one go.

    Both are published in full; `verified_ratio` holds that against the same with its packets only counted.
    """
    clips, turns, segment_s = (3, 1, 2.0) if quick else (20, 3, 10.0)
    source = workshop.long_clip(1920, 1080, _SECONDS, clips)
    stages = chain(workshop)
    with (
        engine_run(workshop, stages, table(SIX), sealer=workshop.sealer()) as verified,
        engine_run(workshop, stages, table(SIX), verify="packets", sealer=workshop.sealer()) as counted,
    ):
        variants = {
            "segments": lambda: _seconds(verified(source, segment_s)),
            "none": lambda: _seconds(verified(source)),
            "counted": lambda: _seconds(counted(source, segment_s)),
        }
        samples = interleaved(variants, turns, machine)
    facts: dict[str, float | int | str] = {
        "segments": clips * _SECONDS / segment_s,
        "bytes_ratio": middle_fact(samples["segments"], "bytes") / middle_fact(samples["none"], "bytes"),
        "verified_ratio": ratio(samples, "segments", "counted"),
    }
    for name, taken in samples.items():
        facts |= {f"{name}_s": middle(taken), f"{name} cpu_ms": middle_fact(taken, "cpu_ms")}
    return Result("D4", ratio(samples, "segments", "none"), facts, disturbance(samples))


# --- D5: what a restart loses --------------------------------------------------------------------------------------


def restarted(quick: bool, workshop: Workshop) -> Result:
    """D5: work that a daemon does again when it was killed at a random moment, as a share of a segment's.

    `up_s` is from the new daemon's start until its stages have opened the clip, with loading the model;
    `passed_frames_s` is how fast decode goes through what is finished already.
    """
    clips, kills, checkpoint_s = (3, 1, 2.0) if quick else (15, 5, 10.0)
    source = workshop.long_clip(1920, 1080, _SECONDS, clips)
    place = Place(workshop.folder / "killed", chain(workshop), workshop.sealer(), checkpoint_s=checkpoint_s)
    warm = workshop.clip(1920, 1080, _SECONDS)
    moments = random.Random(5)  # the same at each run
    found = [
        _killed(place, warm, source, f"{kill}.mp4", moments.uniform(0.1, 0.9) * clips * _SECONDS * RATE)
        for kill in range(kills)
    ]
    facts: dict[str, float | int | str] = {name: median(one[name] for one in found) for name in found[0]}
    facts["kills"], facts["most_lost_s"] = kills, max(one["lost_s"] for one in found)
    facts["passed_frames_s"] = _passed_frames_s(source, clips * _SECONDS * RATE)
    return Result("D5", median(one["lost"] for one in found), facts)


def _killed(place: Place, warm: Path, source: Path, name: str, at_frame: float) -> dict[str, float]:
    """What was lost by a kill as soon as the daemon says that so many frames are through."""
    with watching(place, warm if name == "0.mp4" else None) as daemon:
        daemon.drop(source, [name])

        def far() -> bool:
            now = daemon.live
            return now is not None and any(one.frame >= at_frame and one.step != "publish" for one in now.running)

        daemon.until(far, "to come to a frame")
        begun = _begun(place, name)
        daemon.kill()
        lost_s = time.time() - max([begun, *_settled(place)])
    started = time.time()
    with watching(place, None) as daemon:
        (entry,) = daemon.ended([name])
        moments, report = _moments(entry), result.read(result.path_for(entry.target)) or {}
        daemon.clear([entry])
    rest = entry.frames - report["resumed_at"]
    segment_s = (moments["encoded"] - moments["first frame through"]) / rest * RATE * place.checkpoint_s
    return {
        "lost": lost_s / segment_s,
        "lost_s": lost_s,
        "segment_takes_s": segment_s,
        "resumed_at_frame": report["resumed_at"],
        "up_s": moments["at the stages"] - started,
        "passing_s": moments["first frame through"] - moments["opened"],
    }


def _begun(place: Place, name: str) -> float:
    with Table.looking(place.state / FILE) as jobs:
        entry = jobs.current(str(place.inbox / name))
        return 0.0 if entry is None else entry.claimed


def _settled(place: Place) -> list[float]:
    """When each checkpoint was written."""
    return [path.stat().st_mtime for path in (place.state / "work").glob("*/checkpoint.json")]


def _passed_frames_s(source: Path, frames: int) -> float:
    """Frames a second that decode goes through to come to the last one."""
    stage = decode.Decode()
    clip = replace(stage.open(Job(1, str(source), "")), first=frames - 1)
    begun = time.monotonic()
    for _ in stage(clip, Pulled(())):
        pass
    return frames / (time.monotonic() - begun)
