"""A report page on the loopback: one file under one address, to this machine alone."""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.core.errors import MissingDataError


def page_server(file: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of this file at `/` on 127.0.0.1; the caller lets it run and closes it. port 0: any that is free.

    The file is read anew for every request: a page written again shows after a reload. Requests that name another host
    are refused, so that no page from elsewhere can read this one by a name of its own. MissingDataError where there is
    no such file.
    """
    if not file.is_file():
        raise MissingDataError(f"no page at {file}; write one with: harness report RESULTS")

    class Handler(BaseHTTPRequestHandler):
        """Answers for the one file."""

        def do_GET(self) -> None:
            """The page at `/`, nothing anywhere else."""
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path.partition("?")[0] not in ("/", f"/{file.name}"):
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                content = file.read_bytes()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the command has stated where to look."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)
