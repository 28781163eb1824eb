"""Episodes as turns: what a turn began with, what stands on its tokens, and returns counted back from the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from agents.methods.advantages import EPSILON
from agents.methods.base import Number, on_mask
from harness.types import Episode, RolloutGroup, TokenSequence

ANCHORS = ("auto", "state", "observation")
"""What makes two turns begin alike: the environment's name of the state, the messages met since the last turn, or
the name where all siblings have one and the messages elsewhere."""

Turns = list[Float[np.ndarray, " turn"]]
"""A number for every turn of every sibling."""


def turn_count(sequence: TokenSequence) -> int:
    """Turns in which the policy sampled something."""
    return int(sequence.turns[sequence.mask].max(initial=-1)) + 1


def on_turns(sequence: TokenSequence, values: Float[np.ndarray, " turn"]) -> Float[np.ndarray, " token"]:
    """One number a turn, on each of its sampled tokens; 0 elsewhere."""
    place = np.minimum(sequence.turns, max(len(values) - 1, 0))  # a reply behind the last turn is off the mask
    return on_mask(sequence, values[place] if len(values) else 0.0)


def observations(episode: Episode) -> list[Hashable]:
    """What the agent was told in front of each of its turns: the messages since its last one."""
    out: list[Hashable] = []
    since: list[tuple[str, str]] = []
    for message in episode.messages:
        if message["role"] == "assistant":
            out.append(tuple(since))
            since = []
        else:
            since.append((str(message["role"]), str(message["content"])))
    return out


def anchors(group: RolloutGroup, anchor: str) -> list[list[Hashable]]:
    """For every sibling, what each of its turns began with, as `ANCHORS` says.

    Raises ValueError where anchor is "state" and the environment names none.
    """
    counts = [turn_count(episode.sequence) for episode in group.episodes]
    named = all(len(e.states) >= n for e, n in zip(group.episodes, counts, strict=True))
    if anchor == "state" and not named:
        raise ValueError(f"task {group.task_id!r}: the environment names no states; anchor = 'observation' needs none")
    by_name = named and anchor != "observation"
    met: list[list[Hashable]] = [[*e.states] if by_name else observations(e) for e in group.episodes]
    return [row[:count] for row, count in zip(met, counts, strict=True)]


def returns(group: RolloutGroup, gamma: Number) -> Turns:
    """R_t = gamma^(T - 1 - t) R: the discounted return of every turn, the reward coming with the last."""
    counts = [turn_count(episode.sequence) for episode in group.episodes]
    return [r * float(gamma) ** np.arange(n)[::-1] for n, r in zip(counts, group.rewards, strict=True)]


def alike(met: Sequence[Sequence[Hashable]]) -> list[tuple[list[int], list[int]]]:
    """The turns of a group that began alike, as (siblings, turns); every turn is in one of them."""
    found: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for sibling, row in enumerate(met):
        for turn, anchor in enumerate(row):
            found[anchor][0].append(sibling)
            found[anchor][1].append(turn)
    return list(found.values())


def standardised(values: Float[np.ndarray, " _"], std: bool = True) -> Float[np.ndarray, " _"]:
    """(x - mean x) / (std x + 1e-6), ddof 1; without the division where `std` is False; exactly 0 where all are
    equal."""
    if len(values) < 2 or np.ptp(values) == 0:
        return np.zeros(len(values))
    centred = values - values.mean()
    return np.asarray(centred / (values.std(ddof=1) + EPSILON) if std else centred)
