"""Exact values: the chance of success from a state, when the reference continuation or any policy goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from environments.bifurcation.world import State, World

History = tuple[tuple[str, str], ...]
"""What the agent has seen and done: (observation, action) of every place so far."""
Policy = Callable[[History, str], Mapping[str, float]]
"""The chances of legal actions, given the history and the present observation. What they lack to 1 goes to actions
that are refused, after which a task cannot end in time."""


@lru_cache(maxsize=1 << 18)
def reference_value(world: World, state: State) -> float:
    """Chance of success when at each place the needed action is taken with chance `care`, else the habitual one.

    Where nothing is needed the choice does not matter: an alarm of a decoy changes no value. By backward recursion.
    """
    if world.over(state):
        return world.chance(state)
    careful, careless, care = world.careful(state), world.careless(state), world.rules.care
    # Without a habit of its own (at an alarm) the careless do anything but take a mistake back: a digit.
    other = reference_value(world, world.move(state, careless or "0"))
    if careful is None:
        return other
    return care * reference_value(world, world.move(state, careful)) + (1 - care) * other


def value(world: World, policy: Policy, state: State | None = None, history: History = ()) -> float:
    """Chance of success when `policy` goes on from a state, by enumerating all it may do.

    The cost is the number of legal actions to the power of the places left: for short horizons.
    """
    state = State() if state is None else state
    if world.over(state):
        return world.chance(state)
    seen = world.observe(state)
    return sum(
        chance * value(world, policy, world.move(state, action), (*history, (seen, action)))
        for action, chance in policy(history, seen).items()
        if chance > 0
    )
