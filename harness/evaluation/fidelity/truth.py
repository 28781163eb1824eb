"""What a sampled token was truly worth: the policy plays on from before it and from after it, many times, and the
success rates are subtracted.

    truth of token t = V(prefix + token t) - V(prefix)        V = chance of success when the same policy goes on from
    there

Every distinct prefix of a group is valued once, by four independent sets of re-rolls. A token's truth takes one set
after it and another before it, so that the two values of a difference share no roll, and neighbouring tokens' errors
neither; its second estimate does the same with the other two. No roll is in both estimates of any two tokens: an
agreement between them, of a whole episode too, is owed to the truth alone. An environment that answers the same actions
differently under the same seed has no such values; it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from harness.core.errors import HarnessError, UserError
from harness.core.seeds import SeedTree
from harness.core.types import RolloutGroup
from harness.rollout.conversation import Prefix, Request
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.rollout.values import Beginning, Sampled, prefixes, roll, variance

Key = tuple[int, Sampled]
"""A group's place, and what has been sampled."""
Progress = Callable[[str, int, int], None]
BEFORE, AFTER, AGAIN_BEFORE, AGAIN_AFTER = SETS = range(4)
"""The sets of re-rolls, by their use in a token's truth and in its second estimate."""


@dataclass(frozen=True, eq=False)
class World:
    """A group of siblings that all met the environment under the same seeds, so that a shared beginning has one
    value."""

    group: RolloutGroup
    environment: SeedTree


@dataclass(frozen=True, eq=False)
class Truth:
    """One episode's sampled tokens: estimates of V(prefix + token) - V(prefix), in units of success probability."""

    value: Float[np.ndarray, " sampled"]
    error: Float[np.ndarray, " sampled"]
    """Standard error of `value`."""
    again: Float[np.ndarray, " sampled"]
    """A second estimate from other re-rolls, independent of `value` at every token."""


@dataclass(frozen=True)
class Values:
    """Successes of the re-rolls of every prefix: by key, one count for each of the sets."""

    successes: dict[Key, tuple[int, int, int, int]]
    rolls: int


def estimate(
    worlds: Sequence[World], rollouts: Rollouts, policy: TokenPolicy, rolls: int, seeds: SeedTree, progress: Progress
) -> Values:
    """Values of every distinct prefix of the groups' episodes but the finished ones, whose outcome is known.

    Raises UserError when an episode, replayed, does not end as it did; HarnessError when re-rolls fail.
    """
    check_replay(worlds, rollouts, policy, seeds)
    reached: dict[Key, np.ndarray] = {}
    for n, world in enumerate(worlds):
        for episode in world.group.episodes:
            sequence = episode.sequence
            places = np.flatnonzero(sequence.mask).tolist()
            for sampled, place in zip(prefixes(sequence)[:-1], places, strict=True):
                reached.setdefault((n, sampled), sequence.tokens[:place])
    beginnings = [
        Beginning(worlds[n].group.task_id, sampled, seen, (worlds[n].environment,), seeds["re-roll", n, sampled, use])
        for (n, sampled), seen in reached.items()
        for use in SETS
    ]
    rolled = roll(
        beginnings,
        rolls,
        rollouts,
        policy,
        worth=lambda episode: float(episode.success),
        progress=lambda done, total: progress("re-rolling", done, total),
    )
    if rolled.lost:
        raise HarnessError(f"{rolled.lost} re-rolls failed ({rollouts.failures}): a value with holes is none")
    counts = rolled.worth.sum(axis=1).astype(np.int64).reshape(-1, len(SETS))
    return Values({key: tuple(row) for key, row in zip(reached, counts.tolist(), strict=True)}, rolls)


def check_replay(worlds: Sequence[World], rollouts: Rollouts, policy: TokenPolicy, seeds: SeedTree) -> None:
    """Raise UserError unless every episode, replayed token for token, meets the same replies and the same end."""
    played = [(world, episode) for world in worlds for episode in world.group.episodes]
    requests = [
        Request(e.task_id, seeds["replay"], prefix=Prefix(prefixes(e.sequence)[-1], w.environment)) for w, e in played
    ]
    for (_, first), second in zip(played, rollouts.play(requests, policy), strict=True):
        same = np.array_equal(first.sequence.tokens, second.sequence.tokens)
        if not same or (first.success, first.ending) != (second.success, second.ending):
            ends = (
                f"{first.ending.value} (success {first.success}), then {second.ending.value} (success {second.success})"
            )
            raise UserError(f"task {first.task_id!r} answered the same actions under the same seed differently: {ends}")


def truth_of(place: int, group: RolloutGroup, index: int, values: Values) -> Truth:
    """The truth of each sampled token of one episode; `place` is its group's among the worlds."""
    episode = group.episodes[index]
    before, ended = prefixes(episode.sequence)[:-1], float(episode.success)
    counts = np.array([values.successes[place, sampled] for sampled in before], dtype=np.float64).reshape(-1, len(SETS))
    means, variances = counts / values.rolls, variance(counts, counts, values.rolls)  # of zeros and ones: s = sum s^2
    spread = np.append(variances[1:, AFTER], 0.0)
    return Truth(
        value=np.append(means[1:, AFTER], ended) - means[:, BEFORE],
        error=np.sqrt(spread + variances[:, BEFORE]),
        again=np.append(means[1:, AGAIN_AFTER], ended) - means[:, AGAIN_BEFORE],
    )
