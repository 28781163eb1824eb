"""Servers of a policy for tests: `harness serve` in a process of its own, and one that misleads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import ROOT

Twist = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def harness_serve(directory: Path, *options: str) -> Iterator[str]:
    """The address of `harness serve DIRECTORY` in a second process."""
    command = [
        sys.executable,
        "-m",
        "harness.cli",
        "serve",
        str(directory),
        "--port",
        "0",
        "--name",
        "policy",
        *options,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            address = re.search(r"http://\S+/v1", said)
            assert address, f"it said {said!r}"
            yield address.group()
        finally:
            server.kill()


class Proxy:
    """Stands before a server and twists its replies to completions (and its card, and requests on their way in)."""

    def __init__(self, behind: str) -> None:
        self.reply: Twist = lambda body: body
        self.card: Twist = lambda body: body
        self.request: Twist = lambda body: body
        self.weights: Twist = lambda body: body
        self.requests: list[dict[str, Any]] = []
        self.told: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._pass_on(None, outer.card)

            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("completions"):
                    outer.requests.append(given)
                    self._pass_on(outer.request(dict(given)), outer.reply)
                elif outer.weights({}) is not None:
                    self._pass_on(given, outer.weights)
                else:  # acknowledged and forgotten
                    outer.told.append(given["weight_version"])
                    self._answer(200, {"weight_version": given["weight_version"]})

            def _pass_on(self, given: dict[str, Any] | None, twist: Twist) -> None:
                data = None if given is None else json.dumps(given).encode()
                asked = urllib.request.Request(behind.removesuffix("/v1") + self.path, data)
                try:
                    with urllib.request.urlopen(asked) as reply:
                        self._answer(200, twist(json.loads(reply.read())))
                except urllib.error.HTTPError as error:
                    self._answer(error.code, json.loads(error.read()))

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def with_choice(**changes: Any) -> Twist:
    """Replies whose choice is changed; None takes an entry out."""

    def twist(body: dict[str, Any]) -> dict[str, Any]:
        choice = body["choices"][0] | changes
        return body | {"choices": [{name: value for name, value in choice.items() if value is not None}]}

    return twist
