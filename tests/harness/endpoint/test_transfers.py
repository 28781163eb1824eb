"""Replies that break while they are sent: whatever the bytes on the wire, a kind, within the deadline."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness.endpoint import Endpoint, EndpointCallError

OK = b'{"choices": [{"message": {"content": "fine"}}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def wire(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads one request per connection and leaves every byte of the reply to `answer`; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(65536)
                        answer(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def asked(address: str, timeout_s: float = 5.0) -> str:
    """The reply's text, or the kind of the failure."""
    client = Endpoint("m", base_url=address, api_key="k", timeout_s=timeout_s, attempts=2, backoff_s=0.0)
    try:
        return client.chat([{"role": "user", "content": "hello"}]).text
    except EndpointCallError as error:
        return error.kind if len(str(error)) < 600 else str(error)
    finally:
        client.close()


def chunk(data: bytes, size: str | None = None) -> bytes:
    return f"{size or hex(len(data))[2:]}\r\n".encode() + data + b"\r\n"


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE: dict[str, tuple[bytes, str]] = {
    "chunks": (CHUNKED + chunk(OK[:9]) + chunk(OK[9:]) + b"0\r\n\r\n", "fine"),
    "chunks without an end": (CHUNKED + chunk(OK), "connection"),
    "a chunk cut in the middle": (CHUNKED + chunk(OK, "400")[:-2], "connection"),
    "a chunk with no size": (CHUNKED + chunk(OK, "zz"), "connection"),
    "a chunk of a negative size": (CHUNKED + chunk(OK, "-5"), "connection"),
    "a chunk of an endless size": (CHUNKED + b"f" * 100_000, "connection"),
    "a body shorter than declared": (HEAD + b"Content-Length: 9000\r\n\r\n" + OK, "connection"),
    "a length that is none": (HEAD + b"Content-Length: many\r\n\r\n" + OK, "connection"),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n" + OK, "connection"),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 47\r\n\r\n" + OK, "connection"),
    "no length": (HEAD + b"\r\n" + OK, "fine"),
    "no HTTP": (b"SSH-2.0-server\r\n", "connection"),
    "nothing": (b"", "connection"),
    "half a header": (b"HTTP/1.1 200 OK\r\nContent-Ty", "connection"),
    "a header line of a megabyte": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000, "connection"),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", "garbage"),
    "a byte order mark": (HEAD + b"Content-Length: 3\r\n\r\n\xef\xbb\xbf", "garbage"),
    "no UTF-8": (HEAD + b"Content-Length: 4\r\n\r\n\xff\xfe\xfa\xfb", "garbage"),
    "an encoding nobody knows": (HEAD + b"Content-Encoding: zebra\r\nContent-Length: 47\r\n\r\n" + OK, "fine"),
    "a status nobody knows": (b"HTTP/1.1 799 Odd\r\nContent-Length: 0\r\n\r\n", "status"),
    "odd bytes in headers": (HEAD + b"X-Y: \xff\xfe\r\nContent-Length: 47\r\n\r\n" + OK, "fine"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_every_way_of_breaking_off_has_a_kind(case: str) -> None:
    sent, expected = WHOLE[case]
    with wire(lambda connection: connection.sendall(sent)) as address:
        assert asked(address) == expected


def redirect(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 307 Again\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n")


def redirect_to_nonsense(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 307 Again\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("answer", [redirect, redirect_to_nonsense])
def test_redirects_in_a_circle_end(answer: Callable[[socket.socket], None]) -> None:
    with wire(answer) as address:
        assert asked(address) in ("connection", "garbage")


def drip_chunks(connection: socket.socket) -> None:
    connection.sendall(CHUNKED)
    for _ in itertools.count():
        connection.sendall(chunk(b" "))
        time.sleep(0.02)


def drip_trailers(connection: socket.socket) -> None:
    connection.sendall(CHUNKED + chunk(OK) + b"0\r\n")
    for number in itertools.count():
        connection.sendall(f"X-{number}: x\r\n".encode())
        time.sleep(0.02)


def drip_redirects(connection: socket.socket) -> None:
    time.sleep(0.1)
    redirect(connection)


@pytest.mark.parametrize("answer", [drip_chunks, drip_trailers, drip_redirects])
def test_the_deadline_holds_in_every_part_of_a_reply(answer: Callable[[socket.socket], None]) -> None:
    with wire(answer) as address:
        assert asked(address, timeout_s=0.25) == "timeout"
