"""Whatever text a policy writes is the policy's: no registered environment raises at it, or books it as a failure of
the machine. What the machine does is tested beside each environment (`docs/faults.md`)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import environments  # noqa: F401 - registers its ids
from harness.core.errors import MissingDataError

OPTIONS: dict[str, dict[str, Any]] = {
    "Tau3Airline-v0": {"user": "oneshot"},
    "TextArena-v0": {"name": "GuessTheNumber-v0"},
    "Verifiers-v0": {"name": "reverse-words"},
}
"""Of an id whose own user is a model behind an endpoint, and of those that do nothing without a name."""
IDS = sorted(name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("environments."))

CHARACTERS = st.characters() | st.sampled_from("\ud800\udfff\x00\x1b\u202e\ufeff\u2028<>[]{}()\"'`\\|;:#$%&")
TEXT = st.text(CHARACTERS, max_size=60)
NUMBERS = st.floats() | st.integers(-(10**400), 10**400)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
WORDS = st.sampled_from(
    [
        *("think", "", "respond", "transfer_to_human_agents", "calculate", "get_user_details", "send_certificate"),
        *("cancel_reservation", "book_reservation", "content", "expression", "user_id", "complete_task"),
    ]
)
CALLS = st.builds(lambda name, given: {"name": name, "arguments": given}, WORDS | VALUES, VALUES)
DEEP = st.integers(1, 100_000).flatmap(
    lambda n: st.sampled_from(["[" * n, '{"a":' * n, "(" * n, "<answer>" * (n // 9 + 1)])
)
HUGE = st.integers(1, 2_000_000).flatmap(
    lambda n: st.sampled_from(["€" * n, "9" * n, " " * n, "\\frac{" * (n // 6 + 1)])
)


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # NaN and Infinity as they are


def completed(answer: Any) -> str:
    """A block that gives an answer, NaN as Python writes it."""
    block = f"apis.supervisor.complete_task(answer={answer!r})"
    return f"```python\nnan = inf = 1e999\nnan -= inf\n{block}\n```"


TEXTS = st.one_of(
    TEXT,
    (VALUES | CALLS).map(dumped),
    CALLS.map(lambda call: f"<tool_call>{dumped(call)}</tool_call>"),
    CALLS.map(lambda call: f"```json\n{dumped(call)}\n```"),
    (TEXT | NUMBERS.map(str)).map(lambda text: f"<answer>{text}</answer>"),
    TEXT.map(lambda text: f"\\boxed{{{text}}}"),
    TEXT.map(lambda text: f"```python\n{text}\n```"),
    VALUES.map(
        lambda value: f"```python\napis.supervisor.complete_task(answer={value!r})\n```".replace("nan", "1e999-1e999")
    ),
    HUGE,
)


def made(name: str) -> Any:
    """The environment, or the reason why it is skipped."""
    try:
        env = gymnasium.make(name, **OPTIONS.get(name, {}))
        env.reset(seed=0)
    except (MissingDataError, RuntimeError, gymnasium.error.Error) as error:
        pytest.skip(f"{name}: {str(error)[:200]}")
    return env


@pytest.fixture(scope="module", params=IDS)
def env(request: pytest.FixtureRequest) -> Iterator[Any]:
    made_env = made(request.param)
    yield made_env
    made_env.close()


def is_the_policys(env: Any, seed: int, texts: list[str]) -> None:
    """Play the texts: each is answered or ends the episode, with a plain reward and no failure."""
    env.reset(seed=seed)
    for text in texts:
        observation, reward, terminated, truncated, info = env.step(text)
        assert "failure" not in info, (text[:200], info["failure"])
        assert math.isfinite(reward)
        assert all(isinstance(message["content"], str) for message in observation)
        if terminated or truncated:
            return


def test_texts_of_every_kind_are_the_policys(env: Any) -> None:
    fixed = ["", "\ud800", "NaN", "[" * 100_000, '{"a":' * 100_000, "€" * 900_000, "\\boxed{" * 1000]
    fixed += ['{"name": "calculate", "arguments": {"expression": "1/0"}}', '{"name": NaN, "arguments": 1e999}']
    fixed += ["<answer>\ud800</answer>", f"<answer>{'9' * 100_000}</answer>"]
    fixed += ["```python\nraise SyntaxError('m', ('f', 'x', 'y', 'z'))\n```"]
    for seed, text in enumerate(fixed):
        is_the_policys(env, seed, [text])


@pytest.mark.slow
def test_random_texts_are_the_policys(env: Any) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 1000), texts=st.lists(TEXTS, min_size=1, max_size=4))
    def random_texts(seed: int, texts: list[str]) -> None:
        is_the_policys(env, seed, texts)

    random_texts()
