"""The `harness` command. Nothing heavy is imported before a command needs it: `harness --help` answers at once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import ROOT
from harness.core.errors import HarnessError, UserError

OURS = ("harness", "environments", "agents")
STOPPED = 130
UsageError: Any = typer.BadParameter.__base__
"""A command line that cannot be read. Typer brings Click under one name or another, depending on its version."""

app = typer.Typer(
    name="harness",
    help="Matched comparison of credit-assignment methods for language-model agents.\n\n"
    "Start with: [bold]harness demo[/bold] (two minutes), then [bold]harness bench results/laptop[/bold].",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Runs = Annotated[
    Path, typer.Option("--runs", help="Where runs are kept while they are worked on.", envvar="HARNESS_RUNS")
]
CacheFolder = Annotated[
    Path, typer.Option("--cache", help="Where starting policies and converted models are kept.", envvar="HARNESS_CACHE")
]
Workers = Annotated[int, typer.Option("--workers", "-j", min=0, help="Runs at once; 0 is one per core (one per GPU).")]


@app.command()
def bench(
    specs: Annotated[list[Path], typer.Argument(help="Spec files, or folders in which every */spec.toml is meant.")],
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    keep_going: Annotated[
        bool, typer.Option("--allow-missing", help="Write a table although seeds are missing.")
    ] = False,
) -> None:
    """Run experiments and write their tables beside their specs.

    Finished runs are not repeated, killed ones go on from their last checkpoint.

    Example: harness bench results/laptop/reasoning-mini/spec.toml
    """
    from harness.cli import commands

    commands.bench(specs, runs, cache, workers, keep_going)


@app.command()
def demo(runs: Runs = Path("runs"), cache: CacheFolder = Path(".cache"), workers: Workers = 0) -> None:
    """The main job in two minutes: a small experiment on Guess-v0, its table printed here."""
    from harness.cli import commands

    commands.demo(runs, cache, workers)


@app.command()
def compare(
    methods: Annotated[list[str], typer.Argument(help="Two or more: short names (harness methods) or module:Name.")],
    env: Annotated[str, typer.Option("--env", help="An environment id, e.g. ReasoningMini-v0.")],
    spec: Annotated[
        Path | None,
        typer.Option(help="Spec to take everything else from (default: the laptop's for that environment)."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 0,1,2 (default: the spec's).")] = "",
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps (0: the spec's).")] = 0,
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
) -> None:
    """Compare methods head to head: runs what is missing and prints the paired table.

    Example: harness compare grpo craft --env ReasoningMini-v0
    """
    from harness.cli import commands

    commands.compare(methods, env, spec, seeds, steps, runs, cache, workers)


@app.command()
def evaluate(
    env: Annotated[str, typer.Option("--env", help="An environment id, e.g. Reasoning-v0.")],
    policy: Annotated[
        str,
        typer.Option(help="gold, do-nothing, smollm2, endpoint:MODEL, a model directory, or module:Name of your own."),
    ],
    split: Annotated[str, typer.Option(help="Which tasks.")] = "test",
    tasks: Annotated[int, typer.Option(min=1, help="How many tasks.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Episodes per task.")] = 1,
    greedy: Annotated[bool, typer.Option(help="Take the likeliest token instead of sampling.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Per turn.")] = 128,
    temperature: Annotated[float, typer.Option(min=1e-3)] = 1.0,
    options: Annotated[str, typer.Option("--env-options", help="JSON object passed to the environment.")] = "{}",
    policy_options: Annotated[
        str, typer.Option(help="JSON object passed to a policy of words: prices, params, max_calls, ...")
    ] = "{}",
    concurrency: Annotated[int, typer.Option(min=0, help="Episodes in flight (0: the policy's own).")] = 0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds an environment may take to answer.")] = 300.0,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Where the episodes are written.")] = Path("runs/evaluations"),
    cache: CacheFolder = Path(".cache"),
) -> None:
    """Play an environment with a policy that is not trained here. Called again, it plays only what is missing.

    Example: harness evaluate --env Reasoning-v0 --policy smollm2 --tasks 8
    """
    from harness.cli import commands
    from harness.evaluation.playing import Evaluation

    asked = Evaluation(
        env=env, policy=policy, split=split, tasks=tasks, samples=samples, greedy=greedy, max_new_tokens=max_new_tokens,
        temperature=temperature, env_options=commands.json_object(options, "--env-options"),
        policy_options=commands.json_object(policy_options, "--policy-options"), deadline_s=deadline, concurrency=concurrency,
        seed=seed, out=out,
    )  # fmt: skip
    commands.evaluate(asked, cache)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="smollm2, or the directory of a Hugging Face model.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="There is no password: think before you bind more than the loopback.")
    ] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="The model's name in requests (default: its own).")] = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Most completions computed at once.")] = 16,
    cache: CacheFolder = Path(".cache"),
) -> None:
    """Serve a model as an OpenAI-compatible endpoint, token ids and log-probabilities included.

    Example: harness serve smollm2 --port 8000
    """
    from harness.cli import commands

    commands.serve(model, host, port, name, dtype, device, batch, cache)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="An episodes file (.jsonl or .jsonl.gz).")],
    index: Annotated[int, typer.Argument(help="Which episode, counted from 0.")] = 0,
    tokens: Annotated[bool, typer.Option(help="Also list the sampled tokens with their log-probabilities.")] = False,
) -> None:
    """Print one recorded episode.

    Example: harness show results/laptop/reasoning-mini/episodes/grpo.jsonl.gz 3
    """
    from harness.cli import commands

    commands.show(file, index, tokens)


@app.command()
def table(
    spec: Annotated[Path, typer.Argument(help="The experiment's spec.toml.")],
    form: Annotated[str, typer.Option("--format", help="terminal, markdown, latex, csv or html.")] = "terminal",
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    keep_going: Annotated[bool, typer.Option("--allow-missing", help="Although seeds are missing.")] = False,
) -> None:
    """Print the table of an experiment from the runs there are.

    Example: harness table results/demo/spec.toml --format markdown
    """
    from harness.cli import commands

    commands.table(spec, form, runs, cache, keep_going)


@app.command()
def fidelity(
    spec: Annotated[Path, typer.Argument(help="A spec.toml whose methods are measured.")],
    tasks: Annotated[int, typer.Option(min=0, help="Groups of siblings (0: the spec's prompts per step).")] = 0,
    rolls: Annotated[int, typer.Option(min=1, help="Re-rolls of every prefix, in each of two independent sets.")] = 64,
    seed: Annotated[int, typer.Option(help="Draws the tasks and everything sampled.")] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Model directory of the policy (default: the spec's start).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where table and plots are written (default: beside the spec).")
    ] = None,
    cache: CacheFolder = Path(".cache"),
) -> None:
    """Measure each method's credit of single tokens against their true value, by re-rolling.

    Example: harness fidelity results/fidelity/reasoning-mini/spec.toml
    """
    from harness.cli import commands

    commands.fidelity(spec, tasks, rolls, seed, checkpoint, out, cache)


@app.command()
def methods() -> None:
    """List the methods with their papers."""
    from harness.cli import commands

    commands.methods()


@app.command()
def environments() -> None:
    """List the environments that are registered."""
    from harness.cli import commands

    commands.environments()


@app.command()
def setup(
    names: Annotated[list[str] | None, typer.Argument(help="What to install; none lists what there is.")] = None,
) -> None:
    """Install what an environment needs besides this package. What is there already is left as it is.

    Example: harness setup appworld
    """
    from harness.cli import commands

    commands.setup(names or [])


@app.command("check-env")
def check_env(
    env: Annotated[str, typer.Argument(help="An id (ReasoningMini-v0) or module:Id of your own.")],
    options: Annotated[str, typer.Option("--env-options", help="JSON object passed to the environment.")] = "{}",
) -> None:
    """Check that an environment keeps the contract.

    Example: harness check-env my_env:MyEnv-v0
    """
    from harness.cli import commands

    commands.check_env(env, options)


@app.command("check-method")
def check_method(
    method: Annotated[str, typer.Argument(help="A short name, or module:Name of your own.")],
    options: Annotated[str, typer.Option(help="JSON object of the method's fields.")] = "{}",
) -> None:
    """Run the property suite on a method.

    Example: harness check-method my_method:Mine
    """
    from harness.cli import commands

    commands.check_method(method, options)


def main() -> None:
    """The command's entry: mistakes of the caller are one line, not a traceback."""
    # Commands that start worker processes are imported again in them: keep this module light.
    try:
        _check_names()
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)  # Ctrl-C comes back as its exit code
    except KeyboardInterrupt:
        code = STOPPED
    except UsageError as error:
        _say(f"error: {error.format_message()}")
        sys.exit(2)
    except HarnessError as error:
        _say(f"error: {error}")
        sys.exit(2 if isinstance(error, UserError) else 1)
    except OSError as error:  # a folder that may not be written, a full disk
        _say(f"error: {error}")
        sys.exit(1)
    if code == STOPPED:
        _say("stopped; the same command goes on where this one was")
    sys.exit(code)


def _check_names() -> None:
    """Other distributions install packages of our names (openai-agents brings `agents`): say so instead of failing strangely."""
    for name in OURS:
        spec: Any = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or ROOT not in origin.parents:
            raise UserError(
                f"the package {name!r} comes from {origin or 'nowhere'}, not from {ROOT}: another distribution uses the name; "
                "uninstall it or use a virtual environment of its own"
            )


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(text, style="bold red", markup=False, soft_wrap=True)
