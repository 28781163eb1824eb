"""AppWorld's engine, as a worker process runs it: one world that is played, or one verdict that is found.

The target of `environments.isolation.pool`: forked from a process that has opened and closed one world. What an episode
does not need is left out (building the API applications anew, a second copy of the start state, saving logs and state
after every step); what it needs is the engine's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from environments.appworld.inside import server
from environments.appworld.inside.limits import Clock

KEPT_STARTS = 8
"""Tasks whose start state a judging process keeps in memory: siblings are judged one after another."""


class Engine:
    """A player of episodes (`reset`, `step`, `outcome`) or a judge of outcomes (`judge`); a worker is one or the other.

    root: AppWorld's root without ground truth; truth: the one with it, opened by judges alone. step_s: seconds of
    processor time one block may take. shown: characters of an observation; the rest is cut.
    """

    verbs = ("reset", "step", "outcome", "judge")

    def __init__(self, root: str, truth: str, first_task: str, step_s: float = 20.0, shown: int = 12_000) -> None:
        self._root, self._truth, self._first_task = root, truth, first_task
        self._clock, self._shown = Clock(step_s), shown
        self._world: Any = None
        self._judged: list[str] = []
        self._scratch = ""

    # A worker's life

    def warm(self) -> None:
        """Import everything, open one world, close it again."""
        os.environ["APPWORLD_ROOT"] = self._root
        from environments.appworld.inside import databases

        server.install()
        databases.install()
        self.reset(self._first_task)
        self.step("print(apis.supervisor.show_account_passwords())")
        self.outcome()
        self.close()

    def close(self) -> None:
        """Close the world, if one is open."""
        if self._world is not None:
            self._world.close()
            self._world = None

    # Playing

    def reset(self, task_id: str) -> dict[str, Any]:
        """Open the task's world. Returns its `instruction`, its `supervisor` (the agent's principal) and its `apps`."""
        from environments.appworld.inside.world import World

        self.close()
        self._world = World.open(task_id, self._clock)
        task = self._world.task
        return {
            "instruction": task.instruction,
            "supervisor": dict(task.supervisor),
            "apps": dict(task.app_descriptions),
        }

    def step(self, code: str) -> dict[str, Any]:
        """Run a block.

        Returns the `output` the agent sees, the block's `status` (see `World.block`), whether the task is `completed`,
        and the number of API `calls`.
        """
        requests = self._world.requester.requests
        before = len(requests)
        output, status = self._world.block(code)
        # the agent ends its task by an API call, so only after calls is it worth asking
        completed = (
            any("/supervisor/" in request["url"] for request in requests[before:]) and self._world.task_completed()
        )
        return {
            "output": _shown(output, self._shown),
            "status": status,
            "completed": bool(completed),
            "calls": len(requests) - before,
        }

    def outcome(self) -> dict[str, Any]:
        """What the episode has changed, for a judge: statements per app since the start, and the change counts."""
        return dict(self._world.changes())

    # Judging

    def judge(self, task_id: str, outcome: dict[str, Any], folder: str | None = None) -> dict[str, Any]:
        """AppWorld's own verdict on an outcome.

        folder: an experiment's folder, in AppWorld's layout, that keeps the outcome and report. Returns `success`, the
        task's `difficulty`, the `total` of tests, the share of them that doing nothing passes (`idle`), and the `tests`
        by name.
        """
        from appworld.common.path_store import path_store
        from appworld.evaluator import evaluate_task

        from environments.appworld.inside import databases

        path_store.update_root(self._truth)
        home = Path(folder) if folder else self._own_folder()
        try:
            start, end = Path(self._truth, "data", "tasks", task_id, "dbs"), home / "tasks" / task_id / "dbs"
            _write_outcome(start, end, outcome)
            if folder is not None:
                _write_unchanged(start, end)
            databases.share(task_id, start, outcome["changes"])
            # the experiment's name is joined to a path: an absolute one stands for itself
            tracker = evaluate_task(task_id, str(home), save_report=folder is not None)
        finally:
            databases.forget(task_id, "task_output")
            self._forget_old(task_id)
        passed = [(test["requirement"], True) for test in tracker.passes]
        failed = [(test["requirement"], False) for test in tracker.failures]
        return {
            "success": bool(tracker.success),
            "difficulty": tracker.difficulty,
            "total": tracker.num_tests,
            "idle": sum(test["label"] == "no_op_pass" for test in tracker.test_data) / tracker.num_tests,
            "tests": passed + failed,
        }

    def _own_folder(self) -> Path:
        """Where outcomes lie that are not kept: one folder, written over, which ends with this process."""
        if not self._scratch:
            self._scratch = tempfile.mkdtemp(prefix="judge-")
        return Path(self._scratch)

    def _forget_old(self, task_id: str) -> None:
        from environments.appworld.inside import databases

        if task_id in self._judged:
            self._judged.remove(task_id)
        self._judged.append(task_id)
        while len(self._judged) > KEPT_STARTS:
            databases.forget(self._judged.pop(0), "task_input")


def _write_outcome(start: Path, end: Path, outcome: dict[str, Any]) -> None:
    """The databases an episode changed, in AppWorld's layout: the start's changes, then the episode's."""
    shutil.rmtree(end, ignore_errors=True)
    end.mkdir(parents=True)
    for app, added in outcome["changes"].items():
        file = start / f"{app}.jsonl"
        before = file.read_text(encoding="utf-8") if file.is_file() else ""
        if before and not before.endswith("\n"):
            before += "\n"
        lines = "".join(json.dumps(change) + "\n" for change in added)
        (end / f"{app}.jsonl").write_text(before + lines, encoding="utf-8")
    (end / "model_hashes.json").write_text(json.dumps(outcome["hashes"]), encoding="utf-8")


def _write_unchanged(start: Path, end: Path) -> None:
    """The databases it did not change, for whoever reads the folder later."""
    for file in start.glob("*.jsonl"):
        if not (end / file.name).exists():
            shutil.copy(file, end)


def _shown(text: str, shown: int) -> str:
    """What the agent sees: cut, in characters that UTF-8 has, without memory addresses, which differ between
    processes."""
    text = text.encode("utf-8", "replace").decode()
    text = re.sub(r"\bat 0x[0-9a-f]+", "at 0x...", text)
    if len(text) <= shown:
        return text
    return f"{text[:shown]}\n[cut: {len(text) - shown} more characters were printed; print less at a time]"
