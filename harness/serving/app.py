"""The HTTP application of `harness serve`: routes, limits, and who may ask. Everything it refuses has OpenAI's error
object."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from harness.protocols.backend import Completion
from harness.serving.chat import Asked, ChatService, model_failed
from harness.serving.requests import RequestError

LARGEST_BODY = 32 * 1024 * 1024
"""Bytes of a request."""
IDLE_S = 120.0
"""Seconds of silence, between requests and within one, after which a client is given up."""
CLIENT_GONE = Response(status_code=499)
"""For a client that has hung up."""


def make_app(service: ChatService, local_names: Collection[str] | None) -> Starlette:
    """The application. `local_names`: when it listens on the loopback alone, names beside localhost that it is
    reached by."""

    async def models(_: Request) -> Response:
        return _json(service.models())

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    async def answered(read: Callable[[bytes], Asked], request: Request) -> Response:
        try:
            asked = await run_in_threadpool(read, await _body(request))
            drawn = await _computed(service, asked, request)
        except ClientDisconnect:
            return CLIENT_GONE
        return await run_in_threadpool(lambda: _json(service.reply(asked, drawn)))

    async def chat(request: Request) -> Response:
        return await answered(service.read, request)

    async def completions(request: Request) -> Response:
        return await answered(service.read_ids, request)

    async def weights(request: Request) -> Response:
        refuse_from_afar(request, local_names or ())
        loading = await run_in_threadpool(service.load, await _body(request))
        try:
            return _json({"weight_version": await asyncio.shield(asyncio.wrap_future(loading))})
        except Exception as error:
            raise RequestError(
                f"these weights cannot be loaded: {type(error).__name__}: {error}; version {service.batcher.version!r} "
                "goes on being served",
                "path",
            ) from error

    guard = [] if local_names is None else [Middleware(LoopbackGuard, local_names)]
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/weights", weights, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
        ],
        middleware=guard,
        exception_handlers={RequestError: _refusal, HTTPException: _no_such_route, Exception: _broken},
    )


class LoopbackGuard:
    """Refuses requests that a web page may have sent: a page's own name can be made to resolve to the loopback (DNS
    rebinding), and any page may post to a local address. Browsers state either in Host or Origin."""

    def __init__(self, app: ASGIApp, local_names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(name.lower() for name in local_names) | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """403 unless every Host and Origin is the loopback's."""
        stranger = _stranger(Headers(scope=scope), self._names)
        if stranger:
            error = RequestError(
                f"this server listens on the loopback and serves this machine alone; {stranger}", status=403
            )
            await _json(error.body, error.status)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def refuse_from_afar(request: Request, local_names: Collection[str]) -> None:
    """RequestError (403) unless a request was sent on this machine: whoever chooses the weights chooses what all
    others are told, and names folders of this machine."""
    peer = request.client.host if request.client else ""
    relayed = [name for name in ("forwarded", "x-forwarded-for", "via") if name in request.headers]
    stranger = _stranger(request.headers, frozenset(name.lower() for name in local_names) | {"localhost"})
    if not _is_loopback(peer):
        stranger = f"you are {peer}"
    if relayed:
        stranger = f"{relayed[0]}: {request.headers[relayed[0]][:200]!r}"
    if stranger:
        raise RequestError(f"weights are changed from this machine alone; {stranger}", status=403)


def _stranger(headers: Headers, names: Collection[str]) -> str:
    """The Host or Origin that is none of this machine's; empty where there is no such."""
    for name in ("host", "origin"):
        for value in headers.getlist(name):
            try:
                host = urlsplit(value if "//" in value else f"//{value}").hostname or ""
            except ValueError:
                host = ""
            if host not in names and not _is_loopback(host):
                return f"{name}: {value[:200]!r}"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _body(request: Request) -> bytes:
    """The request's body, of declared length or in chunks; RequestError as soon as it is seen to be too large."""
    declared = request.headers.get("content-length", "0")
    if int(declared) > LARGEST_BODY:  # the parser has seen to it that it is a number
        raise RequestError(f"the body has {declared} bytes, {LARGEST_BODY} are allowed", status=413)
    received, stream = bytearray(), request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                piece = await anext(stream, None)
        except TimeoutError:
            raise RequestError(f"no more of the body came for {IDLE_S:g} s", status=408) from None
        if piece is None:
            return bytes(received)
        received += piece
        if len(received) > LARGEST_BODY:
            raise RequestError(f"the body has more than {LARGEST_BODY} bytes", status=413)


async def _computed(service: ChatService, asked: Asked, request: Request) -> list[Completion]:
    """The completions; ClientDisconnect, and the work dropped, when the client hangs up before they are there."""
    job = service.start(asked)
    gone = asyncio.ensure_future(_hung_up(request.receive))
    drawn = asyncio.wrap_future(job)
    both: set[asyncio.Future[Any]] = {drawn, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not drawn.done():
            raise ClientDisconnect
        return drawn.result()
    except ClientDisconnect:
        raise
    except Exception as error:
        raise model_failed(error) from error
    finally:
        gone.cancel()
        job.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(content: Mapping[str, object], status: int = 200) -> Response:
    """ASCII throughout: a model's text may hold half a surrogate pair, which UTF-8 cannot carry and JSON's escapes
    can."""
    return Response(json.dumps(content).encode(), status, media_type="application/json")


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _json(error.body, error.status)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    there = "GET /v1/models, POST /v1/chat/completions, POST /v1/completions, POST /v1/weights"
    return _json(RequestError(f"there is no {request.method} {request.url.path} here; {there}").body, status)


async def _broken(_: Request, error: Exception) -> Response:
    refused = RequestError(f"the server failed: {type(error).__name__}: {error}", status=500)
    return _json(refused.body, refused.status)
