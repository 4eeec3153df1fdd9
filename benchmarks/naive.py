"""A plain face-swap script, as such tools are usually written: what the whole job is held against (P8).

One process and one loop: each frame becomes a BGR array; the face is cut out of it, goes through the network alone in
float32, gets its colours by Reinhard's method in NumPy, is warped back over the whole frame, mixed in float, and the
frame is encoded from BGR again. Nothing here is slow on purpose, and nothing is shared with the pipeline but the
network itself. No sound. The landmarks are known, as they are for the pipeline in the same comparison.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.stages import KnownFacesConfig, face_at, mesh
from models import checkpoint

_MASK = 256
#: Outer corners of the eyes, tip of the nose, corners of the mouth in the mesh, and where a crop shows them.
_POINTS = (33, 263, 1, 61, 291)
_PLACES = np.array([(0.27, 0.37), (0.73, 0.37), (0.5, 0.58), (0.34, 0.75), (0.66, 0.75)])


class Script:
    """Loads the model once; call it with a source and a target."""

    def __init__(self, model: str, to: str, encoder: dict[str, str]) -> None:
        self._model: Any  # torch declares no `swap`
        self._model, description = checkpoint.load(model)
        self._to = to
        self._size = description.input_size
        self._encoder = encoder
        self._mesh = mesh()

    def __call__(self, source: str, target: str) -> int:
        """Converts the clip; returns how many frames it had."""
        count = 0
        with av.open(source) as clip, av.open(target, "w") as out:
            video = clip.streams.video[0]
            stream = out.add_stream("libx264", rate=video.average_rate, options=self._encoder)
            stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
            stream.codec_context.thread_type = "FRAME"  # as ffmpeg's own program has it
            for frame in clip.decode(video):
                image = self._swapped(frame.to_ndarray(format="bgr24"), count)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
                count += 1
            out.mux(stream.encode())
        Path(target).unlink()
        return count

    def _swapped(self, image: NDArray, index: int) -> NDArray:
        height, width = image.shape[:2]
        landmarks = face_at(self._mesh, index, 0, KnownFacesConfig(), width, height)
        matrix, _ = cv2.estimateAffinePartial2D(landmarks[list(_POINTS)], _PLACES * self._size, method=cv2.LMEDS)
        crop = cv2.warpAffine(image, matrix, (self._size, self._size), flags=cv2.INTER_AREA)
        face = reinhard(self._network(crop), crop)
        mask = self._mask(landmarks, matrix)
        return paste(image, face, mask, matrix)

    def _network(self, crop: NDArray) -> NDArray:
        with torch.no_grad():
            rgb = np.ascontiguousarray(crop[:, :, ::-1]).astype(np.float32) / 255
            given = torch.from_numpy(rgb).permute(2, 0, 1)[None]
            made = self._model.swap(given, self._to).picture[0].permute(1, 2, 0).numpy()
        return np.clip(made[:, :, ::-1] * 255, 0, 255).astype(np.uint8)

    def _mask(self, landmarks: NDArray, matrix: NDArray) -> NDArray:
        scaled = cv2.transform(landmarks[None], matrix * (_MASK / self._size))[0]
        mask = np.zeros((_MASK, _MASK), np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(np.round(scaled).astype(np.int32)), (255,))
        inner = cv2.erode(mask, np.ones((15, 15), np.uint8))
        return cv2.GaussianBlur(inner, (31, 31), 0).astype(np.float32) / 255


def reinhard(face: NDArray, like: NDArray) -> NDArray:
    """Mean and deviation of each LAB channel of `like`, given to `face`; both (S, S, 3) uint8 BGR."""
    source = cv2.cvtColor(face, cv2.COLOR_BGR2LAB).astype(np.float32)
    target = cv2.cvtColor(like, cv2.COLOR_BGR2LAB).astype(np.float32)
    for channel in range(3):
        mean, deviation = source[:, :, channel].mean(), source[:, :, channel].std()
        source[:, :, channel] -= mean
        source[:, :, channel] *= target[:, :, channel].std() / (deviation + 1e-6)
        source[:, :, channel] += target[:, :, channel].mean()
    return cv2.cvtColor(np.clip(source, 0, 255).astype(np.uint8), cv2.COLOR_LAB2BGR)


def paste(image: NDArray, face: NDArray, mask: NDArray, matrix: NDArray) -> NDArray:
    """The face and its mask warped back over the whole frame and mixed in float32."""
    size = (image.shape[1], image.shape[0])
    back = cv2.warpAffine(face.astype(np.float32), matrix, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC)
    scaled = matrix * (mask.shape[0] / face.shape[0])
    alpha = cv2.warpAffine(mask, scaled, size, flags=cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR)[:, :, None]
    mixed = image.astype(np.float32) * (1 - alpha) + back * alpha
    return np.clip(mixed, 0, 255).astype(np.uint8)


class Transcode:
    """Decode and encode in one process, pictures straight through, sound copied: stands in for ffmpeg's program."""

    def __init__(self, encoder: dict[str, str]) -> None:
        self._encoder = encoder

    def __call__(self, source: str, target: str) -> int:
        """Converts the clip; returns how many frames it had."""
        count = 0
        with av.open(source) as clip, av.open(target, "w") as out:
            video = clip.streams.video[0]
            video.thread_type = "AUTO"
            stream = out.add_stream("libx264", rate=video.average_rate, options=self._encoder)
            stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
            stream.codec_context.thread_type = "FRAME"  # as ffmpeg's own program has it
            sound = {s: out.add_stream_from_template(s) for s in clip.streams.audio}
            for packet in clip.demux():
                if packet.stream in sound:
                    if packet.dts is not None:
                        packet.stream = sound[packet.stream]
                        out.mux(packet)
                    continue
                for frame in video.decode(packet):
                    frame.pict_type = 0
                    out.mux(stream.encode(frame))
                    count += 1
            out.mux(stream.encode())
        Path(target).unlink()
        return count
