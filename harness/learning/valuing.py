"""A step's values, for a method that asks for them: re-rolled, counted, and groups without a value left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.types import Evidence, RolloutGroup, Values
from harness.learning.run import Run
from harness.rollout.values import value_groups, with_values


class Worth:
    """The groups of a step that can be learned from, their values, and what both were like."""

    def __init__(self, groups: list[RolloutGroup], values: list[list[Values]] | None, facts: dict[str, float]) -> None:
        self.groups, self.facts = groups, facts
        self._values = values

    def added_to(self, evidence: Sequence[Sequence[Evidence]]) -> list[list[Evidence]]:
        """The evidence with the values in it; as it is where the method asked for none."""
        return [list(row) for row in evidence] if self._values is None else with_values(evidence, self._values)


def valued(run: Run, groups: list[RolloutGroup]) -> Worth:
    """Re-rolls of the groups' prefixes, as `Needs.values` asks for them; charged to the run's budget.

    A group that lost all re-rolls of one prefix is dropped whole, and counted, like one that lost an episode.
    """
    needs = run.method.needs
    if not needs.values:
        return Worth(groups, None, {})
    failures = sum(run.rollouts.failures.values())
    seeds = run.seeds["step", run.spent.step]
    found = value_groups(groups, needs.values, needs.values_at, run.rollouts, run.policy, seeds)
    run.spent.failed_episodes += sum(run.rollouts.failures.values()) - failures
    run.spent.re_rolls += found.rolls
    run.spent.re_rolled_tokens += found.tokens
    kept = [(group, values) for group, values in zip(groups, found.values, strict=True) if values is not None]
    run.spent.dropped_groups += len(groups) - len(kept)
    facts = {
        "values/prefixes": float(found.prefixes),
        "values/rolls": float(found.rolls),
        "values/lost": float(found.lost),
    }
    errors = [value.error[e.sequence.mask] for group, row in kept for e, value in zip(group.episodes, row, strict=True)]
    if errors:
        facts["values/error"] = float(np.mean(np.concatenate(errors)))
    return Worth([group for group, _ in kept], [values for _, values in kept], facts)
