"""models.tensors: pictures there and back, devices and precisions by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import tensors
from pipeline.errors import ConfigError, RequirementError

CPU = torch.device("cpu")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 9), st.integers(0, 2**31))
def test_there_and_back(count: int, side: int, pad_to: int, seed: int) -> None:
    crops = list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8))
    batch = tensors.crops_to_tensor(crops, pad_to)
    assert batch.shape == (max(count, pad_to), 3, side, side)
    back = tensors.to_bytes(tensors.to_unit(batch, CPU, torch.float32))
    np.testing.assert_array_equal(back[:count], crops)
    assert not back[count:].any()


def test_channels_stay_in_order_and_range() -> None:
    crop = np.zeros((4, 4, 3), np.uint8)
    crop[..., 0] = 255
    unit = tensors.to_unit(tensors.crops_to_tensor([crop]), CPU, torch.bfloat16)
    assert unit.dtype == torch.bfloat16
    assert unit[0, :, 0, 0].tolist() == [1, 0, 0]
    assert unit.is_contiguous(memory_format=torch.channels_last)


def test_levels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-0.5, 0.4 / 255, 0.6 / 255, 254.6 / 255, 2.0]).repeat(3, 1).reshape(1, 3, 1, 5)
    assert tensors.to_bytes(values)[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]


def test_bf16_goes_by_the_cpus_flags(tmp_path: Path) -> None:
    for flags, has in (("fpu amx_bf16 sse", True), ("fpu avx512_bf16", True), ("fpu avx512f amx_bf16x", False)):
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
        assert tensors.cpu_multiplies_bf16(tmp_path / "cpuinfo") is has
    assert not tensors.cpu_multiplies_bf16(tmp_path / "nowhere")


def test_precisions() -> None:
    assert tensors.choose_precision("fp32", CPU) == torch.float32
    assert tensors.choose_precision("auto", CPU) in (torch.float32, torch.bfloat16)
    assert tensors.choose_precision("fp16", torch.device("cuda")) == torch.float16
    assert tensors.precision_name(torch.bfloat16) == "bf16"
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        tensors.choose_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="not 'half'"):
        tensors.choose_precision("half", CPU)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "CPU"])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device must be"):
        tensors.choose_device(name)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensors.choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert tensors.choose_device("auto") == torch.device("cuda")
    assert tensors.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(RequirementError, match="only 2 CUDA devices"):
        tensors.choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert tensors.choose_device("auto") == CPU
    with pytest.raises(RequirementError, match="no CUDA device"):
        tensors.choose_device("cuda:0")
