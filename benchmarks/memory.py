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
    """Peak of all stage processes together, shared pages counted once, ring included."""
    short, long = (2, 8) if quick else (10, 60)
    clips = {s: workshop.clip(_WIDTH, _HEIGHT, s, "ultrafast") for s in (short, long)}
    chain = workshop.chain(preset="sketch")
    slow = (*chain[:-1], StageSpec("encode", "benchmarks.stages:SlowEncode", SlowEncodeConfig(encoding())))
    with engine_run(workshop, chain, table(SIX), _RING_MB) as run:
        once, whole = _peak_mb(run, clips[short]), _peak_mb(run, clips[long])
    with engine_run(workshop, slow, table(SIX), _RING_MB) as run:
        held_up = _peak_mb(run, clips[short])
    facts = {f"{short}_s_mb": once, f"{long}_s_mb": whole, "slow_encode_mb": held_up, "ring_mb": _RING_MB}
    return Result("P13", max(whole, held_up) / once, facts)


def _peak_mb(run: EngineRun, source: Path) -> float:
    """The highest three of the samples' median: one page fault more or less is no trend."""
    job = run.submit(source)
    sampled = []
    while not (ended := run.engine.poll(0.03)):
        sampled.append(sum(_pss_kb(pid) for pids in run.engine.processes().values() for pid in pids) / 1024)
    done(ended[0])
    Path(job.target).unlink()
    return median(sorted(sampled)[-3:])


def _pss_kb(pid: int) -> int:
    """Proportional set size: private memory, and a share of what is shared (the ring too) by how many share it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
