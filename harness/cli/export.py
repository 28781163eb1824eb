"""The command that writes things in forms other tools read: a results folder, or an experiment as a job of verl."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.options import Json
from harness.cli.places import existing
from harness.cli.screen import line, print_json
from harness.core.words import shown

FORMS = ("parquet", "rollout-card", "inspect", "checklist", "tensorboard", "trackio", "wandb")


class Exports(TyperGroup):
    """`export RESULTS --to FORM` beside its sub-commands: a first word that is none of them begins the arguments of
    `results`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The sub-command that the words ask for."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["results", *args])


exports = typer.Typer(
    cls=Exports,
    no_args_is_help=True,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    help="Write a results folder in a form other tools read, or an experiment as a training job of verl.\n\n"
    "A results folder: [bold]harness export RESULTS --to FORM --out FOLDER[/bold] (harness export results --help)\n\n"
    "A job of verl: [bold]harness export verl SPEC --model DIR --out FOLDER[/bold] (harness export verl --help)",
    rich_markup_mode="rich",
)


@exports.command("results")
def export(
    results: Annotated[Path, typer.Argument(help="A results folder: a spec, and the records of its runs.")],
    to: Annotated[str, typer.Option(help=f"{', '.join(FORMS)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write in.")],
    as_json: Json = False,
) -> None:
    """Write a results folder as Parquet, rollout card, inspect_ai's logs, reporting checklist, or for a tracker.

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
        "trackio": trackers.write_trackio,
        "wandb": trackers.write_wandb,
    }
    if to not in writers:
        raise UnknownNameError("form of export", to, FORMS)
    written = list(writers[to](held.read_held(existing(results, "results folder")), out))
    if as_json:
        print_json({"written": [str(file) for file in written]})
        return
    for file in written:
        line(f"written: {shown(file)}")


@exports.command("verl")
def verl(
    spec: Annotated[Path, typer.Argument(help="A spec file.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write in (default: runs/verl/, and the experiment's name).")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="The model directory that training starts from (default: the spec's own, or asked for at the start)."
        ),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Label of a row of the job; once for each (default: every row).")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=2, help="Most tokens of an episode (default: what the model reads).")
    ] = None,
) -> None:
    """Write an experiment as a job of verl 0.9, to be trained on a Ray cluster with GPUs: configuration of each row,
    our credit, loss and environments as verl's plugins, a launch script, and a README that says how to start it.

    verl's loss knows advantages, and a pull of one weight to the reference policy. A row that asks for more (a teacher,
    a distillation, values) is refused by name, with the reasons; nothing is written then. Leave it out with --method.

    Example: harness export verl my_experiment.toml --model runs/policy --method GRPO --out runs/verl/mine
    """
    from harness.core.fingerprint import slug
    from harness.experiment import read_experiment
    from harness.report.export.verl_job import write_job

    experiment = read_experiment(spec)
    folder = out or Path("runs") / "verl" / slug(experiment.name)
    for written in write_job(experiment, folder, model, window, method or ()):
        line(f"written: {shown(written)}")
    line(f"start a run: sh {shown(folder / 'launch.sh')} ROW SEED   ({shown(folder / 'README.md')})")
