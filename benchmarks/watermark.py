"""What the invisible watermark survives, what it costs, and how seldom it is seen where it is not.

    python -m benchmarks.watermark [--into FILE] [--keys N] [CLIP ...]

Without clips, the people of the demo are filmed. Each clip is marked, coded as an ordinary result, then done to what
people do to videos. Results are added to FILE clip by clip: a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Colour, Picture
from stages.puppets.people import ACTOR, ASTRONAUT
from stages.puppets.scenes import make_clip
from stages.watermark import Watermark
from stages.watermark_finder import Finder

_KEY, _PAYLOAD = bytes(range(32)), 0x1234_5678_9ABC
_GRAY = PIXEL_FORMATS["gray"]

#: Of each clip so many frames, so that a run ends; and of what is done to it every so many-th is looked at.
_FRAMES, _LOOK = 60, 4

#: What a result is coded with before anything is done to it, and what it is coded with again.
_RESULT = ("libx264", {"preset": "veryfast", "crf": "20"})
_AGAIN = ("libx264", {"preset": "veryfast", "crf": "23"})

_CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "x264 crf 18": ("libx264", {"preset": "veryfast", "crf": "18"}),
    "x264 crf 23": ("libx264", {"preset": "veryfast", "crf": "23"}),
    "x264 crf 28": ("libx264", {"preset": "veryfast", "crf": "28"}),
    "x264 crf 34": ("libx264", {"preset": "veryfast", "crf": "34"}),
    "x265 crf 28": ("libx265", {"preset": "veryfast", "crf": "28", "x265-params": "log-level=error"}),
    "VP9 crf 35": ("libvpx-vp9", {"crf": "35", "deadline": "realtime", "cpu-used": "7"}),
}

Shot = list[Array]  # luma and chroma of each picture, as FFmpeg's yuv420p array


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is done to the result's pictures: to which of them, and to what size or part."""

    of: Callable[[Shot], Shot] = lambda shot: shot
    picture: Callable[[Array], Array] = lambda rgb: rgb
    coding: tuple[str, dict[str, str]] = _AGAIN


def _scaled(share: float) -> Callable[[Array], Array]:
    return lambda rgb: cv2.resize(rgb, _even(rgb.shape[1] * share, rgb.shape[0] * share), interpolation=cv2.INTER_AREA)


def _cropped(share: float) -> Callable[[Array], Array]:
    def crop(rgb: Array) -> Array:
        height, width = rgb.shape[:2]
        return rgb[int(height * share) : height - int(height * share), int(width * share) : width - int(width * share)]

    return crop


def _square(rgb: Array) -> Array:
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return rgb[top : top + side, left : left + side]


def _boxed(rgb: Array) -> Array:
    high = rgb.shape[1] * 16 // 9 - rgb.shape[0]
    return np.pad(rgb, ((high // 2, high // 2), (0, 0), (0, 0)))


CHANGES: dict[str, Change] = {
    "to 2/3 (1080p: 720p)": Change(picture=_scaled(2 / 3)),
    "to 4/9 (1080p: 480p)": Change(picture=_scaled(4 / 9)),
    "to 1/3 (1080p: 360p)": Change(picture=_scaled(1 / 3)),
    "to 2/9 (1080p: 240p)": Change(picture=_scaled(2 / 9)),
    "10 % off each side": Change(picture=_cropped(0.10)),
    "20 % off each side": Change(picture=_cropped(0.20)),
    "middle square": Change(picture=_square),
    "set into 9:16": Change(picture=_boxed),
    "a fifth of the frames dropped (30 to 24)": Change(of=lambda shot: [one for at, one in enumerate(shot) if at % 5]),
    "ten frames of the middle": Change(of=lambda shot: shot[len(shot) // 2 - 5 : len(shot) // 2 + 5]),
    "turned by 90": Change(picture=lambda rgb: np.rot90(rgb)),
    "mirrored": Change(picture=lambda rgb: rgb[:, ::-1]),
    "10 % off, to 4/9, crf 28": Change(
        picture=lambda rgb: _scaled(4 / 9)(_cropped(0.1)(rgb)), coding=_CODECS["x264 crf 28"]
    ),
}


def _even(width: float, height: float) -> tuple[int, int]:
    return max(2, round(width / 2) * 2), max(2, round(height / 2) * 2)


def shot_of(path: Path) -> Shot:
    """The clip's first pictures as yuv420p, of even size."""
    with av.open(str(path)) as container:
        frames: Shot = []
        for frame in container.decode(video=0):
            width, height = _even(frame.width - 0.5, frame.height - 0.5)
            frames.append(frame.reformat(width=width, height=height, format="yuv420p").to_ndarray())
            if len(frames) == _FRAMES:
                break
    return frames


def _luma(one: Array) -> Array:
    return one[: one.shape[0] * 2 // 3]


def marked(shot: Shot) -> tuple[Shot, float]:
    """The shot with its mark, and its PSNR in luma against the shot without, dB."""
    copies = [one.copy() for one in shot]
    height, width = _luma(shot[0]).shape
    mark = Watermark(_KEY, _clip(width, height, len(shot) / 30))
    for one in copies:
        mark.apply(Picture(_GRAY, width, height, (_luma(one),)))
    error = np.mean(
        [np.mean((_luma(one).astype(float) - _luma(was)) ** 2) for one, was in zip(copies, shot, strict=True)]
    )
    return copies, 10 * math.log10(255**2 / error)


def _clip(width: int, height: int, seconds: float) -> Clip:
    # Luma alone, as a gray picture of limited range: the mark is the same.
    limited = Colour(range=1)
    return Clip(
        0, "", "", "", width, height, _GRAY, Fraction(1, 30), payload=_PAYLOAD, duration_s=seconds, colour=limited
    )


def coded(shot: Shot, coding: tuple[str, dict[str, str]]) -> bytes:
    """The shot as a Matroska file."""
    codec, options = coding
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.height, stream.width = _luma(shot[0]).shape
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        if codec == "libvpx-vp9":
            stream.bit_rate = 0
        for one in shot:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="yuv420p")))
        out.mux(stream.encode(None))
    return file.getvalue()


def decoded(file: bytes) -> Shot:
    """The pictures of such a file."""
    with av.open(io.BytesIO(file)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def changed(shot: Shot, change: Change) -> Shot:
    """What comes of the shot, coded again."""
    pictures = []
    for one in change.of(shot):
        rgb = change.picture(av.VideoFrame.from_ndarray(one, format="yuv420p").to_ndarray(format="rgb24"))
        height, width = rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb[:height, :width]), format="rgb24")
        pictures.append(frame.reformat(format="yuv420p").to_ndarray())
    return decoded(coded(pictures, change.coding))


def looked_at(shot: Shot, key: bytes = _KEY) -> Finder:
    """A finder that has seen some of the pictures."""
    finder = Finder(key)
    for one in shot[::_LOOK]:
        finder.look(np.ascontiguousarray(_luma(one)))
    return finder


def outcome(finder: Finder) -> dict[str, float | bool]:
    """What was found, as numbers."""
    found = finder.found()
    if found is None or found.payload != _PAYLOAD:
        return {"found": False, "wrong": found is not None}
    return {"found": True, "agreement": found.agreement, "chance": found.chance, "strength": found.strength}


def false_alarms(shots: Sequence[Shot], keys: int) -> int:
    """How many of so many wrong keys find something in whole pictures."""
    alarms = 0
    for number in range(keys):
        finder = looked_at([shots[number % len(shots)][0]], number.to_bytes(32, "little"))
        alarms += finder.found(thoroughly=False) is not None
    return alarms


def measured(shot: Shot, keys: int) -> dict[str, Any]:
    """Everything about one clip."""
    shown, psnr = marked(shot)
    result = decoded(coded(shown, _RESULT))
    height, width = _luma(shot[0]).shape
    rows = {name: outcome(looked_at(decoded(coded(shown, coding)))) for name, coding in _CODECS.items()}
    rows |= {name: outcome(looked_at(changed(result, change))) for name, change in CHANGES.items()}
    cost = {
        crf: len(coded(shown, _CODECS[f"x264 crf {crf}"])) / len(coded(shot, _CODECS[f"x264 crf {crf}"])) - 1
        for crf in ("18", "23", "28")
    }
    unmarked = looked_at(shot).found() is not None
    return {
        "size": f"{width}x{height}",
        "frames": len(shot),
        "psnr": psnr,
        "cost": cost,
        "rows": rows,
        "unmarked": unmarked,
        "keys": keys,
        "alarms": false_alarms([shot, result], keys),
    }


def milliseconds() -> dict[str, float]:
    """Processor time of marking a picture, of making ready to, and of looking at one."""
    took = {}
    for width, height in ((1920, 1080), (3840, 2160)):
        luma = cv2.resize(np.random.default_rng(0).integers(30, 200, (90, 160), np.uint8), (width, height))
        for name in ("gray", "gray10le"):
            format = PIXEL_FORMATS[name]
            clip = replace(_clip(width, height, 10), pixel_format=format)
            picture = Picture(format, width, height, (luma.astype(format.dtype) << (format.depth - 8),))
            mark = Watermark(_KEY, clip)
            took[f"{height} lines, {format.depth} bits"] = _quickest(lambda m=mark, p=picture: m.apply(p))
        took[f"{height} lines, making ready"] = _quickest(lambda c=clip: Watermark(_KEY, c), 3)
        took[f"{height} lines, looking"] = _quickest(lambda y=luma: Finder(_KEY).look(y), 5)
    return took


def _quickest(call: Callable[[], object], times: int = 20) -> float:
    def once() -> float:
        began = time.process_time()
        call()
        return (time.process_time() - began) * 1000

    return min(once() for _ in range(times))


def table(results: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    clips = {name: facts for name, facts in results.items() if name != "ms"}
    yield "| done to it | " + " | ".join(clips) + " |"
    yield "| --- |" + " --- |" * len(clips)
    for row in (*_CODECS, *CHANGES):
        yield f"| {row} | " + " | ".join(_said(facts["rows"][row]) for facts in clips.values()) + " |"
    for crf in ("18", "23", "28"):
        yield f"| bytes, crf {crf} | " + " | ".join(f"{100 * c['cost'][crf]:+.1f} %" for c in clips.values()) + " |"
    yield "| PSNR | " + " | ".join(f"{c['psnr']:.1f} dB" for c in clips.values()) + " |"
    yield (
        "| wrong keys that found something | "
        + " | ".join(f"{c['alarms']} of {c['keys']}" for c in clips.values())
        + " |"
    )
    yield "| found without a mark | " + " | ".join("yes" if c["unmarked"] else "no" for c in clips.values()) + " |"
    for name, value in results.get("ms", {}).items():
        yield f"{name}: {value:.2f} ms"


def _said(row: dict[str, Any]) -> str:
    if not row["found"]:
        return "WRONG" if row["wrong"] else "not found"
    return f"{100 * row['agreement']:.0f} %, {row['strength']:.0f}"


def _films(folder: Path) -> list[Path]:
    """The demo's two people, a second or two each."""
    paths = [folder / "actor 1080p.mp4", folder / "astronaut 720p.mp4"]
    for path, person, size in zip(paths, (ACTOR, ASTRONAUT), ((1920, 1080), (1280, 720)), strict=True):
        make_clip(person, path, 1.6, size=size, seed=3)
    return paths


def main() -> None:
    """Measures clip by clip, then prints the table."""
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser("python -m benchmarks.watermark", description=__doc__)
    parser.add_argument("--into", type=Path, help="a JSON file that keeps what was measured")
    parser.add_argument("--keys", type=int, default=125, help="wrong keys to try on each clip")
    parser.add_argument("clips", nargs="*", type=Path)
    args = parser.parse_args()
    results = json.loads(args.into.read_text()) if args.into and args.into.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for path in args.clips or _films(Path(folder)):
            if path.stem not in results:
                results[path.stem] = measured(shot_of(path), args.keys)
                _keep(results, args.into)
    results["ms"] = milliseconds()
    _keep(results, args.into)
    print("\n".join(table(results)))


def _keep(results: dict[str, Any], into: Path | None) -> None:
    if into:
        into.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
