"""CPU seconds of AppWorld episodes, the processes they are played in counted. As a script it measures whatever checkout
is on PYTHONPATH: `PYTHONPATH=CHECKOUT python appworld_episodes.py`.

Reads `{"episodes": [[task, blocks], ...], "solve": true}` from each line, plays them and answers
`{"cpu_s": ..., "calls": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from environments.isolation.processes import children, cpu_seconds

Episode = tuple[str, list[str]]
"""A task and the blocks that are played in it."""


def make() -> Any:
    """AppWorld's environment on the own world."""
    return gymnasium.make("environments:AppWorld-v0", world="own").unwrapped


def play(env: Any, known: Sequence[Episode], solve: bool) -> float:
    """Play to the end, hold that all blocks solve their tasks or none does; the mean number of API calls."""
    calls = 0.0
    for task, blocks in known:
        env.reset(seed=0, options={"task_id": task})
        for block in blocks:
            *_, info = env.step(block)
        assert info["success"] == solve
        calls += info["metrics"]["tool_calls"]
    return calls / len(known)


def spent(work: Callable[[], Any]) -> float:
    """CPU seconds of this process and all under it, those that ended meanwhile and were reaped by one of them too."""
    before = {pid: cpu_seconds(pid) + _reaped_seconds(pid) for pid in _family(os.getpid())}
    work()
    after = {pid: cpu_seconds(pid) + _reaped_seconds(pid) for pid in _family(os.getpid())}
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def _family(pid: int) -> list[int]:
    """A process with its descendants."""
    return [pid, *(member for child in children(pid) for member in _family(child))]


def _reaped_seconds(pid: int) -> float:
    """CPU seconds of the children that a process has reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    env = make()
    for line in sys.stdin:
        asked, calls = json.loads(line), []

        def played(asked: Any = asked, calls: list[float] = calls) -> None:
            calls.append(play(env, asked["episodes"], asked["solve"]))

        print(json.dumps({"cpu_s": spent(played), "calls": calls[0]}), flush=True)
    env.close()


if __name__ == "__main__":
    main()
