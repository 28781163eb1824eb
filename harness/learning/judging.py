"""How a run is judged: points of its learning curve, and the rows of the table at its end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.episodes import FAILED, LOST, SOLVED
from harness.core.fingerprint import fingerprint
from harness.core.sums import seal
from harness.core.types import Episode
from harness.learning.run import Identity, Run, Stopped
from harness.rollout.panel import panel, panel_rows, play_panel, success_rate

DONE = "done.json"
"""The file of a finished run: what it has spent."""
RECORDS = ("run.json", "steps.jsonl", "curve.jsonl", "timing.jsonl", "rows.jsonl", "episodes.jsonl.gz")
"""What a finished run leaves beside it, and beside its last checkpoint."""


def curve_point(run: Run, step: int) -> None:
    """A point of the learning curve, where one is due and not recorded yet."""
    settings = run.experiment.evaluation
    if not settings.every or (step % settings.every and step != run.experiment.budget.steps):
        return
    run.backend.sync()  # of a recorded point too: what samples the next step is then the same in a run that goes on
    file = run.folder / "curve.jsonl"
    if file.is_file() and any(row["step"] == step for row in records.read(file).rows):
        return
    split = settings.curve_split or run.experiment.environment.eval_split
    tasks = panel(run.pool.environment, split, settings.curve_tasks)
    point: dict[str, Any] = {
        "step": step,
        "rollouts": run.spent.rollouts,
        "generated_tokens": run.spent.generated_tokens,
    }
    outcomes: dict[str, str] = {}
    for decoding in ("sampled", "greedy"):
        episodes = play_panel(run.rollouts, run.policy, tasks, run.seeds["curve", step], decoding, 1)
        point[decoding] = success_rate(episodes)
        outcomes[decoding] = "".join(_outcome(of_task[0]) for of_task in episodes)
    # A character a task: an area under the curve is then known for every task.
    point |= {"tasks": outcomes, "panel": fingerprint(tasks)[:16]}
    records.append(file, [point], kind="curve", run=run.identity)


def _outcome(episode: Episode) -> str:
    if math.isnan(episode.reward):
        return LOST
    return SOLVED if episode.success else FAILED


def final_evaluation(run: Run) -> None:
    """The rows of the table: the whole panel, sampled and greedy, written at once."""
    run.backend.sync()
    settings, split = run.experiment.evaluation, run.experiment.environment.eval_split
    rows: list[dict[str, Any]] = []
    for decoding, samples in (("sampled", settings.samples), ("greedy", 1)):

        def report(done: int, total: int, decoding: str = decoding) -> None:
            run.progress(f"evaluating, {decoding}", done, total)
            if run.stopping():  # what was played is played again: only the whole is recorded
                raise Stopped("stopped in its evaluation")

        episodes = play_panel(
            run.rollouts, run.policy, run.judged.tasks, run.seeds["evaluation"], decoding, samples, progress=report
        )
        rows.extend(panel_rows(episodes, decoding, split, run.judged, run.pool.environment))
    finish(run.folder, rows, run.spent.budget(), run.identity)


def finish(folder: Path, rows: list[dict[str, Any]], budget: dict[str, int], identity: Identity) -> None:
    """The last word of a run: its rows, the checksums of all its files, then the file whose presence says that it is
    whole."""
    (folder / "rows.jsonl").unlink(missing_ok=True)
    records.append(folder / "rows.jsonl", rows, kind="rows", run=identity)
    last = records.json_text(budget)
    seal(folder, [name for name in RECORDS if (folder / name).is_file()], ahead={DONE: last.encode()})
    records.write_whole(folder / DONE, last)
