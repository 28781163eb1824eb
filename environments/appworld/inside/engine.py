"""AppWorld's engine, as a worker process runs it: one world whose API calls are answered, or one verdict that is found.

The target of `environments.isolation.pool`: forked from a process that has opened and closed one world. No policy's
code runs here: blocks run in `environments.appworld.inside.player`. What an episode
does not need is left out (building the API applications anew, a second copy of the start state, saving logs and state
after every step); what it needs is the engine's own.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

from environments.appworld.inside import server

KEPT_STARTS = 8
"""Tasks whose start state a judging process keeps in memory: siblings are judged one after another."""


OUTCOME = 12 << 20
"""Characters of an outcome, packed: what one message between processes carries."""


class Engine:
    """Keeps an episode's world (`reset`, `api`, `outcome`) or judges outcomes (`judge`); a worker does one or the
    other.

    root: AppWorld's root without ground truth; truth: the one with it, opened by judges alone.
    """

    verbs = ("names", "reset", "api", "outcome", "judge")

    def __init__(self, root: str, truth: str, first_task: str) -> None:
        self._root, self._truth, self._first_task = root, truth, first_task
        self._world: Any = None
        self._routes: Any = None
        self._judged: list[str] = []
        self._scratch = ""

    # A worker's life

    def warm(self) -> None:
        """Import everything, open one world, close it again."""
        os.environ["APPWORLD_ROOT"] = self._root
        from environments.appworld.inside import databases, routes

        server.install()
        databases.install()
        self._routes = routes.from_engine()
        self.reset(self._first_task)
        self.api("supervisor", "show_account_passwords", {}, True)
        self.outcome()
        self.close()

    def close(self) -> None:
        """Close the world, if one is open."""
        if self._world is not None:
            self._world.close()
            self._world = None

    # An episode's world

    def names(self) -> dict[str, list[str]]:
        """The APIs of each app."""
        return dict(self._routes.names())

    def reset(self, task_id: str) -> dict[str, Any]:
        """Open the task's world; see `World.facts` for what it returns."""
        from environments.appworld.inside.world import World

        self.close()
        self._world = World.open(task_id, self._routes)
        return dict(self._world.facts())

    def api(self, app: Any, name: Any, arguments: Any, first: bool) -> dict[str, Any]:
        """Answer a block's API call; see `World.answer`. Nothing in it can be trusted."""
        return dict(self._world.answer(app, name, arguments, first))

    def outcome(self) -> str | None:
        """What the episode has changed, packed for a judge: statements per app since the start, and the change counts.

        None where it has changed more than can be judged.
        """
        packed = pack(self._world.changes())
        return packed if len(packed) <= OUTCOME else None

    # Judging

    def judge(self, task_id: str, outcome: str, folder: str | None = None) -> dict[str, Any]:
        """AppWorld's own verdict on an outcome.

        folder: an experiment's folder, in AppWorld's layout, that keeps the outcome and report. Returns `success`, the
        task's `difficulty`, the `total` of tests, the share of them that doing nothing passes (`idle`), and the `tests`
        by name. An outcome that the task's tests cannot even read fails all of them.
        """
        try:
            return self._judged_as(task_id, unpack(outcome), folder)
        except OSError:  # a full disk, say
            raise
        except Exception as error:
            # whose fault it is shows on the start state: where its tests run, it was what the episode left that broke
            idle = self._judged_as(task_id, {"changes": {}, "hashes": {}}, None)
            unreadable = [(f"{name} (unreadable: {type(error).__name__})", False) for name, _ in idle["tests"]]
            return idle | {"success": False, "tests": unreadable}

    def _judged_as(self, task_id: str, outcome: dict[str, Any], folder: str | None) -> dict[str, Any]:
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


def pack(outcome: dict[str, Any]) -> str:
    """An outcome as text that is small and the same for equal outcomes."""
    return base64.b64encode(zlib.compress(json.dumps(outcome).encode(), 1)).decode()


def unpack(packed: str) -> dict[str, Any]:
    """The outcome that was packed."""
    outcome: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return outcome
