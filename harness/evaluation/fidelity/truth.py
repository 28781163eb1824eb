"""What a sampled token was truly worth: the policy plays on from before it and from after it, many times, and the
success rates are subtracted.

    truth of token t = V(prefix + token t) - V(prefix)        V = chance of success when the same policy goes on from
    there

Every distinct prefix of a group is valued once, by two independent sets of re-rolls: a token's truth takes one set
after it and the other before it, so that the two values of a difference share no roll, and neighbouring tokens'
errors neither. An environment that answers the same actions differently under the same seed has no such values; it is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from harness.core.errors import HarnessError, UserError
from harness.core.seeds import SeedTree
from harness.core.types import Ending, RolloutGroup, TokenSequence
from harness.rollout.conversation import Prefix, Request
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

Sampled = tuple[tuple[int, ...], ...]
Key = tuple[int, Sampled]
"""A group's place, and what has been sampled."""
Progress = Callable[[str, int, int], None]
CHUNK = 2048
"""Episodes played between two reports of progress."""
BEFORE, AFTER = 0, 1
"""The two sets of re-rolls, by their use in a token's truth."""


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
    """A second estimate from other re-rolls, independent of `value` at the same token."""


@dataclass(frozen=True)
class Values:
    """Successes of the re-rolls of every prefix: by key, one count for each of the two sets."""

    successes: dict[Key, tuple[int, int]]
    rolls: int


def prefixes(sequence: TokenSequence) -> list[Sampled]:
    """What had been sampled before each sampled token, in order, and last the whole episode."""
    turns: list[tuple[int, ...]] = []
    out: list[Sampled] = [()]
    sampled = sequence.mask
    for token, turn in zip(sequence.tokens[sampled].tolist(), sequence.turns[sampled].tolist(), strict=True):
        if turn == len(turns):
            turns.append(())
        if turn != len(turns) - 1:
            raise ValueError(
                f"turns of sampled tokens must count up from 0 without a gap, found {turn} after {len(turns) - 1}"
            )
        turns[-1] += (token,)
        out.append(tuple(turns))
    return out


def estimate(
    worlds: Sequence[World], rollouts: Rollouts, policy: TokenPolicy, rolls: int, seeds: SeedTree, progress: Progress
) -> Values:
    """Values of every distinct prefix of the groups' episodes but the finished ones, whose outcome is known.

    Raises UserError when an episode, replayed, does not end as it did; HarnessError when re-rolls fail.
    """
    check_replay(worlds, rollouts, policy, seeds)
    keys = list(
        dict.fromkeys(
            (n, sampled)
            for n, w in enumerate(worlds)
            for e in w.group.episodes
            for sampled in prefixes(e.sequence)[:-1]
        )
    )
    places = [(key, use, roll) for key in keys for use in (BEFORE, AFTER) for roll in range(rolls)]
    successes = {key: [0, 0] for key in keys}
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        requests = [
            Request(
                worlds[n].group.task_id,
                seeds["re-roll", n, sampled, use, roll],
                prefix=Prefix(sampled, worlds[n].environment),
            )
            for (n, sampled), use, roll in part
        ]
        episodes = rollouts.play(requests, policy)
        failed = sum(episode.ending is Ending.ERROR for episode in episodes)
        if failed:
            raise HarnessError(f"{failed} re-rolls failed ({rollouts.failures}): a value with holes is none")
        for (key, use, _), episode in zip(part, episodes, strict=True):
            successes[key][use] += episode.success
        progress("re-rolling", start + len(part), len(places))
    return Values({key: (before, after) for key, (before, after) in successes.items()}, rolls)


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
    counts = np.array([values.successes[place, sampled] for sampled in before], dtype=np.float64).reshape(-1, 2)
    means, variances = counts / values.rolls, variance(counts, values.rolls)
    after = np.append(means[1:, AFTER], ended)
    after_again = np.append(means[1:, BEFORE], ended)
    spread = np.append(variances[1:, AFTER], 0.0)
    return Truth(
        value=after - means[:, BEFORE],
        error=np.sqrt(spread + variances[:, BEFORE]),
        again=after_again - means[:, AFTER],
    )


def variance(successes: Float[np.ndarray, "*n"], rolls: int) -> Float[np.ndarray, "*n"]:
    """Variance of a success rate. The chance is taken as (s + 1) / (n + 2) (Laplace), so that 0 or n successes do not
    pretend to be certain: with it, two standard errors of a difference cover at least 94 % at 64 re-rolls, whatever
    the chances."""
    chance = (successes + 1) / (rolls + 2)
    return np.asarray(chance * (1 - chance) / rolls)
