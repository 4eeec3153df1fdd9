"""Dfaker: parameter totals to the last digit, twice the side, and what its weights start from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from models.autoencoders import dfaker
from models.blocks import Layers, Residual
from pipeline.errors import ConfigError

PARTS = ("encoder", "decoders.a.face", "decoders.b.face", "decoders.a.mask", "decoders.b.mask")


def test_totals_at_128_px(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("dfaker", dfaker.Config(), *PARTS)
    assert list(found.values()) == [69_662_976, 21_833_923, 21_833_923, 15_635_777, 15_635_777, 113_330_822]


def test_totals_at_256_px(totals: Callable[..., dict[str, int]]) -> None:
    found = totals("dfaker", dfaker.PRESETS["256px"], *PARTS)
    assert list(found.values()) == [119_994_624, 69_025_987, 69_025_987, 43_951_425, 43_951_425, 258_046_598]


@pytest.mark.parametrize(("size", "widths"), [(128, (512, 512, 256, 128, 64)), (256, (512, 1024, 512, 256, 128, 64))])
def test_it_sees_half_of_what_it_gives(size: int, widths: tuple[int, ...]) -> None:
    config = dfaker.Config(size)
    assert (config.input_size, config.output_size) == (size // 2, size)
    assert config.widths == widths


def test_only_the_residual_blocks_start_narrow() -> None:
    torch.manual_seed(0)
    model = dfaker.build(dfaker.Config(128, 8, 32, 32, 64, 8), ("a", "b"), Layers())
    face = model.decoders["b"].face
    residuals = [part for part in face.modules() if isinstance(part, Residual)]
    assert len(residuals) == 3
    assert all(residual.first.weight.std().item() == pytest.approx(0.02, rel=0.1) for residual in residuals)
    fan_in = face[0][0].convolution.weight[0].numel()
    assert face[0][0].convolution.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


@pytest.mark.parametrize("size", [64, 192, 512, 128.0, True, "128"])
def test_other_sizes_are_refused(size: object) -> None:
    with pytest.raises(ConfigError, match=r"^dfaker\.size must be one of 128, 256, not "):
        dfaker.Config(size)  # type: ignore[arg-type]
