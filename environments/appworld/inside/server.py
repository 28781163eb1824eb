"""AppWorld's API server without its threads: built once, asked directly.

The engine builds its FastAPI applications anew for every world and reaches them through an event loop on another
thread, and their endpoints run on yet another. None of that changes an answer. Here the applications are built once,
before workers are forked, and each request is driven to its end where it is made: half of an API call's time, and no
thread that a fork would lose or a time limit would tear.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from typing import Any


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never really waits. RuntimeError where it does."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("an API of AppWorld waits for something: it cannot be asked without an event loop")


class Portal:
    """Stands in for anyio's blocking portal: calls at once."""

    def call(self, function: Callable[..., Any], *given: Any) -> Any:
        """The function's result, awaited where it is a coroutine's."""
        made = function(*given)
        return drive(made) if inspect.iscoroutine(made) else made


@contextmanager
def _portal() -> Any:
    yield Portal()


async def _at_once(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    return function(*given, **named)


async def _without_thread(function: Callable[..., Any], *given: Any, **_: Any) -> Any:
    return function(*given)


def install() -> None:
    """Make the engine use one client per set of apps, and that client use this thread."""
    import fastapi.dependencies.utils
    import fastapi.routing
    import fastapi_login.fastapi_login
    import starlette.concurrency
    import starlette.testclient
    from anyio import to_thread
    from appworld import requester
    from appworld.apps import build_main_app

    for module in (fastapi.dependencies.utils, fastapi.routing, starlette.concurrency):
        module.run_in_threadpool = _at_once
    to_thread.run_sync = fastapi_login.fastapi_login.run_sync = _without_thread
    clients: dict[tuple[str, ...], Any] = {}

    class Client(starlette.testclient.TestClient):  # type: ignore[misc]
        """A client that outlives the worlds it serves."""

        @staticmethod
        def _portal_factory() -> Any:
            return _portal()

        def __exit__(self, *_: Any) -> None:
            """Stay open: the next world asks the same applications."""

    def client_of(self: Any) -> Any:
        if self.apps not in clients:
            clients[self.apps] = Client(build_main_app(self.apps))
        return clients[self.apps]

    requester.Requester._get_client = client_of
