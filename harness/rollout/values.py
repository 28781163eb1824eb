"""Values by re-rolling: the policy goes on from what an episode had come to, many times, and the rewards are averaged.

    value of a prefix = mean reward when the policy that is trained goes on from there
    Values.after - Values.before = what a token (a turn) was worth, estimated

A prefix is what the agent knew: its task and all tokens it had seen, its own and the replies. Siblings that share one
share its value. A re-roll replays what had been sampled in a fresh environment, reset as one of the episodes that began
so was, and goes on by a stream of its own; the re-rolls take these episodes in turn, so that an environment's chance is
averaged over as far as the group met it. Behind a reply that only one episode got, its luck is fixed in every re-roll:
credit is then the advantage in that episode's world, whose mean over worlds is the advantage (Kazemnejad et al. 2024,
arXiv 2410.01679, section 4, for language alone, where there is one world).

The end of an episode is known and costs nothing. A re-roll that the infrastructure lost counts as none, never as a
reward of 0; a prefix that lost all of them has no value, and its group is left out like one that lost an episode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from harness.core.errors import UserError
from harness.core.seeds import SeedTree
from harness.core.types import Ending, Episode, Evidence, RolloutGroup, TokenSequence, Values
from harness.rollout.conversation import Prefix, Request
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts

Sampled = tuple[tuple[int, ...], ...]
"""What had been sampled, by turn; the last turn may be unfinished."""
Progress = Callable[[int, int], None]
"""Re-rolls done, and out of how many."""
CHUNK = 2048
"""Episodes played between two reports of progress."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """A prefix of episodes of one task."""

    task_id: str
    sampled: Sampled
    seen: Int[np.ndarray, " token"]
    """All tokens of the prefix: prompts, replies and what was sampled."""
    origins: tuple[SeedTree, ...]
    """Seeds of the environments in which it was reached."""
    seeds: SeedTree
    """Everything random about its re-rolls."""


@dataclass(frozen=True, eq=False)
class Rolled:
    """The re-rolls of some prefixes."""

    worth: Float[np.ndarray, "beginning roll"]
    """NaN where the infrastructure lost the re-roll."""
    tokens: int
    """Tokens sampled in them; what a prefix gave is not among them."""

    @property
    def lost(self) -> int:
        """Re-rolls without a result."""
        return int(np.isnan(self.worth).sum())


@dataclass(frozen=True, eq=False)
class Valued:
    """The values of a step's groups, and what they cost."""

    values: list[list[Values] | None]
    """By group and episode; None for a group that lost all re-rolls of one of its prefixes."""
    rolls: int
    tokens: int
    lost: int
    prefixes: int
    """Distinct ones."""


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


def reward_of(episode: Episode) -> float:
    """What training values an episode by."""
    return float(episode.reward)


def roll(
    beginnings: Sequence[Beginning],
    rolls: int,
    rollouts: Rollouts,
    policy: TokenPolicy,
    worth: Callable[[Episode], float] = reward_of,
    progress: Progress = lambda done, total: None,
) -> Rolled:
    """`rolls` re-rolls of every beginning, each in the world of its next origin.

    Raises UserError when an environment, given the same actions under the same seed, replies differently.
    """
    places = [(b, r) for b in range(len(beginnings)) for r in range(rolls)]
    out = np.full((len(beginnings), rolls), np.nan)
    tokens = 0
    for start in range(0, len(places), CHUNK):
        part = places[start : start + CHUNK]
        requests = [_request(beginnings[b], r) for b, r in part]
        for (b, r), episode in zip(part, rollouts.play(requests, policy), strict=True):
            tokens += int(episode.sequence.mask.sum())
            if episode.ending is not Ending.ERROR:
                _check_same(beginnings[b], episode)
                out[b, r] = worth(episode)
        progress(start + len(part), len(places))
    return Rolled(out, tokens)


def variance(
    total: Float[np.ndarray, "*n"],
    squares: Float[np.ndarray, "*n"],
    count: int | Float[np.ndarray, "*n"],
    low: float = 0.0,
    high: float = 1.0,
) -> Float[np.ndarray, "*n"]:
    """Variance of the mean of `count` rewards with these sums of themselves and of their squares.

    One reward at either end of their range is thought added, so that rewards that all came out alike do not pretend to
    be certain. Rewards of 0 and 1 then have the binomial variance with the chance taken as (s + 1) / (n + 2) (Laplace):
    two standard errors of a difference cover at least 94 % at 64 re-rolls, whatever the chances.
    """
    mean = (total + low + high) / (count + 2)
    spread = (squares + low**2 + high**2) / (count + 2) - mean**2
    return np.asarray(np.maximum(spread, 0.0) / count)


def value_groups(
    groups: Sequence[RolloutGroup],
    rolls: int,
    at: Literal["token", "turn"],
    rollouts: Rollouts,
    policy: TokenPolicy,
    seeds: SeedTree,
) -> Valued:
    """The value of every prefix of the groups' episodes in front of a sampled token, or of a turn's first.

    Equal prefixes are valued once. The range of rewards that `variance` supposes is [0, 1], wider where the step saw
    more. Raises UserError as `roll` does.
    """
    found: dict[bytes, Beginning] = {}
    keys = [[_note(found, episode, at, seeds) for episode in group.episodes] for group in groups]
    rolled = roll(list(found.values()), rolls, rollouts, policy)
    own = [episode.reward for group in groups for episode in group.episodes]
    seen = np.concatenate([own, rolled.worth[~np.isnan(rolled.worth)], [0.0, 1.0]])
    known = ~np.isnan(rolled.worth)
    count = known.sum(axis=1).astype(np.float64)
    kept = np.where(known, rolled.worth, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):  # a prefix without a roll is NaN, and found below
        means = kept.sum(axis=1) / count
        spread = variance(kept.sum(axis=1), (kept**2).sum(axis=1), count, float(seen.min()), float(seen.max()))
    row = {key: n for n, key in enumerate(found)}
    values: list[list[Values] | None] = []
    for group, paths in zip(groups, keys, strict=True):
        rows = [np.array([row[key] for key in path], dtype=np.int64) for path in paths]
        if any(np.isnan(means[r]).any() for r in rows):
            values.append(None)
        else:
            values.append([_values(e, at, means[r], spread[r]) for e, r in zip(group.episodes, rows, strict=True)])
    return Valued(values, rolled.worth.size, rolled.tokens, rolled.lost, len(found))


def with_values(evidence: Sequence[Sequence[Evidence]], values: Sequence[Sequence[Values]]) -> list[list[Evidence]]:
    """The evidence of every episode, its values added."""
    return [
        [replace(known, values=value) for known, value in zip(row, of_group, strict=True)]
        for row, of_group in zip(evidence, values, strict=True)
    ]


def _request(beginning: Beginning, number: int) -> Request:
    origin = beginning.origins[number % len(beginning.origins)]
    return Request(beginning.task_id, beginning.seeds[number], prefix=Prefix(beginning.sampled, origin))


def _check_same(beginning: Beginning, episode: Episode) -> None:
    if not np.array_equal(episode.sequence.tokens[: len(beginning.seen)], beginning.seen):
        raise UserError(
            f"task {beginning.task_id!r} answered the same actions under the same seed differently: "
            "what its episodes came to cannot be valued by re-rolling"
        )


def _starts(sequence: TokenSequence, at: str) -> Int[np.ndarray, " start"]:
    """Numbers of the sampled tokens that are valued: all, or the first of every turn."""
    turns = sequence.turns[sequence.mask]
    first = np.ones(len(turns), dtype=bool)
    if at == "turn":
        first[1:] = turns[1:] != turns[:-1]
    return np.flatnonzero(first)


def _note(found: dict[bytes, Beginning], episode: Episode, at: str, seeds: SeedTree) -> list[bytes]:
    """The keys of an episode's prefixes, in order; new ones are added to `found`, and the episode to the origins of
    all."""
    if episode.origin is None:
        raise ValueError(f"task {episode.task_id!r}: an episode without its origin cannot be gone on from")
    sequence, keys = episode.sequence, []
    sampled, places = prefixes(sequence), np.flatnonzero(sequence.mask)
    for number in _starts(sequence, at).tolist():
        seen = sequence.tokens[: places[number]]
        # Which tokens were sampled is part of it: a template may write what another sibling said itself.
        digest = hashlib.sha256(f"{len(episode.task_id)}:{episode.task_id}".encode())
        digest.update(seen.astype("<i8").tobytes() + sequence.mask[: places[number]].tobytes())
        key = digest.digest()
        known = found.get(key)
        if known is None:
            place = seeds["values", episode.task_id, digest.hexdigest()]
            found[key] = Beginning(episode.task_id, sampled[number], seen, (episode.origin,), place)
        elif episode.origin not in known.origins:
            found[key] = replace(known, origins=(*known.origins, episode.origin))
        keys.append(key)
    return keys


def _values(
    episode: Episode, at: str, means: Float[np.ndarray, " start"], spread: Float[np.ndarray, " start"]
) -> Values:
    """An episode's values, spread over its tokens; its last value is its own reward, which is certain."""
    sequence = episode.sequence
    ends, known = np.append(means, episode.reward), np.append(spread, 0.0)
    sampled = np.arange(int(sequence.mask.sum()))
    segment = np.searchsorted(_starts(sequence, at), sampled, side="right") - 1
    before, after, error = np.zeros((3, len(sequence)))
    before[sequence.mask] = ends[segment]
    after[sequence.mask] = ends[segment + 1]
    error[sequence.mask] = np.sqrt(known[segment] + known[segment + 1])
    return Values(before, after, error)
