"""Exact values: closed forms, enumeration by brute force, and re-rolls of a real policy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bifurcation_families import product_of, rows, sound, walk, worlds
from experiments import small
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.bifurcation.env import Bifurcation
from environments.bifurcation.rules import Rules
from environments.bifurcation.values import History, reference_value, value
from environments.bifurcation.world import State, World, draw
from harness.core.seeds import SeedTree
from harness.evaluation.fidelity.truth import World as Place
from harness.evaluation.fidelity.truth import estimate, prefixes, truth_of
from harness.learning.warm_start import start_of
from harness.protocols.backend import BackendSettings, SamplingParams, make_backend
from harness.rollout.conversation import Prefix, Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.types import RolloutGroup

ROLLS = 50
SEEDS = SeedTree(5)


@given(worlds())
def test_the_start_is_worth_what_a_closed_form_says(world: World) -> None:
    """Each pivotal place ends sound with chance c, or c + (1 - c) c where a mistake can be taken back; all must."""
    rules = world.rules
    one = rules.care + (1 - rules.care) * rules.care * rules.recoverable
    expected = rules.wrong + (rules.right - rules.wrong) * one**rules.pivots
    assert reference_value(world, State()) == pytest.approx(expected, abs=1e-12)


def test_the_reference_by_brute_force() -> None:
    """Every row of careful and careless decisions, one coin a place, against the recursion."""
    for seed, recoverable in itertools.product(range(5), (False, True)):
        rules = Rules(horizon=7, pivots=2, decoys=2, delay=1, recoverable=recoverable, care=0.3, seed=seed)
        world = World(rules, draw(rules, np.random.default_rng(seed)))
        total = 0.0
        for coins in itertools.product((True, False), repeat=rules.horizon):
            state, actions = State(), []
            for careful in coins:
                wanted = world.careful(state) if careful else world.careless(state)
                actions.append(wanted or "0")
                state = world.move(state, actions[-1])
            weight = float(np.prod([0.3 if careful else 0.7 for careful in coins]))
            total += weight * (rules.right if sound(world, actions) else rules.wrong)
        assert reference_value(world, State()) == pytest.approx(total, abs=1e-12)


@settings(max_examples=20)
@given(worlds(longest=4), st.integers(0, 10_000))
def test_the_value_of_any_history_policy_is_that_of_all_its_rows(world: World, seed: int) -> None:
    """A random policy that looks at its whole history and sometimes is refused, against the sum over all rows."""
    if len(world.legal()) ** world.rules.horizon > 2_000:
        return
    given_chances: dict[History, Mapping[str, float]] = {}

    def policy(history: History, seen: str) -> Mapping[str, float]:
        if history not in given_chances:
            rng = np.random.default_rng([seed, len(given_chances)])
            weights = rng.dirichlet(np.ones(len(world.legal()) + 1)).tolist()
            given_chances[history] = dict(zip(world.legal(), weights, strict=False))
        return given_chances[history]

    total = 0.0
    for row in rows(world):
        seen = [world.observe(state) for state in walk(world, row)[:-1]]
        chances = [policy(tuple(zip(seen[:at], row[:at], strict=True)), seen[at]) for at in range(len(row))]
        total += product_of(chances, row) * (world.rules.right if sound(world, row) else world.rules.wrong)
    assert value(world, policy) == pytest.approx(total, abs=1e-9)


def test_the_reference_is_a_policy_like_any_other() -> None:
    """The reference continuation, written as a policy that works out its state from its history."""
    rules = Rules(horizon=5, pivots=2, recoverable=True, options=3, care=0.35)
    world = World(rules, draw(rules, np.random.default_rng(2)))

    def policy(history: History, seen: str) -> Mapping[str, float]:
        state = walk(world, [action for _, action in history])[-1]
        assert seen == world.observe(state)
        careful, careless = world.careful(state), world.careless(state)
        return {"2": 1.0} if careful is None else {careful: 0.35, careless or "2": 0.65}

    state = State()
    history: History = ()
    for action in world.script(careful=False):
        assert value(world, policy, state, history) == pytest.approx(reference_value(world, state), abs=1e-12)
        history, state = (*history, (world.observe(state), action)), world.move(state, action)


@pytest.mark.slow
def test_exact_advantages_are_those_of_re_rolling_a_real_policy(tmp_path: Path) -> None:
    """A tiny policy after a short warm start: its exact values by enumeration, against re-rolled ones."""
    options: dict[str, Any] = {"horizon": 3, "kinds": 2, "options": 2}
    experiment = small(
        environment={"id": "environments:Bifurcation-v0", "options": options},
        model={"tiny": {"width": 32, "layers": 2, "mlp": 64, "window": 48, "vocabulary": 280}, "dtype": "float64"},
        sampling={"max_new_tokens": 2},
        warm_start={"steps": 60, "batch": 16, "lr": 1e-2, "demonstrations": 200, "habit_share": 0.5},
    )
    backend = make_backend(
        experiment.backend, start_of(experiment, tmp_path), BackendSettings(dtype="float64", device="cpu")
    )
    policy = TokenPolicy(backend, SamplingParams(2))
    environment = Bifurcation(**options)
    with EnvironmentPool(experiment.environment) as pool:
        rollouts = Rollouts(pool)
        places = []
        for task in environment.tasks("test")[:3]:  # no luck there: re-rolls under one seed of the world are enough
            seeds = SEEDS["world", task]
            requests = [Request(task, seeds[n], prefix=Prefix((), seeds)) for n in range(2)]
            places.append(Place(RolloutGroup(task, tuple(rollouts.play(requests, policy))), seeds))
        values = estimate(places, rollouts, policy, ROLLS, SEEDS["rolls"], lambda *_: None)
        scores: list[float] = []
        at_stake: list[float] = []
        for n, place in enumerate(places):
            exact = _Exact(environment.world(place.group.task_id), rollouts, policy)
            for index, episode in enumerate(place.group.episodes):
                worth = [exact.after(sampled) for sampled in prefixes(episode.sequence)[:-1]] + [float(episode.success)]
                truth = truth_of(n, place.group, index, values)
                at_stake += np.abs(np.diff(worth)).tolist()
                scores += ((truth.value - np.diff(worth)) / truth.error)[truth.error > 0].tolist()
    assert max(at_stake) > 0.2
    # Standard normal about; the errors are a little wide where a chance is near 0 or 1.
    assert np.abs(scores).max() < 4.5
    assert 0.5 < np.std(scores) < 1.3
    assert abs(np.mean(scores)) < 4 / np.sqrt(len(scores))


class _Exact:
    """Exact values of a token policy's prefixes: `values.value` of what scoring all its rows of actions says of it."""

    def __init__(self, world: World, rollouts: Rollouts, policy: TokenPolicy) -> None:
        self.world, self.policy = world, policy
        self.stop = policy.renderer.stop_ids[0]
        every = list(rows(world))
        episodes = rollouts.play([Request(world.places, SEEDS["x"], script=row) for row in every], policy)
        self.chances: dict[tuple[str, ...], float] = {}
        """By actions so far and the next: chance of its digit."""
        self.stops: dict[tuple[str, ...], float] = {}
        """By actions: chance that the last one ends after its digit."""
        for row, episode, scored in zip(
            every, episodes, policy.backend.score([e.sequence for e in episodes]), strict=True
        ):
            likely = np.exp(scored.logprobs[episode.sequence.mask]).reshape(len(row), 2)
            for at in range(len(row)):
                self.chances[row[: at + 1]], self.stops[row[: at + 1]] = likely[at].tolist()

    def _policy(self, history: History, seen: str) -> Mapping[str, float]:
        said = tuple(action for _, action in history)
        return {a: self.chances[*said, a] * self.stops[*said, a] for a in self.world.legal()}

    def after(self, sampled: tuple[tuple[int, ...], ...]) -> float:
        """The value once these tokens stand; 0 where an action among them is refused."""
        words = [self.policy.renderer.decode(turn) for turn in sampled]
        if not all(self.world.is_legal(word) for word in words):
            return 0.0
        states = walk(self.world, words)
        history = tuple((self.world.observe(state), word) for state, word in zip(states, words, strict=False))
        rest = value(self.world, self._policy, states[-1], history)
        unfinished = bool(sampled) and sampled[-1][-1] != self.stop
        return rest * self.stops[tuple(words)] if unfinished else rest
