"""Pictures: a source that takes a still picture for a clip of one frame."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from pipeline.errors import InputError
from pipeline.pixels import PIXEL_FORMATS
from pipeline.types import Array, Clip, Frame, Frames, Job, Picture, Report
from stages.containers import check_regular

#: Extensions of the pictures that OpenCV reads here, in small letters.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Config:
    """Which pictures are accepted.

    Attributes:
        max_pixels: width x height of the largest.
    """

    max_pixels: int = 8192 * 8192


class Pictures:
    """The source of still pictures: bgr24, turned upright as their EXIF data says."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    stateless: ClassVar[bool] = False

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._picture: Array | None = None

    def open(self, job: Job) -> Clip:
        """Reads the job's file.

        Raises:
            InputError: no regular file, no picture that OpenCV knows, or too large.
        """
        check_regular(job.source)
        data = np.frombuffer(Path(job.source).read_bytes(), np.uint8)
        try:
            picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        except cv2.error as error:  # larger than OpenCV takes
            raise InputError(f"{job.source} cannot be read as a picture: {error.err}") from error
        if picture is None:
            raise InputError(f"{job.source} cannot be read as a picture; it may be damaged or of another kind")
        height, width = picture.shape[:2]
        if width * height > self._config.max_pixels:
            raise InputError(f"{job.source} is {width}x{height}, more than {self._config.max_pixels} px in all")
        self._picture = picture
        return Clip(
            id=job.id,
            source=job.source,
            target=job.target,
            partial="",
            width=width,
            height=height,
            pixel_format=PIXEL_FORMATS["bgr24"],
            time_base=Fraction(1),
            frames=1,
        )

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        """Yields the one frame; `frames` is not looked at."""
        picture, self._picture = self._picture, None
        if picture is None:
            raise RuntimeError("Pictures.open comes before the run, once for each")
        yield Frame(clip.id, 0, 0, Picture(clip.pixel_format, clip.width, clip.height, (picture,)))
        return {}
