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
    """Seconds from handing in a job until its file has begun and a frame has come through all stages.

    The first picture is in the file later, by the frames that the encoder looks ahead: `first_picture_in_file_s`.
    """
    source = workshop.clip(1920, 1080, 3)
    with engine_run(workshop, workshop.chain(), table(SIX)) as run:
        samples = interleaved({"job": lambda: _first(run, source)}, 3 if quick else 7, machine)
    turns = samples["job"]
    facts = {name: middle_fact(turns, name) for name in turns[0].facts}
    return Result("P15", middle(turns), facts, disturbance(samples))


def _first(run: EngineRun, source: Path) -> Sample:
    frames = run.engine.stats()[-1].frames
    begun = time.monotonic()
    job = run.submit(source)
    file = encoded = picture = 0.0
    while not (ended := run.engine.poll(0.002)):
        now = time.monotonic() - begun
        size = _written_nbytes(job.target)
        file = file or now * (size > 0)
        picture = picture or now * (size > _HEADER_NBYTES)
        encoded = encoded or now * (run.engine.stats()[-1].frames > frames)
    done(ended[0])
    Path(job.target).unlink()
    facts = {"first_byte_in_file_s": file, "first_frame_encoded_s": encoded, "first_picture_in_file_s": picture}
    return Sample(max(file, encoded), facts)


def _written_nbytes(target: str) -> int:
    path = Path(target)
    return max((file.stat().st_size for file in path.parent.glob(f"*{path.name}*")), default=0)
