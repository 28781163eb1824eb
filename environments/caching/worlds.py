"""Worlds: a few live environments that many episodes share, each lent for one call and remembering where it stands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any


class World:
    """A live environment; `at` is the key of the prefix it stands at, None where no episode goes on from it."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.at: bytes | None = None


class Lease:
    """One call's hold on a world, for the answer whose key is `target`. `over` once given back or dropped."""

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.over = False
        self.counted = False
        self.world: World | None = None


class Worlds:
    """At most `limit` live environments, made when first needed. For all threads of one process."""

    def __init__(self, make: Callable[[], Any], limit: int) -> None:
        if limit < 1:
            raise ValueError(f"there must be at least 1 world, got {limit}")
        self._make, self._limit = make, limit
        self._changed = threading.Condition()
        self._live = 0
        self._idle: list[World] = []
        """The one that was used last stands last."""
        self._targets: set[bytes] = set()
        self._closed = False

    def enter(self, lease: Lease, path: Sequence[bytes]) -> World:
        """Wait for a world and take it: the one that stands deepest along `path`, else any.

        path: keys of an episode's prefixes, shortest first.

        Of several leases with one target one runs at a time, so that the others find what the first has done. Raises
        whatever making an environment raises, and RuntimeError where the lease is dropped meanwhile.
        """
        with self._changed:
            while not lease.over and (lease.target in self._targets or not (self._idle or self._live < self._limit)):
                self._changed.wait()
            if lease.over:
                raise RuntimeError("the environment was closed while it waited for a world")
            self._targets.add(lease.target)
            lease.counted = True
            lease.world = self._choose(path)
            if lease.world is not None:
                self._idle.remove(lease.world)
                return lease.world
            self._live += 1
        try:
            world = World(self._make())
        except BaseException:
            self.drop(lease)
            raise
        with self._changed:
            lease.world = world
            if not lease.over:
                return world
        _close_aside(world)
        raise RuntimeError("the environment was closed while a world was made for it")

    def give(self, lease: Lease) -> None:
        """Put the world back, for whoever is next."""
        with self._changed:
            if lease.over:
                return
            if not self._closed:
                self._release(lease)
                assert lease.world is not None
                self._idle.append(lease.world)
                return
        self.drop(lease)

    def drop(self, lease: Lease) -> None:
        """Close the world and never use it again: it has failed, or it hangs and another thread calls this."""
        with self._changed:
            if lease.over:
                return
            self._live -= lease.counted
            self._release(lease)
        if lease.world is not None:
            _close_aside(lease.world)

    def close(self) -> None:
        """Close the worlds that no call holds; the others are closed when they come back."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._live -= len(idle)
        for world in idle:
            _close(world)

    def _release(self, lease: Lease) -> None:
        lease.over = True
        if lease.counted:
            self._targets.discard(lease.target)
        self._changed.notify_all()

    def _choose(self, path: Sequence[bytes]) -> World | None:
        """An idle world, or None where a new one is better and may be made."""
        standing = {world.at: world for world in self._idle}
        for key in reversed(path):
            if key in standing:
                return standing[key]
        if None in standing:
            return standing[None]
        return None if self._live < self._limit else self._idle[0]


def _close_aside(world: World) -> None:
    """Closing what has failed may hang."""
    threading.Thread(target=_close, args=(world,), daemon=True, name="closing").start()


def _close(world: World) -> None:
    try:
        world.env.close()
    except BaseException:
        return  # whatever it was asked, it has answered or failed before
