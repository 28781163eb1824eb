"""The processes that play and judge AppWorld's episodes, shared by all environments of this process."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

from environments.appworld.install import environ, interpreter
from environments.appworld.tasks import Root
from environments.isolation.pool import Limits, RemoteError, Worker, WorkerPool

TARGET = "environments.appworld.inside.engine:Engine"
VERDICTS = 20_000
"""Verdicts that are remembered."""
WORLDS = 200
"""Worlds a process plays before another replaces it: each leaves about 1 MiB behind."""


class EnginePool:
    """Players (one live world each) and judges (which alone open the ground truth), forked from one warm process.

    Players run untrusted code, so whatever they report may be forged; judges run none.
    """

    def __init__(self, root: Root, step_s: float, shown: int, memory_mb: int) -> None:
        self._workers = WorkerPool(
            interpreter(),
            TARGET,
            {
                "root": str(root.serve),
                "truth": str(root.truth),
                "first_task": root.first_task,
                "step_s": step_s,
                "shown": shown,
            },
            limits=Limits(memory_mb=memory_mb),
            environ=environ(root.serve),
            label="AppWorld's engine",
            recycle_after=WORLDS,
        )
        self._judges: list[Worker] = []
        self._verdicts: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    @lru_cache(maxsize=8)
    def of(root: Root, step_s: float, shown: int, memory_mb: int) -> EnginePool:
        """The pool of this process for these settings."""
        return EnginePool(root, step_s, shown, memory_mb)

    def player(self) -> Worker:
        """A process to play an episode in. RemoteError where none starts."""
        return self._workers.take()

    def give(self, worker: Worker) -> None:
        """A player's episode is over."""
        self._workers.give(worker)

    def judge(self, task_id: str, outcome: Any, outputs: str | None, deadline_s: float) -> dict[str, Any]:
        """AppWorld's verdict on an outcome.

        RemoteError where no judge answers in time, tried twice: an outcome can be judged again. Many ways lead to one
        outcome; it is judged once, for the verdict is a function of it.
        """
        if outputs:
            return self._ask_judge(task_id, outcome, str(Path(outputs).resolve()), deadline_s)
        key = hashlib.sha256(json.dumps([task_id, outcome], sort_keys=True).encode()).hexdigest()
        with self._lock:
            known = self._verdicts.get(key)
        if known is None:
            known = self._ask_judge(task_id, outcome, None, deadline_s)
            with self._lock:
                self._verdicts[key] = known
                if len(self._verdicts) > VERDICTS:
                    self._verdicts.popitem(last=False)
        return known

    def _ask_judge(self, task_id: str, outcome: Any, folder: str | None, deadline_s: float) -> dict[str, Any]:
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
                return self._workers.spawn()
            if worker.alive:
                return worker
            worker.kill()

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            judges, self._judges = self._judges, []
        for worker in judges:
            worker.close()
        self._workers.close()
