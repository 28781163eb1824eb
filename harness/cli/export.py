"""The command that writes a results folder in forms other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Json
from harness.cli.places import existing
from harness.cli.screen import line, print_json
from harness.core.words import shown

FORMS = ("parquet", "rollout-card", "inspect", "checklist", "tensorboard")


def export(
    results: Annotated[Path, typer.Argument(help="A results folder: a spec, and the records of its runs.")],
    to: Annotated[str, typer.Option(help=f"{', '.join(FORMS)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write in.")],
    as_json: Json = False,
) -> None:
    """Write a results folder as Parquet, rollout card, inspect_ai's logs, reporting checklist or TensorBoard's files.

    Nothing in the folder is changed, nothing is run.

    Example: harness export results/laptop/bifurcation --to rollout-card --out runs/card
    """
    from harness.core.errors import UnknownNameError
    from harness.report.export import card, checklist, frames, held, inspect_log, trackers

    writers = {
        "parquet": frames.write_parquet,
        "rollout-card": card.write_card,
        "inspect": inspect_log.write_logs,
        "checklist": checklist.write_checklist,
        "tensorboard": trackers.write_tensorboard,
    }
    if to not in writers:
        raise UnknownNameError("form of export", to, FORMS)
    written = list(writers[to](held.read_held(existing(results, "results folder")), out))
    if as_json:
        print_json({"written": [str(file) for file in written]})
        return
    for file in written:
        line(f"written: {shown(file)}")
