"""Cached: episodes are what they are without it, whatever is shared and however many are played at once."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from cached_episodes import VERSIONS, cached, play
from chance_environment import Even
from hypothesis import given
from hypothesis import strategies as st

from environments.caching.answers import decoded, encoded
from environments.caching.transitions import Cached, statistics
from environments.guess import Guess
from environments.tau3_airline.mini import COMMANDS, Tau3AirlineMini
from environments.text import Reply, TextEnv, check_text_env
from harness.core.errors import UserError
from harness.core.seeds import SeedTree
from harness.core.sources import reached
from harness.experiment import EnvironmentSettings
from harness.protocols.environment import TextEnvironment
from harness.rollout.conversation import Request
from harness.rollout.environments import EnvironmentPool, make_environment
from harness.rollout.policies import MessagePolicy
from harness.rollout.rollouts import Rollouts

ENVIRONMENTS: dict[str, tuple[Callable[[], TextEnv], Sequence[str]]] = {
    "Guess": (Guess, [*map(str, range(1, 12)), "seven", ""]),
    "Tau3AirlineMini": (Tau3AirlineMini, [*COMMANDS, "pay 100", "pay 200", "pay", "cancel now", ""]),
}


class CachedGuess(Cached):
    """As an environment registers itself: its own options, and where the cache lies."""

    def __init__(self, size: int = 7, folder: str | None = None, audit: float = 0.05) -> None:
        super().__init__(lambda: Guess(size), folder=folder, version=f"guess size={size}", audit=audit)


gymnasium.register("CachedGuess-v0", CachedGuess, order_enforce=False, disable_env_checker=True)
gymnasium.register("PlainGuess-v0", Guess, order_enforce=False, disable_env_checker=True)


@functools.cache
def pair(name: str, audit: float) -> tuple[TextEnv, Cached]:
    make, _ = ENVIRONMENTS[name]
    return make(), cached(make, audit=audit, worlds=2)


# ---------------------------------------------------------------- the same episodes


@pytest.mark.parametrize("audit", [0.0, 0.3])
@pytest.mark.parametrize("name", ENVIRONMENTS)
@given(data=st.data())
def test_episodes_are_the_same_with_and_without(name: str, audit: float, data: st.DataObject) -> None:
    plain, fast = pair(name, audit)
    task_id = data.draw(st.sampled_from([task for split in plain.splits for task in plain.tasks(split)[:3]]))
    actions = data.draw(st.lists(st.sampled_from(ENVIRONMENTS[name][1]) | st.text(max_size=5), max_size=8))
    seed = data.draw(st.integers(0, 3))
    expected = play(plain, task_id, actions, seed)
    assert repr(play(fast, task_id, actions, seed)) == repr(expected)
    assert play(fast, task_id, actions, seed) == expected, "a second time, when all of it is known"
    assert (fast.task_id, fast.split, fast.turn) == (plain.task_id, plain.split, plain.turn)


@pytest.mark.parametrize("audit", [0.0, 0.5])
def test_the_contract_is_kept(audit: float) -> None:
    check_text_env(cached(Guess, audit=audit), samples=10)
    check_text_env(cached(Tau3AirlineMini, audit=audit), samples=4)
    check_text_env(gymnasium.make("CachedGuess-v0", audit=audit), samples=10)


def test_it_answers_for_the_environment() -> None:
    plain, fast = Tau3AirlineMini(), cached(Tau3AirlineMini)
    assert fast.unwrapped is fast
    task_id = plain.tasks("test")[1]
    assert plain.mini
    for name in TextEnvironment.__annotations__:
        assert getattr(fast, name) == getattr(plain, name)
    for name in ("gold", "habit", "answer", "split_of", "scenario_of", "floor"):
        assert getattr(fast, name)(task_id) == getattr(plain, name)(task_id)
    for split in plain.splits:
        assert (fast.tasks(split), fast.trainable(split)) == (plain.tasks(split), plain.trainable(split))
    assert fast.summary([]) == plain.summary([]) == {}


def test_what_an_environment_declares_of_itself_is_passed_on() -> None:
    class Judged(Guess):
        mini, protocol, success_metrics, idle_action = True, "Guess, judged", ("SGC",), "pass"

        def scenario_of(self, task_id: str) -> str:
            return task_id.partition(":")[0]

        def floor(self, task_id: str) -> float:
            return 0.25

        def summary(self, episodes: Any) -> dict[str, Any]:
            return {"episodes": len(episodes)}

    fast = cached(Judged)
    assert (fast.mini, fast.protocol, fast.success_metrics, fast.idle_action) == (
        (True, "Guess, judged", ("SGC",), "pass")
    )  # fmt: skip
    assert (fast.scenario_of("3-9:7"), fast.floor("3-9:7"), fast.summary([{}, {}])) == ("3-9", 0.25, {"episodes": 2})


def test_tasks_are_drawn_as_the_environment_draws_them() -> None:
    """Even takes its greeting from the stream that has drawn the task: the very same words only if both are drawn as
    one.
    """
    plain, fast = Even(2), cached(lambda: Even(2), audit=0.5)
    for seed in [*range(30), *range(30)]:
        for options in (None, {"split": "train"}, {"task_id": "train-3"}, {"task_id": "train-3", "split": "train"}):
            assert fast.reset(seed=seed, options=options) == plain.reset(seed=seed, options=options)
            assert fast.step("1") == plain.step("1")


def test_resets_without_a_seed_follow_from_the_last_one() -> None:
    plain, one, other = Guess(), cached(Guess), cached(Guess)
    for env in (plain, one, other):
        env.reset(seed=5)
    drawn = [plain.reset() for _ in range(30)]
    assert [one.reset() for _ in range(30)] == drawn == [other.reset() for _ in range(30)]
    chance = [cached(Even) for _ in range(2)]
    for env in chance:
        env.reset(seed=5)
    greetings = [[env.reset(options={"task_id": "train-1"})[0] for _ in range(20)] for env in chance]
    assert greetings[0] == greetings[1]
    assert len({messages[0]["content"] for messages in greetings[0]}) > 10
    strangers = [cached(Even).reset(options={"task_id": "train-1"})[0][0]["content"] for _ in range(10)]
    assert len(set(strangers)) > 1, "never seeded: by chance"


@pytest.mark.parametrize("options", [{"task_id": "3-9:77"}, {"split": "tset"}, {"task": "1"}, {"task_id": ["x"]}])
def test_wrong_options_are_refused_alike(options: dict[str, Any]) -> None:
    output = []
    for env in (Guess(), cached(Guess)):
        with pytest.raises(ValueError, match=r"unknown|did you mean") as refused:
            env.reset(options=options)
        output.append(str(refused.value))
    assert output[0] == output[1]


def test_steps_outside_an_episode_and_actions_that_are_no_text() -> None:
    env = cached(Guess)
    with pytest.raises(RuntimeError, match="reset"):
        env.step("1")
    env.reset(options={"task_id": "3-9:7"})
    with pytest.raises(TypeError, match="bytes"):
        env.step(b"1")  # type: ignore[arg-type]
    env.step("7")
    with pytest.raises(RuntimeError, match="reset"):
        env.step("7")


def test_what_is_handed_out_may_be_changed() -> None:
    env = cached(Guess)
    for _ in range(3):
        messages, info = env.reset(seed=0, options={"task_id": "3-9:7"})
        assert (messages[0]["content"], info["task_id"]) == ("guess 3 to 9", "3-9:7")
        messages[0]["content"] = info["task_id"] = "changed"


@pytest.mark.parametrize("given", [{"audit": 1.5}, {"version": ""}, {"worlds": 0}])
def test_a_wrong_constructor_call_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"audit|version|at least 1 world"):
        Cached(Guess, **({"folder": None, "version": "wrong"} | given))


# ---------------------------------------------------------------- what is kept


def test_what_was_asked_before_costs_the_engine_nothing(tmp_path: Path) -> None:
    first = cached(Guess, tmp_path, "shared", audit=0.0)
    play(first, "3-9:7", ["6", "8", "7"])
    play(first, "3-9:7", ["6", "8", "7"])
    play(first, "3-9:7", ["6", "9", "7"])
    counts = first.statistics()
    # misses: opening, 6, 6 8, 6 8 7; the second time all four are hits; then opening and 6 are hits, 6 9 and 6 9 7
    # misses
    assert (counts["hits"], counts["misses"], counts["audits"]) == (6, 6, 0)
    first.close()
    second = cached(Guess, tmp_path, "shared", audit=0.0)
    play(second, "3-9:7", ["6", "9", "7"])
    assert (second.statistics()["hits"], second.statistics()["misses"]) == (4, 0)
    second.close()
    (found,) = statistics(tmp_path).values()
    assert (found["entries"], found["hits"], found["misses"]) == (6, 10, 6)
    assert found["hit_rate"] == 10 / 16


def test_a_world_that_stands_there_goes_on_and_another_plays_again() -> None:
    one, two = (cached(Guess, None, "replay", audit=0.0, worlds=1) for _ in range(2))
    play(one, "3-9:7", ["6"])
    one.step("8")
    assert one.statistics()["replayed"] == 0
    play(two, "4-10:9", ["4"])
    one.step("7")
    assert one.statistics()["replayed"] == 3, "opening, 6, 8"
    # along the same path the world need not begin anew
    play(one, "3-9:7", ["6", "8"])
    one.step("9")
    assert one.statistics()["replayed"] == 6
    one.close()
    two.close()


def test_another_version_is_another_cache(tmp_path: Path) -> None:
    for version, size in (("1", 7), ("2", 7), ("2", 8)):
        env = cached(functools.partial(Guess, size), tmp_path, version)
        env.reset(seed=0, options={"task_id": f"3-{2 + size}:7"})
        assert env.statistics()["misses"] == 1
        env.close()
    # the environment's own version counts too, where the caller forgot to name the option
    assert len(statistics(tmp_path)) == 3


def test_a_seed_that_matters_is_part_of_the_key_and_one_that_does_not_is_not() -> None:
    for seeded, misses in ((True, 5), (False, 1)):
        env = cached(Guess, seeded=seeded, audit=0.0)
        for seed in range(5):
            env.reset(seed=seed, options={"task_id": "3-9:7"})
        assert env.statistics()["misses"] == misses


def test_the_engine_gets_the_text_that_stands_for_an_action() -> None:
    env = cached(Guess, canonical=lambda action: action.strip().lstrip("0") or "0", audit=0.0)
    assert play(env, "3-9:7", ["6", "7"]) == play(env, "3-9:7", [" 06", "007 "]) == play(Guess(), "3-9:7", ["6", "7"])
    assert env.statistics()["misses"] == 3


class Echo(TextEnv):
    """Answers with `ANSWERS[action]`: info to be added, and the text."""

    ANSWERS: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__({"train": ["a"]}, max_turns=9, version="1")

    def open(self, task_id: str) -> Reply:
        return Reply("say")

    def respond(self, action: str) -> Reply:
        return Reply(action)

    def step(self, action: str) -> Any:
        messages, reward, *flags, info = super().step(action)
        return messages, self.ANSWERS.get("reward", reward), *flags, info | self.ANSWERS.get("info", {})


@given(st.text(st.characters(), max_size=30))
def test_every_text_survives(text: str) -> None:
    env, plain = pair_of_echoes()
    assert play(env, "a", [text, "x"]) == play(plain, "a", [text, "x"]) == play(env, "a", [text, "x"])


@functools.cache
def pair_of_echoes() -> tuple[Cached, Echo]:
    return cached(Echo, audit=0.0), Echo()


@pytest.mark.parametrize("text", ["\ud800", "\ud83d\ude00", "😀", "\x00\u2028", "x" * 100_000])
def test_awkward_text_is_kept(text: str) -> None:
    env = cached(Echo, audit=0.0)
    for _ in range(2):
        assert play(env, "a", [text, "x"]) == play(Echo(), "a", [text, "x"])
    counts = env.statistics()
    assert (counts["uncached"], counts["misses"], counts["hits"]) == (0, 3, 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.floats(allow_nan=False, allow_infinity=False), st.dictionaries(st.text(), JSON, max_size=4))
def test_what_json_can_say_comes_back_exactly(reward: float, info: dict[str, Any]) -> None:
    answer = (({"role": "user", "content": "x"},), reward, False, True, info)
    data = encoded(answer)
    assert data is not None
    assert repr(decoded(data)) == repr(answer)


@pytest.mark.parametrize(
    "odd",
    [
        {"info": {"pair": (1, 2)}},
        {"info": {1: "a number for a name"}},
        {"info": {"array": np.ones(2)}},
        {"info": {"number": np.float64(0.5)}},
        {"info": {"value": float("nan")}},
        {"info": {"deep": functools.reduce(lambda inner, _: [inner], range(5000), [])}},
        {"reward": float("inf")},
        {"reward": np.float32(0.0)},
    ],
    ids=["tuple", "number as a name", "array", "float of numpy", "NaN", "deep", "infinite reward", "reward of numpy"],
)
def test_what_json_cannot_say_is_passed_on_and_not_kept(odd: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Echo, "ANSWERS", odd)
    env = cached(Echo, audit=0.0, worlds=1)
    for _ in range(2):
        output = play(env, "a", ["x", "y"])
        for name, value in odd.get("info", {}).items():
            assert output[1][4][name] is value
        assert output[1][1] is odd.get("reward", output[1][1])
    counts = env.statistics()
    assert (counts["uncached"], counts["misses"], counts["hits"]) == (4, 5, 1)


def test_a_key_is_the_content() -> None:
    """Actions that only together are the same text are different prefixes."""
    env = cached(Echo, audit=0.0)
    for actions in (["ab", "c"], ["a", "bc"], ["abc"], ["a", "b", "c"], ["ab", "c"]):
        assert [answer[0][0]["content"] for answer in play(env, "a", actions)[1:]] == actions
    # new: the opening, ab, ab c, a, a bc, abc, a b, a b c
    assert env.statistics()["misses"] == 8


# ---------------------------------------------------------------- many at once


def test_more_episodes_than_worlds_interleaved() -> None:
    made: list[Guess] = []

    def make() -> Guess:
        made.append(Guess())
        return made[-1]

    version, rng, plain = f"own {next(VERSIONS)}", random.Random(0), Guess()
    fast = [cached(make, None, version, worlds=2, audit=0.1) for _ in range(30)]
    tasks = [rng.choice(plain.tasks("train")[:6]) for _ in fast]
    output = [[env.reset(seed=1, options={"task_id": task})] for env, task in zip(fast, tasks, strict=True)]
    actions: list[list[str]] = [[] for _ in fast]
    while running := [n for n, answers in enumerate(output) if len(answers[-1]) == 2 or not any(answers[-1][2:4])]:
        n = rng.choice(running)
        actions[n].append(rng.choice(["1", "3", "4", "6", "x"]))
        output[n].append(fast[n].step(actions[n][-1]))
    assert output == [play(plain, task, acts, 1) for task, acts in zip(tasks, actions, strict=True)]
    assert len(made) == 3, "two worlds, and one that is asked about tasks"
    for env in fast:
        env.close()


def test_threads_at_once() -> None:
    version, plain = f"own {next(VERSIONS)}", Tau3AirlineMini()
    tasks = plain.tasks("train")[:8]
    expected = {task: play(plain, task, plain.gold(task)) for task in tasks}
    envs = [cached(Tau3AirlineMini, None, version, worlds=2, audit=0.1) for _ in range(8)]
    wrong: list[Any] = []

    def work(n: int) -> None:
        rng = random.Random(n)
        for _ in range(25):
            task = rng.choice(tasks)
            output = play(envs[n], task, plain.gold(task))
            if output != expected[task]:
                wrong.append(output)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(envs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    # one that is asked for by several at once is executed once
    assert envs[0].statistics()["misses"] == sum(len(output) for output in expected.values())


def rollouts_of(identifier: str, scripts: dict[str, tuple[str, ...]], **options: Any) -> list[Any]:
    settings = EnvironmentSettings(id=identifier, options=options, threads=4, concurrency=64)
    seeds = SeedTree(3)
    requests = [Request(task, seeds[task, n], script=script) for task, script in scripts.items() for n in range(4)]
    with EnvironmentPool(settings) as pool:
        episodes = Rollouts(pool).play(requests, MessagePolicy())
    return [(e.task_id, e.reward, e.success, e.ending, e.messages, e.metrics, e.seed) for e in episodes]


def test_the_harness_plays_the_same_episodes(tmp_path: Path) -> None:
    plain = Guess()
    scripts = {task: tuple(plain.habit(task)) for task in plain.tasks("test")[:12]}
    expected = rollouts_of("PlainGuess-v0", scripts)
    for _ in range(2):
        assert rollouts_of("CachedGuess-v0", scripts, folder=str(tmp_path), audit=0.2) == expected
    (found,) = statistics(tmp_path).values()
    assert found["audits"] > 0
    assert found["misses"] == found["entries"]


def test_a_registered_environment_takes_its_own_options_alone() -> None:
    with pytest.raises(UserError, match="did you mean 'size'"):
        make_environment(EnvironmentSettings(id="CachedGuess-v0", options={"siz": 8}))
    env = make_environment(EnvironmentSettings(id="CachedGuess-v0", options={"size": 8}))
    assert env.unwrapped.version == Guess(8).version
    # the code that a fingerprint covers is reached from the module of the registered class
    modules = {name for name, _ in reached("environments.caching.transitions")}
    assert {"environments/caching/store.py", "environments/caching/worlds.py"} <= modules


def work_in_a_process(folder: Path, turn: int) -> None:
    env = CachedGuess(folder=str(folder))
    tasks = env.tasks("train")
    for task in tasks[turn:] + tasks[:turn]:
        gold = env.gold(task)
        assert gold is not None
        assert play(env, task, gold)[-1][1] == 1.0
    env.close()


def test_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work_in_a_process, args=(tmp_path, 24 * n)) for n in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no thread of another test holds what a child needs
        for worker in workers:
            worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    before = statistics(tmp_path)
    work_in_a_process(tmp_path, 0)
    ((name, found),) = statistics(tmp_path).items()
    assert len(found["processes"]) == 3
    assert found["misses"] == before[name]["misses"], "the third finds everything done"
    plain = Guess()
    # 48 openings, and a second, third ... answer for every guess of every task
    assert found["entries"] == 48 + sum(len(plain.gold(task)) for task in plain.tasks("train"))
    assert found["hits"] - before[name]["hits"] == found["entries"]


def test_a_forked_child_goes_on_by_itself(tmp_path: Path) -> None:
    """Begun here, ended both here and in the child, which has worlds and a connection of its own."""
    env = cached(Guess, tmp_path, "forked", worlds=1, audit=0.0)
    play(env, "3-9:7", ["6"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # no thread of another test holds what the child needs
        child = os.fork()
    if child == 0:
        status = 1
        try:
            assert [env.step("9")[0][0]["content"], env.step("7")[1]] == ["lower", 1.0]
            # what was here before the fork is on no disk yet: the child asks again for all but the opening of its
            # episode
            assert env.statistics()["replayed"] == 2
            env.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [env.step("8")[0][0]["content"], env.step("7")[1]] == ["lower", 1.0]
    assert env.statistics()["replayed"] == 0
    env.close()
    (found,) = statistics(tmp_path).values()
    assert len(found["processes"]) == 2
    assert found["entries"] == 2 + 2 + 2


def test_the_last_one_to_be_closed_closes_the_worlds() -> None:
    closed: list[Guess] = []

    class Closing(Guess):
        def close(self) -> None:
            closed.append(self)

    version = f"own {next(VERSIONS)}"
    envs = [cached(Closing, None, version, worlds=2, audit=0.0) for _ in range(3)]
    for env, task in zip(envs, ("3-9:7", "3-9:8", "3-9:9"), strict=True):
        play(env, task, ["3"])
    for env in envs[1:]:
        env.close()
    assert closed == []
    assert envs[0].step("7")[1] == 1.0
    envs[0].close()
    assert len(set(map(id, closed))) == 3, "two worlds, and the one that was asked about tasks"


def test_after_closing_it_can_be_used_again(tmp_path: Path) -> None:
    env = cached(Guess, tmp_path, "again")
    env.reset(seed=0, options={"task_id": "3-9:7"})
    env.close()
    env.close()
    assert env.step("7")[1] == 1.0
    assert env.statistics()["replayed"] == 1
    env.close()
    assert env.gold("3-9:7") == ["6", "8", "7"]
