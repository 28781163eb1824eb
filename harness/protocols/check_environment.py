"""check_text_env: does an environment keep the contract `harness.protocols.environment` declares?

No common base class is needed, only the members and the behaviour.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from harness.protocols.environment import TextEnvironment


class ContractError(ValueError):
    """An environment breaks the contract of text environments; the message lists every way it was seen to."""


CONTRACT = tuple(
    name for name in dict.fromkeys([*TextEnvironment.__annotations__, *vars(TextEnvironment)]) if name[0] != "_"
)
"""Everything the contract declares, attributes first."""
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

GOLD_TRIES = 100
"""Seeds under which gold is played until it succeeds, where its outcome is drawn: at a chance of 0.1 all fail once in
37,000 times."""
Turn = tuple[tuple[dict[str, str], ...], float, bool, bool, bool]
"""Messages, reward, terminated, truncated, success."""


def check_text_env(env: Any, *, samples: int = 20, seed: int = 0) -> None:
    """Check an environment (or the id of one, as for `gymnasium.make`) against the contract; silent when it holds.

    Every declared member is there with its type; Gymnasium's own checker passes; splits share no task; one seed gives
    one episode; unknown names are refused; awkward actions are answered; rewards are 0 before the end; gold scores 1
    and doing nothing scores `idle_reward`, both on `samples` tasks of each split. Raises ContractError naming every
    problem found.
    """
    import gymnasium  # here, so that importing the contracts stays light

    made = gymnasium.make(env) if isinstance(env, str) else env
    try:
        problems = list(_problems(made, samples, seed))
    finally:
        if isinstance(env, str):
            made.close()
    if problems:
        listed = "".join(f"\n- {problem}" for problem in dict.fromkeys(problems))
        raise ContractError(f"{made.unwrapped} breaks the contract of text environments:{listed}")


def _problems(env: Any, samples: int, seed: int) -> Iterator[str]:
    from gymnasium.utils.env_checker import check_env

    inner: Any = env.unwrapped
    missing = [name for name in CONTRACT if not hasattr(inner, name)]
    if missing:
        yield f"it lacks {', '.join(missing)} (harness.protocols.environment.TextEnvironment says what they are)"
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield from _guarded("gymnasium's checker", check_env, inner, skip_render_check=inner.spec is None)
    yield from (f"gymnasium's checker warns: {warning.message}" for warning in caught)
    broken = [
        *_guarded("declarations", _check_declarations, inner),
        *_guarded("splits", _check_splits, inner),
    ]
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


def _check_declarations(inner: Any) -> None:
    """The types of what the environment declares of itself."""
    _require(isinstance(inner.version, str) and inner.version != "", "version must be a non-empty string")
    turns = inner.max_turns
    _require(isinstance(turns, int) and turns >= 1, f"max_turns must be a whole number of at least 1, got {turns!r}")
    _require(
        isinstance(inner.gold_chance, int | float) and 0 < inner.gold_chance <= 1,
        f"gold_chance must be in 0..1 and above 0, got {inner.gold_chance!r}",
    )
    for name in ("terse", "mini"):
        value = getattr(inner, name)
        _require(isinstance(value, bool), f"{name} must be a bool, got {value!r}")
    _require(
        inner.protocol is None or isinstance(inner.protocol, str),
        f"protocol must be a string or None, got {inner.protocol!r}",
    )
    _require(isinstance(inner.idle_action, str), f"idle_action must be a string, got {inner.idle_action!r}")
    _require(_is_score(inner.idle_reward), f"idle_reward must be in 0..1 or None, got {inner.idle_reward!r}")
    names = inner.success_metrics
    _require(
        isinstance(names, tuple) and all(isinstance(name, str) for name in names),
        f"success_metrics must be a tuple of strings, got {names!r}",
    )


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)


def _check_splits(inner: Any) -> None:
    _require(inner.default_split in inner.splits, f"default_split {inner.default_split!r} is not in {inner.splits}")
    for split in inner.splits:
        _require(isinstance(inner.trainable(split), bool), f"trainable({split!r}) must be a bool")
        for task_id in inner.tasks(split):
            scenario = inner.scenario_of(task_id)
            _require(isinstance(scenario, str), f"scenario_of({task_id!r}) must be a string, got {scenario!r}")
    for first, second in itertools.combinations(inner.splits, 2):
        shared = sorted(set(inner.tasks(first)) & set(inner.tasks(second)))
        _require(not shared, f"splits {first!r} and {second!r} share tasks, {shared[0] if shared else ''!r} for one")
    for options in ({"task_id": "no such task"}, {"split": "no such split"}, {"no such option": 1}):
        try:
            inner.reset(options=options)
        except ValueError:
            continue
        raise ContractError(f"reset accepts the unknown {options}; it must raise ValueError")


def _check_task(env: Any, inner: Any, task_id: str, seed: int) -> None:
    options = {"task_id": task_id}
    floor = inner.floor(task_id)
    _require(_is_score(floor), f"floor must be in 0..1 or None, got {floor!r}")
    idle = _play(env, itertools.repeat(inner.idle_action), seed, options)
    again = _play(env, itertools.repeat(inner.idle_action), seed, options)
    _require(idle == again, "the same seed and actions gave two different episodes")
    promised, reward = inner.idle_reward, idle[-1][1]
    _require(
        promised is None or reward == promised,
        f"doing nothing scores {reward}, not {promised} (set idle_reward = None if that is meant)",
    )
    _require(floor is None or reward == floor, f"doing nothing scores {reward}, but floor(...) is {floor}")
    gold = inner.gold(task_id)
    _require(gold is None or len(gold) > 0, "gold has no actions; it is None where no solution ships")
    if gold is not None:
        played = _play_gold(env, gold, seed, options, inner.gold_chance)
        _require(len(played) == len(gold), f"gold has {len(gold)} actions but the episode ended after {len(played)}")
        _require(played[-1][2] or played[-1][3], "gold does not end the episode")
        _require(played[-1][1] == 1.0 and played[-1][4], f"gold scores {played[-1][1]}, success {played[-1][4]}")
    habit = inner.habit(task_id)
    if habit is not None:
        _play(env, iter(habit), seed, options)


def _play_gold(env: Any, gold: list[str], seed: int, options: dict[str, Any], chance: float) -> list[Turn]:
    """Gold's episode; where its outcome is drawn, the first that succeeds under seeds enough to expect one."""
    played = _play(env, iter(gold), seed, options)
    for later in range(1, GOLD_TRIES if chance < 1 else 1):
        if played[-1][4]:
            break
        played = _play(env, iter(gold), seed + later, options)
    return played


def _play(
    env: Any,
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
            answer = info.get("answer", "")
            _require(isinstance(answer, str), f"info['answer'] must be a string where it is there, got {answer!r}")
        turns.append((messages, float(reward), terminated, truncated, bool(info.get("success"))))
        if ended:
            return turns
    _require(len(turns) < limit, f"the episode did not end within {limit} turns")
    return turns
