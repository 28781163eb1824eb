"""Seconds that a step takes inside a player's process: `python -P appworld_inside.py OPTIONS`, in AppWorld's
interpreter.

Reads `{"code": ..., "times": N}` from each line and answers with the seconds that N steps took there,
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
    from environments.appworld.inside.player import Player

    player = Player(**json.loads(sys.argv[1]))
    answers, sys.stdout = sys.stdout, sys.stderr
    player.warm()
    for line in sys.stdin:
        asked = json.loads(line)
        player.begin("2024-05-17T11:30:00", [])
        began = os.times().elapsed  # every other clock is frozen
        for _ in range(asked["times"]):
            player.step(asked["code"])
        took = os.times().elapsed - began
        print(json.dumps(took), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
