"""Between FFmpeg's frames and ours: views of planes one way, wrapped planes the other.

Nothing here converts a colour. Views are made with the planes' own strides, so neither way copies where it need not.
"""

from __future__ import annotations

import av
import numpy as np

from pipeline.pixels import PIXEL_FORMATS, PixelFormat, Plane
from pipeline.types import Picture


def view(frame: av.VideoFrame, pixel_format: PixelFormat) -> Picture:
    """The frame's planes as read-only strided views; they keep the frame's buffers alive.

    `pixel_format` must be the frame's own (or the same layout under another name, as yuvj420p is yuv420p).
    """
    shapes = pixel_format.shapes(frame.width, frame.height)
    planes = tuple(_plane_view(plane, shape, pixel_format) for plane, shape in zip(frame.planes, shapes, strict=True))
    return Picture(pixel_format, frame.width, frame.height, planes)


def _plane_view(plane: av.video.plane.VideoPlane, shape: tuple[int, ...], pixel_format: PixelFormat) -> Plane:
    itemsize = pixel_format.dtype.itemsize
    samples = shape[2] if len(shape) == 3 else 1
    pitch = plane.line_size
    # A picture stored bottom up has a negative pitch; the exported buffer still starts at its lowest address.
    offset = -pitch * (shape[0] - 1) if pitch < 0 else 0
    strides = (pitch, samples * itemsize, itemsize) if len(shape) == 3 else (pitch, itemsize)
    array: Plane = np.ndarray(shape, pixel_format.dtype, memoryview(plane), offset, strides)
    array.flags.writeable = False
    return array


def wrap(picture: Picture, name: str | None = None) -> av.VideoFrame:
    """The picture as a frame for an encoder, without copying where FFmpeg can read the planes in place.

    `name` is the pixel format to call it by, where that differs from the picture's own. In place works for planar
    formats of an even size whose planes are writable and whose rows are gapless; everything else is copied.
    """
    name = name or picture.format.name
    if _readable_in_place(picture):
        return av.VideoFrame.from_dlpack(picture.planes, format=name)
    return copied(picture, name)


def _readable_in_place(picture: Picture) -> bool:
    layouts = picture.format.planes
    if any(len(layout.components) > 1 for layout in layouts):
        return False
    if any((one.log2_w and picture.width % 2) or (one.log2_h and picture.height % 2) for one in layouts):
        return False
    itemsize = picture.format.dtype.itemsize
    return all(p.flags.writeable and p.strides[1] == itemsize and p.strides[0] > 0 for p in picture.planes)


def copied(picture: Picture, name: str | None = None) -> av.VideoFrame:
    """A frame with buffers of its own that holds the picture's samples."""
    name = name or picture.format.name
    frame = av.VideoFrame(picture.width, picture.height, name)
    for target, source in zip(_writable(frame, picture.format), picture.planes, strict=True):
        np.copyto(target, source)
    return frame


def padded(picture: Picture, width: int, height: int, name: str | None = None) -> av.VideoFrame:
    """As `copied`, on a frame of `width` x `height` px; what is added at the right and the bottom repeats the edge."""
    frame = av.VideoFrame(width, height, name or picture.format.name)
    for target, source in zip(_writable(frame, picture.format), picture.planes, strict=True):
        rows, columns = source.shape[:2]
        target[:rows, :columns] = source
        target[:rows, columns:] = source[:, -1:]
        target[rows:] = target[rows - 1]
    return frame


def _writable(frame: av.VideoFrame, pixel_format: PixelFormat) -> list[Plane]:
    """Writable views of a frame that was just made (its pitch is positive)."""
    views: list[Plane] = []
    itemsize = pixel_format.dtype.itemsize
    shapes = pixel_format.shapes(frame.width, frame.height)
    for plane, shape in zip(frame.planes, shapes, strict=True):
        pitch = plane.line_size
        strides = (pitch, shape[2] * itemsize, itemsize) if len(shape) == 3 else (pitch, itemsize)
        views.append(np.ndarray(shape, pixel_format.dtype, memoryview(plane), 0, strides))
    return views


def nearest(name: str) -> PixelFormat:
    """The format of `PIXEL_FORMATS` that holds FFmpeg's format `name` with the least loss; itself where listed."""
    if name in PIXEL_FORMATS:
        return PIXEL_FORMATS[name]
    best, _ = av.codec.codec.find_best_pix_fmt_of_list(list(PIXEL_FORMATS), name, has_alpha=has_alpha(name))
    return PIXEL_FORMATS[best.name if best is not None else "rgb24"]


def has_alpha(name: str) -> bool:
    """Whether FFmpeg's pixel format `name` has an alpha channel."""
    return any(component.is_alpha for component in av.VideoFormat(name).components)
