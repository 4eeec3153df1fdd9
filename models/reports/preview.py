"""The preview sheet: each person's faces, how the model gives them back, and the same as others.

    original        reconstructed   swapped            for each person side by side (or below, where there are many);
    the whole crop, with its mask   the decoder's      a row a face, the same faces throughout a training
    and the frame of what the       picture where it
    network sees                    belongs in it

Beyond the frame the crop is dimmed: the network neither sees nor gives anything there. Where the model learns a mask,
its outline is drawn in each picture that it gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import pictures, tensors
from models.autoencoder import Autoencoder
from models.durable import make_folder, replacing
from models.reports.dated import called, thin_out
from models.train.augment import FaceSource, plain
from pipeline.errors import WeightsError

FILE, OLDER = "preview.png", "previews"

#: Faces of each person; of each of many.
ROWS, ROWS_OF_MANY = 6, 3

#: People beyond these are left out, and swaps of one person beyond those.
PEOPLE, SWAPS = 24, 4

_ACROSS = 12  # columns side by side, at most
_TILES = (192, 320)  # px that a face's side is drawn with, at least and at most
_GAP, _BETWEEN, _TITLE = 4, 16, 28  # px
_PAPER, _INK, _FRAME, _MASK = (24, 24, 24), (235, 235, 235), (255, 196, 0), (64, 224, 112)  # RGB
_DIMMED = 0.4

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    tiles: list[Picture]


def sheet(model: Autoencoder, faces: Mapping[str, FaceSource], size: int, rows: int | None = None) -> Picture:
    """The sheet as (H, W, 3) uint8 RGB.

    The model sees faces as in use (`eval`, without gradients or autocast) and is left in the modes it was in.

    Args:
        faces: by person, those the model knows; `rows` of each are shown, evenly spaced.
        size: px of the square the model sees.
        rows: None for `ROWS`, or `ROWS_OF_MANY` where there are more than three people.
    """
    people = list(faces)[:PEOPLE]
    rows = rows or (ROWS if len(people) <= 3 else ROWS_OF_MANY)
    with _as_in_use(model) as device, torch.autocast(device.type, enabled=False):
        groups = [
            _group(model, person, others, faces[person], _Shown(device, size, rows)) for person, others in _to(people)
        ]
    return _bands(groups)


def write(file: Path, picture: Picture) -> Path:
    """Writes an (H, W, 3) uint8 RGB picture as a PNG, whole or not at all. Raises WeightsError."""
    try:
        with replacing(file) as out:
            out.write(pictures.png(picture))
    except OSError as error:
        raise WeightsError(f"the preview {file} cannot be written: {error}") from error
    return file


def keep(folder: Path, iteration: int, picture: Picture, count: int) -> None:
    """Keeps the sheet of that iteration in `folder`/previews, and at most `count` of all, evenly over the training.

    Those of later iterations go: the model they show is no more. Raises WeightsError.
    """
    if count < 1:
        return
    older = folder / OLDER
    try:
        make_folder(older)
        write(older / called(iteration, ".png"), picture)
        thin_out(older, ".png", iteration, count)
    except OSError as error:
        raise WeightsError(f"the previews {older} cannot be written: {error}") from error


@contextmanager
def _as_in_use(model: nn.Module) -> Iterator[torch.device]:
    """The model in eval mode, each of its parts back in its own afterwards; gives the device it is on."""
    trains = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference_mode: what a module remembers from here must be of use to the training after it.
        with torch.no_grad():
            yield next((weight.device for weight in model.parameters()), torch.device("cpu"))
    finally:
        for module, training in trains:
            module.training = training


@dataclass(frozen=True, slots=True)
class _Shown:
    """Where the model is, px of what it sees, and how many faces of each person are shown."""

    device: torch.device
    size: int
    rows: int


def _to(people: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each person, and as whom they are shown: of many, as the next ones."""
    for place, person in enumerate(people):
        yield person, [*people[place + 1 :], *people[:place]][:SWAPS]


def _group(model: Autoencoder, person: str, others: Sequence[str], faces: FaceSource, shown: _Shown) -> list[_Column]:
    chosen = torch.linspace(0, len(faces) - 1, shown.rows).round().long()
    crops = faces.take(chosen).cpu().numpy()
    code = model.encode(plain(faces, chosen, shown.size).to(shown.device))
    columns: list[_Column] = []
    for to in (person, *others):
        decoded = model.decode(code, to)
        pictures = tensors.to_bytes(decoded.picture.nan_to_num(0.0))
        frame = _Frame.of(pictures.shape[1], faces.reach)
        if not columns:
            originals = [frame.original(crop[..., :3], crop[..., 3]) for crop in crops]
            columns.append(_Column(f"{person}: original", originals))
        title = f"{person}: reconstructed" if to == person else f"{person} as {to}"
        tiles = [
            frame.filled(crop[..., :3], picture, mask)
            for crop, picture, mask in zip(crops, pictures, _masks(decoded.mask, shown.rows), strict=True)
        ]
        columns.append(_Column(title, tiles))
    return columns


def _masks(mask: Tensor | None, count: int) -> Sequence[Picture | None]:
    if mask is None:
        return [None] * count
    return list((mask[:, 0].float().nan_to_num(0.0).clamp(0, 1) * 255).to(torch.uint8).cpu().numpy())


@dataclass(frozen=True, slots=True)
class _Frame:
    """A tile of `tile` px, and the square in its middle, `inner` px wide, that the network sees and gives."""

    tile: int
    inner: int

    @classmethod
    def of(cls, output: int, reach: float) -> _Frame:
        """Such that a picture of `output` px is drawn as it is, if that is not too small or too large."""
        tile = min(max(round(output / reach), _TILES[0]), _TILES[1])
        return cls(tile, min(tile, max(8, 2 * round(tile * reach / 2))))

    @property
    def _inside(self) -> tuple[slice, slice]:
        start = (self.tile - self.inner) // 2
        return slice(start, start + self.inner), slice(start, start + self.inner)

    def original(self, crop: Picture, mask: Picture) -> Picture:
        """The crop, (S, S, 3) uint8 RGB, with the outline of its mask, (S, S) uint8."""
        whole = _scaled(crop, self.tile)
        tile = self._dimmed(whole)
        tile[self._inside] = whole[self._inside]
        _outline(tile, _scaled(mask, self.tile))
        return self._framed(tile)

    def filled(self, crop: Picture, picture: Picture, mask: Picture | None) -> Picture:
        """The crop with a decoded picture, square uint8 RGB, in its frame."""
        tile = self._dimmed(_scaled(crop, self.tile))
        inside = _scaled(picture, self.inner)
        if mask is not None:
            _outline(inside, _scaled(mask, self.inner))
        tile[self._inside] = inside
        return self._framed(tile)

    def _dimmed(self, tile: Picture) -> Picture:
        return (tile * _DIMMED).astype(np.uint8)

    def _framed(self, tile: Picture) -> Picture:
        if self.inner < self.tile - 2:
            start = (self.tile - self.inner) // 2
            cv2.rectangle(tile, (start - 1, start - 1), (start + self.inner, start + self.inner), _FRAME, 1)
        return tile


def _scaled(picture: Picture, side: int) -> Picture:
    smaller = picture.shape[0] > side
    scaled = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return np.ascontiguousarray(scaled, np.uint8)


def _outline(tile: Picture, mask: Picture) -> None:
    """Draws, in place and half transparent, where the mask passes one half."""
    edges, _ = cv2.findContours((mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.drawContours(tile.copy(), edges, -1, _MASK, 1, cv2.LINE_AA)
    cv2.addWeighted(tile, 0.5, drawn, 0.5, 0, dst=tile)


def _bands(groups: Sequence[Sequence[_Column]]) -> Picture:
    """As many groups side by side as there is room for, the next ones below."""
    across = max(1, _ACROSS // len(groups[0]))
    bands = [_band(groups[place : place + across]) for place in range(0, len(groups), across)]
    width = max(band.shape[1] for band in bands)
    return np.concatenate(
        [np.pad(band, ((0, 0), (0, width - band.shape[1]), (0, 0)), constant_values=_PAPER[0]) for band in bands]
    )


def _band(groups: Sequence[Sequence[_Column]]) -> Picture:
    side = max(len(tile) for group in groups for column in group for tile in column.tiles)
    rows = len(groups[0][0].tiles)
    step = side + _GAP
    width = sum(len(group) * step for group in groups) + (len(groups) - 1) * _BETWEEN + _GAP
    page = np.full((_TITLE + rows * step, width, 3), _PAPER, np.uint8)
    x = _GAP
    for group in groups:
        for column in group:
            _title(page, column.title, x, side)
            for row, tile in enumerate(column.tiles):
                y = _TITLE + row * step
                page[y : y + len(tile), x : x + len(tile)] = tile
            x += step
        x += _BETWEEN
    return page


def _title(page: Picture, text: str, x: int, width: int) -> None:
    """Above a column, shortened where it does not fit."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    while len(text) > 4 and cv2.getTextSize(text, font, scale, 1)[0][0] > width:
        text = f"{text.removesuffix('...')[:-1]}..."
    cv2.putText(page, text, (x, _TITLE - 10), font, scale, _INK, 1, cv2.LINE_AA)
