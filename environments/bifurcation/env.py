"""Bifurcation-v0: the worlds as a text environment."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np

from environments.bifurcation.rules import FIX, Rules
from environments.bifurcation.values import reference_value
from environments.bifurcation.world import State, World, content_rng, draw
from environments.text import BadAction, Reply, TextEnv, over

SIZES = {"train": 4000, "dev": 200, "test": 400}
"""Most tasks of a split; a small family may have fewer."""
SHARES = {"dev": 0.1, "test": 0.3}
"""Below which of these a hash of a task's letters puts it into dev or test; above, it is in train."""
STALE = 2000
"""Draws in a row that bring no new task, after which a small family is taken to be exhausted."""


class Bifurcation(TextEnv):
    """A task's id is its letters. The parameters are those of `Rules`.

    The outcome is drawn in train only; in dev and test a task succeeds exactly when nothing is hurt at the end, so
    that luck does not blur what has been learned. An action that is not legal is refused and costs the turn that the
    task would have needed to end: it cannot succeed any more.

    `value` is the exact chance of success when the reference continuation goes on (`values.reference_value`).
    """

    protocol = "controlled tasks with exact values; not a benchmark of anything else"

    def __init__(
        self,
        horizon: int = 12,
        pivots: int = 1,
        kinds: int = 8,
        options: int = 8,
        decoys: int = 0,
        delay: int = 0,
        recoverable: bool = False,
        words: int = 1,
        right: float = 0.8,
        wrong: float = 0.2,
        care: float = 0.5,
        seed: int = 0,
    ) -> None:
        """As `Rules`. ValueError for parameters that it refuses, or that leave a split without tasks."""
        self.rules = Rules(horizon, pivots, kinds, options, decoys, delay, recoverable, words, right, wrong, care, seed)
        tasks = deal(self.rules)
        super().__init__(tasks, max_turns=horizon, version=f"1 {asdict(self.rules)}")
        self.gold_chance = right
        self._state = State()
        self._right = 0

    def world(self, task_id: str) -> World:
        """The task as a pure function, with the chances of its split."""
        rules = self.rules if self.trainable(self.split_of(task_id)) else replace(self.rules, right=1.0, wrong=0.0)
        return World(rules, task_id)

    def open(self, task_id: str) -> Reply:
        """The first place."""
        self._world, self._state, self._right = self.world(task_id), State(), 0
        return Reply(self._world.observe(self._state))

    def respond(self, action: str) -> Reply:
        """The next place, or the outcome."""
        world = self._world
        if not world.is_legal(action):
            raise BadAction("send a digit" + (f" or {FIX}" if self.rules.recoverable else ""))
        if self._state.place in world.pivots:
            self._right += action[0] == world.careful(self._state)
        self._state = world.move(self._state, action)
        if not world.over(self._state):
            return Reply(world.observe(self._state))
        chance = world.chance(self._state)
        metrics = {"chance": chance, "pivots_right": self._right / len(world.pivots)}
        return over(success=bool(self.np_random.random() < chance), metrics=metrics)

    def stop(self) -> Reply:
        """Turns lost to refused actions are missing at the end."""
        return over(success=False, metrics={"chance": 0.0, "pivots_right": self._right / len(self._world.pivots)})

    def state(self) -> str:
        """The place, what is hurt and which alarms are to come."""
        late = "late " if self.turn > self._state.place else ""
        alarms = " ".join(f"{FIX}{due}{'' if real else '?'}" for due, real in sorted(self._state.alarms))
        return f"{self.task_id} {late}{self._state.place}{' hurt' if self._state.hurt else ''} {alarms}".strip()

    def value(self) -> float:
        """The exact chance of success under the reference continuation; 0 once a turn is lost."""
        return 0.0 if self.turn > self._state.place else reference_value(self._world, self._state)

    def gold(self, task_id: str) -> list[str]:
        """What is needed at pivotal places, anything elsewhere. It succeeds with the chance `right`."""
        return self.world(task_id).script(careful=True)

    def habit(self, task_id: str) -> list[str]:
        """The habitual digits at pivotal places, anything elsewhere."""
        return self.world(task_id).script(careful=False)

    def answer(self, task_id: str) -> str:
        """What the pivotal places need, in order."""
        world = self.world(task_id)
        return " ".join(world.rules.needed[task_id[at]] for at in world.pivots)


@lru_cache(maxsize=32)
def deal(rules: Rules) -> dict[str, tuple[str, ...]]:
    """The tasks of each split: different rows of letters, put into a split by a hash of the row alone."""
    rng = np.random.default_rng([rules.seed, 3])
    dealt: dict[str, dict[str, None]] = {split: {} for split in SIZES}
    stale = 0
    while stale < STALE and any(len(dealt[split]) < size for split, size in SIZES.items()):
        places = draw(rules, rng)
        found = dealt[split_of_places(places)]
        new = places not in found and len(found) < SIZES[split_of_places(places)]
        stale = 0 if new else stale + 1
        if new:
            found[places] = None
    for split, tasks in dealt.items():
        if not tasks:
            raise ValueError(f"Bifurcation: this family has too few tasks: none for {split!r}")
    return {split: tuple(tasks) for split, tasks in dealt.items()}


def split_of_places(places: str) -> str:
    """The split that a row of letters belongs to."""
    share = content_rng(places, "split").random()
    return next((split for split, below in SHARES.items() if share < below), "train")
