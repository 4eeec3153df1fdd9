"""Finding faces and their landmarks in an upright RGB picture: the one module that knows MediaPipe.

Another detector takes its place by being a `FaceFinder`. Models come from the mediapipe wheel; nothing is fetched.
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.errors import RequirementError
from pipeline.types import Array

#: Landmarks of a face mesh with irises.
LANDMARKS = 478
#: The outer corners of the right and the left eye: the line through them is a face's horizontal.
RIGHT_EYE, LEFT_EYE = 33, 263


@dataclass(frozen=True, slots=True)
class Detection:
    """Where a face seems to be.

    Attributes:
        box: x0, y0, x1, y1 in px of the picture searched; from brow to chin, may leave the picture.
        score: the detector's confidence, 0..1.
        roll: how far the head is turned in the picture's plane, in radians, clockwise as seen.
    """

    box: tuple[float, float, float, float]
    score: float
    roll: float


@dataclass(frozen=True, slots=True)
class Mesh:
    """A face's landmarks: (478, 2) float32 px of the crop they were found in, and how sure that it is a face, 0..1."""

    landmarks: Array
    score: float


class FaceFinder(Protocol):
    """Finds faces, then the landmarks of each. Each call stands for itself: no state goes from frame to frame."""

    @property
    def crop_size(self) -> int:
        """Side in px of the square crops that `landmarks` sees sharpest."""
        ...

    def find(self, rgb: Array, min_score: float) -> list[Detection]:
        """Faces in an upright (h, w, 3) uint8 RGB picture with at least `min_score`, the surest first."""
        ...

    def landmarks(self, crop: Array) -> Mesh:
        """The mesh of the face that fills about two thirds of an upright square (S, S, 3) uint8 RGB crop."""
        ...

    def close(self) -> None:
        """Gives back what the finder holds; it cannot be used afterwards."""
        ...


_FULL_RANGE, _SHORT_RANGE = "FullRange", "ShortRange"
#: The short-range model sees the close-ups that the full-range one, trained on smaller faces, overlooks; it also sees
#: faces in prints and fists, so it is asked only where the other found none, and believed only above this score.
_CLOSE_UP_SCORE = 0.65
#: Where the mesh has its origin, in px of its 192 px input from the first px's centre to the left: found by mirroring
#: faces, whose landmarks must be mirrored with them (edges as the origin would be 0.5, centres 0).
_ORIGIN = 0.175
#: Run in the caller's thread: graphs own no threads, so nothing outlives `close`, and one stage takes one core.
_EXECUTOR = 'executor { type: "ApplicationThreadExecutor" }'
_PRESENCE = "facelandmarkcpu__face_presence_score"
_MESH_GRAPH = (
    'input_stream: "image" input_stream: "roi" input_side_packet: "with_attention" output_stream: "landmarks" '
    + _EXECUTOR
    + ' node { calculator: "FaceLandmarkCpu" input_stream: "IMAGE:image" input_stream: "ROI:roi"'
    ' input_side_packet: "WITH_ATTENTION:with_attention" output_stream: "LANDMARKS:landmarks" }'
)


class MediaPipeFinder:
    """`FaceFinder` on MediaPipe 0.10.21's own graphs: BlazeFace detectors and the attention face mesh with irises.

    The graphs are driven directly, not through `mediapipe.solutions`: the mesh is given the crop as its region of
    interest, instead of searching it a second time, and tells how sure it is.

    Raises:
        RequirementError: mediapipe cannot be loaded.
    """

    crop_size: int = 192

    def __init__(self) -> None:
        with chatter_hidden():
            self._binding = _Binding()
            self._detectors = {kind: self._detector(kind) for kind in (_FULL_RANGE, _SHORT_RANGE)}
            self._mesh = self._binding.graph(
                _MESH_GRAPH,
                outputs=("landmarks", _PRESENCE),
                side={"with_attention": True},
                option=("facelandmarkcpu__ThresholdingCalculator", "threshold", -1.0),
            )
            blank = np.zeros((self.crop_size, self.crop_size, 3), np.uint8)
            self.find(blank, 0.5)  # the first run allocates, and says so on stderr
            self.landmarks(blank)

    def _detector(self, kind: str) -> _Graph:
        name = f"facedetection{kind.lower()}"
        text = (
            f'input_stream: "image" output_stream: "detections" {_EXECUTOR} '
            f'node {{ calculator: "FaceDetection{kind}Cpu" input_stream: "IMAGE:image"'
            ' output_stream: "DETECTIONS:detections" }'
        )
        calculator = f"{name}cpu__{name}__facedetection__TensorsToDetectionsCalculator"
        return self._binding.graph(text, outputs=("detections",), option=(calculator, "min_score_thresh", 0.25))

    def find(self, rgb: Array, min_score: float) -> list[Detection]:
        """As `FaceFinder.find`; scores below 0.25 are never reported."""
        found = [d for d in self._detected(_FULL_RANGE, rgb) if d.score >= min_score]
        if not found:
            found = [d for d in self._detected(_SHORT_RANGE, rgb) if d.score >= max(min_score, _CLOSE_UP_SCORE)]
        return sorted(found, key=lambda detection: -detection.score)

    def _detected(self, kind: str, rgb: Array) -> list[Detection]:
        height, width = rgb.shape[:2]
        packet = self._detectors[kind].run(image=self._binding.image(rgb)).get("detections")
        if packet is None or packet.is_empty():
            return []
        found = []
        for proto in self._binding.getter.get_proto_list(packet):
            box = proto.location_data.relative_bounding_box
            right, left = proto.location_data.relative_keypoints[:2]
            edges = (box.xmin * width, box.ymin * height, box.width * width, box.height * height)
            x, y, w, h = edges
            roll = math.atan2((left.y - right.y) * height, (left.x - right.x) * width)
            found.append(Detection((x - 0.5, y - 0.5, x + w - 0.5, y + h - 0.5), float(proto.score[0]), roll))
        return found

    def landmarks(self, crop: Array) -> Mesh:
        """As `FaceFinder.landmarks`."""
        side = crop.shape[0]
        out = self._mesh.run(image=self._binding.image(crop), roi=self._binding.whole)
        points = self._binding.getter.get_proto(out["landmarks"]).landmark
        landmarks = np.array([(p.x, p.y) for p in points], np.float32) * side - np.float32(_ORIGIN * side / 192)
        return Mesh(landmarks, float(self._binding.getter.get_float(out[_PRESENCE])))

    def close(self) -> None:
        """As `FaceFinder.close`."""
        for graph in (*self._detectors.values(), self._mesh):
            graph.close()


class _Graph:
    """A running calculator graph; each `run` is one time step."""

    def __init__(self, graph: Any, outputs: tuple[str, ...], side: dict[str, Any]) -> None:
        self._graph = graph
        self._out: dict[str, Any] = {}
        self._step = 0
        for name in outputs:
            graph.observe_output_stream(name, self._out.__setitem__, True)
        graph.start_run(side)

    def run(self, **inputs: Any) -> dict[str, Any]:
        """Output packets by stream name; valid until the next run."""
        self._out.clear()
        self._step += 1
        for name, packet in inputs.items():
            self._graph.add_packet_to_input_stream(stream=name, packet=packet.at(self._step))
        self._graph.wait_until_idle()
        return self._out

    def close(self) -> None:
        self._graph.close()


class _Binding:
    """The parts of mediapipe that are used here, imported when a finder is made."""

    def __init__(self) -> None:
        # Absl and TFLite read these when they load; what they say all the same, chatter_hidden catches.
        os.environ.setdefault("GLOG_minloglevel", "2")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        try:
            import mediapipe
            from mediapipe.calculators.tensor import tensors_to_detections_calculator_pb2 as detections_pb2
            from mediapipe.calculators.util import thresholding_calculator_pb2 as thresholding_pb2
            from mediapipe.framework import calculator_pb2
            from mediapipe.framework.formats import rect_pb2
            from mediapipe.python import packet_creator, packet_getter
            from mediapipe.python._framework_bindings import calculator_graph, image_frame, resource_util
            from mediapipe.python._framework_bindings import validated_graph_config as validated
        except ImportError as error:
            raise RequirementError(
                f"mediapipe 0.10.21 could not be loaded ({error}); run `understudy doctor` to see what is missing"
            ) from error
        resource_util.set_resource_dir(str(Path(mediapipe.__file__).parent.parent))
        self.getter = packet_getter
        self._creator = packet_creator
        self._srgb = image_frame.ImageFormat.SRGB
        self._make, self._validated, self._config = calculator_graph.CalculatorGraph, validated, calculator_pb2
        self._options = {
            "min_score_thresh": detections_pb2.TensorsToDetectionsCalculatorOptions,
            "threshold": thresholding_pb2.ThresholdingCalculatorOptions,
        }
        self.whole = packet_creator.create_proto(rect_pb2.NormalizedRect(x_center=0.5, y_center=0.5, width=1, height=1))

    def image(self, rgb: Array) -> Any:
        """A packet with a copy of an (h, w, 3) uint8 RGB picture."""
        return self._creator.create_image_frame(image_format=self._srgb, data=np.ascontiguousarray(rgb))

    def graph(
        self, text: str, outputs: tuple[str, ...], option: tuple[str, str, float], side: dict[str, bool] | None = None
    ) -> _Graph:
        """Makes and starts the graph that `text` declares, with one option (node, field, value) set in it."""
        checked = self._validated.ValidatedGraphConfig()
        checked.initialize(graph_config=text)
        config = self._config.CalculatorGraphConfig()
        config.ParseFromString(checked.binary_config)
        self._set_option(config, *option)
        packets = {name: self._creator.create_bool(value) for name, value in (side or {}).items()}
        return _Graph(self._make(graph_config=config), outputs, packets)

    def _set_option(self, config: Any, name: str, field: str, value: float) -> None:
        """Sets an option of the node called `name`, in whichever of the two ways the graph carries it."""
        kind = self._options[field]
        node = next(node for node in config.node if node.name == name)
        for packed in node.node_options:
            options = kind()
            if packed.Unpack(options):
                setattr(options, field, value)
                packed.Pack(options)
                return
        setattr(node.options.Extensions[kind.ext], field, value)


#: Lines that MediaPipe, absl and TFLite write to stderr when all is well.
_CHATTER = re.compile(
    r"^(INFO: Created TensorFlow Lite|WARNING: All log messages before absl|[IW]\d{4} \d\d:|[IW]0000 )"
)


@contextmanager
def chatter_hidden() -> Iterator[None]:
    """Holds back what C++ writes to file descriptor 2 meanwhile; passes every line on that is not known chatter."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(kept, 2)
                caught.seek(0)
                lines = caught.read().decode(errors="replace").splitlines(keepends=True)
                os.write(2, "".join(line for line in lines if not _CHATTER.match(line)).encode())
    finally:
        os.close(kept)
