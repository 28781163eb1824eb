"""Curves and diagnostics for experiment trackers, from the records and after the runs: training knows no tracker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.fingerprint import slug
from harness.report.export.held import Held

NEEDED = "TensorBoard's files need the package tensorboard: pip install 'sibling-harness[tensorboard]'"
Scalar = tuple[str, str, float, int]
"""(run, name, value, step)."""


def scalars(held: Held) -> Iterator[Scalar]:
    """Everything a tracker plots: points of learning curves, a run for each method and seed, and the means of every
    step's diagnostics over the seeds, a run for each method."""
    for point in held.found.points:
        run = f"{slug(point['method'])}/seed{point['seed']}"
        for name in ("sampled", "greedy"):
            if point.get(name) is not None:
                yield run, f"success/{name}", float(point[name]), int(point["step"])
    for row in held.steps:
        for name, value in row["mean"].items():
            yield f"{slug(row['method'])}/mean", f"steps/{name}", float(value), int(row["step"])


def write_tensorboard(held: Held, out: Path) -> Iterable[Path]:
    """Event files for `tensorboard --logdir OUT`, a folder a run. UserError where tensorboard is not installed."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise UserError(NEEDED) from None
    writers: dict[str, Any] = {}
    try:
        for run, name, value, step in scalars(held):
            if run not in writers:
                writers[run] = EventFileWriter(str(out / run))
            # Records keep no times: steps are the only axis.
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            writers[run].add_event(Event(step=step, wall_time=0.0, summary=summary))
    finally:
        for writer in writers.values():
            writer.close()
    yield from (out / run for run in writers)
