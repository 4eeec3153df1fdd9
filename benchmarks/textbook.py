"""The plainest training loop, as tutorials have it: what a whole step of ours is held against (T1).

For one person after the other: as many pictures as a batch has are read with `cv2.imread`, one by one, made as small as
the network wants them and mirrored half of the time; they go through the network in float32; the mean absolute error
goes back, and an Adam of that person's own moves the encoder and the person's decoder. Nothing here is slow on purpose,
and it leaves out much that ours does: masks, a second loss, rotation, zoom, tint and the random warp of the input.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from models.autoencoder import SharedEncoder

_RATE = 5e-5


class Loop:
    """Learns a network of a shared encoder and a decoder for each person, from the pictures' files."""

    def __init__(
        self, model: SharedEncoder, files: Mapping[str, Sequence[Path]], size: int, batch: int, device: torch.device
    ) -> None:
        """`size` is px of the network's square, `batch` the faces of each person in a step."""
        self._model = model.to(device).train()
        self._files = files
        self._size = size
        self._batch = batch
        self._device = device
        self._chance = random.Random(0)
        self._optimisers = {
            person: torch.optim.Adam(
                [*model.encoder.parameters(), *model.decoders[person].parameters()], _RATE, fused=False
            )
            for person in files
        }

    def step(self) -> None:
        """One person's step, then the next one's."""
        for person, optimiser in self._optimisers.items():
            pictures = self._pictures(self._files[person])
            optimiser.zero_grad()
            l1_loss(self._model.swap(pictures, person).picture, pictures).backward()
            optimiser.step()

    def _pictures(self, files: Sequence[Path]) -> Tensor:
        """(batch, 3, size, size) float32 RGB 0..1."""
        read = []
        for _ in range(self._batch):
            picture = cv2.imread(str(self._chance.choice(files)))
            picture = cv2.cvtColor(cv2.resize(picture, (self._size, self._size)), cv2.COLOR_BGR2RGB)
            if self._chance.random() < 0.5:
                picture = cv2.flip(picture, 1)
            read.append(picture)
        return torch.from_numpy(np.stack(read)).to(self._device).permute(0, 3, 1, 2).contiguous().float() / 255
