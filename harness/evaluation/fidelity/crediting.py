"""Every method's credit of the same groups: evidence gathered and credit assigned as in a run's first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from harness.core.errors import HarnessError
from harness.core.seeds import SeedTree
from harness.core.types import Credit, Evidence, RolloutGroup
from harness.evaluation.fidelity.credit import Streams, directions, own_streams
from harness.experiment import Experiment, MethodSettings
from harness.protocols.backend import Backend
from harness.protocols.context import ContextSource, make_context
from harness.protocols.method import AnyMethod, brings_context, make_method
from harness.rollout.evidence import gather
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.rollout.values import value_groups, with_values


@dataclass(frozen=True, eq=False)
class Assigned:
    """What one method makes of the groups; lists have an entry for every episode, in the groups' order."""

    settings: MethodSettings
    context: str | None
    """What its teacher reads; None where it has none."""
    teacher_share: float
    """Share of episodes with a teacher."""
    evidence: list[Evidence]
    credits: list[Credit]
    directions: Streams
    """The advantage its whole loss amounts to, of every sampled token."""
    own: Streams | None
    """Its own stream on sampled tokens, where it has one."""


def assigned(
    experiment: Experiment, groups: Sequence[RolloutGroup], rollouts: Rollouts, policy: TokenPolicy, seeds: SeedTree
) -> Iterator[Assigned]:
    """Each of the experiment's methods, in their order. HarnessError where the re-rolls of a method that asks for
    values fail."""
    named = experiment.context
    backend = cast(Backend, policy.backend)  # what plays here also scores and trains
    source = make_context(named.plug, named.options) if named else None
    sequences = [episode.sequence for group in groups for episode in group.episodes]
    for settings in experiment.methods:
        method = make_method(settings.plug, settings.options)
        gathered = gather(method, groups, backend, source, seeds["step", 0])
        evidence = _valued(method, groups, gathered.evidence, rollouts, policy, seeds["step", 0])
        by_group, _, _ = method.assign(groups, evidence, method.initial_state())
        credits = [credit for row in by_group for credit in row]
        yield Assigned(
            settings,
            _context_name(method, source),
            gathered.with_context / len(sequences),
            [known for row in evidence for known in row],
            credits,
            directions(sequences, credits, backend, experiment.loss),
            own_streams(sequences, credits),
        )


def _valued(
    method: AnyMethod,
    groups: Sequence[RolloutGroup],
    evidence: list[list[Evidence]],
    rollouts: Rollouts,
    policy: TokenPolicy,
    seeds: SeedTree,
) -> list[list[Evidence]]:
    """The evidence with the values a method asks for, from rolls of their own, as a run's first step gathers them."""
    needs = method.needs
    if not needs.values:
        return evidence
    values = value_groups(groups, needs.values, needs.values_at, rollouts, policy, seeds).values
    known = [of_group for of_group in values if of_group is not None]
    if len(known) < len(values):
        raise HarnessError(f"re-rolls failed ({rollouts.failures}): a value with holes is none")
    return with_values(evidence, known)


def _context_name(method: AnyMethod, source: ContextSource | None) -> str | None:
    if method.needs.teacher == "none":
        return None
    own = method.describe().context or ("the method's own" if brings_context(method) else None)
    return own or (source.name if source else None)
