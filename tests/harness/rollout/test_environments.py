"""Deadlines and pools: every call comes back in time or is given up, and an environment's name is checked before
anything runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from odd_environments import FAILED, HANG_S

from harness.core.errors import EnvironmentFailure, UnknownNameError, UserError
from harness.experiment import EnvironmentSettings
from harness.rollout.deadlines import Deadlines
from harness.rollout.environments import EnvironmentPool, make_environment


def after(seconds: float, answer: Any = None) -> Callable[[], Any]:
    def call() -> Any:
        time.sleep(seconds)
        return answer

    return call


def raising(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


@pytest.mark.parametrize("threads", [1, 3])
def test_answers_stand_in_the_order_of_the_calls(threads: int) -> None:
    deadlines = Deadlines(5.0, threads)
    assert deadlines.run([after(0.01 * (9 - n), n) for n in range(10)]) == list(range(10))
    assert deadlines.run([]) == []
    deadlines.close()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_call_raises_is_its_failure(error: BaseException) -> None:
    deadlines = Deadlines(5.0)
    failed, fine = deadlines.run([raising(error), lambda: "fine"])
    assert (failed.kind, fine) == ("raised", "fine")
    assert type(error).__name__ in failed.message
    deadlines.close()


def test_a_late_call_is_given_up_and_the_others_are_answered() -> None:
    deadlines = Deadlines(0.2)
    began = time.monotonic()
    slow, quick = deadlines.run([after(1.0, "late"), lambda: "quick"])
    assert (slow.kind, quick) == ("deadline", "quick")
    assert time.monotonic() - began < 0.6
    deadlines.close()


def test_a_late_answer_is_nobody_elses() -> None:
    deadlines = Deadlines(0.2)
    deadlines.run([after(0.4, "late")])
    answers = [deadlines.run([after(0.05, n)])[0] for n in range(8)]  # the late answer arrives among these
    assert answers == list(range(8))
    deadlines.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_two_who_ask_at_once_get_their_own_answers(threads: int) -> None:
    """As when an evaluation is stopped by a full disk: it closes environments while another thread still plays."""
    deadlines = Deadlines(5.0, threads)
    answers: dict[str, list[Any]] = {}

    def ask(name: str) -> None:
        answers[name] = [deadlines.run([after(0.001, (name, n)), after(0.0, n)]) for n in range(40)]

    both = [threading.Thread(target=ask, args=(name,)) for name in ("one", "other")]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert answers == {name: [[(name, n), n] for n in range(40)] for name in ("one", "other")}
    deadlines.close()


def test_waiting_for_a_turn_is_not_being_late() -> None:
    """Ten calls of 0.1 s on one thread, 0.3 s each allowed."""
    deadlines = Deadlines(0.3)
    assert deadlines.run([after(0.1, n) for n in range(10)]) == list(range(10))
    deadlines.close()


def test_threads_wait_side_by_side() -> None:
    deadlines = Deadlines(5.0, threads=8)
    began = time.monotonic()
    deadlines.run([after(0.3)] * 8)
    assert time.monotonic() - began < 8 * 0.3 / 2
    deadlines.close()


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    deadlines = Deadlines(5.0, threads=6)
    deadlines.run([after(0.0)] * 6)
    deadlines.close()
    end = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.01)


# ---------------------------------------------------------------- pools


def faulty(**options: Any) -> EnvironmentSettings:
    FAILED.clear()
    return EnvironmentSettings(id="odd_environments:Faulty-v0", options=options, deadline_s=0.3)


def test_an_instance_is_used_again_and_a_failed_one_is_not() -> None:
    with EnvironmentPool(faulty()) as pool:
        one = pool.take()
        pool.give(one)
        assert pool.take() is one
        assert pool.fresh() is not one
        pool.give(one, failed=True)
        assert pool.take() is not one


@pytest.mark.parametrize("fault", ["raises", "exits", "hangs"])
def test_an_environment_that_cannot_be_closed_stops_nobody(fault: str) -> None:
    began = time.monotonic()
    with EnvironmentPool(faulty(fault=fault, at="close")) as pool:
        pool.give(pool.take())
        pool.give(pool.take(), failed=True)
    assert time.monotonic() - began < 2 * HANG_S


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("environments:Gess-v0", "environments:Guess-v0"),
        ("environments:Guess-v1", "environments:Guess-v0"),
        ("environments:Guess", "environments:Guess-v0"),
        ("odd_environments:Fulty-v0", "odd_environments:Faulty-v0"),
        ("no_such_module:Guess-v0", None),
    ],
)
def test_an_unknown_environment_is_told_the_nearest(given: str, near: str | None) -> None:
    with pytest.raises(UnknownNameError, match="unknown environment") as caught:
        make_environment(EnvironmentSettings(id=given))
    assert caught.value.nearest == near


def test_options_are_checked_by_name_and_by_value() -> None:
    with pytest.raises(UnknownNameError, match="'siez'; did you mean 'size'"):
        make_environment(EnvironmentSettings(id="environments:Guess-v0", options={"siez": 8}))
    with pytest.raises(UserError, match="Guess needs size >= 4"):
        make_environment(EnvironmentSettings(id="environments:Guess-v0", options={"size": 2}))
    with pytest.raises(UserError, match="environments:Guess-v0"):
        make_environment(EnvironmentSettings(id="environments:Guess-v0", options={"size": "eight"}))


def test_an_environment_beside_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_environment.py").write_text(
        "import gymnasium\nfrom environments.guess import Guess\n"
        "gymnasium.register('MyOwn-v0', Guess, disable_env_checker=True)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # put back after the test
    assert make_environment(EnvironmentSettings(id="my_own_environment:MyOwn-v0")).unwrapped.version.startswith("1")


def test_a_failure_has_a_kind_and_words() -> None:
    failure = EnvironmentFailure("deadline", "no answer within 3 s")
    assert (failure.kind, str(failure)) == ("deadline", "deadline: no answer within 3 s")


class NothingCanHelp(RuntimeError):
    fatal = True


def _say(value: int) -> Callable[[], int]:
    return lambda: value


def _break() -> int:
    raise NothingCanHelp("measured twice, two answers")


def test_a_fatal_error_stops_everything_and_leaves_the_threads_usable() -> None:
    deadlines = Deadlines(5.0, threads=3)
    with pytest.raises(NothingCanHelp, match="two answers"):
        deadlines.run([_say(1), _break, _say(2), _say(3), _say(4)])
    # answers of the run that was broken off may still come in: they are not taken for these
    for start in range(10, 60, 10):
        assert deadlines.run([_say(start + place) for place in range(7)]) == [start + place for place in range(7)]
    deadlines.close()
