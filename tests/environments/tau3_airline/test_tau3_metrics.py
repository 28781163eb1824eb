"""The airline table's numbers, by hand."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tau3_summary import Played, pass_hat_k, summarise

from environments.tau3_airline.env import Tau3AirlineEnv


def test_pass_hat_k_by_hand() -> None:
    # C(3,2)/C(4,2) = 3/6 and C(2,2)/C(4,2) = 1/6: mean 1/3
    assert pass_hat_k([(4, 3), (4, 2)], 2) == pytest.approx(1 / 3, abs=1e-15)
    assert pass_hat_k([(4, 3), (4, 2)], 1) == pytest.approx((0.75 + 0.5) / 2, abs=1e-15)
    assert pass_hat_k([(4, 4), (4, 3)], 4) == 0.5


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_hat_k_counts_the_draws_that_all_succeed(case: tuple[int, int, int]) -> None:
    n, c, k = case
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_hat_k([(n, c)], k) == pytest.approx(sum(map(all, draws)) / len(draws), abs=1e-12)


@pytest.mark.parametrize(("counts", "k"), [([], 1), ([(2, 1)], 3), ([(2, 1)], 0), ([(2, 3)], 1), ([(2, -1)], 1)])
def test_pass_hat_k_refuses(counts: list[tuple[int, int]], k: int) -> None:
    with pytest.raises(ValueError, match=r"pass\^k needs"):
        pass_hat_k(counts, k)


def metrics(tool_calls: float, **errors: float) -> dict[str, float]:
    none = {"error_malformed": 0.0, "error_unknown_tool": 0.0, "error_arguments": 0.0, "error_tool": 0.0}
    return {"tool_calls": tool_calls, **none, **errors}


def test_a_summary_by_hand() -> None:
    # 8 writes and is not in the floor; 0 only reads and is; the hand-over and the do-nothing kinds are absent
    env = Tau3AirlineEnv()
    assert (env.kind("8"), env.floor("8")) == ("write", False)
    assert (env.kind("2"), env.kind("0")) == ("read-only", "none")
    played = [
        Played("8", 1.0, metrics(4)),
        Played("8", 0.0, metrics(2, error_tool=3.0)),
        Played("8", math.nan, {}),
        Played("2", 1.0, metrics(0)),
        Played("2", 1.0, metrics(2, error_malformed=1.0)),
    ]
    summary = summarise(env, played)
    assert (summary.tasks, summary.episodes, summary.failures) == (2, 4, 1)
    assert summary.average_reward == 0.75
    assert summary.pass_hat == {1: 0.75, 2: 0.5}
    assert summary.floor == 0.5
    assert {kind: (row.tasks, row.success, row.floor) for kind, row in summary.kinds.items()} == {
        "write": (1, 0.5, 0.0), "read-only": (1, 1.0, 1.0),
    }  # fmt: skip
    assert (summary.zero_tool_successes, summary.mean_tool_calls) == (1, 2.0)
    assert summary.errors == {"malformed": 0.25, "unknown_tool": 0.0, "arguments": 0.0, "tool": 0.75}
    assert summary.protocol == env.protocol
    with pytest.raises(ValueError, match="all lost to the infrastructure"):
        summarise(env, [Played("8", math.nan, {})])
    finished = [{"task_id": p.task_id, "reward": p.reward, "metrics": p.metrics} for p in played if p.metrics]
    assert env.summary(finished) == {
        "what the reference does": {
            "write": {"tasks": 1, "success": 0.5, "doing nothing": 0.0},
            "read-only": {"tasks": 1, "success": 1.0, "doing nothing": 1.0},
        },
        "successes without a tool call": 1,
        "tool calls per episode": 2.0,
        "agent's errors per episode": {"malformed": 0.25, "unknown_tool": 0.0, "arguments": 0.0, "tool": 0.75},
    }
    assert env.summary([]) == {}


def test_the_do_nothing_agent_scores_its_own_floor() -> None:
    env = Tau3AirlineEnv()
    played = []
    for task_id in env.tasks("base"):
        env.reset(options={"task_id": task_id})
        _, reward, _, _, info = env.step("Hello.")
        played.append(Played(task_id, reward, info["metrics"]))
    summary = summarise(env, played)
    assert summary.average_reward == summary.floor == 23 / 50
    assert summary.zero_tool_successes == 23
    assert summary.kinds["write"].success == summary.kinds["write"].floor
    report = env.summary([{"task_id": p.task_id, "reward": p.reward, "metrics": p.metrics} for p in played])
    assert report["successes without a tool call"] == 23
    assert report["what the reference does"] == {
        kind: {"tasks": row.tasks, "success": row.success, "doing nothing": row.floor}
        for kind, row in summary.kinds.items()
    }
