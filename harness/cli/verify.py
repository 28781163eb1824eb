"""The command that says which records are whole: verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Json
from harness.cli.places import existing
from harness.cli.screen import console, line, print_json
from harness.core.words import shown


def verify(
    path: Annotated[Path, typer.Argument(help="A results folder, a runs folder, a cache, or one file of records.")],
    as_json: Json = False,
) -> None:
    """Say what of a folder's records is whole and what is damaged, empty, missing or of another run.

    Reads every file with its checksums and changes nothing. The exit code is 1 where something is wrong.

    Example: harness verify runs
    """
    from harness.runs.verify import verify as verified

    found = verified(existing(path, "folder or file of records"))
    if as_json:
        print_json([one.plain() for one in found])
    else:
        for one in found:
            state = "[green]whole[/green]" if one.whole else "[red]damaged[/red]"
            line(f"{state}: {one.kind} {shown(one.place)} ({one.files} files)")
            for problem in one.problems:
                line(f"  {shown(problem)}")
            if not one.whole:
                line(f"  [bold]{shown(one.remedy)}[/bold]")
            for note in one.notes:
                console.print(f"  note: {shown(note)}", style="dim", highlight=False, soft_wrap=True)
        hurt = sum(not one.whole for one in found)
        line(f"{len(found) - hurt} of {len(found)} are whole" + (f", {hurt} are damaged" if hurt else ""))
    if not all(one.whole for one in found):
        raise typer.Exit(1)
