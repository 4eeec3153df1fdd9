"""A clip's payload: the same for the same thing, another for another, and nothing that a reader could wait on."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.errors import InputError
from stages.payload import BITS, drawn, of_file

LOOK = 1 << 16

CONTENTS = st.binary(min_size=1, max_size=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("payload")


def of(place: Path, content: bytes, salt: str = "salt", name: str = "a.mp4") -> int:
    (place / name).write_bytes(content)
    return of_file(str(place / name), salt)


@given(content=CONTENTS, salt=st.text(max_size=80))
def test_the_same_clip_made_into_the_same_has_the_same(place: Path, content: bytes, salt: str) -> None:
    found = of(place, content, salt)
    assert 1 <= found < 1 << BITS
    assert found == of(place, content, salt, "another name.mkv")


@given(contents=st.lists(CONTENTS, min_size=2, max_size=2, unique=True), salt=st.text(max_size=80))
def test_another_clip_has_another(place: Path, contents: list[bytes], salt: str) -> None:
    one, other = contents
    assert of(place, one, salt) != of(place, other, salt)


@given(content=CONTENTS, salts=st.lists(st.text(max_size=80), min_size=2, max_size=2, unique=True))
def test_what_is_made_of_it_otherwise_has_another(place: Path, content: bytes, salts: list[str]) -> None:
    assert of(place, content, salts[0]) != of(place, content, salts[1])


@given(st.integers(1, 4 * LOOK), st.sampled_from(["head", "tail", "longer", "shorter"]), st.integers(0, LOOK - 1))
def test_head_tail_and_size_count(place: Path, nbytes: int, where: str, at: int) -> None:
    assume(at < nbytes)
    content = bytearray(nbytes)
    before = of(place, bytes(content))
    match where:
        case "head":
            content[at] ^= 1
        case "tail":
            content[-1 - at] ^= 1
        case "longer":
            content += b"\0"
        case "shorter":
            del content[-1]
    assert of(place, bytes(content)) != before


def test_a_long_clip_is_not_read_through(place: Path) -> None:
    path = place / "long.mp4"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    before = of_file(str(path), "")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with path.open("r+b") as file:
        file.seek(1 << 39)
        file.write(b"in the middle")
    assert of_file(str(path), "") == before and most < 1 << 20


@pytest.mark.timeout(20)
def test_what_is_no_clip_is_named_and_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name, why in (("pipe", "no regular file"), ("folder", "no regular file"), ("nothing", "no such file")):
        with pytest.raises(InputError, match=rf"{name}\.mp4 cannot be read: .*{why}"):
            of_file(str(tmp_path / f"{name}.mp4"), "")


def test_those_of_streams_go_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({drawn() for _ in range(100)}) == 100
    for least, most in ((lambda n: 0, 1), (lambda n: n - 1, (1 << BITS) - 1)):
        monkeypatch.setattr("stages.payload.secrets.randbelow", least)
        assert drawn() == most
