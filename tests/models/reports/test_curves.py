"""models.reports.curves: the picture shows what was written, and stands whatever was written."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.reports import curves
from models.reports.curves import FILE, HEIGHT, WIDTH, draw, write
from models.reports.history import Event, History, Judgement, read
from models.reports.samples import Sample
from pipeline.errors import WeightsError
from tests.models.reports.journals import night


@pytest.fixture(autouse=True, scope="module")
def fonts_are_open() -> None:
    """Matplotlib opens its fonts once and keeps them."""
    draw(History(points=(loss(1, a=0.5),)))


BLUE, ORANGE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def picture(history: History) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    found = cv2.imdecode(np.frombuffer(draw(history), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None and found.shape == (HEIGHT, WIDTH, 3)
    return found[..., ::-1]


def heights(page: np.ndarray, colour: tuple[int, int, int], columns: slice) -> np.ndarray:
    """Rows, from the top, in which a bold line of that colour is seen in these columns of the loss panel."""
    return np.nonzero((np.abs(page[:450, columns].astype(int) - colour).max(2) < 8).any(1))[0]


def loss(iteration: int, **people: float) -> Sample:
    return Sample(iteration, 1, 0, people, people, people, {}, 1e-4, 10.0, None)


def test_losses_fall_and_are_told_apart(tmp_path: Path) -> None:
    page = picture(read(night(tmp_path)))
    for colour in (BLUE, ORANGE):
        assert heights(page, colour, slice(70, 100)).mean() + 100 < heights(page, colour, slice(650, 680)).mean()
    # The loss of b is a tenth above that of a.
    assert heights(page, ORANGE, slice(500, 560)).max() < heights(page, BLUE, slice(500, 560)).min()


def test_metrics_have_room_of_their_own_only_where_there_are_any(tmp_path: Path) -> None:
    history = read(night(tmp_path))
    judged, alone = picture(history), picture(replace(history, judgements=()))
    assert heights(alone, BLUE, slice(1000, 1190)).size  # the losses reach over there
    assert not np.array_equal(judged, alone)


def test_a_spike_does_not_flatten_the_rest() -> None:
    quiet = [loss(i, a=0.1 * math.exp(-i / 500)) for i in range(1, 1001)]
    calm = fall(picture(History(points=tuple(quiet))))
    quiet[950] = loss(951, a=1e6)
    assert fall(picture(History(points=tuple(quiet)))) > 0.8 * calm > 150


def fall(page: np.ndarray) -> float:
    """How far the loss falls from left to right, in px."""
    early, late = (np.median(heights(page, BLUE, columns)) for columns in (slice(120, 160), slice(850, 890)))
    return float(late - early)


NAMES = r"$\frac{$", "_hidden", "ü", "a" * 160


@pytest.mark.parametrize(
    "history",
    [
        History(),
        History(points=(loss(0, a=0.5),)),
        History(points=(loss(5, a=0.0), loss(6, a=-1.0))),
        History(points=(loss(5),)),
        History(points=(loss(1, a=1e-12), loss(2**62, a=1e14))),
        History(points=tuple(loss(i, **{f"p{k}": 0.1 * k for k in range(60)}) for i in range(3))),
        History(points=(loss(1, **dict.fromkeys(NAMES, 0.5)), loss(2, **dict.fromkeys(NAMES, 0.4)))),
        History(judgements=(Judgement(7, {"ssim": 0.5, "ssim/a": 0.4, "strange/a": 3.0}),)),
        History(judgements=tuple(Judgement(i, {f"ssim/p{k}": 0.5 for k in range(60)}) for i in (3, 4))),
        History(points=(loss(1, a=1.0),), events=tuple(Event(1, None, f"$x_{i} ü", "") for i in range(99))),
    ],
)
@pytest.mark.filterwarnings("error")
def test_whatever_there_is_is_drawn(history: History) -> None:
    assert picture(history).min() < 200


def test_writing(tmp_path: Path) -> None:
    assert write(tmp_path, b"new") == tmp_path / FILE and (tmp_path / FILE).read_bytes() == b"new"
    with pytest.raises(WeightsError, match=r"no/curves.png cannot be written"):
        write(tmp_path / "no", b"")


def test_needs_no_torch_and_no_window() -> None:
    code = """
import sys
from models.reports import curves, history
assert not {"matplotlib", "torch"} & set(sys.modules)
curves.draw(history.History())
assert not {"matplotlib.pyplot", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(curves.__file__).parents[2], check=True)
