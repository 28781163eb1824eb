"""The official tasks: floor, gold, the grader's fine print, isolation, and the data's provenance."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tau3_naive import call, database_hash, end_hash, play

from environments.tau3_airline import data
from environments.tau3_airline.env import Tau3AirlineEnv
from environments.tau3_airline.grader import communicated, engine
from environments.tau3_airline.tasks import official_tasks
from environments.text import check_text_env

# environments.md, section 1: what an agent that only says "Hello." scores
HELLO_PASSES = [
    "0",
    "1",
    "2",
    "4",
    "5",
    "6",
    "9",
    "10",
    "13",
    "26",
    "27",
    "28",
    "31",
    "34",
    "36",
    "38",
    "41",
    "43",
    "45",
    "46",
    "47",
    "48",
    "49",
]


@pytest.fixture(scope="module")
def env() -> Tau3AirlineEnv:
    return gymnasium.make("environments:Tau3Airline-v0").unwrapped  # type: ignore[return-value]


def test_keeps_the_contract_of_text_environments() -> None:
    check_text_env("environments:Tau3Airline-v0", samples=50)


def test_gold_scores_1_on_all_fifty(env: Tau3AirlineEnv) -> None:
    assert len(env.tasks("base")) == 50
    for task_id in env.tasks("base"):
        reward, info = play(env, task_id, env.gold(task_id))
        assert (reward, info["success"]) == (1.0, True), task_id


@pytest.mark.parametrize("words", ["Hello.", ""])
def test_doing_nothing_passes_exactly_the_known_tasks(env: Tau3AirlineEnv, words: str) -> None:
    passed = [task_id for task_id in env.tasks("base") if play(env, task_id, [words])[0] == 1.0]
    assert sorted(passed, key=int) == HELLO_PASSES
    assert [task_id for task_id in env.tasks("base") if env.floor(task_id)] == passed
    assert sum(map(env.floor, env.tasks("train"))) == 16
    assert sum(map(env.floor, env.tasks("test"))) == 7


def test_splits_and_kinds(env: Tau3AirlineEnv) -> None:
    assert env.tasks("test") == [
        "2",
        "6",
        "8",
        "13",
        "16",
        "18",
        "19",
        "22",
        "24",
        "25",
        "26",
        "29",
        "30",
        "31",
        "32",
        "35",
        "37",
        "44",
        "45",
        "48",
    ]
    assert set(env.tasks("train")) | set(env.tasks("test")) == set(env.tasks("base"))
    kinds = [env.kind(task_id) for task_id in env.tasks("test")]
    assert {kind: kinds.count(kind) for kind in kinds} == {"write": 13, "read-only": 4, "hand-over": 1, "none": 2}
    assert env.reset(options={"task_id": "8", "split": "base"})[1]["task_id"] == "8"
    assert env.trainable("train")
    assert not env.trainable("test")
    assert not env.trainable("base")


# The grader's fine print: each case is graded by the whole-database hash as well, the official way.


def graded(env: Tau3AirlineEnv, task_id: str, calls: list[tuple[str, dict[str, Any]]]) -> float:
    """The reward for calls on a task, checked against the naive grader."""
    output = " ".join(("Done.", *official_tasks()[task_id].communicate))
    reward, _ = play(env, task_id, [*(call(name, **arguments) for name, arguments in calls), output])
    gold = [(entry.name, entry.arguments) for entry in official_tasks()[task_id].gold]
    assert reward == float(end_hash(calls) == end_hash(gold))
    return reward


def gold_calls(task_id: str) -> list[tuple[str, dict[str, Any]]]:
    return [(entry.name, json.loads(json.dumps(entry.arguments))) for entry in official_tasks()[task_id].gold]


def test_passengers_in_another_order_fail(env: Tau3AirlineEnv) -> None:
    calls = gold_calls("8")
    booked = next(arguments for name, arguments in calls if name == "book_reservation")
    assert len(booked["passengers"]) > 1
    booked["passengers"].reverse()
    assert graded(env, "8", calls) == 0.0


def test_payments_in_another_order_fail(env: Tau3AirlineEnv) -> None:
    calls = gold_calls("14")
    booked = next(arguments for name, arguments in calls if name == "book_reservation")
    assert len(booked["payment_methods"]) > 1
    booked["payment_methods"].reverse()
    assert graded(env, "14", calls) == 0.0


def bag_task() -> str:
    """A task whose reference changes nothing but bags."""
    return next(
        task_id
        for task_id, task in official_tasks().items()
        if {entry.name for entry in task.gold if entry.name.startswith(("update", "book"))}
        == {"update_reservation_baggages"}
    )


@pytest.mark.parametrize("convert", [float, str, lambda number: number + 1])
def test_bags_of_another_type_or_number_fail(env: Tau3AirlineEnv, convert: Any) -> None:
    calls = gold_calls(bag_task())
    assert graded(env, bag_task(), calls) == 1.0
    for name, arguments in calls:
        if name == "update_reservation_baggages":
            arguments["total_baggages"] = convert(arguments["total_baggages"])
    assert graded(env, bag_task(), calls) == 0.0


def test_a_call_after_a_string_bag_count_still_works(env: Tau3AirlineEnv) -> None:
    # pydantic warns on writing the row out, and warnings are errors in these tests
    reservation = next(iter(engine().data.db.reservations.values()))
    payment = next(iter(engine().data.db.users[reservation.user_id].payment_methods))
    env.reset(options={"task_id": "0"})
    env.step(call("update_reservation_baggages", reservation_id=reservation.reservation_id, total_baggages="9",
                  nonfree_baggages=0, payment_id=payment))  # fmt: skip
    for name in ("get_reservation_details", "cancel_reservation"):
        output = env.step(call(name, reservation_id=reservation.reservation_id))[0]
        assert json.loads(output[0]["content"])["total_baggages"] == "9"


def test_failed_writes_and_extra_reads_are_harmless(env: Tau3AirlineEnv) -> None:
    extra: list[tuple[str, dict[str, Any]]] = [
        ("cancel_reservation", {"reservation_id": "NOSUCH"}),
        ("send_certificate", {"user_id": "nobody", "amount": 100}),
        ("list_all_airports", {}),
        ("get_user_details", {"user_id": "mia_li_3668"}),
        ("search_onestop_flight", {"origin": "JFK", "destination": "SEA", "date": "2024-05-20"}),
        ("calculate", {"expression": "2 + 2"}),
        ("transfer_to_human_agents", {"summary": "none"}),
    ]
    for task_id in ("8", "7", "0"):
        assert graded(env, task_id, extra + gold_calls(task_id)) == 1.0


def test_a_failed_call_keeps_what_it_changed_first(env: Tau3AirlineEnv) -> None:
    # one certificate paid twice: the first payment takes it away, the second then fails
    db = engine().data.db
    user, certificate = next(
        (user, method)
        for user in db.users.values()
        for method in user.payment_methods.values()
        if method.source == "certificate" and method.amount >= 100
    )
    flight = next(
        (number, day, instance)
        for number, row in db.flights.items()
        for day, instance in row.dates.items()
        if instance.status == "available"
        and instance.available_seats["economy"]
        and instance.prices["economy"] % 2 == 0
    )
    half = flight[2].prices["economy"] // 2
    booking = {
        "user_id": user.user_id, "origin": db.flights[flight[0]].origin,
        "destination": db.flights[flight[0]].destination,
        "flight_type": "one_way", "cabin": "economy", "flights": [{"flight_number": flight[0], "date": flight[1]}],
        "passengers": [{"first_name": "A", "last_name": "B", "dob": "1990-01-01"}],
        "payment_methods": [{"payment_id": certificate.id, "amount": half}] * 2,
        "total_baggages": 0, "nonfree_baggages": 0, "insurance": "no",
    }  # fmt: skip
    env.reset(options={"task_id": "0"})
    assert env.step(call("book_reservation", **booking))[0][0]["content"].startswith("Error: ")
    assert env.step("Hello.")[1] == 0.0
    assert graded(env, "0", [("book_reservation", booking)]) == 0.0


def test_commas_and_case_in_what_must_be_said() -> None:
    assert communicated(["5244"], ["The total is $5,244."])
    assert communicated(["jfk"], ["You leave from JFK"])
    assert communicated([], [])
    assert not communicated(["327", "1000"], ["327 dollars"])
    assert communicated(["327", "1000"], ["327 dollars", "and 1,000"])
    assert not communicated(["5,244"], ["5,244"])  # upstream takes commas out of the message only


def test_saying_is_required(env: Tau3AirlineEnv) -> None:
    for task_id in ("3", "7", "11", "14", "18", "23"):
        calls = [entry.action() for entry in official_tasks()[task_id].gold]
        reward, info = play(env, task_id, [*calls, "Done."])
        assert (reward, info["metrics"]["db"], info["metrics"]["communicate"]) == (0.0, 1.0, 0.0)


def test_only_the_user_ends_the_dialogue() -> None:
    env = Tau3AirlineEnv(max_turns=3)
    env.reset(options={"task_id": "0"})  # doing nothing would pass it
    for _ in range(2):
        *_, terminated, truncated, _ = env.step(call("transfer_to_human_agents", summary="x"))
        assert (terminated, truncated) == (False, False)
    assert env.step(call("done"))[1:4] == (0.0, False, True)  # the turns ran out: no reward


@pytest.mark.slow
def test_any_trajectory_is_graded_as_the_whole_database_hash_would(env: Tau3AirlineEnv) -> None:
    # gold with one call left out or doubled, on the tasks with most calls
    longest = sorted(official_tasks(), key=lambda task_id: -len(official_tasks()[task_id].gold))[:4]
    for number, task_id in enumerate(longest):
        calls = gold_calls(task_id)
        graded(env, task_id, calls[:-1])
        graded(env, task_id, [*calls, calls[number % len(calls)]])
        graded(env, task_id, calls[::-1])


# Isolation


def trace(task_id: str) -> list[str]:
    """A mix of right and wrong: every third task is spoilt by a cancellation the reference does not have."""
    gold = Tau3AirlineEnv().gold(task_id)
    spoil = call("cancel_reservation", reservation_id="4WQ150")
    return [spoil, *gold] if int(task_id) % 3 == 0 else gold


def sequential(ids: list[str]) -> list[float]:
    env = Tau3AirlineEnv()
    return [play(env, task_id, trace(task_id))[0] for task_id in ids]


def test_sixteen_interleaved_episodes_score_as_sequential_ones(env: Tau3AirlineEnv) -> None:
    ids = env.tasks("base")[:16]
    envs = [Tau3AirlineEnv() for _ in ids]
    for one, task_id in zip(envs, ids, strict=True):
        one.reset(options={"task_id": task_id})
    left = {index: iter(trace(task_id)) for index, task_id in enumerate(ids)}
    rewards: dict[int, float] = {}
    while left:
        for index in list(left):
            _, reward, terminated, _, _ = envs[index].step(next(left[index]))
            if terminated:
                rewards[index] = reward
                del left[index]
    expected = sequential(ids)
    assert [rewards[index] for index in range(16)] == expected
    assert 0.0 in expected
    assert 1.0 in expected


def test_threads_score_as_sequential_ones(env: Tau3AirlineEnv) -> None:
    ids = env.tasks("base")
    with ThreadPoolExecutor(16) as pool:
        rewards = list(pool.map(lambda task_id: play(Tau3AirlineEnv(), task_id, trace(task_id))[0], ids))
    assert rewards == sequential(ids)


def test_the_database_is_pristine_after_every_gold_episode(env: Tau3AirlineEnv) -> None:
    fresh = type(data.load().db).model_validate_json(data.read_verified(data.data_folder(), "db.json"))
    for task_id in env.tasks("base"):
        play(env, task_id, trace(task_id))
    assert database_hash(data.load().db) == database_hash(fresh)


def test_an_abandoned_episode_leaves_nothing_behind(env: Tau3AirlineEnv) -> None:
    env.reset(options={"task_id": "0"})
    env.step(call("cancel_reservation", reservation_id="4WQ150"))
    assert play(env, "0", ["Hello."])[0] == 1.0


# Data


def test_the_data_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(data.data_folder(), tmp_path / data.FOLDER)
    monkeypatch.setenv("TAU2_DATA_DIR", str(tmp_path))
    assert data.data_folder() == tmp_path / data.FOLDER
    assert data.load().splits["base"] == data._load(tmp_path / data.FOLDER).splits["base"]


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(data.data_folder(), tmp_path / data.FOLDER)
    policy = tmp_path / data.FOLDER / "policy.md"
    policy.write_text(policy.read_text() + "\nBe generous.")
    monkeypatch.setenv("TAU2_DATA_DIR", str(tmp_path))
    with pytest.raises(data.Tau3DataError, match=r"policy\.md is not the file of tau2-bench@a2c0247"):
        data.load()
    policy.unlink()
    with pytest.raises(data.Tau3DataError, match=r"policy\.md is missing"):
        data.load()


def test_a_wrong_data_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAU2_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(data.Tau3DataError, match="point it at the `data` folder"):
        Tau3AirlineEnv()


def test_the_headings_tell_protocols_apart(env: Tau3AirlineEnv) -> None:
    official = Tau3AirlineEnv("llm", user_model="some-model", user_endpoint={"base_url": "http://127.0.0.1:9/v1"})
    assert official.protocol == "τ³-airline, user played by some-model"
    others = [env.protocol, Tau3AirlineEnv("scripted", source="procedural").protocol]
    assert all("not τ³-airline" in heading for heading in others)
    versions = {one.version for one in (env, official, Tau3AirlineEnv("oneshot", source="procedural"))}
    assert len(versions) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": "one-shot"}, "did you mean 'oneshot'"),
        ({"source": "procedral"}, "did you mean 'procedural'"),
        ({"user": "scripted"}, "plays procedural tasks only"),
        ({"user": "llm"}, "needs user_model"),
        ({"user_model": "m"}, "are for user='llm'"),
        ({"user_params": {"temperature": 1}}, "are for user='llm'"),
        ({"user": "llm", "user_model": "m", "user_endpoint": {"base_ulr": "x"}}, "did you mean 'base_url'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tau3AirlineEnv(**options)
