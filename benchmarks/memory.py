"""P13: memory depends on the picture's size and the ring's, not on the clip's length, nor on who is slow."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from benchmarks.bars import Result
from benchmarks.runs import EngineRun, done, engine_run
from benchmarks.stages import SlowEncodeConfig
from benchmarks.workshop import SIX, Workshop, encoding, table
from pipeline.specs import StageSpec

_WIDTH, _HEIGHT = 640, 360
_RING_MB = 64


def peak_memory(quick: bool, workshop: Workshop) -> Result:
    """Peak of all stage processes together: resident memory, and the ring once."""
    short, long = (2, 8) if quick else (10, 60)
    clips = {s: workshop.clip(_WIDTH, _HEIGHT, s, "ultrafast") for s in (short, long)}
    chain = workshop.chain(preset="sketch")
    slow = (*chain[:-1], StageSpec("encode", "benchmarks.stages:SlowEncode", SlowEncodeConfig(encoding())))
    with engine_run(workshop, chain, table(SIX), _RING_MB) as run:
        run(clips[short])  # the heaps have their size after a clip like it
        once, whole = _peak_mb(run, clips[short]), _peak_mb(run, clips[long])
    with engine_run(workshop, slow, table(SIX), _RING_MB) as run:
        held_up = _peak_mb(run, clips[short])
    facts = {f"{short}_s_mb": once, f"{long}_s_mb": whole, "slow_encode_mb": held_up, "ring_mb": _RING_MB}
    return Result("P13", max(whole, held_up) / once, facts)


def _peak_mb(run: EngineRun, source: Path) -> float:
    """The median of the three highest samples: one page fault more or less is no trend."""
    job = run.submit(source)
    sampled = []
    while not (ended := run.engine.poll(0.03)):
        sampled.append(_resident_mb([pid for pids in run.engine.processes().values() for pid in pids]))
    done(ended[0])
    Path(job.target).unlink()
    return median(sorted(sampled)[-3:])


def _resident_mb(pids: list[int]) -> float:
    """What the processes hold: their own memory and their libraries' added up, what they share (the ring) once."""
    held = [_status_kb(pid) for pid in pids]
    own = sum(status["RssAnon"] + status["RssFile"] for status in held)
    return (own + max(status["RssShmem"] for status in held)) / 1024


def _status_kb(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
