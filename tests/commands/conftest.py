"""A model that has learnt nothing, and a short clip of a face."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.errors import RequirementError
from stages.puppets.portrait import astronaut_file
from tests.consent import consented
from tests.program import Program, in_this_process


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program, in an empty folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return in_this_process(capfd)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model there is, untrained."""
    import torch

    from models import autoencoders, checkpoint

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "sketch"
    network, description = checkpoint.new("original", autoencoders.preset("original", "sketch"), seed=1)
    checkpoint.save(folder, network, description)
    return consented(folder)


@pytest.fixture(scope="session")
def face_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of an astronaut who drifts to the right, 256x256 at 25 a second."""
    try:
        picture = np.asarray(cv2.imread(str(astronaut_file()))[..., ::-1])
    except RequirementError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("clips") / "face.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        for index in range(8):
            shown = np.ascontiguousarray(picture[:256, 112 - 2 * index : 368 - 2 * index])
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
