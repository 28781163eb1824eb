"""What the tests of cached environments share: a cache of one's own, and an episode from its opening to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from environments.caching.transitions import Cached

VERSIONS = count()


def cached(make: Callable[[], Any], folder: Path | None = None, version: str | None = None, **given: Any) -> Cached:
    """With a cache of its own unless a version is given."""
    return Cached(make, folder=folder, version=version or f"own {next(VERSIONS)}", **given)


def play(env: Any, task_id: str, actions: Sequence[str], seed: int | None = 0) -> list[Any]:
    """Everything an episode says, up to its end or the last action."""
    output = [env.reset(seed=seed, options={"task_id": task_id})]
    for action in actions:
        output.append(env.step(action))
        if output[-1][2] or output[-1][3]:
            break
    return output
