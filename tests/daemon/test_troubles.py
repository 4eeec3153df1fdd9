"""A clip that kills its worker each time, a stage that hangs, an encoder that is 20 times slower: others go on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.jobs import State
from pipeline.pixels import PIXEL_FORMATS
from pipeline.specs import EngineConfig
from tests.clips import make_clip, picture
from tests.daemon.conftest import CHAIN, RATE, Unbroken
from tests.daemon.storm import Given, Place, Service, Shown, all_done, check_files, check_gone, serving

#: So many frames of 320x240 (115 kB each) lie in the ring of `LONG` at most, and so often as many has its clip.
RING_MB, TIMES = 4, 5

#: What a process may grow by between a fifth of a long clip and its end, in MiB.
GROWTH_MB = 6


def set_aside(place: Place) -> list[str]:
    return [Path(entry.source).name for entry in place.entries() if entry.state is State.FAILED]


def ended(place: Place) -> int:
    return sum(entry.state in (State.DONE, State.FAILED) for entry in place.entries())


def run_with_one_bad(place: Place, clips: Sequence[Path], bad: str) -> dict[str, Any]:
    """Has all clips dealt with, one of which is bad; its reason."""
    for clip in clips:
        place.drop(clip)
    with serving(place) as service:
        service.until(lambda: ended(place) == len(clips), "all clips had ended")
        reason = place.out / "failed" / f"{bad}.json"
        service.until(lambda: json.loads(reason.read_bytes())["sha256"] is not None, "the digest was in the reason", 10)
    check_gone(place)
    assert set_aside(place) == [bad]
    return json.loads(reason.read_bytes())  # type: ignore[no-any-return]


def check_neighbours(place: Place, unbroken: Unbroken, bad: str) -> None:
    """All but the bad one are as ever, and that one is as it was."""
    (entry,) = (entry for entry in place.entries() if entry.state is State.FAILED)
    assert (entry.crashes, entry.attempts) == (2, 3) or (entry.crashes, entry.attempts) == (3, 3)
    (place.out / "failed" / f"{bad}.json").unlink()
    (place.out / "failed").rmdir()
    assert Given.of(place.inbox / bad) == place.given.pop(bad)
    done = [entry for entry in place.entries() if entry.state is State.DONE]
    place.entries = lambda: done  # type: ignore[method-assign]
    check_files(place, unbroken.shown)


def test_a_clip_that_kills_its_worker_is_set_aside(tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    bad, at = clips[1].name, 31
    chain = {"trail": CHAIN["trail"] | {"clip": bad, "at": at, "what": "crash"}}
    place = Place(tmp_path / "place", chain, {"daemon": {"retry": {"backoff_s": 0}}})
    reason = run_with_one_bad(place, clips[:4], bad)
    wanted = {"stage": "trail", "frame": at, "signal": "SIGSEGV", "sha256": place.given[bad].sha256, "attempts": 3}
    assert {name: reason[name] for name in wanted} == wanted
    assert reason["crashes"] == 3
    assert reason["source"] == str(place.inbox / bad)
    assert reason["mark"] | {"size": 0} == {
        "size": 0,
        "mtime_ns": place.given[bad].mtime_ns,
        "inode": place.given[bad].inode,
    }
    detail = reason["detail"]
    assert "these are my last words" in detail and "and this line has no e" in detail, "what it wrote as it died"
    assert "Segmentation fault" in detail and "_misbehave" in detail, "where in Python it was"
    assert any("SIGSEGV" in line for line in reason["log"]), reason["log"]
    check_neighbours(place, unbroken, bad)


def test_a_stage_that_hangs_is_replaced(tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    bad, at = clips[0].name, 26
    chain = {"trail": CHAIN["trail"] | {"clip": bad, "at": at, "what": "hang"}}
    engine = {"deadlines_s": {"trail": 2.0}}
    place = Place(tmp_path / "place", chain, {"daemon": {"retry": {"backoff_s": 0}}, "engine": engine})
    begun = time.monotonic()
    reason = run_with_one_bad(place, clips[:3], bad)
    assert time.monotonic() - begun < EngineConfig().deadline_s, "which any other stage would have been given"
    assert (reason["stage"], reason["frame"], reason["crashes"]) == ("trail", at, 3)
    assert "made no progress for 2 s" in reason["what"]
    check_neighbours(place, unbroken, bad)


def rss_mb(service: Service) -> dict[str, float]:
    """Resident memory of each process, in MiB."""
    found = {}
    for process in [psutil.Process(service.process.pid), *service.children()]:
        with suppress(psutil.Error):
            found[f"{process.pid} {process.name()}"] = process.memory_info().rss / 2**20
    return found


def test_a_slow_encoder_holds_up_the_others_and_nothing_piles_up(tmp_path: Path) -> None:
    """A clip of many times what the ring holds: who is before the encoder waits, and memory stays as it is."""
    frames = TIMES * (RING_MB << 20) // (320 * 240 * 3 // 2)
    form = PIXEL_FORMATS["yuv420p"]
    pictures = [picture(form, 320, 240, index) for index in range(32)] * (frames // 32 + 1)
    clip = make_clip(tmp_path / "long.mp4", pictures=pictures[:frames], rate=RATE, audio="aac", width=320, height=240)
    quick = Place(tmp_path / "quick", {}, {"engine": {"ring_mb": RING_MB}, "daemon": {"checkpoint_s": 4}})
    quick.drop(clip)
    with serving(quick) as service:
        service.until(lambda: all_done(quick), "the clip was done")
    report = json.loads((quick.out / "long.mp4.json").read_bytes())
    frame_s = report["seconds"] / frames
    slow = Place(
        tmp_path / "slow",
        {"slow": {"frame_s": 19 * frame_s}},
        {"engine": {"ring_mb": RING_MB}, "daemon": {"checkpoint_s": 4}},
    )
    slow.drop(clip)
    samples: list[dict[str, float]] = []
    with serving(slow) as service:
        begun = time.monotonic()
        service.until(lambda: bool(list(slow.work.glob("*/checkpoint.json"))), "the first segment was whole")
        while not slow.published():
            samples.append(rss_mb(service))
            assert service.alive and time.monotonic() - begun < 240
            time.sleep(0.1)
        service.until(lambda: all_done(slow), "the clip was done")
    early = {name: max(sample.get(name, 0) for sample in samples[: len(samples) // 5]) for name in samples[0]}
    grown = {
        name: max(sample.get(name, 0) for sample in samples) - before
        for name, before in early.items()
        if "publish" not in name  # which begins when all frames are there
    }
    print(f"{frames} frames, {frame_s * 1000:.1f} ms each, then 20 times that: {len(samples)} samples; grown {grown}")
    assert all(growth < GROWTH_MB for growth in grown.values()), grown
    assert sum(grown.values()) < 2 * GROWTH_MB, grown
    check_gone(slow)
    check_files(slow, {"long.mp4": Shown.of(quick.out / "long.mp4")})
    assert asdict(Shown.of(slow.out / "long.mp4"))["frames"] == frames


@pytest.mark.slow
def test_a_clip_that_kills_its_worker_among_ten(tmp_path: Path, clips: list[Path], unbroken: Unbroken) -> None:
    bad = clips[4].name
    chain = {"trail": CHAIN["trail"] | {"clip": bad, "at": 0, "what": "crash"}}
    place = Place(tmp_path / "place", chain, {"daemon": {"retry": {"backoff_s": 1}}})
    reason = run_with_one_bad(place, clips, bad)
    assert (reason["frame"], reason["signal"]) == (0, "SIGSEGV")
    check_neighbours(place, unbroken, bad)
