"""Plays every task of a built world by the raw engine: ``python -P verify.py OUT_DIR [TASK ...]``.

In AppWorld's own interpreter.

Prints one JSON object. ``gold``, ``wrong``, ``idle`` (no action at all) and ``complete`` (only the call that ends a
task) say by task id whether the task counts as solved; ``share`` is the share of tests that doing nothing passed;
``errors`` holds what a programme raised.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PLAYS = ("gold", "wrong", "idle", "complete")


def report(out: Path, task_ids: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Play the named tasks, all of them by default, and return the report. The built world is only read."""
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {name: {} for name in (*_PLAYS, "share", "errors")}
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "data").symlink_to((out / "truth" / "data").absolute(), target_is_directory=True)
        os.environ["APPWORLD_ROOT"] = root
        for task_id in task_ids or manifest["tasks"]:
            programs = json.loads((out / "programs" / f"{task_id}.json").read_text(encoding="utf-8"))
            programs |= {"idle": [], "complete": ["apis.supervisor.complete_task()"]}
            for name in _PLAYS:
                tracker, errors = _play(task_id, programs[name])
                found[name][task_id] = tracker.success
                if name == "idle":
                    found["share"][task_id] = tracker.pass_count / tracker.num_tests
                if errors or (name == "gold" and not tracker.success):
                    found["errors"][f"{task_id} {name}"] = errors + [failure["trace"] for failure in tracker.failures]
    return found


def _play(task_id: str, blocks: Sequence[str]) -> tuple[Any, list[str]]:
    from appworld import AppWorld

    world = AppWorld(task_id=task_id, experiment_name="verify", timeout_seconds=60)
    try:
        outputs = [world.execute(block) for block in blocks]
        return world.evaluate(), [output for output in outputs if output.startswith("Execution failed")]
    finally:
        world.close()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -P verify.py OUT_DIR [TASK ...]")
    print(json.dumps(report(Path(sys.argv[1]), sys.argv[2:])))
