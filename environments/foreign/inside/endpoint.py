"""An OpenAI-compatible endpoint on this machine alone, whose model is whoever takes its requests."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from aiohttp import web


class Endpoint:
    """Requests wait in `asked` as (messages, tools, a future of the reply's text), in the order they came."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[list[dict[str, Any]], list[Any], asyncio.Future[str]]] = asyncio.Queue()
        self.key = secrets.token_urlsafe(24)
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port of the loopback address."""
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    async def _answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "not for you"}}, status=401)
        body = await request.json()
        reply: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.asked.put((body.get("messages", []), body.get("tools") or [], reply))
        return web.json_response(completion(await reply))


def completion(text: str) -> dict[str, Any]:
    """A reply in the form of chat completions. It counts no tokens: whoever wrote the text does."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": "reply",
        "object": "chat.completion",
        "created": 0,
        "model": "policy",
        "choices": [choice],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
