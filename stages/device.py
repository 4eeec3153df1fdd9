"""What goes wrong with a GPU, told apart: too little memory, with which it can go on, and faults, with which it cannot.

After a fault (an illegal access, a lost device, an ECC error) every further call of the same process fails too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import DeviceError

#: What CUDA and its libraries say where torch has no class of its own for it.
_OF_THE_DEVICE = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS_", "CUBLAS_STATUS_")
_OUT_OF_MEMORY = ("out of memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device lacked memory: it can do the same with fewer faces."""
    import torch

    lacks = any(words in str(error) for words in _OUT_OF_MEMORY)
    return isinstance(error, torch.OutOfMemoryError) or (lacks and _is_of_the_device(error))


@contextmanager
def faults_told(device: object) -> Iterator[None]:
    """Raises DeviceError, which says what to do, in place of what torch raises when `device` has failed."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, DeviceError) or not _is_of_the_device(error):
            raise
        raise DeviceError(
            f"the GPU {device} failed ({str(error).partition(chr(10))[0]}) and this process can use it no more; "
            "see what its driver says in the system's log, or set swap.device to cpu"
        ) from error


def _is_of_the_device(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.AcceleratorError) or any(words in str(error) for words in _OF_THE_DEVICE)
