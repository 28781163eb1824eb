"""An environment of verifiers, as a worker process runs it: the target of `environments.isolation.pool`.

verifiers calls a model, and a Gymnasium environment is called: here verifiers runs on a thread of its own and calls an
endpoint of this process, whose requests are the observations and whose replies are the actions.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

from environments.foreign.inside.contents import digest, first_of_each, plain

UNNAMED = ("idx", "id", "name", "description")
"""What a task is called, and not what it is."""
TEST = "test "
"""Stands before the names of tasks of the taskset's own test split."""
KEY = "SIBLING_ENDPOINT_KEY"
SERVED_S = 120.0
"""Seconds for what an environment brings up before its first episode."""


class Episodes:
    """One episode at a time of one environment.

    name: the id of a taskset; config: its settings; test: what differs in the settings of its test split, where it has
    one; env: settings of the environment (`id`, seats, ...); tasks: how many tasks of each are looked at.
    """

    verbs = ("facts", "tasks", "known", "begin", "act")

    def __init__(
        self,
        name: str,
        config: dict[str, Any],
        test: dict[str, Any] | None,
        env: dict[str, Any],
        tasks: int,
        max_turns: int,
    ) -> None:
        self._settings = {**env, "taskset": {**config, "id": name}}
        self._test, self._looked_at, self._max_turns = test, tasks, max_turns
        self._env: Any = None
        self._tasks: dict[str, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._endpoint: Any = None
        self._running: asyncio.Task[Any] | None = None
        self._reply: asyncio.Future[str] | None = None
        self._conversation: list[dict[str, Any]] = []

    # A worker's life

    def warm(self) -> None:
        """Import the library, make the environment, load its tasks."""
        from verifiers.v1 import load_environment, load_taskset, resolve_env_config
        from verifiers.v1.configs.agent import agent_config_fields

        from environments.foreign.inside import chat

        settings = dict(self._settings)
        seats = list(agent_config_fields(resolve_env_config(settings)))
        if len(seats) != 1:
            raise ValueError(
                f"the environment has {len(seats)} seats ({', '.join(seats)}): only one can be played here"
            )
        own = {"harness": {"id": chat.install()}, "runtime": {"type": "subprocess"}}
        settings[seats[0]] = {**own, **settings.get(seats[0], {}), "max_turns": self._max_turns}
        self._env = load_environment(resolve_env_config(settings))
        described = dict(self._described("", self._env.taskset))
        if self._test is not None:
            other = resolve_env_config({**settings, "taskset": {**settings["taskset"], **self._test}}).taskset
            # first, so that what stands in both is not trained on
            described = dict(self._described(TEST, load_taskset(other))) | described
        self._first = first_of_each((name, self._content(task)) for name, task in described.items())
        self._tasks = {task["id"]: described[task["id"]] for task in self._first}

    def _described(self, before: str, taskset: Any) -> Iterator[tuple[str, Any]]:
        for task in itertools.islice(iter(taskset), self._looked_at):
            yield f"{before}{task.data.idx}", task

    def facts(self) -> dict[str, Any]:
        """The library's version, and a name for the tasks that were found."""
        import verifiers

        return {"version": verifiers.__version__, "tasks": digest(self._first)}

    def tasks(self) -> list[dict[str, str]]:
        """The tasks that differ in more than their names."""
        return self._first

    def known(self, task: str) -> dict[str, Any]:
        """Everything that the taskset holds of a task."""
        data: dict[str, Any] = self._tasks[task].data.model_dump(mode="json", exclude_none=True)
        return data

    def _content(self, task: Any) -> Any:
        data = task.data.model_dump(mode="json", exclude_none=True)
        return plain({name: value for name, value in data.items() if name not in UNNAMED})

    # An episode

    def begin(self, task: str, seed: int) -> dict[str, Any]:
        """Begin a task: the messages of the first request."""
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed)
        began: dict[str, Any] = self._done(self._begin(self._tasks[task]))
        return began

    def act(self, action: str) -> dict[str, Any]:
        """The reply to the last request: the messages that the next one adds, or the verdict."""
        acted: dict[str, Any] = self._done(self._act(action))
        return acted

    def close(self) -> None:
        """Leave an episode that is under way."""
        if self._loop is not None:
            self._done(self._leave())

    def _done(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True).start()
            asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(SERVED_S)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _serve(self) -> None:
        from environments.foreign.inside.endpoint import Endpoint

        self._endpoint = Endpoint()
        await self._endpoint.start()
        os.environ[KEY] = self._endpoint.key
        self._serving = self._env.serving()
        await self._serving.__aenter__()

    async def _leave(self) -> None:
        if self._running is not None and not self._running.done():
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._running = self._reply = None
        while not self._endpoint.asked.empty():
            self._endpoint.asked.get_nowait()

    async def _begin(self, task: Any) -> dict[str, Any]:
        from verifiers.v1 import EvalClientConfig, ModelContext, SamplingConfig

        await self._leave()
        self._conversation = []
        client = EvalClientConfig(base_url=self._endpoint.url, api_key_var=KEY)
        model = ModelContext(model="policy", client=client, sampling=SamplingConfig())
        self._running = asyncio.ensure_future(self._env.run_episode(task, model))
        return await self._next()

    async def _act(self, action: str) -> dict[str, Any]:
        if self._reply is None:
            raise RuntimeError("no request waits for a reply")
        reply, self._reply = self._reply, None
        # what no JSON in UTF-8 can carry would break the library's own request, for no fault of its
        sent = action.encode("utf-8", "replace").decode()
        self._conversation.append({"role": "assistant", "content": sent})
        reply.set_result(sent)
        return await self._next()

    async def _next(self) -> dict[str, Any]:
        """What comes first: another request, or the end."""
        assert self._running is not None
        request = asyncio.ensure_future(self._endpoint.asked.get())
        await asyncio.wait([request, self._running], return_when=asyncio.FIRST_COMPLETED)
        if not request.done():
            request.cancel()
            return self._verdict(self._running.result())
        messages, tools, self._reply = request.result()
        if tools:
            raise NotImplementedError("the task offers tools, which are not played here")
        conversation = [{"role": message["role"], "content": _text(message.get("content"))} for message in messages]
        before = len(self._conversation)
        if [message["content"] for message in conversation[:before]] != [
            message["content"] for message in self._conversation
        ]:
            raise RuntimeError("the environment rewrote what had been said, which no record of a conversation can hold")
        self._conversation = conversation
        return {"messages": conversation[before:]}

    def _verdict(self, episode: Any) -> dict[str, Any]:
        """Reward and metrics of a finished episode; RuntimeError for one that failed."""
        errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
        if not episode.ok:
            reasons = "; ".join(f"{error.type}: {error.message}" for error in errors) or "it did not say why"
            raise RuntimeError(f"the episode failed: {reasons[:2000]}")
        trace = episode.traces[-1]
        unscored = [name for name, reward in trace.rewards.items() if reward is None]
        if unscored or not trace.rewards:
            raise RuntimeError(f"the episode has no reward ({', '.join(unscored) or 'none is declared'})")
        metrics = {name: float(value) for name, value in trace.metrics.items() if value is not None}
        parts = {f"reward_{name}": float(reward.score) for name, reward in trace.rewards.items()}
        return {
            "reward": float(trace.reward),
            "metrics": metrics | (parts if len(parts) > 1 else {}),
            "cut": trace.stop_condition in ("max_turns", "max_total_tokens"),
            "ending": str(trace.stop_condition or ""),
        }


def _text(content: Any) -> str:
    """A message's text. ValueError where it holds more than text."""
    if content is None or isinstance(content, str):
        return content or ""
    if any(part.get("type") != "text" for part in content):
        raise ValueError("a message holds an image: only text is played here")
    return "\n".join(part["text"] for part in content)
