"""An OpenAI-compatible server on the loopback whose every reply a test decides."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """`answer(request, count)` returns None (hang up) or (status, body[, headers]).

    A list as body is sent piece by piece. An iterator, which may be endless, is sent piece by piece without a
    Content-Length, until it ends or the client leaves.
    """

    def __init__(self, answer, pause_s=0.0):
        self.requests, self.headers = [], []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(answer, pause_s))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def stop(self):
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @staticmethod
    def says(text, calls=(), **choice):
        """A well-formed completion of 11 prompt and 7 reply tokens; further entries of the choice by name."""
        message = {"role": "assistant", "content": text}
        if calls:
            message["tool_calls"] = [
                {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
                for n, (name, arguments) in enumerate(calls)
            ]
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        return 200, json.dumps({"choices": [{"index": 0, "message": message} | choice], "usage": usage})

    def _handler(self, answer, pause_s):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with server._lock:
                    server.requests.append(request)
                    server.headers.append({name.lower(): value for name, value in self.headers.items()})
                    count = len(server.requests)
                reply = answer(request, count)
                if reply is not None:
                    # A client that gave up waiting is what a test of deadlines wants.
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        self._send(*reply)

            def _send(self, status, body, headers=()):
                pieces = [body.encode()] if isinstance(body, str) else body
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                if isinstance(pieces, list):
                    self.send_header("Content-Length", str(sum(map(len, pieces))))
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
                    time.sleep(pause_s)

            def log_message(self, *args):
                pass

        return Handler
