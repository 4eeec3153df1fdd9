"""models.reports.preview: every tile is what its title says, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder, Decoded
from models.reports.preview import OLDER, PEOPLE, ROWS, ROWS_OF_MANY, keep, sheet, write
from models.train.data import Faces
from pipeline.errors import WeightsError

TILE, TITLE = 192, 28
COLOURS = {"a": (1.0, 0.0, 0.0), "b": (0.0, 0.0, 1.0), "c": (1.0, 1.0, 0.0)}
FRAME, MASK = (255, 196, 0), (64, 224, 112)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Painter(Autoencoder):
    """Paints everybody in the colour of whom it is asked for, twice as large as what it sees."""

    def __init__(self, people: Sequence[str], masks: bool = False) -> None:
        super().__init__(people)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.9)
        self.masks = masks
        self.seen: list[Tensor] = []

    def encode(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and not x.is_inference()
        self.seen.append(x)
        assert torch.equal(self.drop(x), x)
        self.norm(x)
        return x

    def decode(self, code: Tensor, person: str) -> Decoded:
        n, _, height, width = code.shape
        colour = torch.tensor(COLOURS.get(person, (0.0, 1.0, 0.0)))[None, :, None, None]
        picture = colour.expand(n, 3, 2 * height, 2 * width)
        mask = torch.zeros(n, 1, 2 * height, 2 * width)
        mask[:, :, height // 2 : -height // 2, width // 2 : -width // 2] = 1
        return Decoded((picture[..., ::2, ::2], picture), mask if self.masks else None)


def faces(level: int, count: int, reach: float = 1.0) -> Faces:
    """Gray squares that become lighter from face to face; the mask is the middle of each."""
    pictures = torch.zeros(count, 48, 48, 6, dtype=torch.uint8)
    pictures[..., :3] = (level + torch.arange(count)).to(torch.uint8)[:, None, None, None]
    pictures[:, 12:36, 12:36, 3] = 255
    return Faces(pictures, None, reach)


def tile(page: np.ndarray, row: int, column: int, per_group: int = 3) -> np.ndarray:
    x = 4 + column * (TILE + 4) + (column // per_group) * 16
    y = TITLE + row * (TILE + 4)
    return page[y : y + TILE, x : x + TILE]


def middle(page: np.ndarray, row: int, column: int, per_group: int = 3) -> list[int]:
    return tile(page, row, column, per_group)[TILE // 2, TILE // 2].tolist()


def test_two_people_in_six_columns() -> None:
    page = sheet(Painter("ab"), {"a": faces(50, 3), "b": faces(100, 101)}, 32)
    assert page.shape == (TITLE + ROWS * (TILE + 4), 6 * (TILE + 4) + 16 + 4, 3) and page.dtype == np.uint8
    red, blue = [255, 0, 0], [0, 0, 255]
    for row in range(ROWS):
        gray_a = [50 + [0, 0, 1, 1, 2, 2][row]] * 3
        gray_b = [100 + 20 * row] * 3  # evenly spaced, from the first to the last
        assert [middle(page, row, column) for column in range(6)] == [gray_a, red, blue, gray_b, blue, red]
    titles = page[:TITLE].max(2) > 150
    assert all(titles[:, 4 + c * (TILE + 4) + (c // 3) * 16 :][:, :TILE].any() for c in range(6))


def test_the_frame_is_where_the_network_looks() -> None:
    painter = Painter("ab")
    page = sheet(painter, {"a": faces(200, 6, reach=0.5), "b": faces(100, 6, reach=0.5)}, 32)
    original, given = tile(page, 0, 0), tile(page, 0, 1)
    for shown in (original, given):
        assert shown[47, 60].tolist() == list(FRAME) == shown[60, 144].tolist() == shown[144, 47].tolist()
        assert shown[20, 20].tolist() == [80, 80, 80]  # dimmed
    assert original[60, 60].tolist() == [200, 200, 200] and given[60, 60].tolist() == [255, 0, 0]
    assert given[48:144, 48:144].reshape(-1, 3).ptp(0).tolist() == [0, 0, 0]
    assert painter.seen[0].shape == (ROWS, 3, 32, 32)
    whole = tile(sheet(painter, {"a": faces(200, 6), "b": faces(100, 6)}, 32), 0, 0)
    assert not (whole == FRAME).all(2).any() and whole[2, 2].tolist() == [200, 200, 200]


def outline(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the mask's colour is mixed in half: rows and columns."""
    return np.nonzero(shown[..., 1].astype(int) - shown[..., [0, 2]].max(2) > 30)


def test_outlines_of_masks() -> None:
    known = {"a": faces(100, 6), "b": faces(100, 6)}
    without, learned = sheet(Painter("ab"), known, 32), sheet(Painter("ab", masks=True), known, 32)
    for page in (without, learned):
        rows, columns = outline(tile(page, 0, 0))
        assert abs(rows.min() - 48) <= 2 and abs(rows.max() - 143) <= 2 and abs(columns.min() - 48) <= 2
    assert not outline(tile(without, 0, 2))[0].size
    inside = tile(learned, 0, 1)  # red, and half of the outline's green on it
    rows = np.nonzero(inside[..., 1] > 60)[0]
    assert abs(rows.min() - 48) <= 2 and abs(rows.max() - 143) <= 2
    assert inside[TILE // 2, TILE // 2].tolist() == [255, 0, 0]


def test_the_model_is_left_as_it_was() -> None:
    painter = Painter("ab")
    painter.norm.eval()  # as a frozen part is
    painter.drop.train()
    before = {name: value.clone() for name, value in painter.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        sheet(painter, {"a": faces(100, 2), "b": faces(100, 2)}, 16)
        assert torch.is_autocast_enabled("cpu")
    assert painter.training and painter.drop.training and not painter.norm.training and torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in painter.state_dict().items())
    painter.train()

    class Broken(Painter):
        def decode(self, code: Tensor, person: str) -> Decoded:
            raise RuntimeError

    broken = Broken("ab").train()
    with pytest.raises(RuntimeError):
        sheet(broken, {"a": faces(100, 2), "b": faces(100, 2)}, 16)
    assert broken.norm.training


def test_a_model_that_gives_no_numbers() -> None:
    class Lost(Painter):
        def decode(self, code: Tensor, person: str) -> Decoded:
            nothing = torch.full((len(code), 3, 32, 32), torch.nan)
            return Decoded((nothing,), nothing[:, :1])

    assert middle(sheet(Lost("ab"), {"a": faces(9, 2), "b": faces(9, 2)}, 16), 0, 1) == [0, 0, 0]


def test_three_people_each_as_both_others() -> None:
    page = sheet(Painter("abc"), {"a": faces(10, 2), "b": faces(20, 2), "c": faces(30, 2)}, 16)
    red, blue, yellow = [255, 0, 0], [0, 0, 255], [255, 255, 0]
    assert page.shape[0] == TITLE + ROWS * (TILE + 4)
    assert [middle(page, 0, c, 4) for c in range(12)] == [
        *([10] * 3, red, blue, yellow),
        *([20] * 3, blue, yellow, red),
        *([30] * 3, yellow, red, blue),
    ]


def test_a_crowd_is_bounded() -> None:
    names = [f"person_with_a_long_name_{place}" for place in range(40)]
    page = sheet(Painter(names), {name: faces(10, 1) for name in names}, 16)
    bands = PEOPLE // 2
    assert page.shape == (bands * (TITLE + ROWS_OF_MANY * (TILE + 4)), 12 * (TILE + 4) + 16 + 4, 3)


def test_sizes_of_tiles() -> None:
    """A picture is drawn as large as it is, but neither tiny nor huge."""

    def side(size: int, reach: float) -> int:
        people = {"a": faces(10, 1, reach), "b": faces(10, 1, reach)}
        return len(sheet(Painter("ab"), people, size, rows=1)) - TITLE - 4

    assert [side(16, 1), side(100, 1), side(100, 2 / 3), side(256, 1)] == [192, 200, 300, 320]


def test_writing(tmp_path: Path) -> None:
    page = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    file = write(tmp_path / "preview.png", page)
    np.testing.assert_array_equal(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), page)
    assert [f.name for f in tmp_path.iterdir()] == ["preview.png"]
    with pytest.raises(WeightsError, match="cannot be written"):
        write(tmp_path / "no" / "preview.png", page)


DOT = np.zeros((1, 1, 3), np.uint8)


def kept(folder: Path) -> list[int]:
    return sorted(int(file.stem) for file in (folder / OLDER).iterdir())


def test_older_sheets_are_spread_over_the_whole_training(tmp_path: Path) -> None:
    for iteration in range(100, 20_001, 100):
        keep(tmp_path, iteration, DOT, 10)
    left = kept(tmp_path)
    gaps = np.diff(left)
    assert len(left) == 10 and (left[0], left[-1]) == (100, 20_000) and gaps.max() <= 5000


def test_older_sheets_of_what_is_no_more_go(tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 5, 8):
        keep(tmp_path, iteration, DOT, 10)
    (tmp_path / OLDER / "mine.png").write_text("")
    keep(tmp_path, 4, DOT, 10)
    (tmp_path / OLDER / "mine.png").unlink()
    assert kept(tmp_path) == [1, 2, 3, 4]
    keep(tmp_path, 6, DOT, 1)
    assert kept(tmp_path) == [6]
    keep(tmp_path, 7, DOT, 0)
    assert kept(tmp_path) == [6]
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        keep(tmp_path / "file", 1, DOT, 1)
