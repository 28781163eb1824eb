"""The rules find what successes share; the language model reads what fits and is reached through the real client."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.contexts import CreditReference
from agents.methods.sgcd import SGCD
from agents.sanitiser import Trace
from agents.summariser import LanguageModel, RuleBased, calls, fit, structured_calls, summariser
from harness.endpoint import BudgetSpentError, Endpoint
from harness.types import Ending, Episode, RolloutGroup, TokenSequence


def trace(success, *actions, replies=None):
    return Trace("the task", tuple(actions), tuple(replies or ["ok"] * len(actions)), success)


def test_calls():
    assert structured_calls('{"name": "cancel", "arguments": {"b": 1, "a": "x"}}') == ['cancel({"a": "x", "b": 1})']
    block = "t = apis.phone.login(user='a')\nfor x in range(3):\n    apis.file.delete(id=x)\n"
    assert structured_calls(block) == ["apis.phone.login(user='a')", "apis.file.delete(id=x)"]
    assert structured_calls("look 4") == structured_calls("[" * 100_000) == structured_calls("17") == []
    assert calls(trace(True, "look  4\n\ntake 7", '{"name": "wait"}')) == ["look 4", "take 7", "wait({})"]


def test_rules_by_hand():
    traces = [
        trace(True, "look", "check", "cancel"),
        trace(True, "check", "look", "wait", "cancel"),
        trace(False, "look", "cancel"),
        trace(False, "look", "shout"),
        trace(False, "look", "shout", "shout"),
    ]
    # All successes share look, check, cancel; failures make look and cancel too: what tells them apart is check.
    # Only failures shout. After look, one failure cancels and two shout where the first success checks: the commoner
    # wins.
    assert RuleBased()(traces) == "good: check\nbad: shout\nturn 2: check not shout"
    assert RuleBased()(traces[:2]) == RuleBased()(traces[2:]) == RuleBased()([]) == ""
    # Nothing shared by the successes: the shortest one stands for them.
    assert (
        RuleBased()([trace(True, "a", "b"), trace(True, "c"), trace(False, "d")]) == "good: c\nbad: d\nturn 1: c not d"
    )
    # Same calls, other outcome: all shared, no parting, nothing bad.
    assert RuleBased()([trace(True, "a"), trace(False, "a")]) == "good: a"
    assert RuleBased(widest=8)([trace(True, "x" * 50), trace(False, "y")]).splitlines()[0] == "good: xxxxx..."


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from("abcd"), max_size=4)), max_size=6), st.randoms())
def test_rules_do_not_depend_on_the_order_of_siblings(rows, shuffle):
    traces = [trace(success, *actions) for success, actions in rows]
    moved = list(traces)
    shuffle.shuffle(moved)
    assert RuleBased()(traces) == RuleBased()(moved)


def test_overflow_keeps_the_smaller_class_and_matches_it():
    wins = [trace(True, "w" * n, replies=[""]) for n in (30, 10, 20)]
    losses = [trace(False, "l" * n, replies=[""]) for n in (5, 50)]
    assert fit([*wins, *losses], 10_000) == [*wins, *losses]
    # Two failures, so two successes, the shorter ones; failures longest first.
    assert fit([*wins, *losses], 60) == [wins[1], wins[2], losses[1], losses[0]]


def test_names():
    assert summariser("rules").name == "rules, no language model"
    assert summariser("llm:some-model").name == "language model some-model"
    assert CreditReference("llm:some-model").name == "credit reference by language model some-model"
    mine = RuleBased(most=3)
    assert summariser(mine) is mine
    with pytest.raises(ValueError, match="'llm:MODEL'"):
        summariser("llm:")


def test_a_language_model_writes_the_credit_reference(chat_server, tmp_path):
    """Through HTTP: it sees sanitised traces, its own slips are masked, siblings and reruns cost nothing."""

    def episode(action, success):
        messages = (
            {"role": "user", "content": "what is 3 + 4? password: aa11bb22"},
            {"role": "assistant", "content": action},
        )
        sequence = TokenSequence(np.arange(2), np.array([False, True]), np.zeros(2), np.zeros(2, int))
        return Episode("t", sequence, float(success), success, Ending.COMPLETED, messages)

    server = chat_server(lambda request, count: server.says("GOOD BRANCHES: add first; the answer is 7"))
    group = RolloutGroup("t", (episode("sum is 7", True), episode("sum is 8", False)), answer="7")

    def source():
        endpoint = Endpoint("m", base_url=server.url, api_key="k", cache=tmp_path, max_calls=1)
        return CreditReference(LanguageModel("m", endpoint=endpoint))

    rng = np.random.default_rng(0)
    first = source()
    texts = {first(group, index, rng).content for index in (0, 1)}
    assert texts == {"GOOD BRANCHES: add first; the answer is ***"}
    assert first(group, 0, rng).literals == ("7", "aa11bb22")
    again = RolloutGroup("t", group.episodes, answer="7")
    assert source()(again, 0, rng).content in texts  # another process would find it on disk
    assert len(server.requests) == 1
    sent = json.dumps(server.requests[0])
    assert "aa11bb22" not in sent
    assert "sum is ***" in sent
    assert "sum is 8" in sent
    other = RolloutGroup("t", (episode("sum is 9", False), group.episodes[0]), answer="7")
    last = RolloutGroup("t", (episode("sum is 10", False), group.episodes[0]), answer="7")
    limited = source()
    limited(other, 0, rng)  # new content: the one call it may make
    assert SGCD(summariser=limited.summariser).external_calls == 1
    assert SGCD(summariser="rules").external_calls == 0
    with pytest.raises(BudgetSpentError, match="1 calls"):
        limited(last, 0, rng)


def test_long_traces_are_squeezed(chat_server):
    server = chat_server(lambda request, count: server.says("ok"))
    model = LanguageModel("m", characters=2_000, endpoint=Endpoint("m", base_url=server.url, api_key="k"))
    long = "start " + "x" * 50_000 + " end"
    assert model([trace(True, long), trace(False, long), trace(False, "short")]) == "ok"
    seen = server.requests[0]["messages"][1]["content"]
    assert len(seen) < 3_000
    assert "start" in seen
    assert " end" in seen
    assert model([trace(True, "a")]) == ""  # one outcome: nothing to compare, nothing sent
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "choice", [{"finish_reason": "content_filter"}, {"message": {"content": "Sorry.", "refusal": "I will not."}}]
)
def test_half_a_reference_and_a_refusal_are_none_and_are_counted(chat_server, choice):
    server = chat_server(lambda request, count: server.says("GOOD BRANCHES: half", **choice))
    endpoint = Endpoint("m", base_url=server.url, api_key="k")
    assert LanguageModel("m", endpoint=endpoint)([trace(True, "a"), trace(False, "b")]) == ""
    assert sum(endpoint.troubles.values()) == 1
