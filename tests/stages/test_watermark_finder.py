"""The invisible watermark is found again in what was coded, scaled, cut and turned, and nowhere else."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Picture
from stages.watermark import Watermark
from stages.watermark_finder import Finder, Found, detect
from tests.clips import make_clip

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
PAYLOAD, SECOND = 0x1234_5678_9ABC, 0x0F0F_0000_1111
WIDTH, HEIGHT, FRAMES = 640, 360, 10


@functools.cache
def scene() -> list[Array]:
    """Luma of a few pictures: clouds and stripes before which something moves; smooth and busy parts."""
    rng = np.random.default_rng(5)
    clouds = cv2.resize(
        rng.uniform(60, 200, (12, 20)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    clouds[:, 400:520] += rng.normal(0, 12, (HEIGHT, 120))
    clouds[200:300] += 25 * np.sign(np.sin(np.arange(WIDTH) / 7))
    pictures = []
    for index in range(FRAMES):
        shown = np.clip(clouds, 17, 234).astype(np.uint8)
        cv2.circle(shown, (120 + 9 * index, 150 + 3 * index), 60, 190, -1, cv2.LINE_AA)
        pictures.append(shown)
    return pictures


def marked(pictures: Sequence[Array], payload: int = PAYLOAD, key: bytes = KEY) -> list[Array]:
    height, width = pictures[0].shape
    clip = Clip(0, "", "", "", width, height, PIXEL_FORMATS["gray"], Fraction(1, 25), payload=payload, duration_s=10.0)
    mark = Watermark(key, clip)
    results = []
    for picture in pictures:
        result = picture.copy()
        mark.apply(Picture(clip.pixel_format, width, height, (result,)))
        results.append(result)
    return results


def found_in(pictures: Sequence[Array], key: bytes = KEY, thoroughly: bool = True) -> Found | None:
    finder = Finder(key)
    for picture in pictures:
        finder.look(np.ascontiguousarray(picture))
    return finder.found(thoroughly)


def clip_with(path: Path, pictures: Sequence[Array], codec: str = "libx264", **options: str) -> Path:
    format = PIXEL_FORMATS["yuv420p"]
    height, width = pictures[0].shape
    grey = np.full((height // 2, width // 2), 128, np.uint8)
    shown = [Picture(format, width, height, (picture, grey, grey)) for picture in pictures]
    return make_clip(path, pictures=shown, codec=codec, rate=25, options=options or None)


def luma_in(path: Path) -> list[Array]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray()[: frame.height] for frame in container.decode(video=0)]


@pytest.mark.parametrize("crf", ["18", "23", "28"])
def test_found_after_x264(tmp_path: Path, crf: str) -> None:
    path = clip_with(tmp_path / "clip.mp4", marked(scene()), preset="veryfast", crf=crf)
    found = found_in(luma_in(path), thoroughly=False)
    assert found is not None and found.payload == PAYLOAD
    assert found.agreement > 0.9 and found.confidence > 1 - 1e-6


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"preset": "ultrafast", "crf": "28", "x265-params": "log-level=error"}),
        ("libvpx-vp9", {"crf": "33", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_found_after_other_encoders(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    path = clip_with(tmp_path / "clip.mkv", marked(scene()), codec, **options)
    found = found_in(luma_in(path), thoroughly=False)
    assert found is not None and found.payload == PAYLOAD


CHANGES: dict[str, Callable[[Array], Array]] = {
    "scaled down": lambda luma: cv2.resize(luma, (426, 240), interpolation=cv2.INTER_AREA),
    "scaled up": lambda luma: cv2.resize(luma, (1280, 720), interpolation=cv2.INTER_CUBIC),
    "turned": lambda luma: np.rot90(luma),
    "upside down": lambda luma: np.rot90(luma, 2),
    "turned back": lambda luma: np.rot90(luma, 3),
    "mirrored": lambda luma: luma[:, ::-1],
    "mirrored and turned": lambda luma: np.rot90(luma[:, ::-1]),
    "square": lambda luma: luma[:, 140:500],
    "darker": lambda luma: (luma * 0.8).astype(np.uint8),
}

LONGER_CHANGES: dict[str, Callable[[Array], Array]] = {
    "cropped": lambda luma: luma[36:324, 64:576],
    "cropped off the middle": lambda luma: luma[20:300, 130:],
    "cropped and scaled": lambda luma: cv2.resize(luma[36:324, 64:576], (960, 540), interpolation=cv2.INTER_CUBIC),
    "cropped and turned": lambda luma: np.rot90(luma[36:324, 64:576]),
    "set into an upright one": lambda luma: np.pad(luma, ((389, 389), (0, 0))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_found_in_whole_pictures_that_were_changed(change: str) -> None:
    found = found_in([CHANGES[change](luma) for luma in marked(scene())], thoroughly=False)
    assert found is not None and found.payload == PAYLOAD


@pytest.mark.slow
@pytest.mark.parametrize("change", LONGER_CHANGES)
def test_found_in_parts_of_pictures(change: str) -> None:
    found = found_in([LONGER_CHANGES[change](luma) for luma in marked(scene())[:4]])
    assert found is not None and found.payload == PAYLOAD


def test_found_in_a_cropped_picture() -> None:
    found = found_in([luma[36:324, 64:576] for luma in marked(scene())[:4]])
    assert found is not None and found.payload == PAYLOAD


def test_one_picture_is_enough_where_nothing_was_coded() -> None:
    found = found_in(marked(scene())[:1], thoroughly=False)
    assert found is not None and found.payload == PAYLOAD and found.agreement > 0.97


def test_nothing_is_found_with_another_key_or_without_a_mark() -> None:
    assert found_in(marked(scene())[:4], OTHER_KEY, thoroughly=False) is None
    assert found_in(scene()[:4], thoroughly=False) is None


def test_wrong_keys_find_nothing() -> None:
    pictures = marked(scene())[:2]
    keys = [number.to_bytes(32, "big") for number in range(1, 9)]
    assert all(found_in(pictures, key, thoroughly=False) is None for key in keys)


def test_flat_and_empty_pictures_hold_nothing() -> None:
    assert Finder(KEY).found() is None
    assert found_in([np.zeros((90, 160), np.uint8)], thoroughly=False) is None
    assert found_in([np.full((1, 1), 9, np.uint8)], thoroughly=False) is None
    assert found_in([np.full((2, 900), 9, np.uint8), np.zeros((40, 30), np.uint8)], thoroughly=False) is None


def test_of_two_marks_the_newer_is_told_and_the_older_too(tmp_path: Path) -> None:
    first = clip_with(tmp_path / "first.mp4", marked(scene()), preset="veryfast", crf="20")
    second = clip_with(tmp_path / "second.mp4", marked(luma_in(first), SECOND), preset="veryfast", crf="20")
    found = found_in(luma_in(second), thoroughly=False)
    assert found is not None
    assert {found.payload, *found.others} == {PAYLOAD, SECOND}


def test_detect_reads_files_short_and_long(tmp_path: Path) -> None:
    pictures = marked(scene())
    short = clip_with(tmp_path / "short.mp4", pictures, preset="ultrafast", crf="20")
    long = clip_with(tmp_path / "long.mkv", pictures * 32, preset="ultrafast", crf="20", g="50")
    for path in (short, long):
        found = detect(str(path), KEY, frames=8)
        assert found is not None and found.payload == PAYLOAD


def test_detect_knows_stretched_samples(tmp_path: Path) -> None:
    stretched = [cv2.resize(luma, (320, 360), interpolation=cv2.INTER_AREA) for luma in marked(scene())]
    grey = np.full((180, 160), 128, np.uint8)
    shown = [Picture(PIXEL_FORMATS["yuv420p"], 320, 360, (luma, grey, grey)) for luma in stretched]
    path = make_clip(tmp_path / "clip.mkv", pictures=shown, rate=25, sar=Fraction(2))
    found = detect(str(path), KEY)
    assert found is not None and found.payload == PAYLOAD


def test_detect_refuses_what_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(b"no video at all")
    with pytest.raises(InputError):
        detect(str(path), KEY)
    with pytest.raises(ValueError, match="32 bytes"):
        detect(str(path), b"short")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sign_eat.mkv", "stage_cuts_audio.mp4", "head_pose_female.gif"])
def test_found_in_real_footage_after_x264_at_crf_28(tmp_path: Path, media: Path, name: str) -> None:
    with av.open(str(media / name)) as container:
        frames = [
            frame.reformat(format="gray").to_ndarray() for frame in itertools.islice(container.decode(video=0), 30)
        ]
    path = clip_with(tmp_path / "clip.mp4", marked(frames), preset="veryfast", crf="28")
    found = found_in(luma_in(path)[::4], thoroughly=False)
    assert found is not None and found.payload == PAYLOAD
    assert found_in(frames[::4]) is None
