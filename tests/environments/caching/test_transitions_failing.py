"""Cached where something goes wrong: failures are passed on and never kept, and an engine that contradicts itself is
found out.
"""

from __future__ import annotations

import re
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cached_episodes import VERSIONS, cached, play
from chance_environment import Even
from odd_environments import FAILED, FAULTS, Faulty

from environments.caching.transitions import CacheMismatch, statistics
from environments.guess import Guess
from environments.text import Reply, TextEnv, over

# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("at", ["reset", "step"])
@pytest.mark.parametrize(
    "fault", ["raises", "exits", "says nothing", "short tuple", "reports", "reports in words", "info is a list"]
)
def test_failures_are_passed_on_and_never_kept(fault: str, at: str, tmp_path: Path) -> None:
    def make() -> Faulty:
        return Faulty(fault, at, times=1)

    def outcome(env: Any) -> Any:
        FAILED.clear()
        try:
            return play_one(env)
        except BaseException as error:  # SystemExit too
            return type(error), str(error)

    def play_one(env: Any) -> list[Any]:
        opening = env.reset(seed=0, options={"task_id": "1-7:2"})
        return [opening, env.step("2")] if at == "step" else [opening]

    assert fault in FAULTS
    plain, fast = make(), cached(make, tmp_path, worlds=1, audit=0.0)
    assert outcome(fast) == outcome(plain)
    with pytest.raises(RuntimeError, match="reset"):
        fast.step("2")
    again = play(fast, "1-7:2", ["2"])
    assert again == play(make(), "1-7:2", ["2"])
    assert again[-1][1] == 1.0
    fast.close()
    (found,) = statistics(tmp_path).values()
    assert found["entries"] == 2


class Frail(Guess):
    """Fails as often as FAILURES says, wherever it is."""

    FAILURES: list[str] = []  # noqa: RUF012

    def reset(self, **how: Any) -> Any:
        messages, info = super().reset(**how)
        return messages, info | self._trouble()

    def step(self, action: str) -> Any:
        *others, info = super().step(action)
        return *others, info | self._trouble()

    def _trouble(self) -> dict[str, Any]:
        if not self.FAILURES:
            return {}
        kind = self.FAILURES.pop()
        if kind == "raise":
            raise OSError("the worker is gone")
        return {"failure": {"kind": kind, "message": "the worker is gone"}} if kind else {}


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("kind", ["worker", "raise"])
def test_failures_while_playing_again_are_failures_of_the_step(kind: str, before: int) -> None:
    version = f"own {next(VERSIONS)}"
    env, other = (cached(Frail, None, version, worlds=1, audit=0.0) for _ in range(2))
    play(env, "3-9:7", ["6"])
    play(other, "4-10:9", ["4"])
    Frail.FAILURES[:] = [kind, *[""] * before]
    if kind == "raise":
        with pytest.raises(OSError, match="the worker is gone"):
            env.step("8")
    else:
        messages, reward, terminated, truncated, info = env.step("8")
        assert (reward, info["failure"]["kind"]) == (0.0, "worker")
        assert isinstance(messages, tuple)
        assert isinstance(terminated or truncated, bool)
    assert Frail.FAILURES == []
    with pytest.raises(RuntimeError, match="reset"):
        env.step("8")
    assert play(env, "3-9:7", ["6", "8", "7"]) == play(Guess(), "3-9:7", ["6", "8", "7"])
    env.close()
    other.close()


class Slow(Guess):
    """`wait` hangs until it may go on."""

    HANGING = threading.Event()
    GO_ON = threading.Event()

    def respond(self, action: str) -> Reply:
        if action == "wait":
            Slow.HANGING.set()
            Slow.GO_ON.wait()
            return Reply("too late")
        return super().respond(action)


def test_a_call_that_hangs_gives_up_its_world_when_the_environment_is_closed() -> None:
    version, output = f"own {next(VERSIONS)}", []
    stuck, other = (cached(Slow, None, version, worlds=1, audit=0.0) for _ in range(2))
    play(stuck, "3-9:7", ["6"])
    hanging = threading.Thread(target=lambda: output.append(stuck.step("wait")))
    hanging.start()
    Slow.HANGING.wait()
    stuck.close()  # as EnvironmentPool.give does with what has failed
    assert play(other, "3-9:7", ["6", "7"])[-1][1] == 1.0
    Slow.GO_ON.set()
    hanging.join()
    assert len(output) == 1
    misses = other.statistics()["misses"]
    play(other, "3-9:7", ["6", "wait"])
    assert other.statistics()["misses"] == misses + 1, "what came too late was not kept"
    other.close()


def test_a_damaged_file_only_costs_time(tmp_path: Path) -> None:
    for _ in range(3):
        env = cached(Guess, tmp_path, "damaged")
        assert play(env, "3-9:7", ["6", "8", "7"]) == play(Guess(), "3-9:7", ["6", "8", "7"])
        assert env.statistics()["misses"] == 4
        env.close()
        (file,) = tmp_path.glob("*.sqlite")
        file.write_bytes(b"\x00garbage" * 500)


def test_where_nothing_can_be_written_it_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    env = cached(Guess, tmp_path / "file", audit=0.0)
    for _ in range(2):
        assert play(env, "3-9:7", ["6", "8", "7"]) == play(Guess(), "3-9:7", ["6", "8", "7"])
    assert env.statistics()["hits"] == 4
    env.close()


# ---------------------------------------------------------------- an engine that contradicts itself


class Drifting(TextEnv):
    """Says another number in every `every`-th reply of the process, at the opening (turn 0) or in a turn."""

    output = count(1)

    def __init__(self, at: int, every: int = 1) -> None:
        super().__init__({"train": ["a", "b"]}, max_turns=5, version="1")
        self.at, self.every = at, every

    def open(self, task_id: str) -> Reply:
        return Reply(f"begin {self._number(0)}")

    def respond(self, action: str) -> Reply:
        return over(True) if action == "end" else Reply(f"go on {self._number(self.turn)}")

    def _number(self, place: int) -> int:
        number = next(Drifting.output)
        return number // self.every if place == self.at else 0


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_engine_that_drifts_is_caught_when_it_plays_again(at: int, tmp_path: Path) -> None:
    env = cached(lambda: Drifting(at), tmp_path, "drift", worlds=1, audit=0.0)
    other = cached(lambda: Drifting(at), tmp_path, "drift", worlds=1, audit=0.0)
    play(env, "a", ["x", "y"])
    play(other, "b", ["x"])
    with pytest.raises(CacheMismatch, match=re.escape(f"task 'a', seed 0, after {['x', 'y'][:at]}")):
        env.step("z")
    for late in (env, other):
        with pytest.raises(CacheMismatch, match="task 'a'"):
            late.reset(seed=9)
    assert [file.suffix for file in tmp_path.iterdir()] == [".condemned"]
    env.close()
    other.close()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_engine_that_drifts_is_caught_by_the_audit(at: int) -> None:
    env = cached(lambda: Drifting(at), audit=1.0)
    play(env, "a", ["x", "y"])
    with pytest.raises(CacheMismatch, match=r"recorded was .*go on|recorded was .*begin") as found:
        play(env, "a", ["x", "y"])
    assert found.value.fatal
    assert "executed again it is" in str(found.value)


def test_a_seed_said_not_to_matter_that_does_is_caught() -> None:
    env = cached(lambda: Even(2), seeded=False, audit=1.0)
    env.reset(seed=0, options={"task_id": "train-1"})
    with pytest.raises(CacheMismatch, match="seed 1"):
        env.reset(seed=1, options={"task_id": "train-1"})


def test_the_audit_takes_its_share_and_another_one_for_every_seed() -> None:
    version = f"own {next(VERSIONS)}"
    env, twin = (cached(Guess, None, version, seeded=False, audit=0.25, worlds=worlds) for worlds in (1, 2))
    tasks = env.tasks("train")
    taken = []
    for seed in range(8):
        before, chosen = env.statistics()["audits"], set()
        for task in tasks:
            play(env, task, ["3", "5"], seed)
            if env.statistics()["audits"] > before:
                chosen.add(task)
            before = env.statistics()["audits"]
        taken.append(frozenset(chosen))
    counts = env.statistics()
    # 48 tasks of up to 3 answers over 7 seeds beside the first: about 900 hits; five standard deviations are 0.07
    assert abs(counts["audits"] / counts["hits"] - 0.25) < 0.08
    assert len(set(taken[1:])) == 7
    assert env._engine() is not twin._engine()
    for seed in range(8):
        for task in tasks:
            play(twin, task, ["3", "5"], seed)
    assert twin.statistics()["audits"] == counts["audits"], "no chance is in it"


def test_audits_that_agree_change_nothing() -> None:
    plain, env = Guess(), cached(Guess, audit=1.0, worlds=1)
    for _ in range(3):
        assert play(env, "3-9:7", ["6", "x", "7"]) == play(plain, "3-9:7", ["6", "x", "7"])
    counts = env.statistics()
    assert (counts["audits"], counts["hits"], counts["misses"]) == (8, 8, 4)
