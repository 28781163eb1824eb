"""Re-rolled values against values worked out exactly, standard errors against exact coverage, and episodes that go on
from a prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from chance_environment import even
from scipy.stats import binom

import harness.rollout.values as values_module
from harness.backends import SamplingParams
from harness.core.errors import UserError
from harness.core.seeds import SeedTree
from harness.evaluation.fidelity.truth import (
    AFTER,
    AGAIN_AFTER,
    AGAIN_BEFORE,
    BEFORE,
    SETS,
    Values,
    World,
    estimate,
    truth_of,
)
from harness.experiment import EnvironmentSettings
from harness.rollout.conversation import Prefix, Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.rollout.values import Sampled, prefixes, variance
from harness.types import Ending, Episode, RolloutGroup, TokenSequence

SEEDS = SeedTree(3)
ROLLS = 200


@pytest.fixture
def rollouts_of() -> Iterator[Callable[..., Rollouts]]:
    pools: list[EnvironmentPool] = []

    def make(id: str = "chance_environment:Even-v0", **options: Any) -> Rollouts:
        pools.append(EnvironmentPool(EnvironmentSettings(id=id, options=options)))
        return Rollouts(pools[-1])

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def policy(backend_of: Callable[..., Any]) -> TokenPolicy:
    return TokenPolicy(backend_of(), SamplingParams(2))


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def worlds_of(rollouts: Rollouts, policy: TokenPolicy, tasks: int = 2, size: int = 3) -> list[World]:
    out = []
    for task in rollouts.pool.environment.tasks("train")[:tasks]:
        place = SEEDS["world", task]
        requests = [Request(task, place[n], prefix=Prefix((), place)) for n in range(size)]
        out.append(World(RolloutGroup(task, tuple(rollouts.play(requests, policy))), place))
    return out


# ---------------------------------------------------------------- going on from a prefix


@pytest.mark.parametrize(
    ("environment", "task"), [("chance_environment:Even-v0", "train-1"), ("environments:Guess-v0", "3-9:7")]
)
def test_an_episode_goes_on_from_every_prefix_token_for_token(
    rollouts_of: Any, policy: TokenPolicy, environment: str, task: str
) -> None:
    options = {"turns": 3} if "Even" in environment else {}
    rollouts, seeds = rollouts_of(environment, **options), SEEDS["first"]
    (first,) = rollouts.play([Request(task, seeds)], policy)
    beginnings = prefixes(first.sequence)
    assert len(beginnings) == 1 + first.sequence.mask.sum() > 3
    assert any(len(said[-1]) == 1 for said in beginnings[1:])  # in the middle of a turn of two tokens
    later = rollouts.play([Request(task, SEEDS["other"], prefix=Prefix(said, seeds)) for said in beginnings], policy)
    for given, (said, episode) in enumerate(zip(beginnings, later, strict=True)):
        sampled = np.flatnonzero(first.sequence.mask)
        shared = len(first.sequence) if given == len(sampled) else sampled[given]
        np.testing.assert_array_equal(episode.sequence.tokens[:shared], first.sequence.tokens[:shared])
        assert episode.messages[0] == first.messages[0]  # the greeting is drawn by the first episode's seed
        assert not episode.sequence.mask[:shared].any()  # what was given was not sampled
        assert episode.sequence.mask.any() == (given < len(sampled))
        own = prefixes(_as_sampled(episode, first, given))[-1]
        whole = max(len(said) - 1, 0)
        assert own[:whole] == said[:whole]
        assert all(1 <= len(turn) <= 2 for turn in own)
    assert (later[-1].success, later[-1].ending, later[-1].messages) == (first.success, first.ending, first.messages)


def _as_sampled(episode: Episode, first: Episode, given: int) -> TokenSequence:
    """The sequence with the given tokens marked as sampled again."""
    mask = episode.sequence.mask.copy()
    mask[np.flatnonzero(first.sequence.mask)[:given]] = True
    return TokenSequence(episode.sequence.tokens, mask, episode.sequence.logprobs, episode.sequence.turns)


def test_a_prefix_that_is_empty_changes_the_environments_seed_alone(rollouts_of: Any, policy: TokenPolicy) -> None:
    rollouts = rollouts_of()
    plain, moved = rollouts.play(
        [Request("train-0", SEEDS["a"]), Request("train-0", SEEDS["a"], prefix=Prefix((), SEEDS["b"]))], policy
    )
    (same,) = rollouts.play([Request("train-0", SEEDS["a"], prefix=Prefix((), SEEDS["a"]))], policy)
    assert plain.messages[0] != moved.messages[0]
    np.testing.assert_array_equal(plain.sequence.tokens, same.sequence.tokens)


def test_a_request_has_a_script_or_a_prefix() -> None:
    with pytest.raises(ValueError, match="'train-0' has a script and a prefix"):
        Request("train-0", SEEDS, script=("a",), prefix=Prefix((), SEEDS))


# ---------------------------------------------------------------- values


class Exact:
    """Values by going through everything the policy may still say, from forward passes alone: no sampling, no
    environment."""

    def __init__(self, policy: TokenPolicy, world: World, turns: int) -> None:
        self.backend, self.renderer, self.turns = policy.backend, policy.renderer, turns
        self.opening = self.renderer.opening(world.group.episodes[0].messages[:1])
        self.first, *_ = self.chances([()])
        self.second = self.chances([(token,) for token in range(self.backend.vocabulary)])
        self.words = cache(self.renderer.decode)
        self.value = cache(self.value)  # type: ignore[method-assign]

    def prompt(self, said: tuple[int, ...]) -> list[int]:
        """Two tokens are said at most: both in one turn, or one in each of two turns."""
        if self.turns == 1 or not said:
            return [*self.opening, *said]
        return [
            *self.opening,
            *said,
            *self.renderer.bridge([{"role": "user", "content": "higher"}], said[0] in self.renderer.stop_ids),
        ]

    def chances(self, said: list[tuple[int, ...]]) -> np.ndarray:
        """[what was said, next token]"""
        rows = [np.array([*self.prompt(one), 0]) for one in said]
        sequences = [
            TokenSequence(r, np.arange(len(r)) == len(r) - 1, np.zeros(len(r)), np.zeros(len(r), np.int64))
            for r in rows
        ]
        scores = self.backend.score(sequences, top_k=self.backend.vocabulary)
        return np.exp([score.distribution.logprobs[-1] for score in scores])

    def value(self, said: tuple[int, ...]) -> float:
        if len(said) == 2 or (self.turns == 1 and said[-1:] == self.renderer.stop_ids[:1]):
            words = [said] if self.turns == 1 else [(token,) for token in said]
            return float(even("".join(map(self.words, words))))
        worth = [self.value((*said, token)) for token in range(self.backend.vocabulary)]
        return float(np.clip((self.second[said[0]] if said else self.first) @ np.array(worth), 0, 1))


@pytest.mark.parametrize("turns", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_values_are_the_exact_ones(rollouts_of: Any, backend_of: Any, turns: int) -> None:
    """In the middle of a turn (two tokens, one turn) and behind a finished one (one token, two turns)."""
    rollouts, policy = rollouts_of(turns=turns), TokenPolicy(backend_of(), SamplingParams(3 - turns))
    worlds = worlds_of(rollouts, policy)
    values = estimate(worlds, rollouts, policy, ROLLS, SEEDS["rolls"], quiet)
    scores: dict[str, list[float]] = {name: [] for name in ("before", "after", "third", "fourth", "truth", "again")}
    exact: dict[tuple[int, Sampled], float] = {}
    worked_out = [Exact(policy, world, turns) for world in worlds]
    for (n, said), counts in values.successes.items():
        exact[n, said] = worked_out[n].value(tuple(token for turn in said for token in turn))
        spread = np.sqrt(exact[n, said] * (1 - exact[n, said]) / ROLLS)
        for use, name in ((BEFORE, "before"), (AFTER, "after"), (AGAIN_BEFORE, "third"), (AGAIN_AFTER, "fourth")):
            if spread < 1e-9:
                assert counts[use] / ROLLS == pytest.approx(exact[n, said])
            else:
                scores[name].append((counts[use] / ROLLS - exact[n, said]) / spread)
    assert np.ptp(list(exact.values())) > 0.3  # something is at stake
    for n, world in enumerate(worlds):
        for index, episode in enumerate(world.group.episodes):
            estimated = truth_of(n, world.group, index, values)
            path = [exact[n, said] for said in prefixes(episode.sequence)[:-1]] + [float(episode.success)]
            uncertain = estimated.error > 1e-9
            for name, value in (("truth", estimated.value), ("again", estimated.again)):
                scores[name] += list((value - np.diff(path))[uncertain] / estimated.error[uncertain])
    for name, found in scores.items():
        # standard normal about: 4.5 is never met by a right estimate (fixed seeds), a mean of n scores has 1/sqrt(n)
        assert np.abs(found).max() < 4.5, name
    for one, other in combinations(("before", "after", "third", "fourth"), 2):  # independent of each other
        first, second = np.array(scores[one]), np.array(scores[other])
        assert np.any(first != second)
        assert abs(first.mean()) < 4 / np.sqrt(len(first))
        assert abs((first * second).mean()) < 4 / np.sqrt(len(first))


def test_all_sets_and_all_rolls_are_drawn_apart(rollouts_of: Any, policy: TokenPolicy) -> None:
    rollouts = rollouts_of()
    worlds = worlds_of(rollouts, policy)
    asked: list[Request] = []
    play = rollouts.play
    rollouts.play = lambda requests, who: (asked.extend(requests), play(requests, who))[1]
    values = estimate(worlds, rollouts, policy, 5, SEEDS, quiet)
    rolled = [request.seeds for request in asked if request.seeds != SEEDS["replay"]]
    assert len(rolled) == len(set(rolled)) == len(SETS) * 5 * len(values.successes)
    distinct = {(n, said) for n, w in enumerate(worlds) for e in w.group.episodes for said in prefixes(e.sequence)[:-1]}
    assert set(values.successes) == distinct  # once each, however many siblings share it
    assert len(distinct) < sum(int(e.sequence.mask.sum()) for w in worlds for e in w.group.episodes)


def test_values_depend_on_the_seed_and_on_nothing_else(
    rollouts_of: Any, policy: TokenPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = rollouts_of()
    worlds = worlds_of(rollouts, policy)
    first = estimate(worlds, rollouts, policy, 20, SEEDS, quiet)
    monkeypatch.setattr(values_module, "CHUNK", 7)
    reports: list[tuple[str, int, int]] = []
    again = estimate(worlds, rollouts_of(), policy, 20, SEEDS, lambda *report: reports.append(report))
    assert again == first
    assert reports[-1] == ("re-rolling", 80 * len(first.successes), 80 * len(first.successes))
    assert estimate(worlds, rollouts, policy, 20, SEEDS["another"], quiet) != first


def test_an_environment_that_does_not_replay_is_refused(rollouts_of: Any, policy: TokenPolicy) -> None:
    rollouts = rollouts_of(turns=2, drifting=True)
    with pytest.raises(UserError, match="'train-0' answered the same actions under the same seed differently"):
        estimate(worlds_of(rollouts, policy), rollouts, policy, 2, SEEDS, quiet)


# ---------------------------------------------------------------- differences and their errors


def test_truth_by_hand() -> None:
    # Two tokens; of 10 re-rolls: V() = .2 before, .4 after (never used: nothing comes before the start), .3 before the
    # second time; V(5) = .7 before, .6 after, .5 before and .8 after the second time; a success.
    episode = Episode(
        "t",
        TokenSequence(np.array([9, 5, 6]), np.array([False, True, True]), np.zeros(3), np.zeros(3, np.int64)),
        1.0,
        True,
        Ending.COMPLETED,
    )
    values = Values({(4, ()): (2, 4, 3, 0), (4, ((5,),)): (7, 6, 5, 8)}, 10)
    truth = truth_of(4, RolloutGroup("t", (episode,)), 0, values)
    np.testing.assert_allclose(truth.value, [0.6 - 0.2, 1 - 0.7])
    np.testing.assert_allclose(truth.again, [0.8 - 0.3, 1 - 0.5])
    # (s + 1) / 12: 2 -> 3/12, 6 -> 7/12, 7 -> 8/12; variance p (1 - p) / 10; the last token's outcome is certain
    spread = [(7 * 5 + 3 * 9) / 12**2 / 10, 8 * 4 / 12**2 / 10]
    np.testing.assert_allclose(truth.error, np.sqrt(spread))


def test_the_second_estimate_shares_no_roll_with_the_first_of_any_token() -> None:
    """Each of the four counts of each prefix moves one of the two estimates and leaves the other alone."""
    tokens = np.array([9, 5, 6, 7])
    sequence = TokenSequence(tokens, tokens < 9, np.zeros(4), np.zeros(4, np.int64))
    group = RolloutGroup("t", (Episode("t", sequence, 1.0, True, Ending.COMPLETED),))
    counts = {(0, said): (5, 5, 5, 5) for said in prefixes(sequence)[:-1]}
    plain = truth_of(0, group, 0, Values(counts, 10))
    for key, row in counts.items():
        for use in SETS:
            changed = (*row[:use], 9, *row[use + 1 :])
            found = truth_of(0, group, 0, Values(counts | {key: changed}, 10))
            value = not np.array_equal(found.value, plain.value)
            again = not np.array_equal(found.again, plain.again)
            unused = key[1] == () and use in (AFTER, AGAIN_AFTER)  # nothing comes before the start
            assert (value, again) == (use in (BEFORE, AFTER) and not unused, use > AFTER and not unused)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.3, 0.5, 0.97, 0.99, None])
@pytest.mark.parametrize("before", [0.001, 0.03, 0.05, 0.4, 0.5, 0.9, 0.97])
def test_two_standard_errors_cover(before: float, after: float | None) -> None:
    """The chance that V lies within two standard errors, summed over all outcomes of 64 and 64 re-rolls; None: a
    known outcome of 1."""
    rolls = 64
    s = np.arange(rolls + 1)
    spread = variance(s.astype(np.float64), s.astype(np.float64), rolls)
    weight_after = np.array([1.0]) if after is None else binom.pmf(s, rolls, after)
    mean_after, spread_after = (np.array([1.0]), np.zeros(1)) if after is None else (s / rolls, spread)
    miss = mean_after[:, None] - s / rolls - ((1.0 if after is None else after) - before)
    covered = np.abs(miss) <= 2 * np.sqrt(spread_after[:, None] + spread)
    weight = weight_after[:, None] * binom.pmf(s, rolls, before)
    assert weight[covered].sum() > 0.935  # nominal 0.954; a binomial is lumpy
