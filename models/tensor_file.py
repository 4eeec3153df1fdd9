"""Tensors in files named after their content, in the format of safetensors: numbers and names, nothing that can run.

The library writes a file from a copy of all tensors in memory; here each goes from where it lies to the disk by itself,
so that keeping a model takes the memory of its largest tensor. Reading is the library's, with all its checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from models import durable
from pipeline.errors import WeightsError

_KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write(folder: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> tuple[str, str]:
    """Puts `<kind>.<digest>.safetensors` into the folder; gives its name and its SHA-256. OSError where it can't.

    Content that is there already is not written again.
    """
    digest = hashlib.sha256()
    for piece in _pieces(tensors, facts):
        digest.update(piece)
    whole = digest.hexdigest()
    file = folder / f"{kind}.{whole[:12]}.safetensors"
    if not _holds(file, whole):
        with durable.replacing(file) as out:
            for piece in _pieces(tensors, facts):
                out.write(piece)
    return file.name, whole


def read(file: Path, digest: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the facts in a file with that SHA-256. Raises WeightsError."""
    try:
        if durable.sha256(file) != digest:
            raise WeightsError(f"{file} is damaged: its SHA-256 is not the one in the model's description")
        with safetensors.safe_open(file, "pt") as content:
            # Copies: what the library gives lies in the file still, and would change with it.
            names = content.keys()
            return {name: content.get_tensor(name).clone() for name in names}, content.metadata() or {}
    except FileNotFoundError as error:
        raise WeightsError(f"{file} is missing; copy the whole model folder") from error
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{file} is no safetensors file: {error}") from error
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error}") from error


def _pieces(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The file: the header's length as 8 bytes, the header, then each tensor. The largest numbers come first, so that
    all lie at a multiple of their size."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(facts.items()))} if facts else {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        plain = tensors[name].detach().cpu().contiguous().reshape(-1)
        yield plain.view(torch.uint8).numpy().data


def _holds(file: Path, digest: str) -> bool:
    try:
        return durable.sha256(file) == digest
    except OSError:
        return False
