"""One attempt at a request: sent by the openai client, its reply read within a deadline and a limit of size.

A timeout between two bytes is no deadline, and the client reads the bodies of errors by itself. So attempts run as
coroutines, which are cancelled when their time is up wherever they stand (name lookup, handshake, headers, body), and
every body passes through a stream that counts. The loop that runs them is a daemon thread, one per process.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2  # what openai speaks through; its errors come through bare while a body is read
import openai

from harness.endpoint.errors import RETRYABLE, ContextFullError, EndpointCallError, RetryableError
from harness.endpoint.masking import Masker, shown_address

TOO_LONG = re.compile(r"context[ _](?:length|size|window)|prompt is too long", re.I)
"""How servers say that a request does not fit the window."""
LARGEST_REPLY = 32 * 1024 * 1024
"""Bytes of a reply, decompressed, read before the server is held to be broken."""
_LOOPS: dict[int, asyncio.AbstractEventLoop] = {}
"""By process: a forked copy has no thread that runs its parent's loop, and must not close what the parent still
uses."""


class Transport:
    """Connections to one address. Safe to share between threads, and usable in a forked copy of the process."""

    def __init__(self, model: str, base_url: str | None, api_key: str | None, timeout_s: float) -> None:
        self._model, self._base_url, self._api_key, self._timeout_s = model, base_url, api_key, timeout_s
        base_url, api_key = base_url or os.environ.get("OPENAI_BASE_URL"), api_key or os.environ.get("OPENAI_API_KEY")
        self.mask = Masker(api_key, address=base_url)
        """Takes this endpoint's secrets out of a text."""
        self._clients: dict[int, openai.AsyncOpenAI] = {}
        weakref.finalize(self, _close, self._clients).atexit = False

    def send(self, request: Mapping[str, Any], path: str = "") -> bytes:
        """The body of the reply to one request: a chat completion's, or that of another `path` below the address,
        which is read (GET) where the request is empty.

        RetryableError where another attempt may succeed, EndpointCallError where none can.
        """
        client = self._client()
        failure: Exception
        exchange = self._exchange_at(client, path, request) if path else self._exchange(client, request)
        sending = asyncio.run_coroutine_threadsafe(exchange, _loop())
        try:
            return sending.result()
        except (RetryableError, EndpointCallError):
            raise
        except Exception as error:
            failure = self._explained(error, client, self.mask.also(request))
        finally:
            sending.cancel()  # the caller was interrupted
        # Raised here, so that no traceback shows the library's error, which may quote a key.
        raise failure

    def close(self) -> None:
        """Close this process's connections; a later request opens new ones."""
        closing = _close(self._clients)
        if closing is not None:
            closing.result()

    def _client(self) -> openai.AsyncOpenAI:
        client = self._clients.get(os.getpid())
        if client is not None:
            return client
        try:
            # No timeouts of the client's own: `_exchange` has the deadline.
            client = openai.AsyncOpenAI(
                base_url=self._base_url,
                api_key=self._api_key,
                timeout=None,
                max_retries=0,
                http_client=openai.DefaultAsyncHttpx2Client(timeout=None, event_hooks={"response": [_limit]}),
            )
        except openai.OpenAIError as error:
            problem = self.mask(str(error))
        except Exception:  # of a malformed address; the message may quote any part of it
            problem = f"the address {shown_address(self._base_url or os.environ.get('OPENAI_BASE_URL', ''))} is no URL"
        else:
            return self._clients.setdefault(os.getpid(), client)
        raise EndpointCallError("connection", f"no client for model {self._model!r}: {problem}")

    async def _exchange(self, client: openai.AsyncOpenAI, request: Mapping[str, Any]) -> bytes:
        received = bytearray()
        async with asyncio.timeout(self._timeout_s):
            async with client.chat.completions.with_streaming_response.create(**request) as response:
                async for piece in response.iter_bytes():
                    received += piece
        return bytes(received)

    async def _exchange_at(self, client: openai.AsyncOpenAI, path: str, request: Mapping[str, Any]) -> bytes:
        async with asyncio.timeout(self._timeout_s):
            if not request:
                return (await client.get(f"/{path}", cast_to=httpx2.Response)).content
            return (await client.post(f"/{path}", cast_to=httpx2.Response, body=dict(request))).content

    def _explained(self, error: Exception, client: openai.AsyncOpenAI, mask: Masker) -> Exception:
        """Which of our errors an error of the libraries' is; its message names no secret."""
        cause = error.__cause__ or error
        if isinstance(error, TimeoutError | openai.APITimeoutError | httpx2.TimeoutException):
            return RetryableError("timeout", f"no complete reply within {self._timeout_s:g} s")
        if isinstance(error, openai.APIStatusError):
            return self._refused(error, mask)
        if isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol | httpx2.InvalidURL):
            return EndpointCallError("connection", mask.excerpt(f"cannot ask {_place(client)}: {cause}"))
        if isinstance(error, openai.APIConnectionError):
            return RetryableError("connection", mask.excerpt(f"cannot reach {_place(client)}: {cause}"))
        if isinstance(error, httpx2.DecodingError):
            return EndpointCallError("garbage", mask.excerpt(f"the reply cannot be decompressed: {error}"))
        if isinstance(error, OSError | httpx2.RequestError):
            return RetryableError("connection", mask.excerpt(f"the connection broke: {error}"))
        kind = "garbage" if isinstance(error, openai.OpenAIError) else "request"
        return EndpointCallError(kind, mask.excerpt(f"{type(error).__name__}: {error}"))

    def _refused(self, error: openai.APIStatusError, mask: Masker) -> Exception:
        # The library quotes a `message` where the server sends one, and nothing else.
        quoted = str(error) != f"Error code: {error.status_code}"
        detail = str(error) if quoted else error.response.content.decode("utf-8", "replace")
        shown = f"HTTP {error.status_code}: {mask.excerpt(detail)}"
        if error.status_code in RETRYABLE:
            return RetryableError("status", shown, error.status_code, retry_after(error.response.headers))
        kind = ContextFullError if TOO_LONG.search(f"{error.code} {detail}") else EndpointCallError
        return kind("status", shown, error.status_code)


class _Counted(httpx2.AsyncByteStream):
    """A reply's decompressed body, up to the limit."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        async for piece in self._response.aiter_bytes():
            count += len(piece)
            if count > LARGEST_REPLY:
                raise EndpointCallError("garbage", f"a reply of more than {LARGEST_REPLY} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._response.aclose()


async def _limit(response: httpx2.Response) -> None:
    """Put the limit between a reply and whoever reads it: for errors that is the client, which would read them
    without end."""
    raw = httpx2.Response(
        response.status_code, headers=response.headers, stream=response.stream, request=response.request
    )
    response.stream = _Counted(raw)
    response.headers.pop("content-encoding", None)  # `raw` decompresses


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now that a server asks to wait, as a number or as a date (RFC 9110, section 10.2.3); None where it
    asks for nothing that can be read. May be infinite."""
    given = headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(given).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return None if seconds != seconds else max(seconds, 0.0)


def _close(clients: dict[int, openai.AsyncOpenAI]) -> Future[None] | None:
    """Begin to close this process's client, where there is one."""
    client = clients.pop(os.getpid(), None)
    return None if client is None else asyncio.run_coroutine_threadsafe(client.close(), _loop())


def _place(client: openai.AsyncOpenAI) -> str:
    return shown_address(str(client.base_url))


def _loop() -> asyncio.AbstractEventLoop:
    """This process's running loop; started when first needed."""
    running = _LOOPS.get(os.getpid())
    if running is None:
        fresh = asyncio.new_event_loop()
        running = _LOOPS.setdefault(os.getpid(), fresh)
        if running is fresh:
            threading.Thread(target=fresh.run_forever, daemon=True, name="endpoint").start()
        else:
            fresh.close()
    return running
