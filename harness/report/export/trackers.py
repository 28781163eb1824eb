"""Curves and diagnostics for experiment trackers, from the records and after the runs: training knows no tracker."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.fingerprint import slug
from harness.report.export.held import Held

NEEDED = "the export to {name} needs the package {package}: pip install 'sibling-harness[{package}]'"
Scalar = tuple[str, str, float, int]
"""(run, name, value, step)."""
Log = Callable[[Mapping[str, float], int], None]
"""Takes what one run says of one step. Steps come in ascending order, each once."""
Tracker = Callable[[str], AbstractContextManager[Log]]
"""Opens a run, by its name `method/seed0` or `method/mean`, and closes it."""


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


def track(held: Held, tracker: Tracker) -> list[str]:
    """Give a tracker every scalar, run by run and step by step; the names of the runs."""
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for run, name, value, step in scalars(held):
        runs.setdefault(run, {}).setdefault(step, {})[name] = value
    for run, steps in runs.items():
        with tracker(run) as log:
            for step in sorted(steps):
                log(steps[step], step)
    return list(runs)


def write_tensorboard(held: Held, out: Path) -> Iterable[Path]:
    """Event files for `tensorboard --logdir OUT`, a folder a run. UserError where tensorboard is not installed."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise UserError(NEEDED.format(name="TensorBoard", package="tensorboard")) from None

    @contextlib.contextmanager
    def run_of(run: str) -> Iterator[Log]:
        writer: Any = EventFileWriter(str(out / run))

        def log(values: Mapping[str, float], step: int) -> None:
            # Records keep no times: steps are the only axis.
            scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            writer.add_event(Event(step=step, wall_time=0.0, summary=Summary(value=scalars)))

        try:
            yield log
        finally:
            writer.close()

    yield from (out / run for run in track(held, run_of))


def write_wandb(held: Held, out: Path) -> Iterable[Path]:
    """Offline runs for `wandb sync`, a folder a run; nothing is sent. UserError where wandb is not installed.

    W&B stamps them with the time of the export.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(NEEDED.format(name="W&B", package="wandb")) from None
    out.mkdir(parents=True, exist_ok=True)
    folders: list[Path] = []

    @contextlib.contextmanager
    def run_of(run: str) -> Iterator[Log]:
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        with wandb.init(
            project=slug(held.experiment.name),
            name=run,
            group=run.partition("/")[0],
            dir=str(out),
            mode="offline",
            reinit="create_new",
            settings=settings,
        ) as opened:
            folders.append(Path(opened.dir).parent)
            yield lambda values, step: opened.log(dict(values), step=step)

    track(held, run_of)
    yield from folders


def write_trackio(held: Held, out: Path) -> Iterable[Path]:
    """trackio's database, for `TRACKIO_DIR=OUT trackio show`; nothing is sent.

    UserError where trackio is not installed, keeps its data elsewhere in this process, or has the project already.

    trackio stamps every row with the time of the export.
    """
    project = slug(held.experiment.name)
    with _only_here(out), contextlib.redirect_stdout(io.StringIO()):
        try:
            import trackio
            from trackio.utils import TRACKIO_DIR
        except ImportError:
            raise UserError(NEEDED.format(name="trackio", package="trackio")) from None
        if TRACKIO_DIR.resolve() != out.resolve():
            raise UserError(f"trackio keeps its data in {TRACKIO_DIR} in this process: export in another one")
        if (out / f"{project}.db").exists():
            raise UserError(f"{out} has a project {project} already: name another folder")

        @contextlib.contextmanager
        def run_of(run: str) -> Iterator[Log]:
            group = run.partition("/")[0]
            opened = trackio.init(project, name=run, group=group, embed=False, auto_log_gpu=False, auto_log_cpu=False)
            try:
                yield lambda values, step: opened.log(dict(values), step=step)
            finally:
                trackio.finish()

        track(held, run_of)
    yield out / f"{project}.db"


@contextlib.contextmanager
def _only_here(folder: Path) -> Iterator[None]:
    """trackio's variables of the environment while it is imported and used: its folder, and no server."""
    ours = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TRACKIO_")}
    os.environ["TRACKIO_DIR"] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ["TRACKIO_DIR"]
        os.environ.update(ours)
