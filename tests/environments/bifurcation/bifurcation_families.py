"""Families of worlds for the tests, and a second reading of the rules that shares nothing with the engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from environments.bifurcation.rules import Rules
from environments.bifurcation.world import State, World, draw


@st.composite
def families(draw_: st.DrawFn, longest: int = 12) -> Rules:
    """Any family with a horizon of up to `longest`."""
    horizon = draw_(st.integers(2, longest))
    recoverable = draw_(st.booleans()) and horizon >= 2
    delay = draw_(st.integers(0, max(0, horizon - 2)))
    room = (horizon - delay) // 2 if recoverable else horizon
    pivots = draw_(st.integers(1, max(1, min(room, 3))))
    wrong, right = sorted(draw_(st.tuples(st.floats(0.1, 1), st.floats(0.1, 1))))
    return Rules(
        horizon=horizon,
        pivots=pivots,
        kinds=draw_(st.integers(1, 10)),
        options=draw_(st.integers(2, 10)),
        decoys=draw_(st.integers(0, horizon - pivots)),
        delay=delay,
        recoverable=recoverable,
        words=draw_(st.integers(1, 3)),
        right=right,
        wrong=wrong,
        care=draw_(st.floats(0, 1)),
        seed=draw_(st.integers(0, 1000)),
    )


@st.composite
def worlds(draw_: st.DrawFn, longest: int = 12) -> World:
    """Any task of any family."""
    rules = draw_(families(longest))
    return World(rules, draw(rules, np.random.default_rng(draw_(st.integers(0, 1000)))))


def sound(world: World, actions: Sequence[str]) -> bool:
    """Whether a row of actions leaves nothing hurt, read off the row: every pivotal place got its digit, or its
    mistake was taken back where its alarm showed."""
    rules = world.rules
    for at, letter in enumerate(world.places):
        if letter not in rules.pivotal or actions[at].split()[0] == rules.needed[letter]:
            continue
        shows = at + 1 + rules.delay
        if not (rules.recoverable and shows < len(actions) and actions[shows] == "!"):
            return False
    return True


def rows(world: World) -> Iterator[tuple[str, ...]]:
    """Every row of actions there is."""
    return itertools.product(world.legal(), repeat=len(world.places))


def walk(world: World, actions: Sequence[str]) -> list[State]:
    """The states that a row of actions leads through, the first and the last among them."""
    states = [State()]
    for action in actions:
        states.append(world.move(states[-1], action))
    return states


def random_actions(world: World, rng: np.random.Generator) -> list[str]:
    """A row of legal actions, FIX and what is needed often among them."""
    state, actions = State(), []
    legal = world.legal()
    while not world.over(state):
        wanted = world.careful(state)
        some = [action for action in legal if wanted is not None and action.startswith(wanted)] or legal
        pool: Sequence[str] = some if rng.random() < 0.5 else legal
        actions.append(pool[int(rng.integers(len(pool)))])
        state = world.move(state, actions[-1])
    return actions


def product_of(chances: Sequence[Mapping[str, float]], actions: Sequence[str]) -> float:
    """The chance of a row of actions, given the chances of each."""
    return float(np.prod([of_place.get(action, 0.0) for of_place, action in zip(chances, actions, strict=True)]))
