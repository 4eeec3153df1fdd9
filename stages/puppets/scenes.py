"""Films the puppets: a person, a length and a seed become an H.264 clip with sound."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import av.container
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream
from numpy.typing import NDArray

from stages.puppets.people import Person
from stages.puppets.pose import Pose, script
from stages.puppets.puppet import Puppet
from stages.puppets.speech import SAMPLE_RATE, Speech, babble

#: H.264's and FFmpeg's number for SMPTE 170M (BT.601), the matrix that RGB is converted with here.
_BT601 = 6
_LIMITED_RANGE = 1


def make_clip(
    person: Person, path: Path, seconds: float, rate: int = 25, size: tuple[int, int] = (512, 512), seed: int = 0
) -> None:
    """Films `person` for `seconds` at `rate` frames a second into `path` (.mp4: H.264 8-bit 4:2:0 and AAC).

    The head turns through yaw ±25°, pitch ±12° and roll ±10° while it babbles, blinks and looks about; what it does
    hangs on `seed` alone, so two people given one seed do the same, and two seeds are two takes.

    Args:
        size: width and height in px, both even.

    Raises:
        RequirementError: the person's portrait cannot be made on this machine.
    """
    film(person.puppet(), person, path, seconds, rate, size, seed)


def film(
    puppet: Puppet, person: Person, path: Path, seconds: float, rate: int, size: tuple[int, int], seed: int
) -> list[Pose]:
    """`make_clip` for a puppet that is at hand already (several takes of one person); gives the pose of each frame."""
    speech = babble(person.voice, seconds, rate, seed)
    poses = script(speech, rate, seed)
    _write(path, (puppet.render(pose, size) for pose in poses), speech, rate, size)
    return poses


def _write(path: Path, frames: Iterable[NDArray[np.uint8]], speech: Speech, rate: int, size: tuple[int, int]) -> None:
    with av.open(str(path.absolute()), "w", options={"movflags": "+faststart"}) as container:
        video = _video_stream(container, rate, size)
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=96_000)
        per_frame = SAMPLE_RATE / rate
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(video.encode(frame))
            _mux_sound(container, audio, speech.samples, round(index * per_frame), round((index + 1) * per_frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _video_stream(container: av.container.OutputContainer, rate: int, size: tuple[int, int]) -> VideoStream:
    video = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "18"})
    video.width, video.height = size
    video.pix_fmt = "yuv420p"
    video.codec_context.time_base = Fraction(1, rate)
    video.codec_context.thread_count = 1
    video.codec_context.colorspace = _BT601
    video.codec_context.color_primaries = _BT601
    video.codec_context.color_trc = _BT601
    video.codec_context.color_range = _LIMITED_RANGE
    return video


def _mux_sound(
    container: av.container.OutputContainer, audio: AudioStream, samples: NDArray[np.float32], start: int, stop: int
) -> None:
    """Writes the sound of one video frame, so that the two streams are interleaved."""
    piece = samples[start:stop]
    if not len(piece):
        return
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    container.mux(audio.encode(frame))
