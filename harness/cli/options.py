"""Options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.core.errors import UserError

Runs = Annotated[
    Path, typer.Option("--runs", help="Where runs are kept while they are worked on.", envvar="HARNESS_RUNS")
]
CacheFolder = Annotated[
    Path, typer.Option("--cache", help="Where starting policies and converted models are kept.", envvar="HARNESS_CACHE")
]
Workers = Annotated[int, typer.Option("--workers", "-j", min=0, help="Runs at once; 0 is one per core (one per GPU).")]
Executor = Annotated[
    str, typer.Option("--executor", help="Where runs are executed: local (processes of this machine), ray or slurm.")
]
RayAddress = Annotated[
    str, typer.Option("--ray-address", help="A Ray cluster that runs, e.g. auto (default: one of this machine).")
]
Slurm = Annotated[
    str, typer.Option("--slurm", help='JSON object of submitit\'s parameters, e.g. \'{"slurm_partition": "gpu"}\'.')
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes", min=0, help="Processes that train each run together (0: as its spec says, or torchrun)."
    ),
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Write a table although seeds are missing.")]
Json = Annotated[bool, typer.Option("--json", help="Print plain data as JSON instead of words.")]
EnvOptions = Annotated[str, typer.Option("--env-options", help="JSON object passed to the environment.")]
PlugOptions = Annotated[str, typer.Option("--options", help="JSON object of its own options.")]


def json_object(text: str, option: str) -> dict[str, Any]:
    """The object in an option's JSON. UserError where it is none."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{option} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{option} must be a JSON object, got {text!r}")
    return value
