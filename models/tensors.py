"""Between NumPy's pictures and torch's tensors: devices, precisions, and the two conversions."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError, RequirementError

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device for "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: another name.
        RequirementError: a CUDA device this machine has not.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not _DEVICE.fullmatch(name):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, not {name!r}")
    kind, _, number = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise RequirementError(f"device is {name}, but torch finds no CUDA device here; use device auto or cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise RequirementError(f"device is {name}, but there are only {torch.cuda.device_count()} CUDA devices here")
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the weights for "auto", "fp32", "bf16" or "fp16" on that device. Raises ConfigError.

    On a CPU, bf16 is chosen where it has instructions for it; fp16 has none there, and is refused.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if cpu_multiplies_bf16() else torch.float32
    if name not in PRECISIONS:
        raise ConfigError(f"precision must be auto, {', '.join(PRECISIONS)}, not {name!r}")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a CUDA device; on a CPU use auto, fp32 or bf16")
    return PRECISIONS[name]


def precision_name(dtype: torch.dtype) -> str:
    """ "fp32", "bf16" or "fp16"."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU has bf16 matrix instructions (AMX or AVX-512); without them bf16 is slower than fp32."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return bool({"amx_bf16", "avx512_bf16"} & set(text.split()))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def crops_to_tensor(crops: Sequence[NDArray[np.uint8]], pad_to: int = 0) -> Tensor:
    """N crops (S, S, 3) uint8 RGB to (N, 3, S, S) uint8, channels last in memory.

    Zero pictures are appended up to `pad_to`: networks run faster when they see few different batch sizes.
    """
    side = crops[0].shape[0]
    batch = np.zeros((max(len(crops), pad_to), side, side, 3), np.uint8)
    for place, crop in zip(batch, crops, strict=False):
        place[...] = crop
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def to_unit(batch: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 0..255 (N, 3, S, S) to 0..1 of `dtype` on `device`, channels last."""
    moved = batch.to(device, non_blocking=True)
    return (moved.float() / 255).to(dtype, memory_format=torch.channels_last)


def to_bytes(pictures: Tensor) -> NDArray[np.uint8]:
    """(N, 3, S, S) float 0..1 on any device to (N, S, S, 3) uint8 RGB, rounded."""
    levels = (pictures.float() * 255).round_().clamp_(0, 255).to(torch.uint8)
    array: NDArray[Any] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array
