"""P15: how soon a warm engine has something to show for a job."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.bars import Result
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, middle_fact
from benchmarks.runs import EngineRun, done, engine_run
from benchmarks.workshop import SIX, Workshop, table

#: No container's header is longer.
_HEADER_NBYTES = 1000


def first_byte(quick: bool, machine: Machine, workshop: Workshop) -> Result:
    """Seconds from handing in a job until its result holds more than a header, and until a frame is encoded."""
    source = workshop.clip(1920, 1080, 3)
    with engine_run(workshop, workshop.chain(), table(SIX)) as run:
        samples = interleaved({"job": lambda: _first(run, source)}, 3 if quick else 7, machine)
    turns = samples["job"]
    facts = {"first_frame_at_encoder_s": middle_fact(turns, "encoded_s")}
    return Result("P15", middle(turns), facts, disturbance(samples))


def _first(run: EngineRun, source: Path) -> Sample:
    frames = run.engine.stats()[-1].frames
    begun = time.monotonic()
    job = run.submit(source)
    written = encoded = 0.0
    while not (ended := run.engine.poll(0.002)):
        now = time.monotonic() - begun
        encoded = encoded or now * (run.engine.stats()[-1].frames > frames)
        written = written or now * _any_picture(job.target)
    done(ended[0])
    Path(job.target).unlink()
    return Sample(written, {"encoded_s": encoded})


def _any_picture(target: str) -> bool:
    path = Path(target)
    return any(file.stat().st_size > _HEADER_NBYTES for file in path.parent.glob(f"*{path.name}*"))
