"""models.pictures: files are measured before they are decoded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import pictures
from pipeline.errors import InputError

KINDS = [
    (".png", []),
    (".jpg", []),
    (".bmp", []),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    (".webp", [cv2.IMWRITE_WEBP_QUALITY, 50]),
]


def encoded(suffix: str, width: int = 77, height: int = 100, options: list[int] | None = None) -> bytes:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return bytes(cv2.imencode(suffix, picture, options or [])[1].tobytes())


@pytest.mark.parametrize(("suffix", "options"), KINDS)
def test_every_kind_is_measured(suffix: str, options: list[int]) -> None:
    content = encoded(suffix, options=options)
    assert pictures.dimensions(content) == (77, 100)
    assert pictures.refusal(content) == ""


def test_other_headers() -> None:
    lossy = b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + (300).to_bytes(2, "little") + (200 | 1 << 14).to_bytes(2, "little")
    assert pictures.dimensions(lossy) == (300, 200)
    wide = b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (299).to_bytes(3, "little") + (70_000).to_bytes(3, "little")
    assert pictures.dimensions(wide) == (300, 70_001)
    top_down = bytearray(encoded(".bmp"))
    top_down[22:26] = (-100).to_bytes(4, "little", signed=True)
    assert pictures.dimensions(bytes(top_down)) == (77, 100)
    jpeg = encoded(".jpg")
    with_exif = jpeg[:2] + b"\xff\xe1\x27\x12" + bytes(10_000) + b"\xff" + jpeg[2:]
    assert pictures.dimensions(with_exif) == (77, 100)


@given(st.sampled_from(["", ".png", ".jpg", ".bmp", ".webp"]), st.integers(0, 200), st.binary(max_size=80))
def test_anything_may_come(suffix: str, length: int, tail: bytes) -> None:
    content = (encoded(suffix)[:length] if suffix else b"") + tail
    found = pictures.dimensions(content)
    assert found is None or len(found) == 2
    assert isinstance(pictures.refusal(content), str)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(encoded(suffix))
    assert pictures.read(file).shape == (100, 77, 3)
    file.write_bytes(encoded(suffix)[:-3000])
    with pytest.raises(InputError, match="is no picture or is damaged"):
        pictures.read(file)


def test_the_middle_square() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 200
    assert (pictures.square(picture, 40) == 200).all() and (pictures.square(picture, 16) == 200).all()
