"""The nouns of the pipeline: clip, frame, picture, face; and what a stage is.

All are frozen and print shapes, never pixels. Coordinates are in pixels with pixel centres at whole numbers
(OpenCV's convention), x to the right, y down, in the picture *as stored*: a phone's rotation is kept in
`Clip.display_matrix` and only applied where something has to be seen upright. Matrices are named `a_to_b`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pipeline.pixels import PixelFormat, Plane

Array: TypeAlias = NDArray[Any]

#: What a stage says about a clip once it is through: counters and facts for the report, all JSON-able.
Report: TypeAlias = dict[str, int | float | str]

#: Makes an uninitialised array that lives exactly as long as its frame (in the frame's shared-memory slot).
Allocate: TypeAlias = Callable[[tuple[int, ...], DTypeLike], Array]


@dataclass(frozen=True, slots=True)
class Job:
    """One clip to convert: an absolute `source` path and the absolute `target` it shall be published as.

    Attributes:
        work: the absolute folder in which the result is made in segments, so that a later run can go on with it (see
            `pipeline.checkpoints`); empty: it is written in one go, beside the target.
        segment_s: seconds of the clip that a segment holds, about; only with `work`.
        about: what the report beside the result shall say besides, in JSON's types.
    """

    id: int
    source: str
    target: str
    work: str = ""
    segment_s: float = 10.0
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Colour:
    """A stream's colour tags as FFmpeg's integers (ISO/IEC 23091-2 code points).

    "Unspecified" is 2 for the first three and 0 for the range (1 limited, 2 full) and the chroma location.
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    range: int = 0
    chroma_location: int = 0


@dataclass(frozen=True, slots=True)
class Clip:
    """All that is needed to put a file back as it was found.

    `width` and `height` are as stored, before rotation. `time_base` is in seconds; every pts counts in it.
    `display_matrix` holds the nine integers of the container's 3x3 matrix (16.16 fixed point, the last column
    2.30), row by row, or None. `partial` is the temporary path that encode writes; the engine renames it to
    `target`. `frames` is an estimate for the progress bar, None where the container does not tell. `field_order` is
    FFmpeg's number for interlacing: 0 unknown, 1 progressive, 2 top field first, 3 bottom first, 4 and 5 mixed.

    A clip with a `work` folder is made in segments of `segment` frames. Of one that an earlier run began, that run has
    finished the first `kept` frames; this one's frame 0 is the file's frame `first`, and those before `kept` are made
    once more only so that the stages are in the state in which they were (`pipeline.checkpoints`).

    `begins` is the presentation time of the file's first frame, in ticks, whatever this run's first is. `payload` is
    what the invisible watermark says: 48 bits that follow from the clip and what is made of it; 0: nothing.
    """

    id: int
    source: str
    target: str
    partial: str
    width: int
    height: int
    pixel_format: PixelFormat
    time_base: Fraction
    rate: Fraction | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    colour: Colour = Colour()
    display_matrix: tuple[int, ...] | None = None
    frames: int | None = None
    duration_s: float | None = None
    video_stream: int = 0
    field_order: int = 0
    work: str = ""
    segment: int = 0
    first: int = 0
    kept: int = 0
    begins: int = 0
    payload: int = 0

    @property
    def picture_nbytes(self) -> int:
        """Bytes of one stored picture."""
        return self.pixel_format.nbytes(self.width, self.height)


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame's own planes, in the format it was decoded to; row strides may exceed the row length.

    `planes[i]` has the shape `format.planes[i].shape(width, height)` and the dtype `format.dtype`.
    """

    format: PixelFormat
    width: int
    height: int
    planes: tuple[Plane, ...]

    def __repr__(self) -> str:
        return f"Picture({self.format.name} {self.width}x{self.height})"


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame; its fields are filled in this order as it goes down the chain.

    Attributes:
        box: x0, y0, x1, y1 in px of the stored picture.
        score: the detector's confidence, 0..1.
        landmarks: (478, 2) float32 px of the stored picture, MediaPipe's face mesh order.
        track: the same number for the same face from frame to frame, from 0; None before tracking.
        frame_to_crop: (2, 3) float64; takes stored-picture px to px of the `aligned` crop.
        aligned: (S, S, 3) uint8 RGB, full range; the upright crop that the model sees.
        mask: (M, M) float32 0..1 over the same square as `aligned`, at its own resolution.
        swapped: (T, T, 3) uint8 RGB, full range; over the same square as `aligned`.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: Array
    track: int | None = None
    frame_to_crop: Array | None = None
    aligned: Array | None = None
    mask: Array | None = None
    swapped: Array | None = None

    def __repr__(self) -> str:
        has = [n for n in ("frame_to_crop", "aligned", "mask", "swapped") if getattr(self, n) is not None]
        x0, y0, x1, y1 = self.box
        return f"Face(track={self.track} box={x0:.0f},{y0:.0f},{x1:.0f},{y1:.0f} has {', '.join(has) or 'landmarks'})"

    def with_(self, **changes: Any) -> Face:
        """A copy with some fields filled in."""
        return replace(self, **changes)


def _on_the_heap(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return np.empty(shape, dtype)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture on its way through the stages.

    The object is changed only by copy (`with_`); the samples in `picture.planes` are edited in place by blend.
    Arrays that a stage hangs on a face should come from `allocate`, so that they already lie where the next
    process finds them; others are copied there once.

    Attributes:
        index: 0, 1, 2, ... within the clip, without gaps.
        pts: presentation time in ticks of `Clip.time_base`.
        duration: in the same ticks; 0 where the container does not tell.
        damaged: the decoder marked the picture as corrupt or concealed.
    """

    clip_id: int
    index: int
    pts: int
    picture: Picture
    faces: tuple[Face, ...] = ()
    duration: int = 0
    damaged: bool = False
    allocate: Allocate = field(default=_on_the_heap, compare=False, repr=False)

    def with_(self, **changes: Any) -> Frame:
        """A copy with some fields changed."""
        return replace(self, **changes)


class Frames(Protocol):
    """What a stage is given to iterate over."""

    def __iter__(self) -> Iterator[Frame]: ...

    def __next__(self) -> Frame: ...

    def ready(self, timeout_s: float) -> bool:
        """Whether `next` has something to return: a frame, or the clip's end.

        Waits up to `timeout_s` for it. False earlier where nothing can come because every frame slot is
        already downstream of the decoder: a batching stage then runs what it has.
        """
        ...


class Pulled:
    """Any iterable of frames as `Frames`: always ready, since asking makes the next one (inline runs, tests)."""

    def __init__(self, frames: Iterable[Frame], ready: Callable[[float], bool] | None = None) -> None:
        self._frames = iter(frames)
        self._ready = ready

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        return next(self._frames)

    def ready(self, timeout_s: float) -> bool:
        """As `Frames.ready`; forwarded to the source the frames come from, where one was given."""
        return self._ready(timeout_s) if self._ready else True


@runtime_checkable
class Stage(Protocol):
    """A callable from frames to frames, a generator for each clip.

    It yields every frame it was given, in order, and returns its `Report`. `needs` and `gives` name fields of
    `Face`; the chain is checked at start-up. A `stateless` stage treats each frame on its own, so several
    workers may share a clip. Heavy libraries and weights load in `__init__`, which runs in the stage's own process.
    Raise any exception to fail the clip; the runner adds which stage, clip and frame.
    """

    needs: ClassVar[frozenset[str]]
    gives: ClassVar[frozenset[str]]
    stateless: ClassVar[bool]

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]: ...


@runtime_checkable
class Source(Stage, Protocol):
    """The first stage: opens a job's clip, then makes its frames out of nothing.

    The planes it yields are read-only views that stay valid until the next frame is asked for: the runner copies
    them into the frame's slot, and that is the only copy a picture ever sees.
    """

    def open(self, job: Job) -> Clip:
        """Opens and describes the clip; called right before the stage itself. Raises InputError."""
        ...


#: Called with what of a long task is done and what there is to do (None: not known), at least every few seconds.
Pulse: TypeAlias = Callable[[int, int | None], None]


class Finisher(Protocol):
    """Makes the finished file of a clip that has gone through all stages, and makes sure that it is one.

    Made once, in a process of its own. The door that calls it (`pipeline.door`) has the file sealed between the two,
    and synced and renamed after them.
    """

    def make(self, clip: Clip, reports: dict[str, Report], pulse: Pulse) -> Report:
        """Leaves the whole file at `clip.partial`, beside its target; says what was written.

        Raises:
            PublishError: it could not be written.
        """
        ...

    def check(self, clip: Clip, pulse: Pulse) -> Report:
        """Sees that the file at `clip.partial`, sealed by now, holds what was made last; says what is in it.

        Raises:
            PublishError: it is not what it should be.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """What became of a file that was sealed.

    Attributes:
        report: what the file's report shall say of it.
        beside: the partial file that belongs beside it, and what that shall be called; None: there is none.
    """

    report: Report
    beside: tuple[str, str] | None = None


class Sealer(Protocol):
    """Says in a finished file where it comes from, and writes down that there is one.

    Made once, in the door's process.
    """

    def seal(
        self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any], alive: Callable[[], None]
    ) -> Sealed:
        """Marks the whole file at `clip.partial`.

        Args:
            reports: those of the stages.
            facts: "job", and the source's digest as "source_sha256".
            alive: called again and again while it lasts; what it raises is passed on.

        Raises:
            PublishError: it could not be marked, or has not been by the stages.
            ConsentError: it must not be made.
        """
        ...

    def record(self, clip: Clip, reports: Mapping[str, Report], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Writes down that the file is about to get its name; what the report shall say of that.

        Args:
            reports: those of the stages.
            facts: as for `seal`, and the file's own digest as "output_sha256".

        Raises:
            TableError: that could not be written.
            ConsentError: it must not be published: by now.
        """
        ...
