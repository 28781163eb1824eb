"""Values by re-rolling: shared prefixes, chance averaged over, honest errors, lost re-rolls; and a second
implementation that plays one re-roll at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import harness.rollout.values as module
from harness.backends import SamplingParams
from harness.core.errors import UserError
from harness.core.seeds import SeedTree
from harness.experiment import EnvironmentSettings
from harness.rollout.conversation import Prefix, Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.rollout.values import prefixes, value_groups, variance, with_values
from harness.types import Ending, Episode, Evidence, RolloutGroup, TokenSequence

SEEDS = SeedTree(5)["step", 3]
PLACE = SeedTree(5)["rollout", 3]


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


def groups_of(rollouts: Rollouts, policy: TokenPolicy, tasks: int = 2, size: int = 4) -> list[RolloutGroup]:
    """Groups as a step samples them: every episode in a world of its own."""
    named = rollouts.pool.environment.tasks("train")[:tasks]
    requests = [Request(task, PLACE[n, i]) for n, task in enumerate(named) for i in range(size)]
    played = rollouts.play(requests, policy)
    return [RolloutGroup(task, tuple(played[n * size : (n + 1) * size])) for n, task in enumerate(named)]


def naive(groups: list[RolloutGroup], rolls: int, at: str, rollouts: Rollouts, policy: TokenPolicy) -> list[Any]:
    """Per episode (before, after) on its sampled tokens: one prefix, one re-roll at a time."""

    def key(episode: Episode, place: int) -> tuple[Any, ...]:
        s = episode.sequence
        return episode.task_id, tuple(s.tokens[:place].tolist()), tuple(s.mask[:place].tolist())

    everyone = [e for group in groups for e in group.episodes]

    def value(episode: Episode, place: int) -> float:
        mine = key(episode, place)
        origins: list[SeedTree] = []
        for other in everyone:
            reached = len(other.sequence) > place and other.sequence.mask[place]
            opens = at == "token" or (reached and opens_turn(other.sequence, place))
            if reached and opens and key(other, place) == mine and other.origin not in origins:
                origins.append(other.origin)
        text = hashlib.sha256(f"{len(episode.task_id)}:{episode.task_id}".encode())
        text.update(np.array(mine[1], dtype="<i8").tobytes() + bytes(mine[2]))
        said: list[list[int]] = []
        for token, mask, turn in zip(mine[1], mine[2], episode.sequence.turns[:place].tolist(), strict=True):
            if mask:
                said += [[] for _ in range(turn + 1 - len(said))]
                said[turn].append(token)
        place_of_rolls = SEEDS["values", episode.task_id, text.hexdigest()]
        prefix = tuple(map(tuple, said))
        found = [
            rollouts.play(
                [Request(episode.task_id, place_of_rolls[r], prefix=Prefix(prefix, origins[r % len(origins)]))], policy
            )[0].reward
            for r in range(rolls)
        ]
        return math.fsum(found) / rolls

    out = []
    for episode in everyone:
        places = np.flatnonzero(episode.sequence.mask).tolist()
        starts = [p for p in places if at == "token" or opens_turn(episode.sequence, p)]
        path = [*(value(episode, p) for p in starts), episode.reward]
        segment = [sum(s <= p for s in starts) - 1 for p in places]
        out.append(([path[s] for s in segment], [path[s + 1] for s in segment]))
    return out


def opens_turn(sequence: TokenSequence, place: int) -> bool:
    turn = sequence.turns[place]
    return not np.any(sequence.mask[:place] & (sequence.turns[:place] == turn))


@pytest.mark.parametrize("greets", [True, False])
@pytest.mark.parametrize("at", ["token", "turn"])
def test_agrees_with_one_re_roll_at_a_time(rollouts_of: Any, policy: TokenPolicy, at: Any, greets: bool) -> None:
    rollouts = rollouts_of(turns=2, greets=greets)
    groups = groups_of(rollouts, policy, tasks=1, size=3)
    found = value_groups(groups, 3, at, rollouts, policy, SEEDS)
    flat = [value for row in found.values if row is not None for value in row]
    episodes = [e for group in groups for e in group.episodes]
    for episode, value, (before, after) in zip(episodes, flat, naive(groups, 3, at, rollouts, policy), strict=True):
        mask = episode.sequence.mask
        np.testing.assert_allclose(value.before[mask], before)
        np.testing.assert_allclose(value.after[mask], after)
        for array in (value.before, value.after, value.error):
            assert not array[~mask].any()


def test_a_shared_prefix_is_valued_once_for_all(rollouts_of: Any, policy: TokenPolicy) -> None:
    rollouts = rollouts_of(turns=2, greets=False)
    groups = groups_of(rollouts, policy, size=8)
    found = value_groups([*groups, groups[0]], 5, "token", rollouts, policy, SEEDS)
    seen: dict[Any, float] = {}
    for group, row in zip(groups, found.values, strict=False):
        assert row is not None
        for episode, value in zip(group.episodes, row, strict=True):
            places = np.flatnonzero(episode.sequence.mask)
            np.testing.assert_array_equal(value.after[places[:-1]], value.before[places[1:]])
            assert value.after[places[-1]] == episode.reward
            for place in places:
                key = episode.task_id, tuple(episode.sequence.tokens[:place])
                assert seen.setdefault(key, value.before[place]) == value.before[place]
    assert found.prefixes == len(seen) < sum(int(e.sequence.mask.sum()) for g in groups for e in g.episodes)
    assert found.rolls == 5 * found.prefixes
    assert found.lost == 0 < found.tokens


def test_a_turn_has_the_value_of_its_first_token(rollouts_of: Any, policy: TokenPolicy) -> None:
    """To the last bit: the same prefix has the same re-rolls, whatever else is valued."""
    rollouts = rollouts_of(turns=2, greets=False)
    groups = groups_of(rollouts, policy)
    tokens, turns = (value_groups(groups, 4, at, rollouts, policy, SEEDS) for at in ("token", "turn"))
    assert turns.prefixes < tokens.prefixes
    for group, of_tokens, of_turns in zip(groups, tokens.values, turns.values, strict=True):
        assert of_tokens is not None
        assert of_turns is not None
        for episode, fine, coarse in zip(group.episodes, of_tokens, of_turns, strict=True):
            sequence = episode.sequence
            for place in np.flatnonzero(sequence.mask):
                first = np.flatnonzero(sequence.mask & (sequence.turns == sequence.turns[place]))
                assert coarse.before[place] == fine.before[first[0]]
                assert coarse.after[place] == fine.after[first[-1]]


def test_values_depend_on_the_seed_and_on_nothing_else(
    rollouts_of: Any, policy: TokenPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = rollouts_of()
    groups = groups_of(rollouts, policy)
    first = arrays(value_groups(groups, 4, "token", rollouts, policy, SEEDS))
    monkeypatch.setattr(module, "CHUNK", 5)
    np.testing.assert_array_equal(first, arrays(value_groups(groups, 4, "token", rollouts_of(), policy, SEEDS)))
    assert np.any(first != arrays(value_groups(groups, 4, "token", rollouts, policy, SEEDS["other"])))


def arrays(valued: Any) -> np.ndarray:
    return np.concatenate([np.concatenate([v.before, v.after, v.error]) for row in valued.values for v in row])


# ---------------------------------------------------------------- chance


def test_what_only_chance_decides_is_averaged_over_the_worlds_of_the_siblings(
    rollouts_of: Any, policy: TokenPolicy
) -> None:
    """The coin fell with the reset, unseen. In front of the first token all four siblings stand: as many re-rolls go
    on in each one's world, and their mean is the mean of the four coins. Behind a token that one said alone, its own
    coin is certain."""
    rollouts = rollouts_of("chance_environment:Coin-v0")
    (group,) = groups_of(rollouts, policy, tasks=1)
    coins = [e.reward for e in group.episodes]
    assert 0 < np.mean(coins) < 1
    found = value_groups([group], 8, "token", rollouts, policy, SEEDS)
    alone = 0
    for episode, value in zip(group.episodes, found.values[0] or (), strict=True):
        places = np.flatnonzero(episode.sequence.mask)
        assert value.before[places[0]] == np.mean(coins)
        others = [e.sequence.tokens[: places[0] + 1].tolist() for e in group.episodes if e is not episode]
        if len(places) > 1 and episode.sequence.tokens[: places[0] + 1].tolist() not in others:
            alone += 1
            assert value.after[places[0]] == episode.reward
    assert alone


def test_an_environment_that_does_not_replay_is_refused(rollouts_of: Any, policy: TokenPolicy) -> None:
    rollouts = rollouts_of(turns=2, drifting=True)
    with pytest.raises(UserError, match="'train-0' answered the same actions under the same seed differently"):
        value_groups(groups_of(rollouts, policy), 2, "turn", rollouts, policy, SEEDS)


# ---------------------------------------------------------------- errors


@given(st.lists(st.floats(-2, 3), min_size=1, max_size=9))
def test_the_variance_is_that_of_the_rewards_with_one_at_either_end(rewards: list[float]) -> None:
    low, high = min(0.0, *rewards), max(1.0, *rewards)
    total, squares = math.fsum(rewards), math.fsum(r * r for r in rewards)
    got = variance(np.float64(total)[None], np.float64(squares)[None], len(rewards), low, high)
    np.testing.assert_allclose(got, np.var([*rewards, low, high]) / len(rewards), atol=1e-12)


@pytest.mark.parametrize("rolls", [1, 9, 64])
def test_of_zeros_and_ones_it_is_laplaces(rolls: int) -> None:
    s = np.arange(rolls + 1.0)
    chance = (s + 1) / (rolls + 2)
    np.testing.assert_allclose(variance(s, s, rolls), chance * (1 - chance) / rolls)


def test_the_error_of_a_difference_by_hand(rollouts_of: Any, policy: TokenPolicy) -> None:
    """Both values of a difference are uncertain, but an end is not."""
    rollouts = rollouts_of()
    groups = groups_of(rollouts, policy, tasks=1)
    rolls = 6
    found = value_groups(groups, rolls, "token", rollouts, policy, SEEDS)
    for episode, value in zip(groups[0].episodes, found.values[0] or (), strict=True):
        places = np.flatnonzero(episode.sequence.mask)
        spread = [variance(m * rolls, m * rolls, rolls) for m in (value.before[places], value.after[places])]
        spread[1][-1] = 0
        np.testing.assert_allclose(value.error[places], np.sqrt(spread[0] + spread[1]))


# ---------------------------------------------------------------- what is lost


def test_a_prefix_that_lost_all_its_re_rolls_leaves_its_group_without_values(
    rollouts_of: Any, policy: TokenPolicy
) -> None:
    groups = groups_of(rollouts_of(greets=False), policy)
    broken = rollouts_of(greets=False, broken="all")
    found = value_groups(groups, 6, "turn", broken, policy, SEEDS)
    assert found.values[0] is None
    assert found.values[1] is not None
    assert (found.prefixes, found.rolls, found.lost) == (2, 12, 6)  # every sibling opens alike
    assert sum(broken.failures.values()) == 2 * 6  # each is tried twice


def test_a_lost_re_roll_is_none_and_never_a_reward_of_zero(rollouts_of: Any, policy: TokenPolicy) -> None:
    """Where the worlds of some siblings fail, the value is the mean of the re-rolls in the others'."""
    rollouts = rollouts_of(greets=False)
    (group,) = groups_of(rollouts, policy, tasks=1)
    lossy = rollouts_of(greets=False, broken="odd")
    found = value_groups([group], 8, "turn", lossy, policy, SEEDS)
    assert found.values[0] is not None
    assert 0 < found.lost < 8
    value, mask = found.values[0][0], group.episodes[0].sequence.mask
    kept = 8 - found.lost
    wins = value.before[mask][0] * kept
    assert wins == pytest.approx(round(wins))  # of those left
    whole = value_groups([group], 8, "turn", rollouts, policy, SEEDS).values[0]
    assert whole is not None
    assert wins <= whole[0].before[mask][0] * 8 <= wins + found.lost
    assert value.error[mask][0] == pytest.approx(np.sqrt(variance(*[np.array([wins])] * 2, kept))[0])


def test_an_episode_without_an_origin_is_named(rollouts_of: Any, policy: TokenPolicy) -> None:
    e = Episode(
        "t", TokenSequence(*map(np.array, ([1, 2], [False, True], [0.0, 0.0], [0, 0]))), 0.0, False, Ending.COMPLETED
    )
    with pytest.raises(ValueError, match="'t': an episode without its origin cannot be gone on from"):
        value_groups([RolloutGroup("t", (e,))], 2, "turn", rollouts_of(), policy, SEEDS)


def test_an_episode_that_never_spoke_has_values_of_nothing(rollouts_of: Any, policy: TokenPolicy) -> None:
    silent = Episode(
        "t", TokenSequence(*map(np.array, ([1], [False], [0.0], [0]))), 0.0, False, Ending.TOKEN_LIMIT, origin=PLACE
    )
    found = value_groups([RolloutGroup("t", (silent,))], 2, "turn", rollouts_of(), policy, SEEDS)
    assert (found.rolls, found.prefixes) == (0, 0)
    (((one,),)) = (found.values[0],)
    assert not one.before.any()
    (((known,),)) = with_values([[Evidence()]], [[one]])
    assert known.values is one


def test_prefixes_by_hand() -> None:
    # opening 9 9, turn 0 says 5 6, the reply is 9, turn 1 says 7
    sequence = TokenSequence(
        np.array([9, 9, 5, 6, 9, 7]),
        np.array([False, False, True, True, False, True]),
        np.zeros(6),
        np.array([0, 0, 0, 0, 0, 1]),
    )
    assert prefixes(sequence) == [(), ((5,),), ((5, 6),), ((5, 6), (7,))]
    gap = TokenSequence(sequence.tokens, sequence.mask, sequence.logprobs, sequence.turns * 2)
    with pytest.raises(ValueError, match="found 2 after 0"):
        prefixes(gap)
