"""Worlds: which one is taken, how many there are, and what becomes of those that fail or hang."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from environments.caching.worlds import Lease, World, Worlds


class Thing:
    """What a world is made of here."""

    made: list[Thing]

    def __init__(self, made: list[Thing]) -> None:
        self.closed = threading.Event()
        made.append(self)

    def close(self) -> None:
        self.closed.set()
        raise RuntimeError("whatever closing says, nobody asks")


def worlds_of(limit: int) -> tuple[Worlds, list[Thing]]:
    made: list[Thing] = []
    return Worlds(lambda: Thing(made), limit), made


def left_at(worlds: Worlds, at: bytes | None, path: list[bytes]) -> World:
    """Take a world for a path, and leave it standing somewhere."""
    lease = Lease(at or b"end")
    world = worlds.enter(lease, path)
    world.at = at
    worlds.give(lease)
    return world


def taken(worlds: Worlds, path: list[bytes], target: bytes = b"target") -> World:
    lease = Lease(target)
    world = worlds.enter(lease, path)
    worlds.give(lease)
    return world


def test_the_world_deepest_along_the_path_is_taken() -> None:
    worlds, made = worlds_of(5)
    held = [Lease(bytes([n])) for n in range(4)]
    a, ab, abc, nowhere = (worlds.enter(lease, []) for lease in held)
    a.at, ab.at, abc.at = b"a", b"ab", b"abc"
    for lease in held:
        worlds.give(lease)
    assert taken(worlds, [b"a", b"ab", b"abx"]) is ab
    assert taken(worlds, [b"a", b"ab", b"abc"]) is abc
    assert taken(worlds, [b"a", b"ax"]) is a
    assert taken(worlds, [b"z"]) is nowhere
    nowhere.at = b"y"
    assert taken(worlds, [b"z"]) not in (a, ab, abc, nowhere)
    assert len(made) == 5


def test_when_all_stand_elsewhere_the_one_unused_for_longest_is_taken() -> None:
    worlds, made = worlds_of(2)
    first = left_at(worlds, b"a", [])
    second = left_at(worlds, b"b", [])
    assert first is not second
    assert taken(worlds, [b"a"]) is first
    assert taken(worlds, [b"c"]) is second
    assert len(made) == 2


def test_there_is_no_world_without_one() -> None:
    with pytest.raises(ValueError, match="at least 1 world, got 0"):
        Worlds(object, 0)


def test_a_second_lease_waits_where_there_are_too_few() -> None:
    worlds, made = worlds_of(1)
    first, order = Lease(b"1"), []
    world = worlds.enter(first, [])

    def second() -> None:
        lease = Lease(b"2")
        order.append(worlds.enter(lease, []))
        worlds.give(lease)

    waiting = threading.Thread(target=second)
    waiting.start()
    assert order == []
    worlds.give(first)
    waiting.join()
    assert order == [world]
    assert len(made) == 1


def test_one_target_is_worked_on_once_at_a_time() -> None:
    worlds, _ = worlds_of(8)
    inside, most, lock = 0, [0], threading.Lock()

    def work() -> None:
        nonlocal inside
        for _ in range(50):
            lease = Lease(b"same")
            worlds.enter(lease, [])
            with lock:
                inside += 1
                most[0] = max(most[0], inside)
            with lock:
                inside -= 1
            worlds.give(lease)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_dropped_world_is_closed_and_replaced() -> None:
    worlds, made = worlds_of(1)
    lease = Lease(b"1")
    world = worlds.enter(lease, [])
    worlds.drop(lease)
    worlds.drop(lease)
    worlds.give(lease)
    assert world.env.closed.wait(60)
    assert taken(worlds, []) is not world
    assert len(made) == 2


def test_whoever_waits_may_be_called_off() -> None:
    worlds, _ = worlds_of(1)
    worlds.enter(Lease(b"1"), [])
    lease, output = Lease(b"2"), []

    def wait() -> None:
        with pytest.raises(RuntimeError, match="closed while it waited"):
            worlds.enter(lease, [])
        output.append("done")

    waiting = threading.Thread(target=wait)
    waiting.start()
    worlds.drop(lease)
    waiting.join()
    assert output == ["done"]


def test_a_world_whose_making_hangs_gives_up_its_place() -> None:
    go_on, begun, made = threading.Event(), threading.Event(), []

    def make() -> Any:
        thing = Thing(made)
        if len(made) == 1:
            begun.set()
            go_on.wait()
        return thing

    worlds, lease, output = Worlds(make, 1), Lease(b"1"), []

    def hang() -> None:
        with pytest.raises(RuntimeError, match="closed while a world was made"):
            worlds.enter(lease, [])
        output.append("done")

    stuck = threading.Thread(target=hang)
    stuck.start()
    begun.wait()
    worlds.drop(lease)
    assert taken(worlds, [], b"1").env is made[1]
    go_on.set()
    stuck.join()
    assert output == ["done"]
    assert made[0].closed.wait(60)
    assert not made[1].closed.is_set()


def test_a_world_that_cannot_be_made_leaves_its_place_free() -> None:
    left = [OSError("no"), OSError("no")]

    def make() -> Any:
        if left:
            raise left.pop()
        return Thing([])

    worlds = Worlds(make, 1)
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            worlds.enter(Lease(b"1"), [])
    assert taken(worlds, [], b"1").env is not None


def test_closing_closes_the_idle_ones_now_and_the_others_when_they_come_back() -> None:
    worlds, made = worlds_of(2)
    held = Lease(b"1")
    worlds.enter(held, [])
    left_at(worlds, None, [])
    worlds.close()
    assert [thing.closed.is_set() for thing in made] == [False, True]
    worlds.give(held)
    assert made[0].closed.wait(60)
