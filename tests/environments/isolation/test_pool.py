"""Nurseries: how they start, keep their workers, and end, and that nothing of them is left."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from remote_pool import HERE, LONG, descendants, descriptors, failure, pool, wait_for, wait_until_gone

from environments.isolation.pool import Limits, RemoteError, WorkerPool
from environments.isolation.processes import processes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(scope="module")
def home() -> Iterator[WorkerPool]:
    with pool(limits=Limits(memory_mb=256)) as made:
        yield made


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files of this process go meanwhile."""
    (tmp_path / "room").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "room"))
    return tmp_path / "room"


# ---------------------------------------------------------------- starting


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fail": "init"}, "ValueError: no such world"),
        ({"fail": "exit"}, "exit status 7; its last output:\nlast words"),
        ({"fail": "hang"}, "not made within 0.5 s"),
        ({"fail": "forked"}, "ValueError: not ready"),
        ({"unknown": 1}, "TypeError"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(room: Path, options: dict[str, Any], text: str) -> None:
    open_before, ours = descriptors(), descendants(os.getpid())
    with pool(options=options, boot_s=0.5 if options.get("fail") == "hang" else LONG) as home:
        for _ in range(2):
            error = failure(home.spawn)
            assert error.kind == "boot"
            assert text in str(error)
    assert descriptors() == open_before
    assert descendants(os.getpid()) == ours
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(("target", "text"), [("Missing", "Missing"), ("Verbless", "verbs")])
def test_a_target_that_is_none_is_named(target: str, text: str) -> None:
    with pool(target) as home:
        assert text in str(failure(home.spawn))


def test_an_interpreter_that_is_none_is_named(room: Path) -> None:
    open_before = descriptors()
    with WorkerPool(HERE / "no-python", "a:B", {}) as home:
        error = failure(home.spawn)
    assert error.kind == "boot"
    assert "no-python" in str(error)
    assert descriptors() == open_before
    assert list(room.iterdir()) == []


def test_a_factory_may_hang_inside_a_class() -> None:
    with pool("Outer.Inner") as home:
        assert home.spawn().call("count", LONG) == 1


@pytest.mark.parametrize("target", ["module", ":Name", "module:"])
def test_a_target_has_two_parts(target: str) -> None:
    with pytest.raises(ValueError, match="module:Name"):
        WorkerPool(Path(sys.executable), target, {})


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="memory_mb is 0"):
        Limits(memory_mb=0)


# ---------------------------------------------------------------- keeping workers


def test_a_worker_given_back_is_taken_again(home: WorkerPool) -> None:
    worker = home.take()
    uses = worker.uses
    home.give(worker)
    assert home.take() is worker
    assert worker.uses == uses + 1
    home.give(worker)


def test_a_worker_is_replaced_after_so_many_uses() -> None:
    with pool(recycle_after=2) as home:
        pids = []
        for _ in range(5):
            worker = home.take()
            pids.append(worker.pid)
            home.give(worker)
        assert len(set(pids)) == 3
        assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
        assert pids[0] not in processes()


def test_no_more_are_kept_than_asked_for() -> None:
    with pool(idle=1) as home:
        workers = [home.take() for _ in range(3)]
        for worker in workers:
            home.give(worker)
        assert [worker.alive for worker in workers] == [True, False, False]


def test_a_dead_worker_is_not_handed_out(home: WorkerPool) -> None:
    worker = home.take()
    home.give(worker)
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: not worker.alive)
    other = home.take()
    assert other is not worker
    assert other.call("echo", LONG, value=1) == 1
    assert worker.pid not in processes()
    home.give(other)


def test_a_worker_that_died_is_not_kept(home: WorkerPool) -> None:
    worker = home.take()
    failure(lambda: worker.call("exit", LONG, status=1))
    home.give(worker)
    other = home.take()
    assert other is not worker
    home.give(other)


# ---------------------------------------------------------------- endings


def test_a_pool_that_was_killed_is_started_again() -> None:
    with pool() as home:
        worker, idle = home.take(), home.take()
        home.give(idle)
        first = worker.call("facts", LONG)["parent"]
        os.kill(first, signal.SIGKILL)
        assert failure(lambda: worker.call("sleep", LONG, seconds=600)).kind == "died"
        assert wait_until_gone([worker.pid, idle.pid]) == set()
        home.give(worker)
        other = home.take()
        assert other.call("facts", LONG)["parent"] != first
        assert failure(lambda: worker.call("count", LONG)).kind == "closed"


def test_a_stopped_pool_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers there; the one that is stuck ends with all that came of it."""
    monkeypatch.setattr("environments.isolation.pool._CONTROL_S", 0.5)
    monkeypatch.setattr("environments.isolation.pool._EXIT_S", 0.5)
    with pool() as home:
        worker = home.spawn()
        first = worker.call("facts", LONG)["parent"]
        os.kill(first, signal.SIGSTOP)
        assert home.spawn().call("facts", LONG)["parent"] != first
        assert wait_until_gone([first, worker.pid]) == set()


def test_closing_lets_idle_objects_close_themselves(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    with pool(options={"diary": str(diary)}) as home:
        idle, other = home.take(), home.take()
        home.give(idle)
        other.close()
        assert diary.read_text() == f"closed {other.pid}\n"
        lost = home.spawn()
    assert diary.read_text() == f"closed {other.pid}\nclosed {idle.pid}\n"
    assert failure(lambda: lost.call("count", LONG)).kind == "closed"
    assert not {idle.pid, other.pid, lost.pid} & processes().keys()


def test_a_closed_pool_can_be_used_again() -> None:
    with pool() as home:
        first = home.spawn().call("facts", LONG)["parent"]
        home.close()
        home.close()
        assert home.spawn().call("facts", LONG)["parent"] != first


def test_a_pool_nobody_refers_to_ends() -> None:
    home = pool()
    pids = [home.spawn().pid for _ in range(2)]
    del home
    assert wait_until_gone(pids) == set()


def test_closing_ends_a_call_that_another_thread_waits_in(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    code = f"import time; open({str(begun)!r}, 'w').close(); time.sleep(600)"
    with pool() as home:
        worker = home.spawn()
        kinds: list[str] = []
        waiting = threading.Thread(
            target=lambda: kinds.append(failure(lambda: worker.call("run", LONG, code=code)).kind)
        )
        waiting.start()
        wait_for(begun.exists)
        home.close()
        waiting.join(LONG)
    assert kinds == ["died"]


def test_threads_use_workers_side_by_side(home: WorkerPool) -> None:
    """Each its own, then all the same one: nobody gets another's answer."""
    shared = home.spawn()
    wrong: list[Any] = []

    def use(number: int) -> None:
        own = home.take()
        for turn in range(50):
            for worker in (own, shared):
                value = [number, turn]
                if worker.call("echo", LONG, value=value) != value:
                    wrong.append(value)
        home.give(own)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    shared.close()


def test_two_hundred_calls_and_random_deaths_leave_nothing(room: Path) -> None:
    open_before, ours = descriptors(), descendants(os.getpid())
    draw = random.Random(0)
    deaths: list[tuple[str, str]] = []
    with pool(recycle_after=7, idle=2) as home:
        workers = [home.take() for _ in range(3)]
        for _ in range(200):
            index = draw.randrange(3)
            worker = workers[index]
            fate = draw.choice(["echo"] * 6 + ["exit", "kill", "sleep", "give", "close"])
            try:
                if fate == "kill":
                    os.kill(worker.pid, signal.SIGKILL)
                if fate == "exit":
                    worker.call("exit", LONG, status=1)
                if fate == "sleep":
                    worker.call("sleep", 0.01, seconds=600)
                if fate == "give":
                    home.give(worker)
                if fate == "close":
                    worker.close()
                if fate in ("give", "close"):
                    workers[index] = home.take()
                else:
                    assert worker.call("echo", LONG, value=1) == 1
            except RemoteError as error:
                deaths.append((fate, error.kind))
                workers[index] = home.take()
        first = workers[0].call("facts", LONG)["parent"]
        assert len(descendants(first)) <= 3 + 2
    assert set(deaths) == {("exit", "died"), ("kill", "died"), ("sleep", "deadline")}
    assert descriptors() == open_before
    assert descendants(os.getpid()) == ours
    assert list(room.iterdir()) == []
