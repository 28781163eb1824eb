"""The `harness` command. Nothing heavy is imported before a command needs it: `harness --help` answers at once."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from harness import ROOT
from harness.cli.checks import check_backend, check_context, check_env, check_method, check_model, check_policy
from harness.cli.comparing import compare, init
from harness.cli.experiments import bench, demo, fidelity, reproduce, table, tables
from harness.cli.export import export, exports
from harness.cli.lists import contexts, environments, methods, published, setup
from harness.cli.planning import plan
from harness.cli.play import evaluate, serve, show
from harness.cli.recertifying import recertify
from harness.cli.report import report, trajectories, view
from harness.cli.search import headroom, tune
from harness.cli.verify import verify
from harness.core.errors import HarnessError, UserError
from harness.core.sources import OURS

STOPPED = 130
UsageError: Any = typer.BadParameter.__base__
"""A command line that cannot be read. Typer brings Click under one name or another, depending on its version."""

app = typer.Typer(
    name="harness",
    help="Matched comparison of credit-assignment methods for language-model agents. Five things people do:\n\n"
    "1. See it work, in minutes: [bold]harness demo[/bold]\n\n"
    "2. Compare methods in an environment, no spec needed: [bold]harness compare grpo craft --env ID[/bold]\n\n"
    "3. Plan an experiment, then run it: [bold]harness plan SPEC[/bold], [bold]harness bench SPEC[/bold]\n\n"
    "4. Read what came out: [bold]harness report FOLDER[/bold], [bold]harness table SPEC[/bold]\n\n"
    "5. Bring your own: [bold]harness check-env my_env:Mine-v0[/bold], [bold]harness check-method my_own:Mine[/bold]",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Experiments": (demo, compare, init, plan, bench, reproduce, tune, headroom, fidelity),
    "Results": (table, tables, report, trajectories, view, verify, recertify, export),
    "Policies and episodes": (evaluate, show, serve),
    "What there is": (methods, contexts, environments, published, setup),
    "Contracts": (check_env, check_method, check_context, check_policy, check_backend, check_model),
}
"""Commands by the heading under which `harness --help` shows them."""
GROUPS = {export: exports}
"""Commands that have sub-commands, and these."""
for panel, commands in PANELS.items():
    for command in commands:
        if command in GROUPS:
            app.add_typer(GROUPS[command], name=command.__name__, rich_help_panel=panel)
            continue
        # A negative number is an argument (the last episode), not an option.
        settings = {"ignore_unknown_options": True} if command is show else {}
        app.command(rich_help_panel=panel, context_settings=settings)(command)


def main() -> None:
    """The command's entry: mistakes of the caller are one line, not a traceback."""
    # Commands that start worker processes are imported again in them: keep this module light.
    # Before torch is imported: a start made here must be the same bytes as one made in a worker, and two threads
    # beside a busy neighbour fall to a quarter of one alone.
    for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)
    try:
        _check_names()
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)  # Ctrl-C comes back as its exit code
    except KeyboardInterrupt:
        code = STOPPED
    except UsageError as error:
        _print_error(f"error: {error.format_message()}")
        sys.exit(2)
    except HarnessError as error:
        _print_error(f"error: {error}")
        sys.exit(2 if isinstance(error, UserError) else 1)
    except OSError as error:  # a folder that may not be written, a full disk
        _print_error(f"error: {error}")
        sys.exit(1)
    if code == STOPPED:
        _print_error("stopped; the same command goes on where this one was")
    sys.exit(code)


def _check_names() -> None:
    """Other distributions install packages of our names (openai-agents brings `agents`): say so instead of failing
    strangely."""
    for name in OURS:
        spec: Any = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or ROOT not in origin.parents:
            raise UserError(
                f"the package {name!r} comes from {origin or 'nowhere'}, not from {ROOT}: "
                "another distribution uses the name; "
                "uninstall it or use a virtual environment of its own"
            )


def _print_error(text: str) -> None:
    from rich.console import Console

    from harness.core.words import lines

    Console(stderr=True).print(lines(text), style="bold red", markup=False, soft_wrap=True)
