"""Order and counts across groups of workers."""

from __future__ import annotations

import itertools
import os
import struct
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.channel import Inlet, Messages, Outlet, ReceiverGone, SenderGone, add_reports
from pipeline.errors import UnderstudyError
from pipeline.messages import Abort, End, FrameRecord
from pipeline.specs import Failure
from pipeline.types import Report


def record(index: int, clip_id: int = 1) -> FrameRecord:
    return FrameRecord(clip_id, index, index * 2, 0, index, index * 64, 64)


class Mesh:
    """M outlets to N inlets."""

    def __init__(self, senders: int, receivers: int) -> None:
        pipes = [[Pipe(duplex=False) for _ in range(receivers)] for _ in range(senders)]
        self.ends: list[Connection] = [end for row in pipes for pipe in row for end in pipe]
        self.outlets = [Outlet([pipe[1] for pipe in row]) for row in pipes]
        self.inlets = [Inlet([row[n][0] for row in pipes], n, receivers) for n in range(receivers)]

    def close(self) -> None:
        for end in self.ends:
            end.close()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 60), st.booleans())
def test_each_frame_once_and_in_order(senders: int, receivers: int, count: int, abort: bool) -> None:
    mesh = Mesh(senders, receivers)
    for index in range(count):
        mesh.outlets[index % senders].send_frame(record(index))
    for place, outlet in enumerate(mesh.outlets):
        failed = abort and place == senders - 1
        outlet.send(Abort(1, count, Failure("x", 1, "y")) if failed else End(1, count, {"s": {"n": 1}}))
    got = []
    for place, inlet in enumerate(mesh.inlets):
        mine = []
        while isinstance(message := inlet.receive(), FrameRecord):
            mine.append(message.index)
        assert mine == list(range(place, count, receivers))
        assert isinstance(message, Abort if abort else End)
        assert message.reports.get("s", {}).get("n", 0) == senders - abort
        got += mine
    assert sorted(got) == list(range(count))
    mesh.close()


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 900))
def test_messages_come_whole_however_the_bytes_fall_into_reads(sent: list[bytes], step: int) -> None:
    receiving, sending = Pipe(duplex=False)
    messages = Messages(receiving)
    stream = b"".join(struct.pack("!i", len(message)) + message for message in sent)
    got: list[bytes] = []
    for at in range(0, len(stream), step):
        os.write(sending.fileno(), stream[at : at + step])
        got += messages.arrived()
    assert got == sent
    for message in sent:  # what `Connection` writes is the same
        sending.send_bytes(message)
    assert [messages.next() for _ in sent] == sent
    assert not messages.waiting
    sending.close()
    with pytest.raises(EOFError):
        messages.next()
    receiving.close()


def test_what_came_along_with_a_frame_is_ready_without_another_read() -> None:
    mesh = Mesh(1, 1)
    for index in range(3):
        mesh.outlets[0].send_frame(record(index))
    for index in range(3):
        assert mesh.inlets[0].poll(0)
        assert mesh.inlets[0].receive() == record(index)
    assert not mesh.inlets[0].poll(0)
    mesh.close()


def test_a_lost_frame_is_noticed() -> None:
    mesh = Mesh(1, 1)
    mesh.outlets[0].send_frame(record(0))
    mesh.outlets[0].send_frame(record(2))
    mesh.inlets[0].receive()
    with pytest.raises(UnderstudyError, match="expected frame 1, got 2"):
        mesh.inlets[0].receive()
    mesh.close()


def test_a_short_clip_is_noticed() -> None:
    mesh = Mesh(1, 1)
    mesh.outlets[0].send_frame(record(0))
    mesh.outlets[0].send(End(1, 2))
    mesh.inlets[0].receive()
    with pytest.raises(UnderstudyError, match="ended after 2 frames, but frame 1 never came"):
        mesh.inlets[0].receive()
    mesh.close()


def test_death_at_either_end() -> None:
    mesh = Mesh(1, 1)
    mesh.outlets[0].close()
    assert mesh.inlets[0].begin() is None
    with pytest.raises(SenderGone):
        mesh.inlets[0].receive()
    mesh.close()
    mesh = Mesh(1, 1)
    mesh.ends[0].close()
    with pytest.raises(ReceiverGone):
        mesh.outlets[0].send_frame(record(0))
    mesh.close()


def test_reports_add_up() -> None:
    total: dict[str, Report] = {}
    for n, _ in enumerate(itertools.repeat(None, 3)):
        add_reports(total, {"detect": {"faces": n, "device": "cpu"}})
    assert total == {"detect": {"faces": 3, "device": "cpu"}}
