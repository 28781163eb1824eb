"""The worlds as pure functions: by hand, and what holds for every parameter."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from bifurcation_families import families, random_actions, sound, walk, worlds
from hypothesis import given
from hypothesis import strategies as st

from environments.bifurcation.rules import LETTERS, Rules
from environments.bifurcation.values import reference_value
from environments.bifurcation.world import State, World, draw

SEEDS = st.integers(0, 10_000)


def test_a_task_by_hand() -> None:
    # Two pivotal letters; the row is plain, pivotal, plain.
    rules = Rules(horizon=3, kinds=2, right=0.9, wrong=0.1)
    letter = rules.pivotal[0]
    world = World(rules, rules.plain[0] + letter + rules.plain[1])
    need, habit = rules.customary[letter]
    assert [world.observe(state) for state in walk(world, ["0", need])] == list(world.places)
    assert world.pivots == (1,)
    assert world.chance(walk(world, ["0", need, "1"])[-1]) == 0.9
    assert world.chance(walk(world, ["0", habit, "1"])[-1]) == 0.1
    assert walk(world, ["0", need, "1"])[-1] == State(3)
    # The mistake shows in the next place, and nothing helps any more.
    assert world.observe(walk(world, ["0", habit])[-1]) == world.places[2] + "!"
    assert not world.is_legal("!")


def test_a_mistake_shows_late_and_is_taken_back_by_hand() -> None:
    # p . . . with a delay of 1: a mistake at place 0 shows at place 2, where "!" takes it back.
    rules = Rules(horizon=4, delay=1, recoverable=True)
    letter = rules.pivotal[3]
    world = World(rules, letter + rules.plain[:3])
    habit = rules.habitual[letter]
    shown = [world.observe(state) for state in walk(world, [habit, "0", "0"])]
    assert shown == [letter, rules.plain[0], rules.plain[1] + "!", rules.plain[2]]
    assert world.careful(walk(world, [habit, "0"])[-1]) == "!"
    for actions, chance in (
        ([habit, "0", "!", "0"], 0.8),
        ([habit, "!", "0", "0"], 0.2),  # too early
        ([habit, "0", "0", "!"], 0.2),  # too late
        ([rules.needed[letter], "0", "!", "0"], 0.8),  # nothing to take back
    ):
        assert world.chance(walk(world, actions)[-1]) == chance


def test_a_decoys_alarm_means_nothing_by_hand() -> None:
    rules = Rules(horizon=3, decoys=1, recoverable=True)
    decoy, letter = rules.misleading[0], rules.pivotal[0]
    world = World(rules, decoy + letter + rules.plain[0])
    other = rules.customary[decoy][1]
    states = walk(world, [other, rules.needed[letter]])
    assert [world.observe(state) for state in states] == [decoy, letter + "!", rules.plain[0]]
    assert world.careful(states[1]) == rules.needed[letter]
    assert world.chance(walk(world, [other, rules.needed[letter], "0"])[-1]) == 0.8
    # Taking it for a mistake of one's own costs the digit that was needed here.
    assert world.chance(walk(world, [other, "!", "0"])[-1]) == 0.2


@given(worlds(), SEEDS)
def test_the_end_is_what_a_second_reading_of_the_row_says(world: World, seed: int) -> None:
    actions = random_actions(world, np.random.default_rng(seed))
    expected = world.rules.right if sound(world, actions) else world.rules.wrong
    assert world.chance(walk(world, actions)[-1]) == expected


@given(worlds())
def test_gold_is_sound_and_the_habit_is_not(world: World) -> None:
    gold, habit = world.script(careful=True), world.script(careful=False)
    assert len(gold) == len(habit) == world.rules.horizon
    assert all(map(world.is_legal, gold + habit))
    assert sound(world, gold)
    assert not sound(world, habit)
    assert gold == world.script(careful=True)  # the task's letters decide it


@given(families(), SEEDS)
def test_drawn_tasks_hold_what_the_rules_say(rules: Rules, seed: int) -> None:
    places = draw(rules, np.random.default_rng(seed))
    assert len(places) == rules.horizon
    assert sum(letter in rules.pivotal for letter in places) == rules.pivots
    assert sum(letter in rules.misleading for letter in places) == rules.decoys
    if rules.recoverable:
        shows = [at + 1 + rules.delay for at in World(rules, places).pivots]
        assert all(at < rules.horizon and places[at] not in rules.pivotal for at in shows)


@given(families())
def test_every_letter_has_one_meaning(rules: Rules) -> None:
    assert sorted(rules.pivotal + rules.misleading + rules.plain) == sorted(LETTERS)
    assert len(rules.pivotal) == len(rules.misleading) == rules.kinds
    for first, second in rules.customary.values():
        assert first != second
        assert {first, second} <= set(map(str, range(rules.options)))
    assert all(rules.needed[letter] != rules.habitual[letter] for letter in rules.pivotal)


@given(worlds(), SEEDS)
def test_what_is_needed_never_hurts_and_what_is_irrelevant_changes_no_value(world: World, seed: int) -> None:
    """On any path: the needed action leads to no less than the state is worth, the habitual one to no more; where
    nothing is needed every action is worth 0."""
    actions = random_actions(world, np.random.default_rng(seed))
    legal = world.legal()
    for state, action in zip(walk(world, actions), actions, strict=False):
        before = reference_value(world, state)
        after = reference_value(world, world.move(state, action))
        careful, careless = world.careful(state), world.careless(state)
        if careful is None:
            assert after == pytest.approx(before, abs=1e-12)
            continue
        assert reference_value(world, world.move(state, careful)) >= before - 1e-12
        if careless is not None:
            assert reference_value(world, world.move(state, careless)) <= before + 1e-12
        assert {legal_first[0] for legal_first in legal} >= {careful}


@given(worlds())
def test_the_value_never_falls_on_the_way_of_somebody_careful(world: World) -> None:
    state, path = State(), []
    while not world.over(state):
        path.append(reference_value(world, state))
        state = world.move(state, world.careful(state) or "0")
    path.append(world.chance(state))
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(path))
    assert path[-1] == world.rules.right


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"horizon": 1}, "horizon = 1 is outside [2, 32]"),
        ({"options": 11}, "options = 11 is outside [2, 10]"),
        ({"right": 0.3, "wrong": 0.4}, "wrong = 0.4 must not exceed right = 0.3"),
        ({"horizon": 4, "pivots": 3, "decoys": 2}, "3 pivots and 2 decoys do not fit a horizon of 4"),
        ({"horizon": 4, "delay": 3, "recoverable": True}, "it needs 5"),
    ],
)
def test_parameters_that_make_no_world_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Rules(**changes)  # type: ignore[arg-type]
