"""What a step's batch is used for: one update of the weights, or several.

    updates      passes over the batch
    minibatches  parts of a pass: whole episodes, drawn anew for every pass, each normalised by its own counts

Credit is computed once, before the first update; the behaviour log-probabilities stay those that were sampled. From the
second update on the policy has left the one that sampled, and ratios, clip and importance weights act.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from harness.core.types import Credit, TokenSequence
from harness.learning.run import Run
from harness.losses import pack
from harness.protocols.feed import Metrics, Update

LARGEST = "largest"
"""Metrics with this in their name are maxima: of several updates the largest is kept."""


def update_on(
    run: Run, sequences: Sequence[TokenSequence], credits: Sequence[Credit], per_term: bool
) -> Generator[Update, Metrics, dict[str, float]]:
    """The updates of one step, each answered by its metrics; at their end the step's metrics: means over them
    (`ratio/largest_log` the largest; gradients of single terms, where `per_term` asks for them, those of the first
    update, on which the whole step's credit still stands). There is none where the backend takes every token out of the
    loss."""
    weights, facts = None, {}
    if (corrected := run.backend.corrected(sequences, credits)) is not None:
        credits = [credits[place] for place in corrected.kept]
        sequences, weights, facts = corrected.sequences, corrected.weights, corrected.facts
    reported: list[dict[str, float]] = []
    parts = list(_parts(run, len(sequences))) if sequences else []
    for number, part in enumerate(parts):
        factors = None if weights is None else [weights[place] for place in part]
        batch = pack([sequences[place] for place in part], [credits[place] for place in part], factors)
        last = number + 1 == len(parts)
        terms = per_term and not reported
        metrics = yield Update(batch, run.experiment.loss, run.spent.step, number, last, terms)
        reported.append(dict(metrics))
        run.spent.optimiser_steps += 1
    return _joined(reported) | facts


def _parts(run: Run, episodes: int) -> Iterator[Sequence[int]]:
    """The episodes of each update. Where a pass is one part, they keep their order."""
    optimiser = run.experiment.optimiser
    for number in range(optimiser.updates):
        if optimiser.minibatches == 1:
            yield range(episodes)
            continue
        order = run.seeds["minibatches", run.spent.step, number].rng().permutation(episodes)
        yield from (part.tolist() for part in np.array_split(order, min(optimiser.minibatches, episodes)))


def _joined(reported: Sequence[dict[str, float]]) -> dict[str, float]:
    """One row of metrics. A term that some part lacks counts there as the 0 that it adds."""
    if len(reported) == 1:
        return reported[0]
    joined = {}
    for name in dict.fromkeys(name for row in reported for name in row):
        if name.startswith("gradient/"):
            joined[name] = reported[0][name]
        elif LARGEST in name:
            joined[name] = max(row[name] for row in reported if name in row)
        else:
            joined[name] = statistics.fmean(row.get(name, 0.0) for row in reported)
    return joined
