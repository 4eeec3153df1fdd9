"""P10: the blend of one 400 px face in 1080p against the usual whole-frame float paste, for speed and for the picture.

Both put the same patch under the same mask into the same yuv420p picture, in turns, on one thread. The float paste is
timed without its conversions from and to RGB, which such tools leave to the decoder and the encoder; the blend with
its own. Their agreement is measured on real clips, where there are some: at 1080p and at the clips' own sizes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

from benchmarks import whole_frame_paste
from benchmarks.bars import Result, line
from benchmarks.rounds import Machine, Sample, disturbance, interleaved, middle, ratio
from benchmarks.stages import KnownFacesConfig, face_at, mesh
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Colour, Picture
from stages.blenders import lab
from stages.colour import region_to_rgb
from stages.geometry import crop_matrix, invert, rescale_crop
from stages.mask import Config as MaskConfig
from stages.mask import soft_edged
from stages.masks import extended
from stages.paste import footprint, paste
from stages.planes import view

_PSNR_MUST_DB = 45.0
_SIDE = 256
_YUV420P = PIXEL_FORMATS["yuv420p"]


@dataclass(frozen=True, slots=True)
class _Case:
    """One picture, and the face that goes into it.

    `patch` is (256, 256, 3) uint8 RGB, `mask` (256, 256) float32; `frame_to_crop` belongs to 256 px.
    """

    picture: Picture
    colour: Colour
    weights: tuple[float, float]
    patch: Array
    mask: Array
    frame_to_crop: Array

    def writable(self) -> Picture:
        """The picture, copied."""
        planes = tuple(plane.copy() for plane in self.picture.planes)
        return Picture(_YUV420P, self.picture.width, self.picture.height, planes)


def measure(quick: bool, machine: Machine) -> list[Result]:
    """P10."""
    cv2.setNumThreads(1)
    cases = list(_cases(_real_frames()))
    note = "" if cases else "no real clips here: agreement on a synthetic picture only"
    cases = cases or list(_cases([_synthetic_frame()]))
    psnr = [_luma_psnr(case) for case in cases]
    samples = interleaved(_variants(next(c for c in cases if c.picture.height == 1080)), 3 if quick else 7, machine)
    facts = {
        "blend_ms": middle(samples["blend"]),
        "blend_with_lab_ms": middle(samples["blend with lab"]),
        "whole_frame_ms": middle(samples["whole frame"]),
        "luma_psnr_db_lowest": min(psnr),
        "luma_psnr_db_mean": float(np.mean(psnr)),
        "pictures": len(psnr),
    }
    unmet = "" if min(psnr) >= _PSNR_MUST_DB else f"{min(psnr):.1f} dB in luma; must be {_PSNR_MUST_DB:g}"
    note = "; ".join(part for part in (note, disturbance(samples)) if part)
    return [Result("P10", ratio(samples, "whole frame", "blend"), facts, note, unmet)]


def _variants(case: _Case) -> dict[str, Callable[[], Sample]]:
    rgb = whole_frame_paste.to_rgb(case.picture.planes, case.weights)
    picture = case.writable()
    small = cv2.resize(case.mask, (MaskConfig().size,) * 2, interpolation=cv2.INTER_AREA)
    aligned = cv2.warpAffine(
        region_to_rgb(picture, case.colour, (0, 0, 1920, 1080)), case.frame_to_crop, (_SIDE, _SIDE)
    )

    def blend() -> None:
        paste(picture, case.colour, case.patch, small, case.frame_to_crop, _SIDE)

    def blend_with_lab() -> None:
        patch = lab.transfer(case.patch, aligned, case.mask)
        paste(picture, case.colour, patch, small, case.frame_to_crop, _SIDE)

    def whole_frame() -> None:
        whole_frame_paste.paste(rgb, case.patch, case.mask, invert(case.frame_to_crop))

    return {
        "blend": _turn(blend, 60),
        "blend with lab": _turn(blend_with_lab, 40),
        "whole frame": _turn(whole_frame, 5),
    }


def _turn(work: Callable[[], None], count: int) -> Callable[[], Sample]:
    """The median milliseconds of `count` runs."""

    def run() -> Sample:
        spent = []
        for _ in range(count):
            begun = time.perf_counter()
            work()
            spent.append(time.perf_counter() - begun)
        return Sample(float(np.median(spent)) * 1e3)

    return run


def _luma_psnr(case: _Case) -> float:
    """In dB, between the blend's luma and the float paste's, over the face's footprint alone."""
    rgb = whole_frame_paste.to_rgb(case.picture.planes, case.weights)
    pasted = whole_frame_paste.paste(rgb, case.patch, case.mask, invert(case.frame_to_crop))
    expected = whole_frame_paste.to_planes(pasted, case.weights)[0]
    picture = case.writable()
    paste(picture, case.colour, case.patch, case.mask, case.frame_to_crop, _SIDE)
    box = footprint(picture, case.mask, case.frame_to_crop)
    assert box is not None
    region = (slice(box[1], box[3]), slice(box[0], box[2]))
    error = (expected[region].astype(float) - picture.planes[0][region]) ** 2
    return float(10 * np.log10(255**2 / max(error.mean(), 1e-6)))


def _cases(frames: list[av.VideoFrame]) -> Iterator[_Case]:
    """Each frame at 1080p as BT.709 and at its own size as BT.601, with a face of 37 % of its height."""
    for index, frame in enumerate(frames):
        own = (frame.width // 2 * 2, frame.height // 2 * 2)
        for (width, height), space in (((1920, 1080), 1), (own, 5)):
            planar = frame.reformat(
                width, height, "yuv420p", dst_colorspace=space, dst_color_range=1, interpolation=Interpolation.BICUBIC
            )
            weights = whole_frame_paste.BT709 if space == 1 else whole_frame_paste.BT601
            colour = Colour(matrix=space, range=1, chroma_location=2)
            yield _case(view(planar, _YUV420P), colour, weights, 17 * index)


def _case(picture: Picture, colour: Colour, weights: tuple[float, float], index: int) -> _Case:
    landmarks = face_at(mesh(), index, 0, KnownFacesConfig(), picture.width, picture.height)
    frame_to_crop = crop_matrix(landmarks, _SIDE)
    settings = MaskConfig()
    in_crop = landmarks @ frame_to_crop[:, :2].T + frame_to_crop[:, 2]
    mask = soft_edged(extended.draw(in_crop.astype(np.float32), _SIDE), settings.erode, settings.feather)
    whole = region_to_rgb(picture, colour, (0, 0, picture.width, picture.height))
    # What a network gives: other content, other colours, and no finer detail than the face has px in the picture.
    # (Where a patch is finer, the blend averages it down and the float paste skips px: nothing to be compared.)
    detail = 128 if picture.height >= 720 else 64
    smaller = rescale_crop(frame_to_crop, _SIDE, detail)
    crop = cv2.warpAffine(whole, smaller, (detail, detail), borderMode=cv2.BORDER_REPLICATE)
    crop = cv2.resize(crop[:, ::-1], (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    patch = cv2.convertScaleAbs(crop, alpha=0.9, beta=20)
    return _Case(picture, colour, weights, patch, mask, frame_to_crop)


def _real_frames() -> list[av.VideoFrame]:
    """A frame of each real clip, from the middle of its first two seconds; none where there are no clips."""
    named = os.environ.get("UNDERSTUDY_MEDIA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "media"
    frames = []
    for path in sorted(folder.glob("*.*")):
        if path.suffix in (".gif", ".mkv", ".mp4"):
            with av.open(str(path)) as clip:
                shown = [frame for frame, _ in zip(clip.decode(video=0), range(30), strict=False)]
            frames.append(shown[len(shown) // 2])
    return frames


def _synthetic_frame() -> av.VideoFrame:
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    smooth = cv2.resize(noise, (960, 540), interpolation=cv2.INTER_CUBIC)
    return av.VideoFrame.from_ndarray(smooth, format="rgb24")


if __name__ == "__main__":
    for result in measure("--quick" in sys.argv, Machine(patience_s=30)):
        print(line(result), dict(result.facts), result.note)
