"""Frames between two processes: four bytes of length, then JSON in ASCII, over a stream socket, each by a deadline.

Standard library only: `environments.isolation.worker` loads this in an interpreter that has nothing of ours. No clock
is read where there is no deadline, for the code beside it may have frozen the time.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

MAX_FRAME = 16 << 20
"""Bytes of JSON in a frame: as Python's objects they may take twenty times as much of the reader's memory."""

_HEADER = struct.Struct(">I")
_CHUNK = 1 << 18


class FrameError(Exception):
    """The other side sent what is no frame."""


def encode(value: Any, limit: int = MAX_FRAME) -> bytes:
    """The frame of a value. TypeError, ValueError or RecursionError for what is no JSON or beyond `limit` bytes.

    Lone surrogates survive: JSON escapes them.
    """
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    if len(text) > limit:
        raise ValueError(f"a message of {len(text):,} bytes; {limit:,} are allowed")
    return _HEADER.pack(len(text)) + text


class Frames:
    """One end of a stream socket that carries frames. Deadlines are points of `time.monotonic`; None waits for ever.

    One frame is on its way at a time: after a TimeoutError or a FrameError the socket is of no more use. File
    descriptors are let in only with `takes_descriptors`: whoever sends them could fill the reader's table.
    """

    def __init__(self, end: socket.socket, *, takes_descriptors: bool = False) -> None:
        end.setblocking(False)
        self._socket = end
        self._buffer = bytearray()
        self._takes_descriptors = takes_descriptors
        self._descriptors: list[int] = []
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(end, select.POLLIN)
        self._writable.register(end, select.POLLOUT)

    def fileno(self) -> int:
        """The socket's descriptor; -1 once closed."""
        return self._socket.fileno()

    def write(self, frame: bytes, deadline: float | None = None, descriptors: Sequence[int] = ()) -> None:
        """Send a frame made by `encode`, and open file descriptors. Raises TimeoutError; ConnectionError without a
        reader.
        """
        rest = memoryview(frame)
        while rest:
            try:
                sent = socket.send_fds(self._socket, [rest], descriptors) if descriptors else self._socket.send(rest)
            except BlockingIOError:
                _wait(self._writable, deadline)
                continue
            rest, descriptors = rest[sent:], ()

    def receive(self, deadline: float | None = None) -> Any:
        """The next frame's value. Raises TimeoutError, EOFError (the other side ended), ConnectionError, FrameError."""
        size = _HEADER.unpack(self._bytes(_HEADER.size, deadline))[0]
        if size > MAX_FRAME:
            raise FrameError(f"a message of {size:,} bytes was announced; {MAX_FRAME:,} are allowed")
        try:
            return json.loads(self._bytes(size, deadline))
        except (ValueError, RecursionError) as error:
            raise FrameError(f"what came is no JSON: {error}") from None

    def descriptors(self) -> list[int]:
        """The file descriptors that came with what was received since this was last asked; the caller closes them."""
        taken, self._descriptors = self._descriptors, []
        return taken

    def silent(self) -> bool:
        """Whether the other side is there and nothing has come that was not yet read."""
        return not self._buffer and self.fileno() >= 0 and not self._readable.poll(0)

    def close(self) -> None:
        """Close this end and what descriptors were not taken."""
        self._socket.close()
        for descriptor in self.descriptors():
            socket.close(descriptor)

    def _bytes(self, count: int, deadline: float | None) -> bytes:
        while len(self._buffer) < count:
            try:
                if self._takes_descriptors:
                    came, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, 4)
                    self._descriptors += descriptors
                else:
                    came = self._socket.recv(_CHUNK)
            except BlockingIOError:
                _wait(self._readable, deadline)
                continue
            if not came:
                raise EOFError("the other side closed the connection")
            self._buffer += came
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _wait(poll: select.poll, deadline: float | None) -> None:
    if deadline is None:
        poll.poll()
    elif (left := deadline - time.monotonic()) <= 0 or not poll.poll(left * 1000 + 1):
        raise TimeoutError
