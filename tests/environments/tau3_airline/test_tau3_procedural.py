"""Procedural tasks, their oracle, and the scripted user."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
from tau3_naive import call, play

from environments.tau3_airline import oracle
from environments.tau3_airline.data import load
from environments.tau3_airline.env import ASK_ALL, Tau3AirlineEnv
from environments.tau3_airline.grader import DENIAL, engine, outcomes
from environments.tau3_airline.procedural import free_users, procedural_tasks
from environments.tau3_airline.tasks import Task, official_tasks
from environments.tau3_airline.users import STOP, ScriptedUser
from environments.text import check_text_env


@pytest.fixture(scope="module")
def env() -> Tau3AirlineEnv:
    return gymnasium.make("environments:Tau3AirlineProcedural-v0").unwrapped  # type: ignore[return-value]


def every() -> list[Task]:
    return [task for tasks in procedural_tasks().values() for task in tasks.values()]


def test_keeps_the_contract_of_text_environments() -> None:
    check_text_env("environments:Tau3AirlineProcedural-v0", samples=60)


def test_there_are_thousands_and_they_are_balanced(env: Tau3AirlineEnv) -> None:
    assert {split: len(env.tasks(split)) for split in env.splits} == {"train": 7954, "dev": 1148, "test": 2264}
    for split, tasks in procedural_tasks().items():
        allowed = Counter(task_id.partition("/")[0] for task_id, task in tasks.items() if task.outcome == "done")
        forbidden = Counter(task_id.partition("/")[0] for task_id, task in tasks.items() if task.outcome != "done")
        assert allowed == forbidden, split
        assert set(allowed) == {"cancel", "cabin", "date", "bags", "passengers", "complaint"}


def test_users_are_untouched_and_in_one_split_each() -> None:
    users = {user.user_id for user in free_users(load())}
    assert len(users) == 466
    of_split = {
        split: {task.gold[0].arguments["user_id"] for task in tasks.values()}
        for split, tasks in procedural_tasks().items()
    }
    assert sum(map(len, of_split.values())) == len(set().union(*of_split.values()))
    assert set().union(*of_split.values()) <= users
    # every row an official reference changes belongs to someone else
    for task in official_tasks().values():
        assert not users & {key for table, key in engine().gold_changes(task) if table == "users"}


def test_gold_and_habit_on_a_sample(env: Tau3AirlineEnv) -> None:
    for split in env.splits:
        for task_id in env.tasks(split)[::40]:
            assert play(env, task_id, env.gold(task_id))[0] == 1.0, task_id
            allowed = procedural_tasks()[split][task_id].outcome == "done"
            assert play(env, task_id, env.habit(task_id) or [])[0] == float(allowed), task_id


@pytest.mark.slow
@pytest.mark.parametrize("user", ["oneshot", "scripted"])
def test_gold_is_proven_by_the_grader_on_every_task(user: Any) -> None:
    env = Tau3AirlineEnv(user, source="procedural")
    for split in env.splits:
        for task_id in env.tasks(split):
            assert play(env, task_id, env.gold(task_id))[0] == 1.0, task_id


def test_doing_nothing_never_scores(env: Tau3AirlineEnv) -> None:
    assert not any(engine().floor(task) for task in every()[::7])
    for task_id in env.tasks("test")[::50]:
        for words in ("", "Hello."):
            assert play(env, task_id, [words])[0] == 0.0


def first(env: Tau3AirlineEnv, outcome: str) -> str:
    return next(task_id for task_id, task in procedural_tasks()["train"].items() if task.outcome == outcome)


def test_an_outcome_must_be_the_right_one(env: Tau3AirlineEnv) -> None:
    transfer = call("transfer_to_human_agents", summary="x")
    for outcome, right in {"denied": [f"{DENIAL}."], "transferred": [transfer, "Please hold."]}.items():
        task_id = first(env, outcome)
        assert play(env, task_id, right)[0] == 1.0
        assert play(env, task_id, ["That is done."])[0] == 0.0
        assert play(env, task_id, [transfer, f"{DENIAL}."])[0] == 0.0  # both is neither
    task_id = first(env, "done")
    acts = [action for action in env.gold(task_id) if action.startswith("{")]
    assert play(env, task_id, [*acts, "Done."])[0] == 1.0
    assert play(env, task_id, [*acts, f"{DENIAL.lower()}, but I did it."])[0] == 0.0
    assert play(env, task_id, [*acts, transfer, "Done."])[0] == 0.0


def test_outcomes() -> None:
    assert outcomes(["Done."], ["calculate"]) == {"done"}
    assert outcomes(["Your request denied? No: Request Denied."], []) == {"denied"}
    assert outcomes([f"{DENIAL}"], ["transfer_to_human_agents"]) == {"denied", "transferred"}


# The policy's rules, by hand: each case quotes its rule


def reservation(
    cabin: str = "economy", insurance: str = "no", created: str = "2024-05-01T10:00:00", flights: int = 1
) -> Any:
    legs = [SimpleNamespace(flight_number=f"F{number}", date="d") for number in range(flights)]
    return SimpleNamespace(cabin=cabin, insurance=insurance, created_at=created, flights=legs, passengers=[0, 0])


def flights(*statuses: str) -> Any:
    return SimpleNamespace(
        flights={
            f"F{number}": SimpleNamespace(dates={"d": SimpleNamespace(status=status)})
            for number, status in enumerate(statuses)
        }
    )


@pytest.mark.parametrize(
    ("status", "made", "reason", "expected"),
    [
        ("available", reservation(), "plans", "denied"),
        ("available", reservation("basic_economy"), "health", "denied"),
        ("available", reservation("business"), "plans", "done"),  # "It is a business flight"
        ("available", reservation(insurance="yes"), "health", "done"),  # insured "given health or weather reasons"
        ("available", reservation(insurance="yes"), "weather", "done"),
        ("available", reservation(insurance="yes"), "plans", "denied"),
        ("cancelled", reservation(), "plans", "done"),  # "The flight is cancelled by airline"
        ("available", reservation(), "airline", "denied"),  # ... which the record has to show
        ("delayed", reservation(), "plans", "denied"),
        ("available", reservation(created="2024-05-14T15:00:00"), "plans", "done"),  # "within the last 24 hrs"
        ("available", reservation(created="2024-05-14T14:59:59"), "plans", "denied"),
        ("landed", reservation("business"), "plans", "transferred"),  # "already been flown ... transfer is needed"
        ("flying", reservation(created="2024-05-15T10:00:00"), "plans", "transferred"),
    ],
)  # fmt: skip
def test_cancellation(status: str, made: Any, reason: str, expected: str) -> None:
    assert oracle.cancellation(flights(status), made, reason) == expected


def test_one_flown_leg_decides() -> None:
    assert (
        oracle.cancellation(flights("cancelled", "landed"), reservation("business", flights=2), "plans")
        == "transferred"
    )
    assert oracle.cabin_change(flights("available", "landed"), reservation(flights=2)) == "denied"
    assert oracle.cabin_change(flights("available", "on time"), reservation("basic_economy", flights=2)) == "done"


@pytest.mark.parametrize(
    ("membership", "cabin", "free"),
    [("regular", "basic_economy", 0), ("regular", "economy", 1), ("regular", "business", 2),
     ("silver", "basic_economy", 1),
     ("silver", "economy", 2), ("silver", "business", 3), ("gold", "basic_economy", 2),
     ("gold", "economy", 3), ("gold", "business", 4)],
)  # fmt: skip
def test_bag_allowance_of_two_passengers(membership: str, cabin: str, free: int) -> None:
    user = SimpleNamespace(membership=membership)
    assert oracle.free_bags(user, reservation(cabin)) == 2 * free  # type: ignore[arg-type]
    # the official policy says so in these words
    section = load().policy.split(f"If the booking user is a {membership} member:")[1]
    output = next(line for line in section.splitlines() if f"for each {cabin.replace('_', ' ')} passenger" in line)
    assert output.strip().startswith(f"- {free} free checked bag")


@pytest.mark.parametrize(
    ("status", "membership", "made", "amount"),
    [
        ("cancelled", "regular", reservation(), None),
        ("cancelled", "silver", reservation(), 200),  # $100 times two passengers
        ("cancelled", "regular", reservation(insurance="yes"), 200),
        ("cancelled", "regular", reservation("business"), 200),
        ("delayed", "gold", reservation("business"), None),
        ("available", "gold", reservation("business"), None),  # "Always confirms the facts"
    ],
)
def test_compensation(status: str, membership: str, made: Any, amount: int | None) -> None:
    user = SimpleNamespace(membership=membership)
    assert oracle.compensation(flights(status), user, made) == amount  # type: ignore[arg-type]


def test_bag_tasks_charge_beyond_the_allowance() -> None:
    db, seen = load().db, Counter[bool]()
    for task in every():
        if task.task_id.startswith("bags/") and task.outcome == "done":
            arguments = task.gold[-1].arguments
            row = db.reservations[arguments["reservation_id"]]
            free = oracle.FREE_BAGS[db.users[row.user_id].membership][row.cabin] * len(row.passengers)
            assert arguments["nonfree_baggages"] == max(0, arguments["total_baggages"] - free)
            seen[arguments["nonfree_baggages"] > 0] += 1
    assert min(seen[True], seen[False]) > 50


# The scripted user


def a_task() -> Task:
    return next(task for task in every() if set(task.slots) == {"user_id", "reservation_id", "details", "payment"})


def test_the_user_opens_without_identifiers(env: Tau3AirlineEnv) -> None:
    task = a_task()
    opening = ScriptedUser(task).open()
    assert not any(word in opening for text in task.slots.values() for word in text.strip(".").split()[-1:])


@pytest.mark.parametrize(
    ("message", "slots"),
    [
        ("What is your user id?", ["user_id"]),
        ("Please provide your reservation number.", ["reservation_id"]),
        ("How would you like to pay?", ["payment"]),
        ("Could you confirm your user id?", ["user_id"]),
        ("How many bags?", ["details"]),
        (ASK_ALL, ["user_id", "reservation_id", "details", "payment"]),
    ],
)
def test_the_user_answers_only_what_is_asked(message: str, slots: list[str]) -> None:
    task = a_task()
    answer = ScriptedUser(task).reply(message)
    assert {slot for slot, text in task.slots.items() if text in answer} >= set(slots)
    if message != ASK_ALL:
        assert "user_id" in slots or task.slots["user_id"] not in answer


def test_the_user_confirms_leaves_and_loses_patience() -> None:
    user = ScriptedUser(a_task())
    assert user.reply("I will refund your card. Do you confirm (yes/no)?") == "Yes, please go ahead."
    assert user.reply("How do you feel today?") == a_task().reason
    for message in (
        "That is done.",
        "It is done. Is there anything else?",
        "YOU ARE BEING TRANSFERRED TO A HUMAN AGENT.",
    ):
        assert ScriptedUser(a_task()).reply(message) == STOP
    endless = ScriptedUser(a_task(), patience=3)
    assert [endless.reply("Why?") == STOP for _ in range(4)] == [False, False, False, True]


def test_the_same_dialogue_twice(env: Tau3AirlineEnv) -> None:
    task_id = env.tasks("dev")[0]

    def transcript() -> str:
        opened = env.reset(seed=3, options={"task_id": task_id})
        return json.dumps([opened, *(env.step(action) for action in env.gold(task_id))])

    assert transcript() == transcript()
