"""The contract between a run and the engine that steps for it: the run feeds, the engine pulls.

    next    what the next optimiser step needs; None when the run is over
    report  the metrics of that step

    while (update := feed.next()) is not None:
        feed.report(step(update.batch, update.loss))

Whoever owns the loop pulls: our own loop, a trainer that drives itself, every process of a group. All else about a run
(what is played, which evidence is gathered, credit, records, checkpoints, budget, seeds) happens inside `next`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from harness.losses import Batch, LossSpec

Metrics = Mapping[str, float]
"""What an optimiser step was like, by name."""


@dataclass(frozen=True, eq=False)
class Update:
    """What one optimiser step needs: plain data, so that it can be sent to another process."""

    batch: Batch
    """Whole episodes with their credit, and the counts by which they are normalised. They are those of the whole
    update, wherever its rows go."""
    loss: LossSpec
    step: int
    """Of the run, from 0: the batch of rollouts that is learned from."""
    number: int
    """Of the update among those of its step, from 0."""
    last: bool
    """Whether its step ends with it: what is sampled next is sampled from the weights that it leaves."""
    per_term: bool = False
    """Whether each loss term's own gradient norm is wanted (`gradient/<term>`)."""


@runtime_checkable
class Feed(Protocol):
    """Updates, one after the other, each answered by its metrics before the next is asked for."""

    @abstractmethod
    def next(self) -> Update | None:
        """What the next optimiser step needs; None when the run is over, its last record written."""
        ...

    @abstractmethod
    def report(self, metrics: Metrics) -> None:
        """The metrics of the update that `next` gave. RuntimeError where none is waiting for them."""
        ...
