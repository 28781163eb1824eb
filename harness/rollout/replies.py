"""What an environment answered, read with suspicion: a well-formed reset or step, or else an `EnvironmentFailure`;
never a wrong reward.

messages, info = answers.reset(environment.reset(...))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from harness.core.errors import EnvironmentFailure
from harness.core.types import Ending, Message

Answer = TypeVar("Answer")
ROLES = ("system", "user", "assistant", "tool")
REPORTED = tuple(ending.value for ending in Ending if ending is not Ending.ERROR)
"""Endings an environment may name; a failure it reports in `info["failure"]`."""


def reset(answer: Any) -> tuple[tuple[Message, ...], dict[str, Any]]:
    """(messages, info) of a reset. An EnvironmentFailure that is given instead is raised, and so is one for anything
    malformed."""
    return _read(_reset, answer)


def step(answer: Any) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
    """(messages, reward, terminated, truncated, info) of a step; raises as `reset` does."""
    return _read(_step, answer)


def ending(terminated: bool, info: dict[str, Any]) -> Ending:
    """Why an episode is over: in the environment's own word where it has one."""
    if "ending" in info:
        return Ending(info["ending"])
    return Ending.COMPLETED if terminated else Ending.TURN_LIMIT


def _read(read: Callable[[Any], Answer], answer: Any) -> Answer:
    if isinstance(answer, EnvironmentFailure):
        raise answer
    try:
        return read(answer)
    except EnvironmentFailure:
        raise
    except Exception as error:
        raise EnvironmentFailure("garbage", f"{type(error).__name__}: {error}") from error


def _reset(result: Any) -> tuple[tuple[Message, ...], dict[str, Any]]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise EnvironmentFailure("garbage", f"reset returned {type(result).__name__}, not (messages, info)")
    messages, info = result
    return _messages(messages), _info(info)


def _step(result: Any) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
    if not (isinstance(result, tuple) and len(result) == 5):
        raise EnvironmentFailure("garbage", f"step returned {type(result).__name__}, not a 5-tuple")
    messages, reward, terminated, truncated, info = result
    if not math.isfinite(float(reward)):
        raise EnvironmentFailure("garbage", f"step returned the reward {reward!r}")
    return _messages(messages), float(reward), bool(terminated), bool(truncated), _info(info)


def _info(info: Any) -> dict[str, Any]:
    if not isinstance(info, dict):
        raise EnvironmentFailure("garbage", f"info is {type(info).__name__}, not a dict")
    if info.get("failure"):
        failure = info["failure"]
        known = failure if isinstance(failure, dict) else {"message": failure}
        raise EnvironmentFailure(str(known.get("kind", "reported")), str(known.get("message", "")))
    metrics = {str(key): float(value) for key, value in dict(info.get("metrics") or {}).items()}
    if any(map(math.isinf, metrics.values())):
        raise EnvironmentFailure("garbage", f"metrics must be finite, got {metrics}")
    if not isinstance(info.get("answer", ""), str):
        raise EnvironmentFailure("garbage", f"answer is {type(info['answer']).__name__}, not text")
    if not isinstance(info.get("state", ""), str):
        raise EnvironmentFailure("garbage", f"state is {type(info['state']).__name__}, not text")
    value = info.get("value")
    if "value" in info and not (isinstance(value, int | float) and math.isfinite(value)):
        raise EnvironmentFailure("garbage", f"value must be a finite number, got {value!r}")
    if info.get("ending", Ending.COMPLETED) not in REPORTED:
        raise EnvironmentFailure(
            "garbage", f"ending is {info['ending']!r}; an environment reports one of {', '.join(REPORTED)}"
        )
    return info | ({"metrics": metrics} if metrics else {})


def _messages(messages: Any) -> tuple[Message, ...]:
    taken = () if isinstance(messages, str) else tuple(messages)
    if isinstance(messages, str) or not all(m["role"] in ROLES and isinstance(m["content"], str) for m in taken):
        raise EnvironmentFailure(
            "garbage", f"messages must be dicts with role and content, got {str(messages)[:200]!r}"
        )
    return taken
