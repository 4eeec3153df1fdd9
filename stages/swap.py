"""Swap: the network gives every aligned face as the other person.

Faces of many frames go through the network together, because reading the weights is what costs. A frame leaves as
soon as its last face is done, in the order it came; one without faces waits only for those before it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ChangedError, ConfigError, RequirementError
from pipeline.types import Array, Clip, Face, Frame, Frames, Report
from stages.device import faults_told, is_out_of_memory
from stages.mask import soft_edged

if TYPE_CHECKING:
    from models.autoencoder import Autoencoder

log = logging.getLogger(__name__)

#: Over which share of its side a learned mask fades at the crop's border, as the mask stage's own does.
_FADE = 0.1
#: What a learned mask takes for nothing, and for everything but so much: a sigmoid quite reaches neither 0 nor 1.
_FLOOR = 0.04


@dataclass(frozen=True, slots=True)
class Config:
    """How faces are swapped.

    Attributes:
        model: the model's folder, and `digest` that of the weights that were asked about there, which nothing else may
            have taken the place of (both filled in by the program; empty: whatever is there).
        to: whose face is put there, by the name in the model's description.
        faces: "all", or "largest": only the largest face of each frame.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: "auto" (bf16 where the device has instructions for it), "fp32", "bf16" or "fp16".
        batch: how many faces go through the network at once at most.
        max_wait_ms: how long a face waits for others to share its batch at most; while it waits the stages before it
            work on, so in a file only the first frame comes later. `pipe` has a shorter bound of its own.
        threads: CPU threads of the network; 0 means all cores but one.
        mask: where the face is put: "given" (what the mask stage says), "learned" (what the model says, which must
            have learned it) or "both" (where both say so: the smaller of the two).
        on_device_fault: what the daemon does once the GPU has failed: "restart" the stages on it, go on with the "cpu",
            or "stop" taking clips.
    """

    model: str
    to: str = "b"
    faces: str = "all"
    device: str = "auto"
    precision: str = "auto"
    batch: int = 8
    max_wait_ms: float = 1000.0
    threads: int = 0
    mask: Literal["given", "learned", "both"] = "given"
    on_device_fault: Literal["restart", "cpu", "stop"] = "restart"
    digest: str = ""

    def __post_init__(self) -> None:
        if self.faces not in ("all", "largest"):
            raise ConfigError(f"swap.faces must be all or largest, not {self.faces!r}")
        if not 1 <= self.batch <= 1024:
            raise ConfigError(f"swap.batch must be from 1 to 1024, not {self.batch}")
        if not self.max_wait_ms >= 0 or self.threads < 0:
            raise ConfigError("swap.max_wait_ms and swap.threads cannot be negative")
        if self.mask not in ("given", "learned", "both"):
            raise ConfigError(f"swap.mask must be given, learned or both, not {self.mask!r}")
        if self.on_device_fault not in ("restart", "cpu", "stop"):
            raise ConfigError(f"swap.on_device_fault must be restart, cpu or stop, not {self.on_device_fault!r}")


class Made(NamedTuple):
    """What the network makes of a crop.

    Attributes:
        picture: (T, T, 3) uint8 RGB.
        mask: (T, T) float32 0..1; None unless learned masks are asked for.
    """

    picture: NDArray[np.uint8]
    mask: NDArray[np.float32] | None


class Network:
    """The model on its device, taking and giving NumPy crops; finds out by itself what fits into memory."""

    def __init__(self, config: Config) -> None:
        import torch

        from models import checkpoint, tensors

        torch.set_num_threads(config.threads or max(1, tensors.cores() - 1))  # one stays free for the other stages
        self.device = tensors.choose_device(config.device)
        self.dtype = tensors.choose_precision(config.precision, self.device)
        self.precision = tensors.precision_name(self.dtype)
        # Some of cuDNN's convolutions add up in any order: a clip that is gone on with shall come out as it began.
        torch.backends.cudnn.deterministic = True
        self._model: Autoencoder
        self._model, self.description = checkpoint.load(config.model)
        if config.digest not in ("", self.description.digest):
            raise ChangedError(
                f"the model {config.model} was saved anew since it was asked who is in it; begin again, with what is "
                "there now"
            )
        if config.to not in self.description.people:
            people = " and ".join(self.description.people)
            raise ConfigError(f"swap.to is {config.to!r}, the model {config.model} knows {people}")
        self._to = config.to
        if config.mask == "given":
            self._model.drop_masks()
        with faults_told(self.device):
            self._model.to(self.device, self.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.full_batch = self.batch = config.batch
        side = self.description.input_size
        # So that the first clip does not wait for it, and a model without what is asked for is refused now.
        made = self([np.zeros((side, side, 3), np.uint8)] * config.batch)
        if config.mask != "given" and made[0].mask is None:
            raise ConfigError(
                f"swap.mask is {config.mask}, but the model {config.model} has learned no mask; "
                "use swap.mask given, or train one with train.layers.mask"
            )

    def __call__(self, crops: list[NDArray[np.uint8]]) -> list[Made]:
        """N crops (S, S, 3) uint8 RGB to what is made of them, in the same order.

        Raises:
            RequirementError: not even one face fits into the GPU's memory.
            DeviceError: the GPU failed; nothing more will come of it in this process.
        """
        done: list[Made] = []
        while len(done) < len(crops):
            with faults_told(self.device):
                try:
                    done.extend(self._run(crops[len(done) : len(done) + self.batch]))
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    self._shrink(error)
        return done

    def begin(self) -> None:
        """Tries the full batch again: what becomes of a clip shall not hang on those before it."""
        self.batch = self.full_batch

    def _shrink(self, error: RuntimeError) -> None:
        import torch

        torch.cuda.empty_cache()
        if self.batch == 1:
            raise RequirementError(
                f"{self.device} has not enough free memory for one face; use swap.device cpu or a smaller model"
            ) from error
        self.batch //= 2
        log.warning("%s is out of memory: faces now go through in batches of %d", self.device, self.batch)

    def _run(self, crops: list[NDArray[np.uint8]]) -> list[Made]:
        import torch

        from models import tensors

        with torch.inference_mode():
            # Always the same batch size: the last bit of a result depends on it, and a clip shall come out the same
            # however its faces happened to fall into batches.
            batch = tensors.to_unit(tensors.crops_to_tensor(crops, self.batch), self.device, self.dtype)
            decoded = self._model.swap(batch, self._to)
            pictures = tensors.to_bytes(decoded.picture[: len(crops)])
            if decoded.mask is None:
                return [Made(picture, None) for picture in pictures]
            masks = decoded.mask[: len(crops), 0].float().cpu().numpy()
            return [Made(picture, mask) for picture, mask in zip(pictures, masks, strict=True)]


def settled(mask: Array, side: int) -> Array:
    """A learned mask as the mask stage would give it: of its size, 0 and 1 where it is sure, 0 along the border.

    Args:
        mask: (T, T) float32 0..1.
        side: px.

    Returns:
        (side, side) float32 0..1.
    """
    method = cv2.INTER_AREA if mask.shape[0] > side else cv2.INTER_LINEAR
    sized = mask if mask.shape[0] == side else cv2.resize(mask, (side, side), interpolation=method)
    stretched = np.clip((sized - np.float32(_FLOOR)) / np.float32(1 - 2 * _FLOOR), 0.0, 1.0)
    bounded: Array = np.minimum(stretched, _border(side))
    return bounded


@lru_cache(maxsize=8)
def _border(side: int) -> Array:
    """(side, side) float32: the largest mask there may be, which keeps clear of the crop's border and corners."""
    border = soft_edged(np.ones((side, side), np.float32), 0.0, _FADE)
    border.flags.writeable = False
    return border


@dataclass(slots=True)
class _Waiting:
    """A frame on its way through: how many of its faces are not done, and those that are."""

    frame: Frame
    missing: int
    done: dict[int, Face] = field(default_factory=dict)

    def finished(self) -> Frame:
        faces = tuple(self.done.get(place, face) for place, face in enumerate(self.frame.faces))
        return self.frame.with_(faces=faces)


class _Queue:
    """Frames of one clip in the order they came, and those of their faces that no batch has taken yet."""

    def __init__(self, side: int, max_wait_s: float, only_largest: bool) -> None:
        self._side = side
        self._max_wait_s = max_wait_s
        self._only_largest = only_largest
        self._frames: deque[_Waiting] = deque()
        self._faces: deque[tuple[_Waiting, int, float]] = deque()

    def __len__(self) -> int:
        """Faces that wait for a batch."""
        return len(self._faces)

    def add(self, frame: Frame) -> None:
        places = self._chosen(frame.faces)
        waiting = _Waiting(frame, len(places))
        self._frames.append(waiting)
        now = time.monotonic()
        self._faces.extend((waiting, place, now) for place in places)

    def take(self, count: int) -> list[tuple[_Waiting, int]]:
        """Up to `count` faces, the oldest first, as (frame, place in the frame)."""
        return [self._faces.popleft()[:2] for _ in range(min(count, len(self._faces)))]

    def patience_s(self) -> float:
        """How long the oldest face may still wait; 0 where its time is up."""
        return max(0.0, self._faces[0][2] + self._max_wait_s - time.monotonic())

    def leave(self) -> Iterator[Frame]:
        """The frames at the front that miss nothing any more."""
        while self._frames and not self._frames[0].missing:
            yield self._frames.popleft().finished()

    def _chosen(self, faces: tuple[Face, ...]) -> list[int]:
        places = [place for place, face in enumerate(faces) if face.aligned is not None]
        for place in places:
            shape = faces[place].aligned.shape  # type: ignore[union-attr]
            if shape != (self._side, self._side, 3):
                raise ConfigError(f"the model sees crops of {self._side} px; align made one of shape {shape}")
        if self._only_largest and places:
            places = [max(places, key=lambda place: _area(faces[place]))]
        return places


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return (x1 - x0) * (y1 - y0)


class Swap:
    """The stage. Loading raises WeightsError, ConfigError or RequirementError, each saying what to do."""

    needs: ClassVar[frozenset[str]] = frozenset({"aligned"})
    gives: ClassVar[frozenset[str]] = frozenset({"swapped"})
    stateless: ClassVar[bool] = False  # a batch spans frames

    def __init__(self, config: Config) -> None:
        self._config = config
        self._network = Network(config)

    def __call__(self, clip: Clip, frames: Frames) -> Generator[Frame, None, Report]:
        network = self._network
        network.begin()
        queue = _Queue(network.description.input_size, self._config.max_wait_ms / 1000, self._config.faces == "largest")
        faces = batches = 0
        for frame in frames:
            queue.add(frame)
            while len(queue) >= network.batch or (queue and not self._may_wait(queue, frames)):
                faces += self._run(queue)
                batches += 1
            yield from queue.leave()
        while queue:
            faces += self._run(queue)
            batches += 1
        yield from queue.leave()
        report: Report = {
            "faces": faces,
            "batches": batches,
            "batch": network.batch,
            "device": str(network.device),
            "precision": network.precision,
        }
        if network.batch < network.full_batch:
            report["batch_reduced_from"] = network.full_batch
        return report

    def _may_wait(self, queue: _Queue, frames: Frames) -> bool:
        patience = queue.patience_s()
        return patience > 0 and frames.ready(patience)

    def _run(self, queue: _Queue) -> int:
        taken = queue.take(self._network.batch)
        all_made = self._network([waiting.frame.faces[place].aligned for waiting, place in taken])  # type: ignore[misc]
        for (waiting, place), made in zip(taken, all_made, strict=True):
            waiting.done[place] = self._face(waiting.frame, place, made)
            waiting.missing -= 1
        return len(taken)

    def _face(self, frame: Frame, place: int, made: Made) -> Face:
        """The face with what was made of it, in the frame's own memory."""
        face = frame.faces[place]
        swapped = frame.allocate(made.picture.shape, np.uint8)
        swapped[...] = made.picture
        if made.mask is None:
            return face.with_(swapped=swapped)
        given = face.mask
        side = made.picture.shape[0] if given is None else given.shape[0]
        mask = frame.allocate((side, side), np.float32)
        mask[...] = settled(made.mask, side)
        if self._config.mask == "both" and given is not None:
            np.minimum(mask, given, out=mask)
        return face.with_(swapped=swapped, mask=mask)
