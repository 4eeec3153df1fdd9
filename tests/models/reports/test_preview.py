"""models.reports.preview: every tile is where its title says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.reports.preview import ROWS, TILE, sheet, write
from models.train.data import Faces
from pipeline.errors import WeightsError


class Painter:
    """Paints everybody in the colour of whom it is asked for."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, latent: torch.Tensor, person: str) -> torch.Tensor:
        colour = {"a": (1.0, 0, 0), "b": (0, 0, 1.0)}[person]
        return torch.tensor(colour)[None, :, None, None].expand_as(latent)


def faces(level: int, count: int) -> Faces:
    return Faces(torch.full((count, 48, 48, 4), level, dtype=torch.uint8), 2 / 3)


def tile(page: np.ndarray, row: int, column: int) -> list[int]:
    x = 4 + column * (TILE + 4) + (column // 3) * 16 + TILE // 2
    return page[28 + row * (TILE + 4) + TILE // 2, x].tolist()


def test_the_sheet(tmp_path: Path) -> None:
    painter: Any = Painter()
    page = sheet(painter, {"a": faces(50, 3), "b": faces(200, 100)}, 32)
    assert page.shape == (28 + ROWS * (TILE + 4) + 4, 6 * (TILE + 4) + 16 + 4, 3)
    for row in (0, ROWS - 1):
        assert [tile(page, row, column) for column in range(6)] == [
            [50, 50, 50],
            [255, 0, 0],
            [0, 0, 255],
            [200, 200, 200],
            [0, 0, 255],
            [255, 0, 0],
        ]
    titles = page[:28].max(2) > 150
    assert all(titles[:, 4 + c * 132 + (c // 3) * 16 :][:, :TILE].any() for c in range(6))
    file = write(tmp_path / "preview.png", page)
    np.testing.assert_array_equal(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), page)
    assert [f.name for f in tmp_path.iterdir()] == ["preview.png"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be written"):
        write(tmp_path / "no" / "preview.png", np.zeros((4, 4, 3), np.uint8))
