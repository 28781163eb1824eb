"""`harness serve`: a backend behind an OpenAI-compatible HTTP server. Requests that wait together are computed as one batch.

    with ModelServer(backend, "my-model") as server:
        openai.OpenAI(base_url=server.url, api_key="none").chat.completions.create(model="my-model", messages=[...])

There is no authentication: it listens on the loopback unless told otherwise.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness.core.errors import UserError
from harness.protocols.backend import Backend, Completion, Prompt, SamplingParams
from harness.serving.completions import ChatTemplate, RequestError, prompts_of, read_request, reply

LARGEST_BODY = 32 * 1024 * 1024
"""Bytes of a request."""
LINGER_S = 0.1
"""Longest wait for company before a batch is computed."""
IDLE_S = 120.0
"""Silence after which a connection is closed."""


@dataclass(frozen=True, eq=False)
class _Job:
    prompts: Sequence[Prompt]
    params: SamplingParams
    done: Future[list[Completion]] = field(default_factory=Future)


def _rows(jobs: Sequence[_Job]) -> int:
    return sum(len(job.prompts) for job in jobs)


class Batcher:
    """One thread owns the model; whoever asks waits. Jobs of the same sampling parameters are computed together, first come first served."""

    def __init__(self, backend: Backend, most: int) -> None:
        self._backend, self._most = backend, most
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._open = True
        self._thread = threading.Thread(target=self._work, daemon=True, name="model")
        self.batches: list[int] = []
        """Completions in each batch so far."""
        self._thread.start()

    def ask(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """Completions of the prompts. `params.max_new_tokens` is ignored: every prompt carries its own limit."""
        job = _Job(prompts, replace(params, max_new_tokens=0))
        self._inbox.put(job)
        return job.done.result()

    def close(self) -> None:
        """Finish what is asked already, then end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        waiting: list[_Job] = []
        company = 1
        while self._gather(waiting, company):
            batch = self._next(waiting)
            waiting = [job for job in waiting if job not in batch]
            self._compute(batch)
            # Clients answered together ask again together, and those who asked meanwhile are there already.
            company = _rows(batch) + _rows(waiting) + self._inbox.qsize()

    def _gather(self, waiting: list[_Job], company: int) -> bool:
        """Take in what has arrived; linger while fewer ask than did a moment ago. False when nothing is left and nothing will come."""
        until = time.monotonic() + LINGER_S
        while self._open:
            complete = _rows(waiting) >= min(company, self._most)
            left = 0.0 if complete else max(until - time.monotonic(), 0.0)
            try:
                job = self._inbox.get(timeout=left if waiting else None)
            except queue.Empty:
                break
            if job is None:
                self._open = False
            else:
                until = until if waiting else time.monotonic() + LINGER_S
                waiting.append(job)
        return bool(waiting)

    def _next(self, waiting: Sequence[_Job]) -> list[_Job]:
        """The job that has waited longest, and those that fit beside it."""
        batch = [waiting[0]]
        for job in waiting[1:]:
            if job.params == waiting[0].params and _rows(batch) + len(job.prompts) <= self._most:
                batch.append(job)
        return batch

    def _compute(self, batch: Sequence[_Job]) -> None:
        prompts = [prompt for job in batch for prompt in job.prompts]
        most = max(prompt.limit or 0 for prompt in prompts)
        self.batches.append(len(prompts))
        try:
            completions = self._backend.sample(prompts, replace(batch[0].params, max_new_tokens=most))
        except Exception as error:  # out of memory, say: those who asked are told, the next batch is tried
            for job in batch:
                job.done.set_exception(error)
            return
        for job in batch:
            job.done.set_result(completions[: len(job.prompts)])
            completions = completions[len(job.prompts) :]


class ModelServer:
    """Serves one model until closed. `port` 0 takes any free one; `url` is what clients call their base URL."""

    def __init__(self, backend: Backend, name: str, host: str = "127.0.0.1", port: int = 0, batch: int = 16) -> None:
        """UserError when the address cannot be bound."""
        self.backend, self.name = backend, name
        self.template = ChatTemplate(backend.renderer)
        try:
            self._http = _Http((host, port), _handler_of(self))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port, 0 takes any free one"
            ) from None
        self.batcher = Batcher(backend, batch)
        self.url = f"http://{host}:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True, name="server")
        self._thread.start()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Until the server is closed, or Ctrl-C."""
        self._thread.join()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.batcher.close()

    def answer(self, body: bytes) -> dict[str, Any]:
        """A chat completion for a request's bytes. RequestError where it cannot be served."""
        request = read_request(body, self.name)
        tokens = self.template.tokens(request)
        prompts = prompts_of(request, tokens, self.backend.window)
        try:
            completions = self.batcher.ask(prompts, request.params(0))
        except Exception as error:
            raise RequestError(f"the model failed: {type(error).__name__}: {error}", status=500) from error
        return reply(request, tokens, completions, self.backend.renderer)

    def models(self) -> dict[str, Any]:
        card = {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "local",
            "max_model_len": self.backend.window,
        }
        return {"object": "list", "data": [card]}


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


def _handler_of(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = IDLE_S

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._send(200, server.models())
            elif self.path == "/health":
                self._send(200, {"status": "ok"})
            else:
                self._refuse(
                    RequestError(f"there is no {self.path} here; GET /v1/models, POST /v1/chat/completions", status=404)
                )

        def do_POST(self) -> None:
            try:
                body = self._body()
                if self.path != "/v1/chat/completions":
                    raise RequestError(f"there is no {self.path} here; POST /v1/chat/completions", status=404)
                self._send(200, server.answer(body))
            except RequestError as error:
                self._refuse(error)

        def _body(self) -> bytes:
            try:
                size = int(self.headers["Content-Length"])
            except (TypeError, ValueError):
                self.close_connection = True
                raise RequestError("a Content-Length is needed", status=411) from None
            if not 0 <= size <= LARGEST_BODY:
                self.close_connection = True
                raise RequestError(f"the body has {size} bytes, {LARGEST_BODY} are allowed", status=413)
            return self.rfile.read(size)

        def _refuse(self, error: RequestError) -> None:
            self._send(error.status, error.body)

        def _send(self, status: int, body: dict[str, Any]) -> None:
            payload = json.dumps(body).encode()
            # A client that no longer waits is its own affair.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            """Silent: what matters is in the replies."""

    return Handler
