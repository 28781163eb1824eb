"""Is it a text policy? Episodes of an environment, and what must hold of every action.

`harness check-policy my_policy:Mine --env my_env:MyEnv-v0` runs this suite.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from harness.core.plugs import original
from harness.protocols.environment import TextEnvironment
from harness.protocols.policy import TextPolicy

TASKS = 3


class PolicyError(ValueError):
    """A policy that breaks the contract, with everything it breaks."""


def check_policy(policy: TextPolicy, environment: TextEnvironment, tasks: int = TASKS) -> None:
    """Raise PolicyError naming everything that is wrong, unless `policy` keeps the contract on the default split's
    first tasks.

    An EndpointError passes through: a model that cannot be reached says nothing about the policy.
    """
    found = list(_declared(policy))
    for task_id in environment.tasks(environment.default_split)[:tasks]:
        found += _episode(policy, environment, task_id)
    if found:
        listed = "\n".join(f"  - {problem}" for problem in dict.fromkeys(found))
        raise PolicyError(f"{type(original(policy)).__name__} breaks the contract of a text policy:\n{listed}")


def _declared(policy: TextPolicy) -> Iterator[str]:
    if not (isinstance(policy.name, str) and policy.name):
        yield "name must be text"
    if not (isinstance(policy.concurrency, int) and policy.concurrency >= 1):
        yield f"concurrency must be a whole number of at least 1, got {policy.concurrency!r}"
    if not isinstance(policy.version, str):
        yield f"version must be text, got {policy.version!r}"
    if not all(isinstance(value, float | int) for value in policy.spent().values()):
        yield "spent() must map names to numbers"


def _episode(policy: TextPolicy, environment: TextEnvironment, task_id: str) -> Iterator[str]:
    opening, info = environment.reset(seed=0, options={"task_id": task_id})
    messages: list[dict[str, Any]] = [dict(message) for message in opening]
    ended, turn = False, 0
    while not ended:
        usage: dict[str, float] = {}
        before = copy.deepcopy(messages)
        given = info | {"turn": turn, "seed": turn, "greedy": False, "usage": usage}
        action = policy.act(environment, task_id, messages, given)
        if not isinstance(action, str):
            yield f"act returned {type(action).__name__}, not text"
            return
        if messages != before:
            yield "act changed the messages it was given"
        if not all(isinstance(value, float | int) for value in usage.values()):
            yield "usage must map names to numbers"
        replies, _, terminated, truncated, more = environment.step(action)
        messages += [{"role": "assistant", "content": action}, *(dict(reply) for reply in replies)]
        info, turn, ended = info | more, turn + 1, terminated or truncated
