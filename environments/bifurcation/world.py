"""One task as a pure function: its states, what each shows, which actions are legal, where they lead, how it ends."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from environments.bifurcation.rules import FIX, LETTERS, Rules

IDLE_WORDS = LETTERS[:8]
"""What the words after an action's first are drawn from."""


@dataclass(frozen=True)
class State:
    """Where a task stands. The agent sees its letter and its alarm, not what is hurt."""

    place: int = 0
    hurt: bool = False
    """A mistake stands that cannot be taken back."""
    alarms: tuple[tuple[int, bool], ...] = ()
    """Alarms still to be shown: at which place, and whether a mistake that can be taken back stands behind it."""


@dataclass(frozen=True)
class World:
    """A task: the rules and a letter for each place. All actions are legal everywhere, and none ends a task early."""

    rules: Rules
    places: str

    @property
    def pivots(self) -> tuple[int, ...]:
        """The pivotal places."""
        return tuple(at for at, letter in enumerate(self.places) if letter in self.rules.pivotal)

    def over(self, state: State) -> bool:
        """Whether the task has ended."""
        return state.place == len(self.places)

    def observe(self, state: State) -> str:
        """What the agent sees: the letter, and the mark of an alarm that shows here."""
        return self.places[state.place] + (FIX if self.alarm(state) is not None else "")

    def alarm(self, state: State) -> bool | None:
        """Whether a mistake that can be taken back stands behind the alarm shown here; None where none is shown."""
        return next((real for due, real in state.alarms if due == state.place), None)

    def legal(self) -> tuple[str, ...]:
        """All actions: options * 8 ** (words - 1) of them, and FIX where mistakes can be taken back."""
        digits = map(str, range(self.rules.options))
        actions = [" ".join(words) for words in itertools.product(digits, *[IDLE_WORDS] * (self.rules.words - 1))]
        return (*actions, FIX) if self.rules.recoverable else tuple(actions)

    def is_legal(self, action: str) -> bool:
        """Whether an action is one of `legal`."""
        if action == FIX:
            return self.rules.recoverable
        digit, *idle = action.split(" ")
        known = len(digit) == 1 and digit in "0123456789"[: self.rules.options]
        return known and len(idle) == self.rules.words - 1 and all(len(w) == 1 and w in IDLE_WORDS for w in idle)

    def move(self, state: State, action: str) -> State:
        """The state after a legal action."""
        letter, rules = self.places[state.place], self.rules
        here = self.alarm(state)
        hurt = state.hurt or (here is True and action != FIX)
        alarms = tuple(entry for entry in state.alarms if entry[0] != state.place)
        if letter in rules.needed and action[0] != rules.needed[letter]:
            mistake, due = letter in rules.pivotal, state.place + 1 + rules.delay
            recoverable = mistake and rules.recoverable
            hurt = hurt or (mistake and not recoverable)
            alarms = (*alarms, (due, recoverable))
        return State(state.place + 1, hurt, alarms)

    def chance(self, state: State) -> float:
        """Chance of success of a task that ended in this state."""
        hurt = state.hurt or any(real for _, real in state.alarms)
        return self.rules.wrong if hurt else self.rules.right

    def careful(self, state: State) -> str | None:
        """The first word that is needed here; None where nothing matters."""
        return FIX if self.alarm(state) else self._at_pivot(state, self.rules.needed)

    def careless(self, state: State) -> str | None:
        """The first word that the habitual mistake takes at a pivotal place; None elsewhere."""
        return self._at_pivot(state, self.rules.habitual)

    def _at_pivot(self, state: State, words: Mapping[str, str]) -> str | None:
        letter = self.places[state.place]
        return words[letter] if letter in self.rules.pivotal else None

    def script(self, careful: bool) -> list[str]:
        """The actions of somebody careful or of somebody with the habit. What does not matter is drawn from the task's
        letters.

        Where mistakes can be taken back, the careful make them in every other task, and take them back.
        """
        rng = content_rng(self.places, "careful" if careful else "careless")
        slips = self.rules.recoverable and bool(rng.integers(2))
        state, actions = State(), []
        while not self.over(state):
            digit = self.rules.customary[self.places[state.place]][int(rng.integers(2))]
            idle = [IDLE_WORDS[at] for at in rng.integers(len(IDLE_WORDS), size=self.rules.words - 1).tolist()]
            wanted = self.careful(state) if careful else self.careless(state)
            if careful and slips and wanted != FIX:
                wanted = self.careless(state)
            first = digit if wanted is None else wanted
            actions.append(FIX if first == FIX else " ".join([first, *idle]))
            state = self.move(state, actions[-1])
        return actions


def content_rng(places: str, use: str) -> np.random.Generator:
    """A stream of chance that a task's letters and a use decide."""
    return np.random.default_rng(list(hashlib.sha256(f"{use}:{places}".encode()).digest()))


def draw(rules: Rules, rng: np.random.Generator) -> str:
    """The letters of a random task of a family.

    Where mistakes can be taken back, the place that shows a pivotal place's alarm is there, and is not pivotal.
    """
    last = rules.horizon - (1 + rules.delay if rules.recoverable else 0)
    while True:
        pivots = set(rng.permutation(last)[: rules.pivots].tolist())
        if not rules.recoverable or not any(at + 1 + rules.delay in pivots for at in pivots):
            break
    others = [at for at in rng.permutation(rules.horizon).tolist() if at not in pivots]
    letters = dict.fromkeys(pivots, rules.pivotal) | dict.fromkeys(others[: rules.decoys], rules.misleading)
    chosen = [letters.get(at, rules.plain) for at in range(rules.horizon)]
    return "".join(known[int(rng.integers(len(known)))] for known in chosen)
