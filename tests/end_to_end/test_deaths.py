"""Kill -9 in the middle of a ten-clip run: of each stage process, and of the program itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline import app
from pipeline.specs import Outcome
from pipeline.types import Job
from tests.clips import decoded
from tests.end_to_end.footage import film, random_model

CLIPS = 10
FRAMES = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    one = film(folder / "0.mp4", 256, 192, frames=FRAMES, audio="aac").read_bytes()
    for number in range(1, CLIPS):
        (folder / f"{number}.mp4").write_bytes(one)
    return sorted(folder.iterdir())


def whole(path: Path) -> bool:
    return len(decoded(path)) == FRAMES


def run_and_kill(model: Path, clips: list[Path], out: Path, victim: str) -> dict[int, Outcome]:
    """Ten clips; once some are through, `victim` gets its SIGKILL at a random moment of the next ones."""
    defaults = app.Settings()
    settings = replace(defaults, model=model, encode=replace(defaults.encode, preset="ultrafast"))
    outcomes: dict[int, Outcome] = {}
    killed = False
    with app.engine(settings, app.stage_specs(settings)) as engine:
        for number, clip in enumerate(clips, start=1):
            engine.submit(Job(number, str(clip), str(out / clip.name)))
        while engine.busy:
            outcomes |= {outcome.job.id: outcome for outcome in engine.poll(0.05)}
            if len(outcomes) >= 3 and not killed:
                time.sleep(random.Random(victim).uniform(0, 0.15))
                os.kill(engine.processes()[victim][0], signal.SIGKILL)
                killed = True
    return outcomes


@pytest.mark.parametrize(
    "victim",
    [
        "decode",
        "swap",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("detect/align", "mask", "blend", "disclose/encode")),
    ],
)
def test_a_killed_stage_costs_at_most_the_clip_it_was_at(
    victim: str, model: Path, clips: list[Path], tmp_path: Path
) -> None:
    outcomes = run_and_kill(model, clips, tmp_path, victim)
    assert sorted(outcomes) == list(range(1, CLIPS + 1)), "every clip has ended, once"
    failed = [outcome for outcome in outcomes.values() if not outcome.ok]
    assert len(failed) <= 1
    for outcome in failed:
        assert outcome.failure is not None
        assert outcome.failure.stage in victim.split("/")
        assert "SIGKILL" in outcome.failure.reason
    published = {Path(outcome.job.target).name for outcome in outcomes.values() if outcome.ok}
    assert {path.name for path in tmp_path.iterdir()} == published, "no half file, none missing"
    assert all(whole(path) for path in tmp_path.iterdir())


def stage_processes(parent: psutil.Process) -> list[psutil.Process]:
    return [child for child in parent.children(recursive=True) if child.name().startswith("us-")]


@pytest.mark.parametrize("by", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_when_the_program_is_killed_nothing_stays(
    by: signal.Signals, model: Path, clips: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "convert", *map(str, clips), "-o", str(out), "--model", str(model)]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 90
        while not list(out.glob("*.mp4")) and time.monotonic() < deadline:
            assert program.poll() is None, (program.communicate()[1] or b"").decode()
            time.sleep(0.02)
        children = stage_processes(psutil.Process(program.pid))
        assert len(children) == 7, "six for the stages, and the door"
        program.send_signal(by)
        program.communicate(timeout=60)
        assert program.returncode == (-signal.SIGKILL if by == signal.SIGKILL else 143)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, alive
    finally:
        program.kill()
        program.communicate()
    assert not list(out.glob(".*")), "no half file"
    assert all(whole(path) for path in out.iterdir())
