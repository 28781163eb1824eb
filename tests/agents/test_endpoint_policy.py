"""The endpoint policy over real HTTP: native tool calls, accounting, and an endpoint's faults that are never the
agent's."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from hypothesis import given
from hypothesis import strategies as st

from agents.policies.endpoint import EndpointPolicy, action_of, as_chat
from environments.tau3_airline.env import Tau3AirlineEnv
from harness.core.errors import UserError
from harness.core.plugs import construct
from harness.core.seeds import SeedTree
from harness.endpoint import BudgetSpentError, ContextFullError, EndpointCallError, Reply
from harness.evaluation.playing import play
from harness.experiment import EnvironmentSettings, TinySettings
from harness.rollout.conversation import Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import MessagePolicy
from harness.rollout.rollouts import Rollouts
from harness.serving.server import ModelServer
from harness.types import Ending, Episode

AIRLINE = "environments:Tau3Airline-v0"


@pytest.fixture
def pool_of() -> Iterator[Callable[..., EnvironmentPool]]:
    pools: list[EnvironmentPool] = []

    def make(**options: Any) -> EnvironmentPool:
        pools.append(EnvironmentPool(EnvironmentSettings(id=AIRLINE, options=options, deadline_s=60.0)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def policy_on(server: ChatServer, **options: Any) -> EndpointPolicy:
    return EndpointPolicy("m", **{"base_url": server.url, "attempts": 1, "timeout_s": 20.0, **options})


def played(
    pool: EnvironmentPool, policy: EndpointPolicy, tasks: tuple[str, ...] = ("8",)
) -> tuple[list[Episode], Rollouts]:
    rollouts = Rollouts(pool)
    return rollouts.play([Request(task, SeedTree(3)[task]) for task in tasks], MessagePolicy(policy)), rollouts


def spoken(request: dict[str, Any]) -> int:
    """The agent's turns so far; the fixed greeting is none."""
    return sum(message["role"] == "assistant" for message in request["messages"]) - 1


def recite(actions: list[str], **usage: int) -> Callable[[dict[str, Any], int], tuple[int, str]]:
    """A model that plays these actions, tool calls as native ones."""

    def answer(request: dict[str, Any], count: int) -> tuple[int, str]:
        action = actions[spoken(request)]
        if not action.startswith("{"):
            return ChatServer.says(action)
        call = json.loads(action)
        return ChatServer.says(None, [(call["name"], json.dumps(call["arguments"]))])

    return answer


# ---------------------------------------------------------------- between actions and messages


def test_a_call_goes_out_and_comes_back_with_its_id() -> None:
    messages = [
        {"role": "system", "content": "rules"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "cancel"},
        {"role": "assistant", "content": '{"name": "look", "arguments": {"id": "A", "n": 2}}'},
        {"role": "tool", "content": "a seat"},
        {"role": "assistant", "content": '{"name": "look", "arguments": '},
        {"role": "tool", "content": "Error: no JSON"},
        {"role": "assistant", "content": '{"name": "no such name!", "arguments": {}}'},
        {"role": "tool", "content": "Error: not found"},
        {"role": "assistant", "content": '{"name": "look", "arguments": {}}'},
        {"role": "user", "content": "what?"},
    ]
    chat = as_chat(messages)
    assert [m["role"] for m in chat] == [
        "system", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant", "user",
        "assistant", "user",
    ]  # fmt: skip
    (call,) = chat[3]["tool_calls"]
    assert chat[3]["content"] is None
    assert call["function"] == {"name": "look", "arguments": '{"id": "A", "n": 2}'}
    assert chat[4] == {"role": "tool", "tool_call_id": call["id"], "content": "a seat"}
    # what could not be read as a call, or was answered by nobody's tool, stays the text it was
    assert [chat[place]["content"] for place in (5, 7, 9)] == [messages[place]["content"] for place in (5, 7, 9)]
    assert not any("tool_calls" in chat[place] for place in (5, 7, 9))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4), st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True))
def test_every_call_survives_the_way_through_an_action(arguments: dict[str, Any], name: str) -> None:
    action = action_of(Reply("", ({"name": name, "arguments": json.dumps(arguments)},)))
    assert json.loads(action) == {"name": name, "arguments": arguments}
    said, answered = as_chat([{"role": "assistant", "content": action}, {"role": "tool", "content": "."}])
    (call,) = said["tool_calls"]
    assert call["function"]["name"] == name
    assert json.loads(call["function"]["arguments"]) == arguments
    assert answered["tool_call_id"] == call["id"]


ROLES = ["assistant", "user", "tool"]
CONTENTS = ["hello", "", '{"name": "f", "arguments": {}}', '{"name": "f"', '{"name": 3, "arguments": {}}', "\ud800"]


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.sampled_from(CONTENTS)), max_size=8))
def test_whatever_was_said_is_a_request_that_a_server_takes(said: list[tuple[str, str]]) -> None:
    chat = as_chat([{"role": role, "content": content} for role, content in said])
    json.dumps(chat, ensure_ascii=False).encode()  # nothing that cannot be sent
    for place, message in enumerate(chat):
        answers = message["role"] == "tool"
        assert answers == bool(
            place and "tool_calls" in chat[place - 1]
        )  # a tool's words follow their call, and every call has them
        if answers:
            assert message["tool_call_id"] == chat[place - 1]["tool_calls"][0]["id"]


def test_what_a_model_wrote_is_passed_on_as_it_is() -> None:
    assert action_of(Reply("", ({"name": "f", "arguments": '{"a": 1,}'},))) == '{"name": "f", "arguments": {"a": 1,}}'
    assert action_of(Reply("", ({"name": "f", "arguments": " "},))) == '{"name": "f", "arguments": {}}'
    assert (
        action_of(Reply("words", ({"name": "f", "arguments": "{}"}, {"name": "g", "arguments": "{}"})))
        == '{"name": "f", "arguments": {}}'
    )
    assert action_of(Reply("words")) == "words"
    assert action_of(Reply("half a sent", finish_reason="length")) == "half a sent"
    assert action_of(Reply("", refusal="I will not.")) == "I will not."
    assert action_of(Reply("", finish_reason="stop")) == ""


def test_words_that_a_limit_or_a_filter_took_are_no_empty_action() -> None:
    with pytest.raises(ContextFullError, match="limit of tokens"):
        action_of(Reply("", finish_reason="length"))
    for left in ("", "half a sent"):
        with pytest.raises(EndpointCallError, match="filter"):
            action_of(Reply(left, finish_reason="content_filter"))


# ---------------------------------------------------------------- episodes


def test_gold_by_native_tool_calls_scores_1(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    pool = pool_of()
    gold = pool.environment.gold("8")
    server = chat_server(recite(gold))
    policy = policy_on(server, temperature=0.5, max_tokens=77, params={"top_p": 0.9, "temperature": None})
    (episode,), _ = played(pool, policy)
    assert (episode.reward, episode.success, episode.ending) == (1.0, True, Ending.COMPLETED)
    # the record holds what the environment was told: the actions, word for word but for JSON's spacing
    actions = [m["content"] for m in episode.messages if m["role"] == "assistant"][1:]
    assert [json.loads(a) if a[0] == "{" else a for a in actions] == [json.loads(g) if g[0] == "{" else g for g in gold]
    last = server.requests[-1]
    assert {tool["function"]["name"] for tool in last["tools"]} >= {"book_reservation", "calculate"}
    assert (last["max_tokens"], last["top_p"], last["parallel_tool_calls"]) == (77, 0.9, False)
    assert "temperature" not in last  # an entry that is None is taken out
    assert len({request["seed"] for request in server.requests}) == len(server.requests)
    ids = [call["id"] for m in last["messages"] for call in m.get("tool_calls", ())]
    assert ids == [m["tool_call_id"] for m in last["messages"] if m["role"] == "tool"]
    assert len(ids) == len(set(ids)) == len(gold) - 1
    # ChatServer says 11 prompt and 7 completion tokens per reply
    assert [episode.metrics[k] for k in ("model_calls", "prompt_tokens", "completion_tokens")] == [
        len(gold),
        11 * len(gold),
        7 * len(gold),
    ]
    assert "cost_usd" not in episode.metrics


def test_greedy_asks_for_the_likeliest(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    server = chat_server(recite(["Bye."]))
    Rollouts(pool_of()).play(
        [Request("0", SeedTree(3), greedy=True)], MessagePolicy(policy_on(server, temperature=0.7))
    )
    assert server.requests[0]["temperature"] == 0.0


def test_a_models_bad_calls_are_the_agents_and_cost_it_a_turn(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    replies = [
        ChatServer.says(None, [("get_user_details", '{"user_id": ')]),
        ChatServer.says(None, [("no such tool", "{}")]),
        ChatServer.says(None, [("calculate", "[1]")]),
        ChatServer.says('{"name": 3}'),
        ChatServer.says("\ud83d half a pair"),
        ChatServer.says("Bye."),
    ]
    server = chat_server(lambda request, count: replies[count - 1])
    (episode,), rollouts = played(pool_of(max_turns=9), policy_on(server), ("0",))
    # the one-shot user is content with the first message, which is the fifth action
    assert (episode.ending, rollouts.failures, len(server.requests)) == (Ending.COMPLETED, {}, 5)
    assert (episode.metrics["error_malformed"], episode.metrics["error_unknown_tool"]) == (3.0, 1.0)
    for request in server.requests:
        assert not any(m["role"] == "tool" for m in request["messages"])


def test_text_beside_a_call_stays_in_the_conversation(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    def answer(request: dict[str, Any], count: int) -> Any:
        if spoken(request) < 2:
            return ChatServer.says(f"Attempt {count}. \ud83d", [("list_all_airports", "{}")])
        return ChatServer.says("Bye.")

    server = chat_server(answer)
    pool, policy = pool_of(), policy_on(server)
    for _ in range(2):  # the second episode, in the same environment, knows nothing of the first
        (episode,), _ = played(pool, policy, ("0",))
        said = [message["content"] for message in server.requests[-1]["messages"] if "tool_calls" in message]
        first = len(server.requests) - 2
        assert said == [f"Attempt {first}. ?", f"Attempt {first + 1}. ?"]
        actions = [message["content"] for message in episode.messages if message["role"] == "assistant"][1:]
        assert actions == ['{"name": "list_all_airports", "arguments": {}}'] * 2 + ["Bye."]


@pytest.mark.parametrize(("reason", "ending", "failures"), [
    ("length", Ending.TOKEN_LIMIT, {}), ("content_filter", Ending.ERROR, {"policy filter": 2}),
])  # fmt: skip
def test_a_reply_without_words_has_its_own_ending(
    reason: str, ending: Ending, failures: dict[str, int],
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool],
) -> None:  # fmt: skip
    server = chat_server(lambda request, count: ChatServer.says("", finish_reason=reason))
    (episode,), rollouts = played(pool_of(), policy_on(server), ("0",))
    assert (episode.ending, rollouts.failures) == (ending, failures)


def test_cut_replies_and_refusals_are_counted_in_the_episode(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    replies = [
        ChatServer.says(None, [("list_all_airports", "{")], finish_reason="length"),
        ChatServer.says(None, [("list_all_airports", "{}")]),
        ChatServer.says('{"name": "list_all_airp', finish_reason="length"),
        ChatServer.says(None, message={"content": None, "refusal": "I will not."}),
    ]
    policy = policy_on(chat_server(lambda request, count: replies[count - 1]))
    (episode,), rollouts = played(pool_of(), policy, ("0",))
    # both halves are actions that cost a turn, and the refusal is what the agent says to its user
    assert (episode.metrics["error_malformed"], rollouts.failures) == (2.0, {})
    assert [m["content"] for m in episode.messages if m["role"] == "assistant"][-1] == "I will not."
    assert {name: episode.metrics.get(name) for name in ("truncated", "filtered", "refused")} == {
        "truncated": 2.0,
        "filtered": None,
        "refused": 1.0,
    }
    assert (policy.spent()["truncated"], policy.spent()["refused"]) == (2.0, 1.0)


FAULTS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "500": ("status", lambda r, c: (500, "{}"), {}),
    "refused": ("status", lambda r, c: (401, '{"error": {"message": "no key"}}'), {}),
    "garbage": ("garbage", lambda r, c: (200, "<html>"), {}),
    "shape": ("garbage", lambda r, c: (200, '{"choices": []}'), {}),
    "half": ("connection", lambda r, c: (200, '{"choices": [{"mes', {"Content-Length": "9000"}), {}),
    "hang up": ("connection", lambda r, c: None, {}),
    "stall": ("timeout", lambda r, c: time.sleep(0.6), {"timeout_s": 0.2}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_endpoints_fault_is_an_error_with_no_reward(
    fault: str, chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    kind, answer, options = FAULTS[fault]
    server = chat_server(
        lambda request, count: (
            ChatServer.says(None, [("list_all_airports", "{}")]) if spoken(request) == 0 else answer(request, count)
        )
    )
    (episode,), rollouts = played(pool_of(), policy_on(server, **options), ("0",))
    assert episode.ending is Ending.ERROR
    assert math.isnan(episode.reward)
    assert not episode.success
    assert rollouts.failures == {f"policy {kind}": 2}  # tried once more, in a fresh environment
    assert episode.metrics["prompt_tokens"] == 11  # what was paid is known although the episode is lost


@pytest.mark.parametrize("fault", ["500", "half"])
def test_a_passing_fault_costs_nothing_but_a_second_try(
    fault: str, chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    answer = FAULTS[fault][1]
    server = chat_server(lambda request, count: answer(request, count) if count == 1 else ChatServer.says("Hello."))
    (episode,), rollouts = played(pool_of(), policy_on(server), ("0",))
    assert (episode.reward, episode.ending) == (1.0, Ending.COMPLETED)  # hello alone passes task 0
    assert rollouts.failures == {f"policy {FAULTS[fault][0]}": 1}


def test_one_lost_conversation_leaves_its_neighbours_alone(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    def answer(request: dict[str, Any], count: int) -> Any:
        return (
            (500, "{}") if "emma_kim_9957" in json.dumps(request["messages"]) else ChatServer.says("Hello.")
        )  # the user of task 0

    episodes, _ = played(pool_of(), policy_on(chat_server(answer)), ("0", "1", "2"))
    assert [episode.ending for episode in episodes] == [Ending.ERROR, Ending.COMPLETED, Ending.COMPLETED]
    assert [episode.reward for episode in episodes[1:]] == [1.0, 1.0]


def test_a_full_window_ends_the_episode_and_is_no_failure(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    full = json.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}})
    (episode,), rollouts = played(pool_of(), policy_on(chat_server(lambda r, c: (400, full))), ("0",))
    assert (episode.ending, episode.reward, rollouts.failures) == (Ending.TOKEN_LIMIT, 0.0, {})


def test_a_spent_budget_stops_everything(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    server = chat_server(recite(["Hello."]))
    with pytest.raises(BudgetSpentError, match="2 calls"):
        played(pool_of(), policy_on(server, max_calls=2), ("0", "1", "2"))
    assert len(server.requests) == 2


def test_costs_by_hand_and_nothing_for_what_is_remembered(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool], tmp_path: Path
) -> None:
    server = chat_server(recite(["Hello."]))
    totals = []
    for _ in range(2):
        policy = policy_on(server, prices=[2.0, 10.0], cache=str(tmp_path))
        (episode,), _ = played(pool_of(), policy, ("0",))
        totals.append((episode.metrics["prompt_tokens"], episode.metrics["cost_usd"], policy.spent()))
    cost = (11 * 2.0 + 7 * 10.0) / 1e6
    assert totals[0] == (11, cost, {"model_calls": 1, "prompt_tokens": 11, "completion_tokens": 7, "cost_usd": cost})
    assert totals[1] == (11, 0.0, {"model_calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0})
    assert len(server.requests) == 1


def test_lanes_ask_at_the_same_time_and_play_what_one_lane_plays(
    chat_server: Callable[..., ChatServer], pool_of: Callable[..., EnvironmentPool]
) -> None:
    gold = {task: Tau3AirlineEnv().gold(task) for task in map(str, range(12))}
    known = {task: Tau3AirlineEnv().reset(options={"task_id": task})[0][-1]["content"] for task in gold}
    lock, now, most = threading.Lock(), [0], [0]

    def answer(request: dict[str, Any], count: int) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        (task,) = [task for task, words in known.items() if request["messages"][2]["content"] == words]
        with lock:
            now[0] -= 1
        return recite(gold[task])(request, count)

    server, done = chat_server(answer), []
    policy = policy_on(server, concurrency=3)
    lanes = [Rollouts(pool_of()) for _ in range(6)]
    play([[Request(task, SeedTree(1)[task])] for task in gold], lanes, MessagePolicy(policy), done.extend)
    assert {(episode.task_id, episode.reward) for episode in done} == {(task, 1.0) for task in gold}
    assert 2 <= most[0] <= 3  # six conversations, three requests at once


@pytest.mark.parametrize(
    ("options", "said"),
    [({"prices": [1.0]}, "two numbers"), ({"prices": [1.0, -1.0]}, "two numbers"),
     ({"temprature": 1.0}, "did you mean 'temperature'"),
     ({}, "OPENAI_BASE_URL"), ({"base_url": "http://x/v1", "timeout_s": 0}, "above 0")],
)  # fmt: skip
def test_mistakes_of_the_user(options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=said):
        construct("agents.policies.endpoint:EndpointPolicy", {"model": "m", **options}, "policy")


# ---------------------------------------------------------------- against our own server


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A random two-layer model whose window holds an airline dialogue."""
    from harness.backends.torch import TorchBackend
    from harness.backends.torch.models import create_tiny

    directory = tmp_path_factory.mktemp("small") / "model"
    opening, _ = Tau3AirlineEnv().reset(seed=0)
    settings = TinySettings(width=32, layers=2, heads=4, kv_heads=2, mlp=64, window=6144, vocabulary=3000)
    create_tiny(directory, [m["content"] for m in opening], settings, seed=0)
    with ModelServer(TorchBackend(directory, device="cpu"), "small") as server:
        yield server


def test_the_llm_user_and_the_policy_talk_through_our_server(
    small_server: ModelServer, pool_of: Callable[..., EnvironmentPool]
) -> None:
    user = {"user_model": "small", "user_params": {"temperature": 1.0, "max_tokens": 8}}
    reach = {"base_url": small_server.url, "api_key": "none", "attempts": 1}
    policy = EndpointPolicy("small", base_url=small_server.url, max_tokens=8, attempts=1)

    def once() -> Episode:
        pool = pool_of(user="llm", user_endpoint=reach, max_turns=3, **user)
        assert pool.environment.protocol == "τ³-airline, user played by small"
        (episode,), rollouts = played(pool, policy, ("0",))
        assert rollouts.failures == {}
        return episode

    episode = once()
    assert (episode.ending, episode.reward) == (Ending.TURN_LIMIT, 0.0)
    assert [m["role"] for m in episode.messages] == ["system", *("assistant", "user") * 4]
    assert episode.metrics["model_calls"] == 3
    assert 0 < episode.metrics["completion_tokens"] <= 3 * 8
    assert 0 < episode.metrics["user_completion_tokens"] <= 4 * 8  # its opening and three answers
    assert episode.metrics["user_prompt_tokens"] > 4 * 100
    assert once().messages == episode.messages  # one seed, one dialogue: user and policy both


@pytest.mark.slow
def test_smollm2_plays_an_airline_turn_with_itself(tmp_path: Path, pool_of: Callable[..., EnvironmentPool]) -> None:
    from harness.backends.torch import TorchBackend
    from harness.backends.torch.models import base_directory
    from harness.experiment import ModelSettings

    directory = base_directory(ModelSettings(name="smollm2"), Path(".cache"))
    with ModelServer(TorchBackend(directory, device="cpu"), "smollm2") as server:
        pool = pool_of(
            user="llm", user_model="smollm2", user_params={"temperature": 0.0, "max_tokens": 24}, max_turns=1,
            user_endpoint={"base_url": server.url, "api_key": "none", "timeout_s": 300.0},
        )  # fmt: skip
        (episode,), _ = played(
            pool, EndpointPolicy("smollm2", base_url=server.url, max_tokens=24, timeout_s=300.0), ("26",)
        )
    assert episode.ending in (Ending.TURN_LIMIT, Ending.COMPLETED)
    assert 1500 < episode.metrics["prompt_tokens"] < 3000  # the policy alone has about 1,600
