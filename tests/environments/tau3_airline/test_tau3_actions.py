"""What a family's way of calling means on the airline, and what a thought means: nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.tau3_airline.actions import call_text, read_call, spoken
from environments.tau3_airline.env import Tau3AirlineEnv

CALL = '{"name": "calculate", "arguments": {"expression": "1 + 1"}}'
OTHER = CALL.replace('"arguments"', '"parameters"')
CALLS = {
    "its own form": CALL,
    "with blanks": f"\n {CALL}\n",
    "after a thought": f"<think>Let me {{see}}.</think>{CALL}",
    "after a thought that the prompt opened": f"hm</think>\n\n{CALL}",
    "parameters": OTHER,
    "Hermes": f"<tool_call>\n{CALL}\n</tool_call>",
    "Hermes, after words": f"I will count.\n<tool_call>{CALL}</tool_call>",
    "Hermes, no closing tag": f"<tool_call>\n{CALL}",
    "Hermes, several": f"<tool_call>{CALL}</tool_call>\n<tool_call>{{}}</tool_call>",
    "Llama": f"<|python_tag|>{OTHER}",
    "Mistral": f"[TOOL_CALLS] [{CALL}, {{}}]",
    "fenced": f"```json\n{CALL}\n```",
    "fenced, after words": f"I will count:\n```\n{CALL}\n```\nOne moment.",
    "after a sentence": f"Let me count {{that}}. {CALL}",
}
WORDS = {
    "words": ("Hello.", "Hello."),
    "words after a thought": (f"<think>{CALL}</think>\n\nHello.", "Hello."),
    "a call that is only quoted": (f"You could send {CALL} yourself.", f"You could send {CALL} yourself."),
    "an object that is no call": ('Your bag: {"name": "red"}', 'Your bag: {"name": "red"}'),
    "a fence without a call": ('```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```'),
    "code": ("```\nprint(1)\n```", "```\nprint(1)\n```"),
}


@pytest.fixture(scope="module")
def env() -> Tau3AirlineEnv:
    return Tau3AirlineEnv()


def step(env: Tau3AirlineEnv, action: str) -> tuple[Any, ...]:
    env.reset(seed=0, options={"task_id": "0"})
    return env.step(action)


@pytest.mark.parametrize("case", CALLS)
def test_a_familys_call_is_a_call(env: Tau3AirlineEnv, case: str) -> None:
    (answer,), _, terminated, _, _ = step(env, CALLS[case])
    assert (dict(answer), terminated) == ({"role": "tool", "content": "2.0"}, False)


@pytest.mark.parametrize("case", WORDS)
def test_words_reach_the_user_without_the_thought(env: Tau3AirlineEnv, case: str) -> None:
    said, heard = WORDS[case]
    (answer,), _, terminated, _, _ = step(env, said)
    assert (answer["role"], terminated, env.unwrapped._sent[-1]) == ("user", True, heard)


@pytest.mark.parametrize("action", ["<think>so", f"<think>{CALL}", "x</think><think>Hello.", "<tool_call>{", "{"])
def test_what_is_unfinished_is_an_error_and_no_message(env: Tau3AirlineEnv, action: str) -> None:
    # task 0 is won by any message to its user: a turn that is cut off must not win it
    (answer,), reward, terminated, _, _ = step(env, action)
    assert (answer["role"], answer["content"][:6], reward, terminated) == ("tool", "Error:", 0.0, False)


def test_an_agent_that_says_nothing_still_says_nothing(env: Tau3AirlineEnv) -> None:
    (answer,), _, terminated, _, _ = step(env, "")
    assert (answer["role"], terminated) == ("user", True)


PIECES = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "```json\n",
    "```",
    CALL,
    "{",
    "}",
    " a ",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join))
def test_every_text_is_words_or_the_text_of_a_call(action: str) -> None:
    meant = call_text(spoken(action))
    if meant is not None:
        try:
            call = read_call(meant)
        except ValueError:
            return
        assert isinstance(call.name, str)
        json.dumps(call.arguments)
