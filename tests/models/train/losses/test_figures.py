"""Each loss against the figures of its paper: a plain NumPy account of it, or a library's."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import kornia.metrics
import numpy as np
import pytest
import pytorch_msssim
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.train.losses import (
    focal_frequency,
    gmsd,
    gradient,
    laplacian,
    linf,
    log_cosh,
    mae,
    ms_ssim,
    mse,
    smooth_l1,
    ssim,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair(size: int = 64, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    target = F.interpolate(torch.rand(2, 3, 8, 8, generator=generator), (size, size), mode="bicubic").clamp(0, 1)
    return (target + noise * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


def arrays(*tensors: Tensor) -> list[NDArray[np.float64]]:
    return [x.numpy().astype(np.float64) for x in tensors]


def test_errors_of_single_places() -> None:
    a, b = pair()
    p, t = arrays(a, b)
    e = np.abs(p - t)
    assert mae.cost(a, b).mean().item() == pytest.approx(e.mean(), rel=1e-5)
    assert mse.cost(a, b).mean().item() == pytest.approx((e**2).mean(), rel=1e-5)
    assert linf.cost(a, b).numpy() == pytest.approx(e.max((2, 3)).mean(1), rel=1e-5)
    bent = np.where(e < 0.05, e**2 / 0.1, e - 0.025)
    assert smooth_l1.cost(a, b).mean().item() == pytest.approx(bent.mean(), rel=1e-5)
    assert log_cosh.cost(a, b).mean().item() == pytest.approx((np.log(np.cosh(20 * e)) / 20).mean(), rel=1e-5)


def test_log_cosh_does_not_overflow() -> None:
    far = log_cosh.cost(torch.full((1, 3, 1, 1), 1e6), torch.zeros(1, 3, 1, 1))
    assert far.item() == pytest.approx(1e6)


def test_gradient_is_of_neighbours() -> None:
    a, b = pair()
    p, t = arrays(a, b)
    across = np.abs(np.diff(p, axis=3) - np.diff(t, axis=3))[:, :, :-1]
    down = np.abs(np.diff(p, axis=2) - np.diff(t, axis=2))[..., :-1]
    assert gradient.cost(a, b)[:, 0].numpy() == pytest.approx((across + down).mean(1) / 2, abs=1e-6)
    rising = torch.arange(16.0).expand(1, 3, 16, 16) / 15
    assert gradient.cost(rising, rising.flip(3)).mean().item() == pytest.approx(1 / 15)  # not 0: an edge has a sign


def test_ssim_is_a_librarys() -> None:
    a, b = pair()
    own = ssim.cost(a, b)[:, 0]
    theirs = kornia.metrics.ssim(a, b, window_size=7, padding="valid").mean(1)  # starts at place 3
    assert own.shape == (2, 32, 32)
    torch.testing.assert_close(own[:, 2:-2, 2:-2], 0.5 - theirs[:, 1:-1:2, 1:-1:2][:, :28, :28] / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_ssim_is_nearly_that_of_the_papers_window(noise: float) -> None:
    a, b = pair(128, noise)
    theirs = pytorch_msssim.ssim(a, b, data_range=1.0)
    assert 1 - 2 * ssim.cost(a, b).mean().item() == pytest.approx(theirs.item(), abs=0.02)


@pytest.mark.parametrize("size", [176, 256])
def test_ms_ssim_is_a_librarys(size: int) -> None:
    a, b = pair(size)
    theirs = pytorch_msssim.ms_ssim(a, b, data_range=1.0, size_average=False)
    torch.testing.assert_close(1 - ms_ssim.cost(a, b), theirs, atol=5e-5, rtol=0)


def test_ms_ssim_of_small_pictures_has_fewer_scales() -> None:
    a, b = pair(64)
    exponents = np.array((0.0448, 0.2856, 0.3001))
    wanted = np.ones((2, 3))
    for scale, exponent in enumerate(exponents / exponents.sum()):
        p, t = F.avg_pool2d(a, 2**scale), F.avg_pool2d(b, 2**scale)
        brightness, structure = ssim.comparison(p, t, 11)
        alike = structure if scale < 2 else brightness * structure
        if scale == 2:
            theirs = pytorch_msssim.ssim(p, t, data_range=1.0, size_average=False)
            assert alike.mean((1, 2, 3)).numpy() == pytest.approx(theirs.numpy(), abs=1e-5)
        wanted *= alike.mean((2, 3)).numpy() ** exponent
    assert ms_ssim.cost(a, b).numpy() == pytest.approx(1 - wanted.mean(1), abs=1e-5)


def test_gmsd_is_the_papers() -> None:
    a, b = pair()
    prewitt = np.array([[1, 0, -1]] * 3) / 3
    wanted = []
    for p, t in zip(*arrays(a, b), strict=True):
        magnitudes = []
        for x in (p, t):
            brightness = 255 * np.tensordot((0.299, 0.587, 0.114), x, 1)
            half = brightness.reshape(32, 2, 32, 2).mean((1, 3))
            across, down = (cv2.filter2D(half, -1, k, borderType=cv2.BORDER_REPLICATE) for k in (prewitt, prewitt.T))
            magnitudes.append(np.hypot(across, down))
        m, n = magnitudes
        wanted.append(((2 * m * n + 170) / (m**2 + n**2 + 170)).std())
    assert gmsd.cost(a, b).numpy() == pytest.approx(wanted, abs=2e-4)


def test_laplacian_bands_are_of_opencvs_pyramid() -> None:
    a, _ = pair()
    plane = np.ascontiguousarray(a[0, 0].numpy())
    assert laplacian.halved(a)[0, 0].numpy() == pytest.approx(cv2.pyrDown(plane), abs=1e-6)
    a, b = pair()
    level, wanted = a - b, 0.0
    while level.shape[-1] > 8:
        smaller = torch.stack(
            [torch.from_numpy(cv2.pyrDown(np.ascontiguousarray(x.permute(1, 2, 0)))).permute(2, 0, 1) for x in level]
        )
        back = F.interpolate(smaller, level.shape[-2:], mode="bilinear")
        wanted += (level - back).abs().mean().item()
        level = smaller
    wanted += level.abs().mean().item()
    assert laplacian.cost(a, b).mean().item() == pytest.approx(wanted, rel=1e-4)
    assert laplacian.cost(a, a + 0.1).mean().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("size", [63, 64])
def test_focal_frequency_is_the_papers(size: int) -> None:
    a, b = pair(size)
    p, t = arrays(a, b)
    error = np.abs(np.fft.fft2(p, norm="ortho") - np.fft.fft2(t, norm="ortho"))
    focus = error / error.max((2, 3), keepdims=True)
    assert focal_frequency.cost(a, b).numpy() == pytest.approx((focus * error**2).mean((1, 2, 3)), rel=1e-4)
