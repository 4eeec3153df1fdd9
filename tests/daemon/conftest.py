"""Ten clips with sound, no two alike, and what a daemon that nobody disturbs makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.pixels import PIXEL_FORMATS
from tests.clips import make_clip, picture
from tests.daemon.storm import Place, Shown, all_done, check_files, check_gone, serving, time_of

CLIPS = 10
FRAMES = 60
RATE = 25

#: A frame takes so long: a clip is at work for some time, in which it can be killed.
CHAIN = {"trail": {"delay_s": 0.006}}


@dataclass(frozen=True)
class Unbroken:
    """A run that nothing happened to: what its files show, how long one clip took, and the daemon's descriptors."""

    shown: dict[str, Shown]
    seconds: float
    descriptors: int


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("ten clips")
    form = PIXEL_FORMATS["yuv420p"]
    for number in range(CLIPS):
        pictures = [picture(form, 96, 64, number * 37 + index) for index in range(FRAMES + number)]
        make_clip(folder / f"clip {number}.mp4", pictures=pictures, rate=RATE, audio="aac")
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def unbroken(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    place = Place(tmp_path_factory.mktemp("unbroken") / "place", CHAIN)
    for clip in clips:
        place.drop(clip)
    with serving(place) as service:
        service.until(lambda: all_done(place), "ten clips were done")
        seconds = time_of(service, clips[0], "one more.mp4")
        descriptors = service.descriptors()
    shown = {name: Shown.of(place.out / name) for name in place.published()}
    check_files(place, shown)
    check_gone(place)
    assert [shown[clip.name].frames for clip in clips] == list(range(FRAMES, FRAMES + CLIPS))
    assert len({one.pictures for one in shown.values()}) == CLIPS, "all differ, but for the one that came twice"
    return Unbroken(shown, seconds, descriptors)
