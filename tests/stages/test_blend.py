"""Blend: what is outside the mask stays to the bit, what is inside is the swapped face, in every format."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.pixels import PIXEL_FORMATS, PixelFormat
from pipeline.types import Array, Clip, Colour, Face, Frame, Picture, Pulled
from stages import blenders, registry
from stages.blend import Blend, Config
from stages.colour import coding, region_to_rgb
from stages.geometry import apply, rescale_crop, square_matrix
from stages.mask import soft_edged
from stages.paste import footprint

ALL = list(PIXEL_FORMATS)


def noise(format: PixelFormat, width: int, height: int, seed: int = 0) -> Picture:
    """Noise in every bit of every sample, unused low bits included."""
    draw = np.random.default_rng(seed)
    planes = []
    for shape in format.shapes(width, height):
        samples = draw.integers(0, format.peak + 1, shape) << format.shift
        samples |= draw.integers(0, 1 << format.shift, shape)
        planes.append(samples.astype(format.dtype))
    return Picture(format, width, height, tuple(planes))


def soft_disc(side: int = 64, radius: float = 0.4, feather: float = 0.15) -> Array:
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    return soft_edged((np.hypot(x, y) < radius * side).astype(np.float32), 0.0, feather)


def made_face(matrix: Array, rgb: tuple[int, int, int] | Array = (200, 90, 30), mask: Array | None = None) -> Face:
    """A face whose crop is 96 px, whose swapped face is 64 px and flat unless given, under `mask` or a disc."""
    swapped = rgb if isinstance(rgb, np.ndarray) else np.full((64, 64, 3), rgb, np.uint8)
    aligned = np.random.default_rng(5).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    landmarks = np.zeros((478, 2), np.float32)
    return Face((0, 0, 1, 1), 1.0, landmarks, 0, matrix, aligned, soft_disc() if mask is None else mask, swapped)


def blend(picture: Picture, *faces: Face, colour: Colour | None = None, **config: object) -> Picture:
    """A blended copy of the picture."""
    copy = Picture(picture.format, picture.width, picture.height, tuple(plane.copy() for plane in picture.planes))
    tags = colour or Colour()
    clip = Clip(1, "", "", "", picture.width, picture.height, picture.format, Fraction(1, 25), colour=tags)
    (out,) = Blend(Config(**{"colour": "none", **config}))(clip, Pulled([Frame(1, 0, 0, copy, faces)]))
    return out.picture


def reach(face: Face, picture: Picture) -> Array:
    """(height, width) bool: the px that lie within two px, and two px of the mask, of where the mask is not 0."""
    assert face.mask is not None
    assert face.frame_to_crop is not None
    to_mask = rescale_crop(face.frame_to_crop, 96, face.mask.shape[0])
    far = int(np.ceil(2 + 2 * np.hypot(*to_mask[:, 0])))
    padded = cv2.copyMakeBorder((face.mask > 0).astype(np.uint8), far, far, far, far, cv2.BORDER_CONSTANT)
    grown = cv2.dilate(padded, np.ones((2 * far + 1,) * 2, np.uint8))
    y, x = np.mgrid[0 : picture.height, 0 : picture.width]
    place = np.rint(apply(to_mask, np.stack([x, y], axis=-1))).astype(int) + far
    inside = ((place >= 0) & (place < grown.shape[0])).all(axis=-1)
    column, row = np.clip(place, 0, grown.shape[0] - 1).transpose(2, 0, 1)
    where: Array = inside & (grown[row, column] > 0)
    return where


def subsampled(where: Array, log2_w: int, log2_h: int) -> Array:
    """Which samples of a plane share a px with `where`."""
    height, width = where.shape
    rows, columns = -(-height >> log2_h), -(-width >> log2_w)
    padded = np.zeros((rows << log2_h, columns << log2_w), bool)
    padded[:height, :width] = where
    return padded.reshape(rows, 1 << log2_h, columns, 1 << log2_w).any(axis=(1, 3))


def assert_same_outside(before: Picture, after: Picture, where: Array) -> None:
    for layout, then, now in zip(before.format.planes, before.planes, after.planes, strict=True):
        outside = ~subsampled(where, layout.log2_w, layout.log2_h)
        assert np.array_equal(then[outside], now[outside]), layout


@pytest.mark.parametrize("name", ALL)
def test_samples_outside_the_mask_are_bit_identical(name):
    picture = noise(PIXEL_FORMATS[name], 641, 361)
    faces = [
        made_face(square_matrix((300.3, 180.7), 120, 0.3, 96)),
        made_face(square_matrix((639.0, 359.5), 90, -0.8, 96)),  # hangs over the corner
    ]
    after = blend(picture, *faces)
    assert_same_outside(picture, after, reach(faces[0], picture) | reach(faces[1], picture))
    changed = [not np.array_equal(a, b) for a, b in zip(picture.planes, after.planes, strict=True)]
    assert changed == [layout.components != "a" for layout in picture.format.planes]


@given(
    name=st.sampled_from(["yuv420p", "nv12", "yuv422p10le", "p010le", "yuv410p", "bgra", "ya8"]),
    width=st.integers(1, 90),
    height=st.integers(1, 70),
    x=st.floats(-30, 120),
    y=st.floats(-30, 100),
    side=st.floats(1, 300),
    roll=st.floats(-3.1, 3.1),
    location=st.integers(0, 6),
)
@settings(max_examples=200, deadline=None)
def test_a_face_anywhere_touches_only_what_is_under_its_mask(name, width, height, x, y, side, roll, location):
    picture = noise(PIXEL_FORMATS[name], width, height)
    face = made_face(square_matrix((x, y), side, roll, 96))
    after = blend(picture, face, colour=Colour(chroma_location=location))
    assert_same_outside(picture, after, reach(face, picture))


@given(
    name=st.sampled_from(["yuv420p", "yuv422p", "yuv411p", "yuv410p", "nv12"]),
    width=st.integers(3, 50),
    height=st.integers(3, 50),
    x=st.floats(-5, 55),
    y=st.floats(-5, 55),
    side=st.floats(4, 60),
)
@settings(max_examples=150, deadline=None)
def test_chroma_changes_only_where_luma_does(name, width, height, x, y, side):
    """Black luma under a white face changes wherever alpha is not 0, so it shows exactly where that is."""
    format = PIXEL_FORMATS[name]
    planes = tuple(np.zeros(shape, np.uint8) for shape in format.shapes(width, height))
    picture = Picture(format, width, height, planes)
    after = blend(picture, made_face(square_matrix((x, y), side, 0.5, 96), (255, 255, 255)), colour=Colour(range=2))
    where = after.planes[0] > 0
    assert_same_outside(picture, after, where)


@given(x=st.floats(-20, 120), y=st.floats(-20, 90), side=st.floats(4, 150), roll=st.floats(-3.1, 3.1))
def test_a_footprint_holds_all_that_the_mask_reaches(x, y, side, roll):
    mask = np.zeros((64, 64), np.float32)
    mask[20:30, 5:58] = 1.0
    picture = noise(PIXEL_FORMATS["yuv420p"], 101, 71)
    face = made_face(square_matrix((x, y), side, roll, 96), mask=mask)
    reached = soft_in_picture(face, picture) > 0
    box = footprint(picture, mask, rescale_crop(face.frame_to_crop, 96, 64))
    if box is not None:
        reached[box[1] : box[3], box[0] : box[2]] = False
    assert not reached.any()


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "rgb24"])
def test_a_mask_that_never_fades_leaves_no_dark_rim(name):
    """A face in the picture's own flat colour, pasted as a whole square, changes nothing."""
    format, colour, rgb = PIXEL_FORMATS[name], Colour(matrix=1, range=1), (220, 160, 140)
    code = coding(format, colour, 120, 90)
    values = dict(zip(code.components, np.rint(code.from_rgb @ (*rgb, 1.0)).astype(int), strict=True))
    planes = []
    for layout, shape in zip(format.planes, format.shapes(120, 90), strict=True):
        samples = [values[component] for component in layout.components]
        planes.append(np.full(shape, samples if len(samples) > 1 else samples[0], format.dtype))
    picture = Picture(format, 120, 90, tuple(planes))
    face = made_face(square_matrix((60, 45), 50, 0.4, 96), rgb, np.ones((64, 64), np.float32))
    after = blend(picture, face, colour=colour)
    for then, now in zip(picture.planes, after.planes, strict=True):
        assert np.abs(then.astype(int) - now).max() <= 1


def test_deep_samples_stay_within_their_bits():
    """Enlarging sharp detail overshoots; the result may not leave the format's range."""
    board = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((8, 8), int)).astype(np.uint8) * 255
    face = made_face(square_matrix((60, 45), 200, 0.0, 96), np.dstack([board] * 3))
    after = blend(noise(PIXEL_FORMATS["gbrp10le"], 120, 90), face)
    assert max(int(plane.max()) for plane in after.planes) == 1023


@pytest.mark.parametrize("name", ALL)
def test_the_swapped_face_is_there_in_the_pictures_own_coding(name):
    format, colour, rgb = PIXEL_FORMATS[name], Colour(matrix=1, range=1), (200, 90, 30)
    picture = noise(format, 161, 121)
    face = made_face(square_matrix((80.2, 60.3), 100, 0.4, 96), rgb)
    after = blend(picture, face, colour=colour)
    code = coding(format, colour, 161, 121)
    expected = dict(zip(code.components, code.from_rgb @ (*rgb, 1.0), strict=True))
    for layout, then, now in zip(format.planes, picture.planes, after.planes, strict=True):
        y, x = 60 >> layout.log2_h, 80 >> layout.log2_w
        for place, component in enumerate(layout.components):
            samples = (now if now.ndim == 2 else now[..., place])[y - 3 : y + 4, x - 3 : x + 4]
            before = (then if then.ndim == 2 else then[..., place])[y - 3 : y + 4, x - 3 : x + 4]
            if component in expected:
                tolerance = 1 if format.depth == 8 else 0.51
                assert np.abs((samples >> format.shift) - expected[component]).max() <= tolerance
            else:
                assert np.array_equal(samples, before)


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv420p10le", "p010le", "nv21", "gbrp10le", "rgb24", "argb"])
@pytest.mark.parametrize("side", [40, 150, 400])
def test_a_detailed_face_lands_where_its_crop_came_from(name, side):
    """A picture's own crop, pasted back, is the picture: a shift of a quarter px would show."""
    format = PIXEL_FORMATS[name]
    y, x = np.mgrid[0:300, 0:400]
    waves = 128 + 90 * np.sin(x / 9 + np.cos(y / 40)) * np.cos(y / 7)
    planes = [cv2.resize(waves, shape[1::-1], interpolation=cv2.INTER_AREA) for shape in format.shapes(400, 300)]
    planes = [
        (np.dstack([p] * shape[2]) if len(shape) == 3 else p) * (1 << (format.depth - 8))
        for p, shape in zip(planes, format.shapes(400, 300), strict=True)
    ]
    flat_chroma = [
        np.full_like(p, 128 << (format.depth - 8)) if format.model == "yuv" and i else p for i, p in enumerate(planes)
    ]
    picture = Picture(format, 400, 300, tuple(np.rint(p).astype(format.dtype) << format.shift for p in flat_chroma))
    colour = Colour(matrix=1, range=2)
    matrix = square_matrix((200.4, 150.3), side, 0.3, 256)
    rgb = region_to_rgb(picture, colour, (0, 0, 400, 300))
    swapped = cv2.warpAffine(rgb, matrix, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    face = made_face(rescale_crop(matrix, 256, 96), swapped)
    before = region_to_rgb(picture, colour, (0, 0, 400, 300)).astype(float)
    after = region_to_rgb(blend(picture, face, colour=colour), colour, (0, 0, 400, 300)).astype(float)
    inside = soft_in_picture(face, picture) > 0.9
    error = np.sqrt(((after - before)[inside] ** 2).mean())
    moved = np.sqrt(((np.roll(before, 1, axis=1) - before)[inside] ** 2).mean())
    assert error < 0.12 * moved


def soft_in_picture(face: Face, picture: Picture) -> Array:
    assert face.mask is not None
    assert face.frame_to_crop is not None
    to_mask = rescale_crop(face.frame_to_crop, 96, face.mask.shape[0])
    size = (picture.width, picture.height)
    return cv2.warpAffine(face.mask, to_mask, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


@pytest.mark.parametrize("name", ["yuv420p", "yuv444p10le", "rgb24"])
def test_alpha_mixes_in_proportion(name):
    """Half a mask, half the face: opacity and mask are shares, to a code value."""
    format, colour = PIXEL_FORMATS[name], Colour(matrix=6, range=1)
    picture = Picture(
        format, 120, 90, tuple(np.full(s, 60 << (format.depth - 8), format.dtype) for s in format.shapes(120, 90))
    )
    face = made_face(square_matrix((60, 45), 80, 0.0, 96), (255, 255, 255))
    code = coding(format, colour, 120, 90).from_rgb @ (255, 255, 255, 1)
    for opacity in (0.25, 0.5, 1.0):
        after = blend(picture, face, colour=colour, opacity=opacity)
        got = after.planes[0][45, 60] if format.model == "yuv" else after.planes[0][45, 60, 0]
        background = 60 << (format.depth - 8)
        assert float(got) == pytest.approx(background + opacity * (code[0] - background), abs=1.2)


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "p010le", "bgra"])
@pytest.mark.parametrize("transfer", registry.names(blenders))
def test_mask_0_or_opacity_0_gives_the_background_exactly(name, transfer):
    picture = noise(PIXEL_FORMATS[name], 101, 67)
    matrix = square_matrix((50.5, 30.5), 60, 0.2, 96)
    empty = made_face(matrix, mask=np.zeros((64, 64), np.float32))
    for after in (blend(picture, empty, colour=None), blend(picture, made_face(matrix), opacity=0.0)):
        assert all(np.array_equal(a, b) for a, b in zip(picture.planes, after.planes, strict=True))
    clip = Clip(1, "", "", "", 101, 67, picture.format, Fraction(1, 25))
    before = [plane.copy() for plane in picture.planes]
    list(Blend(Config(colour=transfer))(clip, Pulled([Frame(1, 0, 0, picture, (empty,))])))
    assert all(np.array_equal(a, b) for a, b in zip(before, picture.planes, strict=True))


def test_faces_are_blended_in_order_and_without_a_result_not_at_all():
    picture = noise(PIXEL_FORMATS["rgb24"], 100, 80)
    matrix = square_matrix((50, 40), 60, 0.0, 96)
    waiting = made_face(matrix, (0, 255, 0)).with_(swapped=None)
    after = blend(picture, made_face(matrix, (255, 0, 0)), made_face(matrix, (0, 0, 255)), waiting)
    assert tuple(after.planes[0][40, 50]) == (0, 0, 255)


def test_the_stage_keeps_frames_and_counts_faces():
    format = PIXEL_FORMATS["yuv420p"]
    clip = Clip(1, "", "", "", 100, 80, format, Fraction(1, 25))
    face = made_face(square_matrix((50, 40), 60, 0.0, 96))
    frames = [Frame(1, i, 40 * i, noise(format, 100, 80), faces) for i, faces in enumerate([(), (face, face), (face,)])]
    stage = Blend(Config())(clip, Pulled(frames))
    out = []
    try:
        while True:
            out.append(next(stage))
    except StopIteration as end:
        assert end.value == {"blended": 3}
    assert [(f.index, f.pts) for f in out] == [(0, 0), (1, 40), (2, 80)]
    assert all(now.picture is then.picture for now, then in zip(out, frames, strict=True))


def test_a_footprint_is_clipped_and_on_whole_chroma_samples():
    picture = noise(PIXEL_FORMATS["yuv420p"], 101, 67)
    matrix = square_matrix((99, 65), 40, 0.0, 64)
    x0, y0, x1, y1 = footprint(picture, soft_disc(), matrix)
    assert (x0 % 2, y0 % 2, x1, y1) == (0, 0, 102, 68)
    assert 99 - 0.45 * 40 - 4 < x0 < 99 - 0.3 * 40
    assert footprint(picture, soft_disc(), square_matrix((300, 65), 40, 0.0, 64)) is None
    assert footprint(picture, np.zeros((64, 64), np.float32), matrix) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"colour": "labb"}, r"blend\.colour: there is no 'labb'; did you mean 'lab'\?"),
        ({"opacity": 1.5}, r"blend\.opacity must be from 0 to 1, not 1\.5"),
    ],
)
def test_wrong_settings_are_refused_by_name(setting, message):
    with pytest.raises(ConfigError, match=message):
        Config(**setting)
