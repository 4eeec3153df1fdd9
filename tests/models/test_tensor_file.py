"""models.tensor_file: what other programs take for safetensors, streamed and named after its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models import tensor_file
from pipeline.errors import WeightsError

TENSORS = {
    "weights": torch.arange(12.0).reshape(3, 4),
    "permuted": torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor(3.25, dtype=torch.float64),
    "count": torch.tensor(7),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
    "nothing": torch.zeros(0, 3),
    "ünïcode": torch.ones(1, dtype=torch.int32),
}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_what_is_written_is_read_here_and_by_the_library(tmp_path: Path) -> None:
    name, digest = tensor_file.write(tmp_path, "state", TENSORS, {"who": "me", "also": "you"})
    content = (tmp_path / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest and name == f"state.{digest[:12]}.safetensors"
    assert same(safetensors.torch.load(content), TENSORS)
    tensors, facts = tensor_file.read(tmp_path / name, digest)
    assert same(tensors, TENSORS)
    assert facts == {"who": "me", "also": "you"}
    begins_at = 8 + int.from_bytes(content[:8], "little")
    assert begins_at % 8 == 0, "numbers lie at multiples of their size"


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.lists(st.integers(0, 3), max_size=3), max_size=5))
def test_any_names_and_shapes(tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]]) -> None:
    shapes.pop("__metadata__", None)
    folder = tmp_path_factory.mktemp("any")
    tensors = {name: torch.rand(shape) for name, shape in shapes.items()}
    assert same(tensor_file.read(folder / (w := tensor_file.write(folder, "model", tensors, {}))[0], w[1])[0], tensors)


def test_what_is_there_is_not_written_again_unless_it_is_damaged(tmp_path: Path) -> None:
    name, digest = tensor_file.write(tmp_path, "model", TENSORS, {})
    inode = (tmp_path / name).stat().st_ino
    assert tensor_file.write(tmp_path, "model", dict(reversed(TENSORS.items())), {}) == (name, digest)
    assert (tmp_path / name).stat().st_ino == inode
    (tmp_path / name).write_bytes(b"junk")
    tensor_file.write(tmp_path, "model", TENSORS, {})
    assert same(tensor_file.read(tmp_path / name, digest)[0], TENSORS)


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    name, digest = tensor_file.write(tmp_path, "model", {"x": torch.ones(1000)}, {})
    tensors, _ = tensor_file.read(tmp_path / name, digest)
    with (tmp_path / name).open("r+b") as file:
        file.write(b"\xff" * 4000)
    assert (tensors["x"] == 1).all()


HEADER = b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk" * 100,
        (2**63).to_bytes(8, "little") + b"{}",
        (2**40).to_bytes(8, "little") + HEADER,
        (2).to_bytes(8, "little") + b"[]",
        len(HEADER).to_bytes(8, "little") + HEADER + bytes(15),
        len(HEADER).to_bytes(8, "little") + HEADER + bytes(400),
        len(HEADER).to_bytes(8, "little") + HEADER.replace(b"[4]", b"[9999999999999]") + bytes(16),
        len(HEADER).to_bytes(8, "little") + HEADER.replace(b"F32", b"X32") + bytes(16),
        len(HEADER).to_bytes(8, "little") + HEADER.replace(b"[0,1", b"[9,1") + bytes(16),
        b"\x80\x04\x95" + bytes(100),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.000000000000.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.000000000000\.safetensors is no safetensors file"):
        tensor_file.read(file, hashlib.sha256(content).hexdigest())
