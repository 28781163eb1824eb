"""AppWorld's own loop, as its users write it: init, execute, evaluate, close. Run in AppWorld's interpreter: `python -P
raw_loop.py DATA ROOT`.

Reads one request a line, `{"task_id": ..., "blocks": [...], "name": ...}`, and answers each with a line of JSON: what
the blocks printed, the verdict, and the seconds of processor time it all took. ROOT becomes an AppWorld root over the
folder DATA; its outputs stay in `experiments/outputs/NAME`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def played(task_id: str, blocks: list[str], name: str) -> dict[str, Any]:
    """One episode of the raw engine."""
    from appworld import AppWorld

    began = os.times()  # the engine freezes every other clock
    world = AppWorld(task_id=task_id, experiment_name=name)
    try:
        outputs = [world.execute(block) for block in blocks]
        completed = world.task_completed()
        tracker = world.evaluate()
    finally:
        world.close()
    ended = os.times()
    return {
        "outputs": outputs,
        "completed": bool(completed),
        "success": bool(tracker.success),
        "difficulty": tracker.difficulty,
        "passed": [test["requirement"] for test in tracker.passes],
        "failed": [test["requirement"] for test in tracker.failures],
        "cpu_s": ended.user + ended.system - began.user - began.system,
    }


def main(data: Path, root: Path) -> None:
    """Answer requests until there are no more."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "data").symlink_to(data, target_is_directory=True)
    os.environ["APPWORLD_ROOT"] = str(root)
    import appworld.apps  # noqa: F401 - what takes long is done before anybody waits

    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            answer = played(**json.loads(line))
        print(json.dumps(answer), flush=True)
    os._exit(0)  # as the engine's own command does: its threads would make the end take seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
