"""check_text_env: does an environment keep the contract of text environments? It needs no common base class, only the behaviour."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env


class ContractError(ValueError):
    """An environment breaks the contract of text environments; the message lists every way it was seen to."""


CONTRACT = ("splits", "default_split", "trainable", "tasks", "gold", "habit", "answer", "version", "terse")
AWKWARD = (
    "",
    " \n\t",
    "\x00",
    "\ud800",
    "日本語 🙂 é",
    "{" * 5_000,
    '{"name": "x", "arguments": {}}',
    "9**9**9",
    "x" * 100_000,
)
"""Actions that must be answered, never raise: blanks, control characters, a lone surrogate, nesting, size."""


def check_text_env(env: str | gymnasium.Env[Any, Any], *, samples: int = 20, seed: int = 0) -> None:
    """Check an environment (or the id of one, as for `gymnasium.make`) against the contract; silent when it holds.

    Gymnasium's own checker passes; splits share no task; one seed gives one episode; unknown names are refused; awkward
    actions are answered; rewards are 0 before the end; gold scores 1 and doing nothing scores `idle_reward`, both on `samples` tasks of each
    split. Raises ContractError naming every problem found.
    """
    made = gymnasium.make(env) if isinstance(env, str) else env
    try:
        problems = list(_problems(made, samples, seed))
    finally:
        if isinstance(env, str):
            made.close()
    if problems:
        listed = "".join(f"\n- {problem}" for problem in dict.fromkeys(problems))
        raise ContractError(f"{made.unwrapped} breaks the contract of text environments:{listed}")


def _problems(env: gymnasium.Env[Any, Any], samples: int, seed: int) -> Iterator[str]:
    inner: Any = env.unwrapped
    missing = [name for name in CONTRACT if not hasattr(inner, name)]
    if missing:
        yield f"it lacks {', '.join(missing)} (deriving from environments.text.TextEnv supplies them)"
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield from _guarded("gymnasium's checker", check_env, inner, skip_render_check=inner.spec is None)
    yield from (f"gymnasium's checker warns: {warning.message}" for warning in caught)
    broken = list(_guarded("splits", _check_splits, inner))
    yield from broken
    if broken:
        return
    for split in inner.splits:
        task_ids = inner.tasks(split)
        for task_id in task_ids[:: max(1, len(task_ids) // samples)][:samples]:
            yield from _guarded(f"task {task_id!r}", _check_task, env, inner, task_id, seed)
    for action in AWKWARD:  # twice: where code is run, each may take until its time is up
        actions = itertools.chain(itertools.repeat(action, 2), itertools.repeat(""))
        yield from _guarded(f"action {action[:20]!r}", _play, env, actions, seed)


def _guarded(where: str, check: Callable[..., Any], *given: Any, **options: Any) -> Iterator[str]:
    """The problem a check raises, as text. Whatever a user's environment or Gymnasium's checks raise is a finding."""
    try:
        check(*given, **options)
    except Exception as error:
        yield f"{where}: {error}" if isinstance(error, ContractError) else f"{where}: {type(error).__name__}: {error}"


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ContractError(problem)


def _check_splits(inner: Any) -> None:
    _require(inner.default_split in inner.splits, f"default_split {inner.default_split!r} is not in {inner.splits}")
    _require(isinstance(inner.version, str) and inner.version != "", "version must be a non-empty string")
    for first, second in itertools.combinations(inner.splits, 2):
        shared = sorted(set(inner.tasks(first)) & set(inner.tasks(second)))
        _require(not shared, f"splits {first!r} and {second!r} share tasks, {shared[0] if shared else ''!r} for one")
    for options in ({"task_id": "no such task"}, {"split": "no such split"}, {"no such option": 1}):
        try:
            inner.reset(options=options)
        except ValueError:
            continue
        raise ContractError(f"reset accepts the unknown {options}; it must raise ValueError")


def _check_task(env: gymnasium.Env[Any, Any], inner: Any, task_id: str, seed: int) -> None:
    options = {"task_id": task_id}
    idle = _play(env, itertools.repeat(""), seed, options)
    _require(
        idle == _play(env, itertools.repeat(""), seed, options), "the same seed and actions gave two different episodes"
    )
    promised = getattr(inner, "idle_reward", None)
    _require(
        promised is None or idle[-1][1] == promised,
        f"doing nothing scores {idle[-1][1]}, not {promised} (set idle_reward = None if that is meant)",
    )
    gold = inner.gold(task_id)
    _require(gold is None or len(gold) > 0, "gold has no actions; it is None where no solution ships")
    if gold is not None:
        played = _play(env, iter(gold), seed, options)
        _require(len(played) == len(gold), f"gold has {len(gold)} actions but the episode ended after {len(played)}")
        _require(played[-1][2] or played[-1][3], "gold does not end the episode")
        _require(played[-1][1] == 1.0 and played[-1][4], f"gold scores {played[-1][1]}, success {played[-1][4]}")
    habit = inner.habit(task_id)
    if habit is not None:
        _play(env, iter(habit), seed, options)


Turn = tuple[tuple[dict[str, str], ...], float, bool, bool, bool]


def _play(
    env: gymnasium.Env[Any, Any],
    actions: Iterator[str],
    seed: int,
    options: dict[str, Any] | None = None,
    limit: int = 1_000,
) -> list[Turn]:
    """One episode, checked turn by turn: (messages, reward, terminated, truncated, success) of each."""
    messages, _ = env.reset(seed=seed, options=options)
    _require(messages in env.observation_space, f"reset returned what is no tuple of messages: {messages!r:.200}")
    turns: list[Turn] = []
    for action in itertools.islice(actions, limit):
        messages, reward, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        _require(messages in env.observation_space, f"step returned what is no tuple of messages: {messages!r:.200}")
        _require(math.isfinite(reward), f"the reward is {reward}")
        _require(ended or reward == 0, f"reward {reward} before the end; it must be 0")
        _require("failure" not in info, f"the environment failed: {info.get('failure')}")
        if ended:
            _require(isinstance(info.get("success"), bool), "info['success'] must be a bool at the end")
            metrics = info.get("metrics")
            _require(isinstance(metrics, dict), "info['metrics'] must be a dict of floats at the end")
            wrong = [name for name, value in dict(metrics or {}).items() if not isinstance(value, float)]
            _require(not wrong, f"info['metrics'] must hold floats; not so: {', '.join(wrong)}")
        turns.append((messages, float(reward), terminated, truncated, bool(info.get("success"))))
        if ended:
            return turns
    _require(len(turns) < limit, f"the episode did not end within {limit} turns")
    return turns
