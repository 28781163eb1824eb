"""Frames: what goes in comes out, in whatever pieces, and what is no frame is named."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.isolation.frames import MAX_FRAME, FrameError, Frames, encode


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    pair = socket.socketpair()
    yield pair
    for end in pair:
        end.close()


def soon() -> float:
    return time.monotonic() + 60


@given(
    values=st.lists(
        st.text(st.characters(exclude_categories=())) | st.integers() | st.lists(st.booleans()), min_size=1
    ),
    cuts=st.lists(st.integers(1, 50)),
)
def test_frames_come_whole_from_any_pieces(values: list[object], cuts: list[int]) -> None:
    stream = b"".join(encode(value) for value in values)
    writer, reader = socket.socketpair()
    with writer, reader:
        frames = Frames(reader)
        for cut in cuts:
            writer.sendall(stream[:cut])
            stream = stream[cut:]
        writer.sendall(stream)
        assert [frames.receive(soon()) for _ in values] == values
        assert frames.silent()


def test_a_frame_larger_than_the_sockets_buffer_is_written_as_the_reader_reads(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    value = "x" * 5_000_000
    writing = threading.Thread(target=Frames(ends[0]).write, args=(encode(value), soon()))
    writing.start()
    assert Frames(ends[1]).receive(soon()) == value
    writing.join()


def test_a_reader_that_does_not_read_is_no_reason_to_wait_for_ever(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TimeoutError):
        Frames(ends[0]).write(encode("x" * 5_000_000), time.monotonic() + 0.05)


def test_a_frame_that_does_not_come_and_one_that_does_not_end(ends: tuple[socket.socket, socket.socket]) -> None:
    frames = Frames(ends[1])
    assert frames.silent()
    with pytest.raises(TimeoutError):
        frames.receive(time.monotonic() + 0.05)
    ends[0].sendall(encode([1, 2])[:-1])
    assert not frames.silent()
    with pytest.raises(TimeoutError):
        frames.receive(time.monotonic() + 0.05)


def test_the_other_side_may_leave_between_frames_and_within_one() -> None:
    for sent in (b"", encode([1, 2])[:3], encode([1, 2])[:-1]):
        writer, reader = socket.socketpair()
        with reader:
            writer.sendall(sent)
            writer.close()
            frames = Frames(reader)
            with pytest.raises(EOFError):
                frames.receive(soon())
            assert not frames.silent()


@pytest.mark.parametrize(
    "raw", [b"\xff\xff\xff\xff", b"\0\0\0\2[1", b"\0\0\0\1\xff", b"\0\0\0\0", b"\0\x0f\0\0" + b"[" * 0xF0000]
)
def test_what_is_no_frame(ends: tuple[socket.socket, socket.socket], raw: bytes) -> None:
    frames = Frames(ends[1])
    writing = threading.Thread(target=ends[0].sendall, args=(raw,))
    writing.start()
    with pytest.raises(FrameError):
        frames.receive(soon())
    writing.join()


@pytest.mark.parametrize("value", [object(), b"x", {1}, {(1, 2): 3}])
def test_what_is_no_json(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_the_limit_is_one_of_bytes() -> None:
    assert len(encode("x" * 8, limit=10)) == 4 + 10
    with pytest.raises(ValueError, match=r"11 bytes; 10 are allowed"):
        encode("x" * 9, limit=10)
    assert MAX_FRAME < 2**32


@pytest.mark.parametrize("takes", [True, False])
def test_descriptors_are_taken_only_where_they_are_expected(
    ends: tuple[socket.socket, socket.socket], takes: bool
) -> None:
    reader, writer = os.pipe()
    frames = Frames(ends[1], takes_descriptors=takes)
    before = len(os.listdir("/dev/fd"))
    Frames(ends[0]).write(encode("here"), soon(), [writer])
    os.close(writer)
    assert frames.receive(soon()) == "here"
    came = frames.descriptors()
    for descriptor in came:
        os.write(descriptor, b"through")
        assert os.read(reader, 10) == b"through"
        os.close(descriptor)
    assert len(came) == takes
    assert frames.descriptors() == []
    assert len(os.listdir("/dev/fd")) == before - 1
    os.close(reader)


def test_closing_closes_descriptors_nobody_took(ends: tuple[socket.socket, socket.socket]) -> None:
    reader, writer = os.pipe()
    frames = Frames(ends[1], takes_descriptors=True)
    Frames(ends[0]).write(encode(1), soon(), [writer])
    os.close(writer)
    frames.receive(soon())
    frames.close()
    assert os.read(reader, 1) == b""  # no one could write any more
    assert frames.fileno() == -1
    os.close(reader)
