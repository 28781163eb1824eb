"""One run: one method under one seed, from the shared starting weights to its last checkpoint. The loop fits on a
screen.

    sample groups -> gather evidence -> assign credit -> pack -> update -> follow -> record

A run lives in a folder of its own and can be killed at any moment: `steps.jsonl` is append-only (a step recorded
twice counts once, the later one), checkpoints appear whole or not at all, and everything random is derived from the
seed and the step.
"""

from __future__ import annotations

import time
from typing import Any

from harness.core import records
from harness.core.episodes import write_episodes
from harness.core.types import RolloutGroup
from harness.learning.checkpoints import resume, save_checkpoint
from harness.learning.judging import curve_point, final_evaluation
from harness.learning.run import Run
from harness.learning.sampling import sample_groups
from harness.learning.updating import update_on
from harness.learning.valuing import valued
from harness.rollout.evidence import Gathered, follow, gather

TERM_GRADIENTS_EVERY = 10
"""Steps between measurements of each loss term's own gradient norm: one costs a backward pass per term."""
CUT_TO, CUT_FROM = "teacher/entries", "teacher/vocabulary"
"""Logged where distributions were cut to their likeliest entries though whole ones were asked for."""
SAMPLE_GROUPS = 2
"""Groups of the last step kept as a sample of episodes."""


def train(run: Run) -> None:
    """Train, evaluate and record; continues from the last checkpoint when the folder has one, and does nothing when
    it is finished."""
    state = resume(run, run.method.initial_state())
    budget = run.experiment.budget
    while run.spent.step < budget.steps:
        step, began = run.spent.step, time.monotonic()
        run.progress("training", step, budget.steps)
        curve_point(run, step)
        groups, statistics = sample_groups(run)
        row: dict[str, Any] = {"step": step} | statistics
        if groups:
            learned, state = learn(run, groups, state)
            row |= learned
        run.spent.step += 1
        follow(run.method.needs, run.backend, run.spent.step)
        records.append(run.folder / "steps.jsonl", [row], kind="steps")
        records.append(run.folder / "timing.jsonl", [{"step": step, "wall_s": time.monotonic() - began}], kind="timing")
        last = run.spent.step == budget.steps
        if last:  # before the last checkpoint, after which nothing is played again
            kept = [episode for group in groups[:SAMPLE_GROUPS] for episode in group.episodes]
            write_episodes(run.folder / "episodes.jsonl.gz", kept)
        if last or run.spent.step % budget.checkpoint_every == 0:
            save_checkpoint(run, state)
    curve_point(run, run.spent.step)
    final_evaluation(run)


def learn(run: Run, groups: list[RolloutGroup], state: Any) -> tuple[dict[str, float], Any]:
    """Learn from a step's groups: metrics for the log, and the method's next state."""
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
    updated = update_on(run, sequences, assigned, per_term=run.spent.step % TERM_GRADIENTS_EVERY == 0)
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
