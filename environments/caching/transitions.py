"""Cached: a text environment with a deterministic engine, which executes nothing twice over episodes, methods and runs.

    class CachedEcho(Cached):
        def __init__(self, max_turns: int = 2, folder: str = ".cache/transitions") -> None:
            super().__init__(lambda: Echo(max_turns), folder=folder, version=f"Echo 1 max_turns={max_turns}")

What an engine answers is a function of its version, the task (and seed) and the actions so far: that is the key of an
answer, by content. A hit costs microseconds. For a miss the actions so far are played again in one of a few live
environments (worlds), which costs nothing where one stands there already; everything played again must agree with what
was recorded, and so must a share of the hits. Episodes are the same with and without. Register a subclass that stands
beside the environment, so that the code that is part of a run's fingerprint is the environment's.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

from environments.caching.answers import Answer, decoded, encoded, failed, key_of, malformed, short
from environments.caching.store import TransitionStore, statistics
from environments.caching.worlds import Lease, World, Worlds
from environments.text import Message, TextEnv
from harness.protocols.environment import TextEnvironment

__all__ = ["CacheMismatch", "Cached", "statistics"]

Make = Callable[[], Any]
"""Makes an environment."""


class CacheMismatch(RuntimeError):
    """An engine answered the same actions in two ways.

    It is not deterministic, or its version does not name all that it depends on. From then on every call raises this.
    `fatal` marks it as an error after which no episode is to be tried again.
    """

    fatal = True


class Cached(TextEnv):
    """An environment with a cache of transitions; `unwrapped` is itself, and passes on what the environment declares.

    An instance is light (it holds an episode's actions and keys); the worlds and the cache belong to the process and
    are shared by all instances with one folder and version. Calls to different instances may come from different
    threads.

    Answers that fail (`info["failure"]`, anything raised, anything malformed) are passed on and never kept, and their
    world is closed; answers that JSON does not give back exactly are passed on and not kept.
    """

    def __init__(
        self,
        make: Make,
        *,
        folder: Path | str | None,
        version: str,
        audit: float = 0.01,
        seeded: bool = True,
        worlds: int | None = None,
        canonical: Callable[[str], str] | None = None,
    ) -> None:
        """make: makes the environment. folder: where the cache lies; None keeps it in memory. version: names the
        engine, its version, and every option that an answer depends on.

        audit: share of the hits that is executed again, in 0..1. seeded: whether answers depend on the seed of reset.
        worlds: live environments at most (default: the number of cores). canonical: the text that stands for an action;
        it is what the engine gets.
        """
        if not 0.0 <= audit <= 1.0:
            raise ValueError(f"audit is a share in 0..1, got {audit}")
        if not version:
            raise ValueError("version must name what the answers depend on, got an empty text")
        limit = worlds if worlds is not None else os.cpu_count() or 1
        place = None if folder is None else str(Path(folder).absolute())
        self._make, self._name = make, (place, version, limit)
        self._audit, self._seeded, self._canonical = audit, seeded, canonical
        self._lease: Lease | None = None
        self._joined: _Engine | None = None
        facts = self._facts = self._engine().facts
        super().__init__(
            {split: facts.tasks(split) for split in facts.splits},
            max_turns=facts.max_turns or 1,
            version=facts.version,
            default_split=facts.default_split,
            trainable=[split for split in facts.splits if facts.trainable(split)],
            terse=facts.terse,
            tools=facts.tools,
        )
        self.mini, self.protocol, self.success_metrics = facts.mini, facts.protocol, facts.success_metrics
        self.idle_action, self.idle_reward = facts.idle_action, facts.idle_reward
        self._seed, self._seeds_since = "", 0
        self._episode_seed = 0
        self._options: dict[str, Any] = {}
        self._path: list[bytes] = []
        """Key of the opening, and of what each action led to."""
        self._actions: list[str] = []
        self._recorded: list[bytes | None] = []
        """What was answered at each key of the path; None where it could not be kept."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._facts, name)

    def gold(self, task_id: str) -> list[str] | None:
        """As the environment."""
        return self._facts.gold(task_id)

    def habit(self, task_id: str) -> list[str] | None:
        """As the environment."""
        return self._facts.habit(task_id)

    def answer(self, task_id: str) -> str | None:
        """As the environment."""
        return self._facts.answer(task_id)

    def scenario_of(self, task_id: str) -> str:
        """As the environment."""
        return self._facts.scenario_of(task_id)

    def floor(self, task_id: str) -> float | None:
        """As the environment."""
        return self._facts.floor(task_id)

    def summary(self, episodes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """As the environment."""
        return self._facts.summary(episodes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Begin a task, as the environment would. Raises CacheMismatch beside what the environment raises.

        Without a seed, a seeded environment gets one that follows from the last seed and the resets since.
        """
        gymnasium.Env.reset(self, seed=seed)
        self._running = False
        self.task_id, self.split = self._choose(options or {})
        self.turn = 0
        self._options = {"task_id": self.task_id}
        self._episode_seed = self._next_seed(seed)
        if seed is not None and self._seeded and (options or {}).get("task_id") is None:
            self._options = {"split": self.split}  # drawing the task is part of the environment's chance
        content = (
            self._engine().version, self.task_id, self._options, self._episode_seed if self._seeded else None
        )  # fmt: skip
        self._path, self._actions, self._recorded = [], [], []
        answer = self._ask(key_of(b"", json.dumps(content, ensure_ascii=False)), None)
        self._running = not failed(answer, 2)
        return answer  # type: ignore[no-any-return]

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """One turn of the agent. Raises as `reset` does."""
        if not isinstance(action, str):
            raise TypeError(f"an action is a string, got {type(action).__name__}: {action!r}")
        if not self._running:
            raise RuntimeError(
                "no episode is running: call reset() before the first step and after the end of an episode"
            )
        self._running = False  # stays so if the environment itself fails below
        self.turn += 1
        text = action if self._canonical is None else self._canonical(action)
        answer = self._ask(key_of(self._path[-1], text), text)
        self._running = not (failed(answer, 5) or answer[2] or answer[3])
        return answer  # type: ignore[no-any-return]

    def statistics(self) -> dict[str, float]:
        """The counts of this process's instances that share this cache, by the names in `store.COUNTS`."""
        return self._engine().store.counts()

    def close(self) -> None:
        """Leave the shared cache; the last to do so closes the worlds and writes the cache.

        Called from another thread it ends a call that hangs: its world is given up.
        """
        lease, joined = self._lease, self._joined
        self._joined = None
        if joined is not None and joined.process is _PROCESS:
            if lease is not None:
                joined.worlds.drop(lease)
            joined.leave()

    def _engine(self) -> _Engine:
        """The process's engine: also after a fork, and after close."""
        if self._joined is None or self._joined.process is not _PROCESS:
            self._joined = _PROCESS.join(self._name, self._make)
        return self._joined

    def _next_seed(self, given: int | None) -> int:
        if given is not None:
            self._seed, self._seeds_since = str(given), 0
            return given
        self._seed = self._seed or str(self.np_random_seed)
        self._seeds_since += 1
        return int.from_bytes(key_of(b"", f"{self._seed} {self._seeds_since}")[:4], "big")

    def _ask(self, key: bytes, action: str | None) -> Answer:
        """The answer to an action (None: to reset), and the episode goes on to `key`."""
        engine = self._engine()
        engine.refuse_condemned()
        known = engine.store.get(key)
        if known is None or self._is_audited(key):
            answer, known = self._execute(engine, key, action, known)
        else:
            engine.store.count(hits=1)
            answer = decoded(known)
        self._path.append(key)
        self._recorded.append(known)
        if action is not None:
            self._actions.append(action)
        return answer

    def _is_audited(self, key: bytes) -> bool:
        """By a hash of key and seed: each episode audits another share, and no random stream is drawn from."""
        return int.from_bytes(key_of(key, str(self._episode_seed))[:8], "big") < self._audit * 2**64

    def _execute(
        self, engine: _Engine, key: bytes, action: str | None, known: bytes | None
    ) -> tuple[Answer, bytes | None]:
        """What the engine itself answers, and how it is recorded; `known` is the record it must agree with."""
        lease = self._lease = Lease(key)
        try:
            world = engine.worlds.enter(lease, self._path)
            if known is None and (found := engine.store.get(key)) is not None:  # another episode was faster
                engine.worlds.give(lease)
                engine.store.count(hits=1)
                return decoded(found), found
            began = time.perf_counter()
            try:
                answer = self._play(engine.store, world, action)
            finally:
                engine.store.count(seconds=time.perf_counter() - began)
            return answer, self._judge(engine, lease, answer, action, known)
        except CacheMismatch as mismatch:
            if lease.over:
                raise RuntimeError("the environment was closed while it answered") from mismatch
            engine.store.condemn(str(mismatch))
            raise
        finally:
            engine.worlds.drop(lease)  # what has not been given back has failed
            self._lease = None

    def _play(self, store: TransitionStore, world: World, action: str | None) -> Answer:
        """Bring the world to where the episode stands and ask it; what it answers on the way must agree with the
        record.

        A failure on the way is the answer.
        """
        start = self._path.index(world.at) + 1 if world.at in self._path else 0
        world.at = None  # until it has answered: a world that fails halfway stands nowhere
        for place in range(start, len(self._path)):
            answer = self._call(world, self._actions[place - 1] if place else None)
            store.count(replayed=1)
            if failed(answer, 5 if place else 2):
                # a reset that reports a failure has two parts; whoever called step expects five
                reported = not place and isinstance(answer, tuple) and not malformed(answer, 2)
                return ((), 0.0, False, True, answer[1]) if reported else answer
            self._compare(self._recorded[place], answer, place)
        return self._call(world, action)

    def _call(self, world: World, action: str | None) -> Answer:
        if action is None:
            return world.env.reset(seed=self._episode_seed, options=dict(self._options))
        return world.env.step(action)

    def _judge(
        self, engine: _Engine, lease: Lease, answer: Answer, action: str | None, known: bytes | None
    ) -> bytes | None:
        """Give the world back, and record its answer. Failures are not recorded, and their world is not used again."""
        world, store, size = lease.world, engine.store, 2 if action is None else 5
        assert world is not None
        if failed(answer, size) or lease.over:
            store.count(misses=1)
            return None
        recorded = encoded(answer)
        if known is not None:
            self._compare(known, answer, len(self._path), action)
            store.count(hits=1, audits=1)
        else:
            store.count(misses=1, uncached=recorded is None)
            if recorded is not None:
                store.put(lease.target, recorded)
        # a finished episode leads nowhere, but its world may begin another one
        world.at = None if size == 5 and (answer[2] or answer[3]) else lease.target
        engine.worlds.give(lease)
        return recorded

    def _compare(self, recorded: bytes | None, answer: Answer, place: int, action: str | None = None) -> None:
        """Compare the answer at a place of the path, or to the action after its end, with the record."""
        if recorded is None or encoded(answer) == recorded:
            return
        actions = [*self._actions, *([] if action is None else [action])][:place]
        raise CacheMismatch(
            f"task {self.task_id!r}, seed {self._episode_seed}, after {short(actions)}: recorded was "
            f"{short(decoded(recorded))}, executed again it is {short(answer)}. The engine is not "
            f"deterministic, or its version does not "
            "name everything that its answers depend on. Nothing of this cache is used any more"
        )


class _Engine:
    """What the instances of a process with one folder and one version share."""

    def __init__(self, process: _Process, name: Name, make: Make) -> None:
        self.process, self.name = process, name
        folder, version, limit = name
        self._made = make()
        self.facts: TextEnvironment = self._made.unwrapped
        """An instance that is only asked about tasks, never played."""
        kind = type(self.facts)
        self.version = f"{version} ({kind.__module__}.{kind.__qualname__} {self.facts.version})"
        self.store = TransitionStore(None if folder is None else Path(folder), self.version)
        self.worlds = Worlds(make, limit)
        self.users = 0

    def refuse_condemned(self) -> None:
        if self.store.condemned is not None:
            raise CacheMismatch(self.store.condemned)

    def leave(self) -> None:
        with self.process.lock:
            self.users -= 1
            if self.users:
                return
            self.process.engines.pop(self.name, None)
        self.worlds.close()
        self.store.close()
        self._made.close()


Name = tuple[str | None, str, int]
"""Folder, version, and how many worlds."""


class _Process:
    """The engines of this process.

    One lock for all: two instances that join at the same time must share an engine, not open its file twice.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.engines: dict[Name, _Engine] = {}

    def join(self, name: Name, make: Make) -> _Engine:
        with self.lock:
            engine = self.engines.get(name) or _Engine(self, name, make)
            self.engines[name] = engine
            engine.users += 1
            return engine


_PROCESS = _Process()
_INHERITED: list[_Process] = []
"""What a forked child neither uses nor lets go of: closing the parent's files or worlds here would close them there."""


def _begin_in_child() -> None:
    global _PROCESS
    _INHERITED.append(_PROCESS)
    _PROCESS = _Process()


def _flush() -> None:
    for engine in list(_PROCESS.engines.values()):
        engine.store.flush()


os.register_at_fork(after_in_child=_begin_in_child)
atexit.register(_flush)
