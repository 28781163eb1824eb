"""The compact rendering: gold, habit, floor, size, and that it is the same engine underneath."""

from __future__ import annotations

from collections import Counter

import gymnasium
import pytest
from tau3_naive import play

from environments.tau3_airline.data import load
from environments.tau3_airline.mini import COMMANDS, Tau3AirlineMini
from environments.tau3_airline.procedural import procedural_tasks
from environments.text import check_text_env


@pytest.fixture(scope="module")
def env() -> Tau3AirlineMini:
    return gymnasium.make("environments:Tau3AirlineMini-v0").unwrapped  # type: ignore[return-value]


def test_keeps_the_contract_of_text_environments() -> None:
    check_text_env("environments:Tau3AirlineMini-v0", samples=60)


def test_thousands_of_tasks_split_by_user(env: Tau3AirlineMini) -> None:
    assert {split: len(env.tasks(split)) for split in env.splits} == {"train": 3744, "dev": 527, "test": 986}
    users = [
        {load().db.reservations[task_id.split("/")[1]].user_id for task_id in env.tasks(split)} for split in env.splits
    ]
    assert sum(map(len, users)) == len(set().union(*users))


def test_gold_habit_and_constant_answers(env: Tau3AirlineMini) -> None:
    """On the test split: gold 1; the habit, always refusing and always handing over as the documentation states."""
    ids = env.tasks("test")
    turns: Counter[int] = Counter()
    scores = {"gold": 0.0, "habit": 0.0, "refuse": 0.0, "transfer": 0.0, "hello": 0.0}
    for task_id in ids:
        gold = env.gold(task_id)
        turns[len(gold)] += 1
        plays = {
            "gold": gold,
            "habit": env.habit(task_id),
            "refuse": ["refuse"],
            "transfer": ["transfer"],
            "hello": ["Hello."] * 6,
        }
        for name, actions in plays.items():
            scores[name] += play(env, task_id, actions)[0] / len(ids)
    assert scores["gold"] == pytest.approx(1.0)  # a sum of 986 equal shares
    assert scores["habit"] == pytest.approx(0.3935, abs=5e-5)
    assert scores["refuse"] == pytest.approx(0.4006, abs=5e-5)
    assert scores["transfer"] == pytest.approx(0.1988, abs=5e-5)
    assert scores["hello"] == 0.0
    assert set(turns) == {2, 3, 4}


def test_the_habit_succeeds_on_the_stated_share_of_training_tasks(env: Tau3AirlineMini) -> None:
    """The habit does what is asked, so it is right where the policy allows it (and pays for one passenger)."""
    tasks = procedural_tasks()["train"]
    right = [
        tasks[task_id].outcome == "done" and (env.habit(task_id) != ["pay 100"] or env.gold(task_id)[-1] == "pay 100")
        for task_id in env.tasks("train")
    ]
    assert sum(right) / len(right) == pytest.approx(0.3862, abs=5e-5)


def test_outcomes_are_equally_frequent(env: Tau3AirlineMini) -> None:
    tasks = procedural_tasks()["train"]
    found = Counter((task_id.split("/")[0], tasks[task_id].outcome) for task_id in env.tasks("train"))
    assert len({found["cancel", outcome] for outcome in ("done", "denied", "transferred")}) == 1
    assert found["cabin", "done"] == found["cabin", "denied"] > 0
    assert found["complaint", "done"] == found["complaint", "denied"] > 0


def test_what_an_agent_reads_is_short(env: Tau3AirlineMini) -> None:
    for task_id in env.tasks("train")[::10]:
        messages, _ = env.reset(options={"task_id": task_id})
        for action in ("nonsense", "flights", "res", "user"):
            messages += env.step(action)[0]
        assert all(len(message["content"]) <= 70 for message in messages)


def test_a_hand_played_episode(env: Tau3AirlineMini) -> None:
    # LD9H27: economy, uninsured, one passenger, booked 13 days ago, four flights to come; weather is no reason without
    # insurance
    output, _ = env.reset(options={"task_id": "cancel/LD9H27/weather"})
    assert output == ({"role": "user", "content": "LD9H27 cancel weather"},)
    assert env.step("flights")[0][0]["content"] == "available available available available"
    assert env.step("res")[0][0]["content"] == "economy uninsured 1p 13d"
    _, reward, terminated, _, info = env.step("refuse")
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert info["metrics"] == {
        "turns": 3.0, "bad_actions": 0.0, "db": 1.0, "outcome": 1.0,
        "tool_calls": 5.0, "write_calls": 0.0, "transfers": 0.0,
        "lookups": 2.0,
    }  # fmt: skip
    env.reset(options={"task_id": "cancel/LD9H27/weather"})
    assert env.step("cancel")[1] == 0.0


@pytest.mark.parametrize("action", ["", "cabin", "pay 100", "Cancel", "cancel LD9H27", "flights now", "hello"])
def test_other_commands_are_answered_and_cost_a_turn(env: Tau3AirlineMini, action: str) -> None:
    env.reset(options={"task_id": "cancel/LD9H27/weather"})
    output, reward, terminated, truncated, _ = env.step(action)
    assert output[0]["content"].startswith("Error: ")
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert env.step("refuse")[4]["metrics"]["bad_actions"] == 1.0


@pytest.mark.parametrize("action", ["pay", "pay much", "pay 1 2", "pay -1", "pay ٣", "pay 100.0", "pay 9999999"])
def test_amounts_that_are_none(env: Tau3AirlineMini, action: str) -> None:
    task_id = next(task_id for task_id in env.tasks("train") if task_id.startswith("complaint/"))
    env.reset(options={"task_id": task_id})
    assert "pay DOLLARS" in env.step(action)[0][0]["content"]


def test_another_amount_than_due_fails(env: Tau3AirlineMini) -> None:
    task_id = next(task_id for task_id in env.tasks("train") if env.gold(task_id)[-1] == "pay 200")
    assert play(env, task_id, ["pay 100"])[0] == 0.0
    assert play(env, task_id, ["pay 200"])[0] == 1.0


def test_every_command_is_used_by_gold(env: Tau3AirlineMini) -> None:
    used = {action.split()[0] for task_id in env.tasks("train") for action in env.gold(task_id)}
    assert used == set(COMMANDS)
