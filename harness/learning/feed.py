"""The feed of one run (`harness.protocols.feed.Feed`): everything about it but the optimiser steps themselves.

    sample groups -> gather evidence -> assign credit -> pack -> [update] -> follow -> record

A run lives in a folder of its own and can be killed at any moment: `steps.jsonl` is append-only (a step recorded
twice counts once, the later one), checkpoints appear whole or not at all, and everything random is derived from the
seed and the step. Budget, seeds and the way back from a checkpoint are here, so every engine that pulls has them.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.episodes import write_episodes
from harness.core.types import RolloutGroup
from harness.learning.checkpoints import resume, save_checkpoint
from harness.learning.judging import curve_point, final_evaluation
from harness.learning.run import Run, Stopped
from harness.learning.sampling import sample_groups
from harness.learning.updating import update_on
from harness.learning.valuing import valued
from harness.protocols.capabilities import Capability
from harness.protocols.feed import Metrics, Update
from harness.rollout.evidence import Gathered, follow, gather

TERM_GRADIENTS_EVERY = 10
"""Steps between measurements of each loss term's own gradient norm: one costs a backward pass per term."""
CUT_TO, CUT_FROM = "teacher/entries", "teacher/vocabulary"
"""Logged where distributions were cut to their likeliest entries though whole ones were asked for."""
SAMPLE_GROUPS = 2
"""Groups of the last step kept as a sample of episodes."""


class RunFeed:
    """The updates of a run from its last checkpoint on, or from its start; none when it is finished."""

    def __init__(self, run: Run) -> None:
        state = resume(run, run.method.initial_state())
        self.resumed_from: Path | None = _checkpoint(run)
        """The model directory whose weights and trainer's state the run's backend goes on from; None at the start."""
        self._updates = _steps(run, state)
        self._metrics: Metrics | None = None
        self._waiting = False

    def next(self) -> Update | None:
        """See `harness.protocols.feed.Feed`; plays and records what stands between two updates."""
        if self._waiting:
            raise RuntimeError("the metrics of the last update were not reported")
        try:
            update = self._updates.send(self._metrics)
        except StopIteration:
            return None
        self._waiting = True
        return update

    def report(self, metrics: Metrics) -> None:
        """See `harness.protocols.feed.Feed`."""
        if not self._waiting:
            raise RuntimeError("metrics were reported, but no update is waiting for them")
        self._waiting, self._metrics = False, metrics


def _checkpoint(run: Run) -> Path | None:
    return run.folder / f"checkpoint-{run.spent.step:06d}" if run.spent.step else None


def _steps(run: Run, state: Any) -> Generator[Update, Any, None]:
    """All steps of a run that are still to be done, and its judgement."""
    budget = run.experiment.budget
    while run.spent.step < budget.steps:
        step, began = run.spent.step, time.monotonic()
        run.progress("training", step, budget.steps)
        curve_point(run, step)
        groups, statistics = sample_groups(run)
        row: dict[str, Any] = {"step": step} | statistics
        if groups:
            learned, state = yield from learn(run, groups, state)
            row |= learned
        run.spent.step += 1
        follow(run.method.needs, run.backend, run.spent.step)
        records.append(run.folder / "steps.jsonl", [row], kind="steps", run=run.identity)
        spent_s = {"step": step, "wall_s": time.monotonic() - began}
        records.append(run.folder / "timing.jsonl", [spent_s], kind="timing", run=run.identity)
        last = run.spent.step == budget.steps
        if last:  # before the last checkpoint, after which nothing is played again
            kept = [episode for group in groups[:SAMPLE_GROUPS] for episode in group.episodes]
            write_episodes(run.folder / "episodes.jsonl.gz", kept)
        stop = not last and run.stopping()
        if last or stop or run.spent.step % budget.checkpoint_every == 0:
            save_checkpoint(run, state)
        if stop:
            raise Stopped(f"stopped after step {run.spent.step} of {budget.steps}")
    curve_point(run, run.spent.step)
    final_evaluation(run)


def learn(run: Run, groups: list[RolloutGroup], state: Any) -> Generator[Update, Metrics, tuple[dict[str, float], Any]]:
    """Learn from a step's groups: its updates; at their end metrics for the log, and the method's next state."""
    method = run.method
    asked = method.external_calls
    worth = valued(run, groups)
    groups = worth.groups
    if not groups:
        return worth.facts, state
    gathered = gather(method, groups, run.backend, run.context, run.seeds["step", run.spent.step])
    credits, state, diagnostics = method.assign(groups, worth.added_to(gathered.evidence), state)
    sequences = [episode.sequence for group in groups for episode in group.episodes]
    assigned = [credit for of_group in credits for credit in of_group]
    terms = run.spent.step % TERM_GRADIENTS_EVERY == 0 and Capability.TERM_GRADIENTS in run.backend.capabilities()
    updated = yield from update_on(run, sequences, assigned, terms)
    run.spent.teacher_tokens += gathered.teacher_tokens
    run.spent.external_calls += method.external_calls - asked
    logged = {f"method/{name}": value for name, value in diagnostics.items()}
    return updated | _teacher_statistics(gathered) | worth.facts | logged, state


def _teacher_statistics(gathered: Gathered) -> dict[str, float]:
    episodes = sum(len(row) for row in gathered.evidence)
    facts = {
        "teacher/share": gathered.with_context / max(episodes, 1),
        "teacher/too_long": float(gathered.too_long),
    }
    if gathered.cut is not None:
        facts |= dict(zip((CUT_TO, CUT_FROM), map(float, gathered.cut), strict=True))
    return facts
