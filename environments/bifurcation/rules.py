"""The parameters of a family of worlds, and what all its tasks share: which letters matter, and what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FIX = "!"
"""The action that takes a mistake back; in an observation, the alarm."""
LIMITS = {
    "horizon": (2, 32),
    "pivots": (1, 16),
    "kinds": (1, 10),
    "options": (2, 10),
    "decoys": (0, 16),
    "delay": (0, 16),
    "words": (1, 6),
    "right": (0.1, 1),
    "wrong": (0, 1),
    "care": (0, 1),
}
"""Smallest and largest value of each parameter."""


@dataclass(frozen=True)
class Rules:
    """A family of worlds. ValueError for a parameter outside LIMITS, or for more places than the horizon holds."""

    horizon: int = 12
    """Places in a row, one action each."""
    pivots: int = 1
    """Pivotal places among them."""
    kinds: int = 8
    """Pivotal letters, each with a digit of its own that it needs."""
    options: int = 8
    """Digits an action chooses from."""
    decoys: int = 0
    """Places among the irrelevant ones that raise the alarm as a mistake does, and harm nothing."""
    delay: int = 0
    """Places between a mistake and the one that shows its alarm."""
    recoverable: bool = False
    """Whether FIX at the place that shows the alarm takes the mistake back."""
    words: int = 1
    """Words of an action; the first is the digit, the others are letters that mean nothing."""
    right: float = 0.8
    """Chance of success when nothing is hurt at the end."""
    wrong: float = 0.2
    """Chance of success when something is."""
    care: float = 0.5
    """The reference continuation takes the needed action with this chance at each place, else the habitual one."""
    seed: int = 0
    """Of what each letter means."""

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"Bifurcation: {name} = {getattr(self, name)!r} is outside [{low}, {high}]")
        if self.wrong > self.right:
            raise ValueError(f"Bifurcation: wrong = {self.wrong} must not exceed right = {self.right}")
        if self.recoverable and self.pivots * 2 + self.delay > self.horizon:
            raise ValueError(
                f"Bifurcation: a horizon of {self.horizon} has no room to take back {self.pivots} mistakes "
                f"that show {self.delay} places late; it needs {self.pivots * 2 + self.delay}"
            )
        if self.pivots + self.decoys > self.horizon:
            raise ValueError(
                f"Bifurcation: {self.pivots} pivots and {self.decoys} decoys do not fit a horizon of {self.horizon}"
            )

    @cached_property
    def _shuffled(self) -> str:
        return "".join(np.random.default_rng([self.seed, 0]).permutation(list(LETTERS)))

    @property
    def pivotal(self) -> str:
        """The letters of pivotal places."""
        return self._shuffled[: self.kinds]

    @property
    def misleading(self) -> str:
        """The letters of decoys."""
        return self._shuffled[self.kinds : 2 * self.kinds]

    @property
    def plain(self) -> str:
        """The letters of all other places."""
        return self._shuffled[2 * self.kinds :]

    @cached_property
    def customary(self) -> Mapping[str, tuple[str, str]]:
        """By letter, the two digits that people take there. At a pivotal letter one is needed and the other is the
        habitual mistake; at a misleading one the first raises no alarm; elsewhere both are as good as any."""
        rng = np.random.default_rng([self.seed, 1])
        pairs = {letter: rng.permutation(self.options)[:2].tolist() for letter in LETTERS}
        return {letter: (str(first), str(second)) for letter, (first, second) in pairs.items()}

    @cached_property
    def needed(self) -> Mapping[str, str]:
        """By pivotal letter, the digit it needs; by misleading letter, the one that raises no alarm."""
        return {letter: self.customary[letter][0] for letter in self.pivotal + self.misleading}

    @cached_property
    def habitual(self) -> Mapping[str, str]:
        """By pivotal letter, the digit that the habitual mistake takes: never the needed one."""
        return {letter: self.customary[letter][1] for letter in self.pivotal}
