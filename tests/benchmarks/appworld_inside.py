"""Seconds that a step takes inside the engine's process: `python -P appworld_inside.py OPTIONS`, in AppWorld's
interpreter.

Reads `{"task_id": ..., "code": ..., "times": N}` from each line and answers with the seconds that N steps took there,
no process between.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    # as environments.isolation.worker does it: our package's own __init__ needs what that interpreter has not
    package = sys.modules["environments"] = ModuleType("environments")
    package.__path__ = [str(Path(__file__).resolve().parents[2] / "environments")]
    from environments.appworld.inside.engine import Engine

    engine = Engine(**json.loads(sys.argv[1]))
    answers, sys.stdout = sys.stdout, sys.stderr
    engine.warm()
    for line in sys.stdin:
        asked = json.loads(line)
        engine.reset(asked["task_id"])
        began = os.times().elapsed  # the engine freezes every other clock
        for _ in range(asked["times"]):
            engine.step(asked["code"])
        took = os.times().elapsed - began
        engine.close()
        print(json.dumps(took), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
