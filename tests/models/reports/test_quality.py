"""models.reports.quality: numbers of pictures of which they are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.reports import quality
from tests.models.reports.drawn import people


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """(6, 3, 96, 96), as the module's functions take them."""
    return torch.from_numpy(people("a", 0, 6)).permute(0, 3, 1, 2).float() / 255


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    rows = [cv2.GaussianBlur(picture.permute(1, 2, 0).numpy(), (0, 0), sigma) for picture in pictures]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def test_the_same_pictures(pictures: Tensor) -> None:
    assert quality.ssim(pictures, pictures).tolist() == pytest.approx([1] * 6)
    assert quality.psnr(pictures, pictures).tolist() == [quality.PSNR_LIMIT] * 6


def test_psnr_is_the_formula(pictures: Tensor) -> None:
    flat = torch.full((2, 3, 16, 16), 0.5)
    off = flat + torch.tensor([0.1, 0.01])[:, None, None, None]
    assert quality.psnr(off, flat).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_similarity_is_of_each_picture_and_falls(pictures: Tensor) -> None:
    changed = torch.cat((pictures[:3], blurred(pictures[3:], 2)))
    similar = quality.ssim(changed, pictures)
    assert similar[:3].tolist() == pytest.approx([1] * 3)
    assert (similar[3:] < 0.9).all()


def test_sharpness_falls_with_blur_and_rises_with_noise(pictures: Tensor) -> None:
    sharp = quality.sharpness(pictures)
    noisy = (pictures + 0.1 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert (quality.sharpness(blurred(pictures, 1)) < 0.6 * sharp).all()
    assert (quality.sharpness(blurred(pictures, 2)) < 0.3 * sharp).all()
    assert (quality.sharpness(noisy) > 1.5 * sharp).all()


def test_sharpness_is_no_matter_of_light(pictures: Tensor) -> None:
    dim = 0.5 * pictures + 0.1
    torch.testing.assert_close(quality.sharpness(dim), quality.sharpness(pictures), rtol=1e-4, atol=0)


def test_sharpness_of_a_known_picture() -> None:
    # Stripes of a px: the luma is +-0.5 about its mean, and the Laplacian +-2.
    stripes = (torch.arange(40) % 2).float().expand(1, 3, 40, 40)
    assert quality.sharpness(stripes).item() == pytest.approx(4, rel=1e-3)


def test_sharpness_looks_at_the_inside_and_bears_nothing_at_all(pictures: Tensor) -> None:
    framed = pictures.clone()
    framed[:, :, :9] = framed[:, :, -9:] = framed[:, :, :, :9] = framed[:, :, :, -9:] = 1
    torch.testing.assert_close(quality.sharpness(framed), quality.sharpness(pictures))
    assert quality.sharpness(torch.full((1, 3, 32, 32), 0.3)).item() == pytest.approx(0, abs=1e-4)
