"""models.train.losses against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.train.losses import absolute, dissimilarity, reconstruction


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(seed))


ONES = torch.ones(2, 1, 24, 24)


def test_absolute_counts_only_where_the_weight_is() -> None:
    a, b = pictures(0), pictures(1)
    assert absolute(a, b, ONES).item() == pytest.approx((a - b).abs().mean().item())
    weight = ONES.clone()
    weight[:, :, :12] = 0
    changed = b.clone()
    changed[:, :, :12] = 0
    assert absolute(a, b, weight) == absolute(a, changed, weight)
    assert absolute(a, b, 2 * ONES).item() == pytest.approx(2 * absolute(a, b, ONES).item())


def test_dissimilarity_is_the_one_of_the_paper() -> None:
    a, b = pictures(0), pictures(1)
    place = np.arange(7) - 3
    bell = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    similarities = []
    for x, y in zip(a.numpy().reshape(6, 24, 24), b.numpy().reshape(6, 24, 24), strict=True):
        for top in range(0, 18, 2):
            for left in range(0, 18, 2):
                p, q = (v[top : top + 7, left : left + 7].astype(np.float64) for v in (x, y))
                m, n = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
                cov = (window * (p - m) * (q - n)).sum()
                similarities.append((2 * m * n + 1e-4) * (2 * cov + 9e-4) / ((m * m + n * n + 1e-4) * (vp + vq + 9e-4)))
    assert dissimilarity(a, b, ONES).item() == pytest.approx((1 - np.mean(similarities)) / 2, abs=1e-5)


def test_the_same_picture_costs_nothing_and_gradients_are_finite() -> None:
    a = pictures(0).requires_grad_()
    loss = reconstruction(a, a.detach().clone(), ONES, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
    flat = torch.full((1, 3, 24, 24), 0.5, requires_grad=True)
    reconstruction(flat, torch.zeros(1, 3, 24, 24), ONES[:1], 1).backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_the_mixture() -> None:
    a, b = pictures(0), pictures(1)
    assert reconstruction(a, b, ONES, 0) == absolute(a, b, ONES)
    assert reconstruction(a, b, ONES, 1).item() == pytest.approx(dissimilarity(a, b, ONES).item())
    half = (absolute(a, b, ONES) + dissimilarity(a, b, ONES)) / 2
    assert reconstruction(a, b, ONES, 0.5).item() == pytest.approx(half.item())
