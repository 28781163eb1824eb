"""`harness serve`: a backend behind an OpenAI-compatible HTTP server. Requests that wait together are computed as one
batch.

    with ModelServer(backend, "my-model") as server:
        openai.OpenAI(base_url=server.url, api_key="none").chat.completions.create(model="my-model", messages=[...])

There is no authentication. It listens on the loopback unless told otherwise, and refuses there what a web page may
have sent.

    POST /v1/chat/completions   messages in, a message out (tools, log-probabilities, token ids beside it)
    POST /v1/completions        token ids in, token ids and the log-probability of each out
    POST /v1/weights            {"path": folder, "weight_version": name}: other weights, from this machine alone
    GET  /v1/models             this model: its window, stop tokens, vocabulary's hash and weights' version

Log-probabilities are those of the distribution at the request's temperature, before top-p. Every choice says in
`weight_version` which weights sampled it; they change between two batches, so no completion mixes two.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from harness.core.errors import UserError
from harness.protocols.backend import Backend
from harness.serving.app import IDLE_S, make_app
from harness.serving.batcher import Batcher
from harness.serving.chat import ChatService
from harness.serving.requests import RequestError

GRACE_S = 5
"""Seconds that requests under way are given when the server is closed."""


class ModelServer:
    """Serves one model until closed. `port` 0 takes any free one; `url` is what clients call their base URL."""

    def __init__(
        self,
        backend: Backend,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        batch: int = 16,
        loaded: Path | None = None,
    ) -> None:
        """batch: most completions computed at once. loaded: the folder the backend's weights came from, to go back to
        where others cannot be loaded. UserError when the address cannot be bound."""
        self.backend, self.name = backend, name
        listener = _listen(host, port)
        try:
            self._chat = ChatService(backend, name, batch, loaded)
        except BaseException:
            listener.close()
            raise
        address, bound = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}/v1"
        local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        config = uvicorn.Config(
            make_app(self._chat, [host] if local else None), loop="asyncio", http=_Protocol, ws="none", lifespan="off",
            log_config=None, log_level=logging.CRITICAL, access_log=False, proxy_headers=False, server_header=False,
            timeout_keep_alive=int(IDLE_S), timeout_graceful_shutdown=GRACE_S,
        )  # fmt: skip
        self._http = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._http.run, args=([listener],), daemon=True, name="server")
        self._thread.start()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def batcher(self) -> Batcher:
        """The thread that owns the model."""
        return self._chat.batcher

    def wait(self) -> None:
        """Until the server is closed, or Ctrl-C."""
        self._thread.join()

    def close(self) -> None:
        """Stop listening, give requests under way GRACE_S seconds, drop the rest, and end both threads."""
        self._http.should_exit = True
        self._thread.join()
        self.batcher.close()

    def answer(self, body: bytes) -> dict[str, Any]:
        """A chat completion for a request's bytes. RequestError where it cannot be served."""
        return self._chat.answer(body)


class _Protocol(H11Protocol):
    """HTTP/1.1 whose parser's refusals have OpenAI's error object, too."""

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close. Called while the parser's error is being handled."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # the reply is under way already
            self.transport.close()
            return
        problem = str(sys.exc_info()[1] or msg)
        error = RequestError(f"invalid HTTP: {problem}", status=411 if "Content-Length" in problem else 400)
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        body = json.dumps(error.body).encode()
        events: list[h11.Event] = [h11.Response(status_code=error.status, headers=headers), h11.Data(data=body)]
        for event in (*events, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        if not 0 <= port <= 65535:
            raise OSError(0, "ports are numbers from 0 to 65535")
        return socket.create_server((str(address[0]), port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen on {host}:{port} ({reason}); choose another with --port, 0 takes any free one"
        ) from None
