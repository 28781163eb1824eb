"""The processes that play and judge AppWorld's episodes, shared by all environments of this process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

from environments.appworld.install import environ, interpreter
from environments.appworld.tasks import Root
from environments.isolation.pool import Limits, RemoteError, Worker, WorkerPool
from environments.isolation.processes import cpu_seconds

ENGINE = "environments.appworld.inside.engine:Engine"
PLAYER = "environments.appworld.inside.player:Player"
VERDICTS = 20_000
"""Verdicts that are remembered."""
WORLDS = 200
"""Worlds a process keeps before another replaces it: each leaves about 1 MiB behind."""
BOOT_S = 60.0


class BlameError(Exception):
    """A block that ended its episode: it computed without end, or broke its process or what it asked of the engine."""


class Episode:
    """A world in the engine's process, and the player: a process of its own in which the episode's blocks run.

    Whatever the player says may be forged. What it asks for is answered as the engine answers, or by an error; what the
    episode has changed, and whether it is over, is the engine's to say.
    """

    def __init__(self, pool: EnginePool, task_id: str, deadline_s: float) -> None:
        """Raises RemoteError where the processes do not start."""
        self._pool = pool
        self.calls = 0
        self.completed = False
        self._engine = pool.engines.take()
        self.player: Worker | None = None
        self._first, self._asking = True, False
        self._player_s = self._engine_s = self._waited_s = 0.0
        try:
            self.facts: dict[str, Any] = self._engine.call("reset", deadline_s, task_id=task_id)
            self.player = pool.players(self._engine).spawn()
            self.player.call("begin", deadline_s, moment=self.facts["moment"], apps=self.facts["allowed"])
        except BaseException:
            self.close()
            raise

    def block(self, code: str, deadline_s: float) -> dict[str, Any]:
        """Run a block: its `output` and `status`; see `Player.step`.

        Raises BlameError where it ended the episode, RemoteError where the machine did.
        """
        assert self.player is not None
        self._first, self._engine_s, self._waited_s, self._asking = True, 0.0, 0.0, False
        self._player_s = cpu_seconds(self.player.pid)
        try:
            ran = self.player.converse("step", deadline_s, self._answer, code=code)
        except RemoteError as error:
            self.player.kill()
            if self._is_the_blocks(error, deadline_s):
                raise BlameError(str(error)) from None
            raise
        if not (isinstance(ran, dict) and isinstance(ran.get("output"), str) and isinstance(ran.get("status"), str)):
            raise BlameError("the player answered with what is no observation")
        return {"output": ran["output"].encode("utf-8", "replace").decode()[: self._pool.shown_at_most], **_status(ran)}

    def _answer(self, question: Any, deadline: float) -> dict[str, Any]:
        assert self.player is not None
        asked = question if isinstance(question, dict) else {}
        first, self._first = self._first, False
        given = {name: asked.get(name) for name in ("app", "api", "arguments")}
        if not isinstance(given["arguments"], dict):
            return {"error": ["TypeError", "the arguments of a call are named"], "cpu_s": 0.0}
        began, self._asking = time.monotonic(), True
        try:
            left = max(0.001, deadline - began)
            reply: dict[str, Any] = self._engine.call(
                "api", left, app=given["app"], name=given["api"], arguments=given["arguments"], first=first
            )
        except RemoteError as error:
            if error.kind != "raised":
                error.cpu_s += cpu_seconds(self.player.pid) - self._player_s
                raise
            return {"error": ["Exception", f"422: the answer cannot be sent: {error.remote_message}"], "cpu_s": 0.0}
        except (ValueError, RecursionError) as error:  # what the player sent is too deep or too long to be sent on
            return {"error": [type(error).__name__, str(error)], "cpu_s": 0.0}
        self._engine_s += reply["cpu_s"]
        self._waited_s += time.monotonic() - began
        self._asking = False
        self.calls += reply["counted"]
        self.completed = bool(reply.get("completed", self.completed))
        return {name: reply[name] for name in ("value", "error", "cpu_s") if name in reply}

    def _is_the_blocks(self, error: RemoteError, deadline_s: float) -> bool:
        """Whether the block did this to its process, or to the engine's; otherwise the machine did.

        Nothing but the block runs in a player, so all is its own but a kill from outside and a machine that keeps the
        process from running. The engine's process is trusted: there a block can only ask for too much, and what it
        asked for counts as its own processor time.
        """
        if error.kind == "deadline":
            if error.cpu_s + self._engine_s > self._pool.step_s:
                return True
            return not (error.held or self._asking or self._waited_s >= deadline_s / 2)
        return error.crashed or error.kind in ("protocol", "raised") or (error.kind == "died" and not error.killed)

    def outcome(self, deadline_s: float) -> str | None:
        """What the episode has changed, for a judge; None where it is more than can be judged."""
        packed: str | None = self._engine.call("outcome", deadline_s)
        return packed

    def close(self) -> None:
        """End the player and give the engine's process back."""
        if self.player is not None:
            self.player.kill()
        self._pool.engines.give(self._engine)


def _status(ran: dict[str, Any]) -> dict[str, str]:
    return {"status": ran["status"] if ran["status"] in ("refused", "malformed", "time") else "ran"}


class EnginePool:
    """The engine's processes (one live world each), judges (which alone open the ground truth) and players.

    Engines and judges are forked from one warm process and run no policy's code. Players are forked, one for each
    episode, from another that holds neither tasks nor truth.
    """

    def __init__(self, root: Root, step_s: float, shown: int, memory_mb: int, guarded: bool = True) -> None:
        """guarded: whether players check blocks before they run; see `Player`."""
        self.engines = self._workers = WorkerPool(
            interpreter(),
            ENGINE,
            {"root": str(root.serve), "truth": str(root.truth), "first_task": root.first_task},
            limits=Limits(memory_mb=memory_mb),
            environ=environ(root.serve),
            label="AppWorld's engine",
            recycle_after=WORLDS,
        )
        self.step_s, self.shown_at_most = step_s, shown + 200
        self._settings = {"step_s": step_s, "shown": shown, "guarded": guarded}
        self._memory_mb = memory_mb
        self._players: WorkerPool | None = None
        self._judges: list[Worker] = []
        self._verdicts: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    @lru_cache(maxsize=8)
    def of(root: Root, step_s: float, shown: int, memory_mb: int) -> EnginePool:
        """The pool of this process for these settings."""
        return EnginePool(root, step_s, shown, memory_mb)

    def players(self, engine: Worker) -> WorkerPool:
        """Where players are forked. engine: says which APIs there are, the first time."""
        with self._lock:
            if self._players is None:
                self._players = WorkerPool(
                    interpreter(),
                    PLAYER,
                    {"apis": engine.call("names", BOOT_S), **self._settings},
                    limits=Limits(memory_mb=self._memory_mb, file_mb=1, open_files=64, walled=True),
                    environ={"PYTHONDONTWRITEBYTECODE": "1"},
                    label="an AppWorld player",
                )
            return self._players

    def episode(self, task_id: str, deadline_s: float) -> Episode:
        """An episode of a task, at its start. RemoteError where its processes do not start."""
        return Episode(self, task_id, deadline_s)

    def judge(self, task_id: str, outcome: str, outputs: str | None, deadline_s: float) -> dict[str, Any]:
        """AppWorld's verdict on an outcome.

        RemoteError where no judge answers in time, tried twice: an outcome can be judged again. Many ways lead to one
        outcome; it is judged once, for the verdict is a function of it.
        """
        if outputs:
            return self._ask_judge(task_id, outcome, str(Path(outputs).resolve()), deadline_s)
        key = hashlib.sha256(f"{task_id} {outcome}".encode()).hexdigest()
        with self._lock:
            known = self._verdicts.get(key)
        if known is None:
            known = self._ask_judge(task_id, outcome, None, deadline_s)
            with self._lock:
                self._verdicts[key] = known
                if len(self._verdicts) > VERDICTS:
                    self._verdicts.popitem(last=False)
        return known

    def _ask_judge(self, task_id: str, outcome: str, folder: str | None, deadline_s: float) -> dict[str, Any]:
        for last in (False, True):
            worker = self._judge()
            try:
                verdict: dict[str, Any] = worker.call(
                    "judge", deadline_s, task_id=task_id, outcome=outcome, folder=folder
                )
            except RemoteError as error:
                worker.kill()  # one that raised is alive, in an unknown state
                if last or error.kind == "raised":
                    raise
                continue
            with self._lock:
                worker.uses += 1
                if worker.uses < WORLDS:
                    self._judges.append(worker)
                    return verdict
            worker.close()
            return verdict
        raise AssertionError("unreachable: the second try returns or raises")

    def _judge(self) -> Worker:
        while True:
            with self._lock:
                worker = self._judges.pop() if self._judges else None
            if worker is None:
                return self.engines.spawn()
            if worker.alive:
                return worker
            worker.kill()

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            judges, self._judges = self._judges, []
            players, self._players = self._players, None
        for worker in judges:
            worker.close()
        if players is not None:
            players.close()
        self.engines.close()
