"""What the commands of `harness.cli.entry` do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Grid

from harness import ROOT
from harness.core import records
from harness.core.errors import HarnessError, UnknownNameError, UserError
from harness.core.plugs import construct, resolve
from harness.experiment.settings import (
    EnvironmentSettings,
    Experiment,
    MethodSettings,
    ModelSettings,
    parse_experiment,
    read_experiment,
)

# Before torch is imported: a start made here must be the same bytes as one made in a worker, and two threads beside a busy
# neighbour fall to a quarter of one alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if TYPE_CHECKING:
    from harness.evaluation.playing import Evaluation

console = Console()
DEMO = ROOT / "results" / "demo" / "spec.toml"
LAPTOP = ROOT / "results" / "laptop"
FORMS = ("terminal", "markdown", "latex", "csv", "html")


# ---------------------------------------------------------------- experiments


def bench(specs: Sequence[Path], runs: Path, cache: Path, workers: int, allow_missing: bool) -> None:
    from harness.report import index
    from harness.report.terminal import terminal

    found = spec_files(specs)
    for number, file in enumerate(found, start=1):
        experiment = read_experiment(file)
        console.print(
            f"[bold]{experiment.title or experiment.name}[/bold]  ({file}, {number} of {len(found)})", highlight=False
        )
        built = _run_experiment(experiment, file.parent, runs, cache, workers, allow_missing)
        terminal(built, console)
        console.print(f"written: {file.parent}/table.md, table.csv, rows.jsonl, curves\n", highlight=False)
    for folder in {file.parent.parent for file in found}:
        if (folder / "README.md").is_file() or folder.name == "laptop":
            index.write_index(folder, f"Results: {folder.name}")


def demo(runs: Path, cache: Path, workers: int) -> None:
    from harness.report.terminal import terminal

    experiment = read_experiment(DEMO)
    console.print(f"[bold]{experiment.title}[/bold]", highlight=False)
    terminal(_run_experiment(experiment, runs / "demo-results", runs, cache, workers, False), console)
    console.print("Next: [bold]make bench[/bold], and docs/reading-a-table.md for what the columns say.")


def compare(
    methods: Sequence[str], env: str, spec: Path | None, seeds: str, steps: int, runs: Path, cache: Path, workers: int
) -> None:
    from harness.report.terminal import terminal

    if len(methods) < 2:
        raise UserError("compare needs two or more methods")
    template = read_experiment(spec) if spec else _laptop_spec(env)
    rows = tuple(MethodSettings(label=name, plug=_plug_of(name)) for name in methods)
    changed: dict[str, Any] = {"methods": [row.model_dump() for row in rows], "title": f"{', '.join(methods)} on {env}"}
    if seeds:
        changed["seeds"] = _numbers(seeds)
    data = template.model_dump() | changed
    if steps:
        data["budget"] = data["budget"] | {"steps": steps}
    experiment = parse_experiment(data)
    out = runs / "comparisons" / f"{experiment.name}-{'-'.join(name.rpartition(':')[2].lower() for name in methods)}"
    terminal(_run_experiment(experiment, out, runs, cache, workers, False), console)
    console.print(f"written: {out}", highlight=False)


def table(spec: Path, form: str, runs: Path, cache: Path, allow_missing: bool) -> None:
    from harness.learning.warm_start import start_of
    from harness.report import delimited, html, latex, markdown
    from harness.report.terminal import terminal
    from harness.runs.bench import gather_records, plan
    from harness.tables import table as tables

    if form not in FORMS:
        raise UnknownNameError("format", form, FORMS)
    experiment = read_experiment(spec)
    jobs = plan(experiment, start_of(experiment, cache), runs)
    had, rows, _ = gather_records(jobs, allow_missing)
    built = tables.build(
        had,
        rows,
        experiment.title or experiment.name,
        experiment.seeds,
        extra=experiment.evaluation.extra,
        allow_missing=allow_missing,
    )
    if form == "terminal":
        terminal(built, console)
    else:
        sys.stdout.write(
            {
                "markdown": markdown.markdown,
                "latex": latex.latex,
                "csv": delimited.csv_text,
                "html": html.html_page,
            }[form](built)
        )


def fidelity(
    spec: Path, tasks: int, rolls: int, seed: int, checkpoint: Path | None, out: Path | None, cache: Path
) -> None:
    from harness.evaluation.fidelity.measure import measure
    from harness.learning.warm_start import start_of
    from harness.report import fidelity as report
    from harness.report import fidelity_files

    experiment = read_experiment(spec)
    folder = out or spec.parent
    with _progress() as progress:
        start = start_of(experiment, cache, progress)
        wanted = tasks or experiment.sampling.prompts_per_step
        measured = measure(experiment, start, wanted, rolls, seed, checkpoint, progress)
    _print_start(start.measured)
    judged = fidelity_files.write(measured, folder)
    for grid in report.terminal(judged):
        console.print(grid)
    for said in report.heading(judged):
        console.print(f"  {said}", highlight=False)
    console.print(
        f"written: {folder}/table.md, table.csv, episodes.jsonl.gz, fidelity and example plots", highlight=False
    )


def spec_files(specs: Sequence[Path]) -> list[Path]:
    """The spec files meant by paths of files and folders."""
    found: list[Path] = []
    for path in specs:
        inside = sorted([*path.glob("spec.toml"), *path.glob("*/spec.toml")]) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"no spec.toml in {str(path)!r} or in a folder in it")
        found += inside
    return found


def _run_experiment(
    experiment: Experiment, out: Path, runs: Path, cache: Path, workers: int, allow_missing: bool
) -> Any:
    from harness.executors.local import run_all
    from harness.learning.warm_start import start_of
    from harness.runs.bench import plan, write_results

    # A typing mistake shows before anything is run.
    for method in experiment.methods:
        construct(method.plug, method.options, "method")
    if experiment.context is not None:
        construct(experiment.context, {}, "context source")
    resolve(experiment.backend, "backend")
    with _progress() as report:
        start = start_of(experiment, cache, report)
    _print_start(start.measured)
    jobs = plan(experiment, start, runs)
    waiting = sum(not job.done for job in jobs)
    console.print(f"{len(jobs)} runs, {len(jobs) - waiting} of them finished before", highlight=False)
    failed = run_all(jobs, workers or _default_workers(experiment), console)
    for job, why in failed:
        console.print(f"[red]failed[/red]: {job.name}: {why}", highlight=False)
    if failed and not allow_missing:
        raise HarnessError(
            f"{len(failed)} of {len(jobs)} runs failed; the others are kept, and the same command tries again"
        )
    return write_results(experiment, jobs, start, out, allow_missing)


def _default_workers(experiment: Experiment) -> int:
    if experiment.model.device == "cpu":
        return _cores()
    import torch

    return torch.cuda.device_count() or _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_start(measured: dict[str, Any]) -> None:
    if not measured:
        return
    console.print(
        f"start: {measured['sampled']:.2f} sampled, {measured['greedy']:.2f} greedy success on {measured['tasks']} {measured['split']} tasks",
        highlight=False,
    )
    for known in measured["contexts"].values():
        verdict = "  [yellow]teacher adds nothing[/yellow]" if known["teacher_adds_nothing"] else ""
        console.print(
            f"  behind {known['name']}: {known['sampled']:.2f} ({known['adds']:+.2f}){verdict}", highlight=False
        )


@contextmanager
def _progress() -> Iterator[Any]:
    """A callback that shows (what, done, total) as bars with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as display:
        bars: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = display.add_task(what, total=total)
            display.update(bars[what], completed=done, total=total)

        yield report


def _laptop_spec(env: str) -> Experiment:
    known = {read_experiment(file).environment.id: file for file in spec_files([LAPTOP])} if LAPTOP.is_dir() else {}
    wanted = env if ":" in env else f"environments:{env}"
    if wanted not in known:
        raise UnknownNameError(
            "environment with a laptop spec",
            env,
            [k.rpartition(":")[2] for k in known],
            "Name another spec with --spec.",
        )
    return read_experiment(known[wanted])


def _plug_of(name: str) -> str:
    if ":" in name:
        return name
    short: dict[str, str] = resolve("agents.methods:SHORT")
    if name not in short:
        raise UnknownNameError("method", name, short, "Your own: module:Name.")
    return short[name]


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"seeds are whole numbers separated by commas, got {text!r}") from None


# ---------------------------------------------------------------- playing and looking


def evaluate(asked: Evaluation, cache: Path) -> None:
    from harness.evaluation import playing

    with _progress() as report:
        playing.evaluate(asked, cache, console, report)


def serve(model: str, host: str, port: int, name: str, dtype: str, device: str, batch: int, cache: Path) -> None:
    from harness.backends.torch.models import DTYPES, base_directory
    from harness.serving.server import ModelServer

    if model == "tiny":
        raise UserError("the tiny policy has no weights of its own; name the directory of a checkpoint")
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    directory = base_directory(ModelSettings(name=model), cache)
    backend = resolve("harness.backends.torch:TorchBackend")(directory, dtype=dtype, device=device)
    with ModelServer(backend, name or Path(model).name, host, port, batch) as server:
        console.print(
            f"{server.name} at {server.url}   window {backend.window} tokens, {backend.device}", highlight=False
        )
        console.print(
            f"use it with: OPENAI_BASE_URL={server.url} OPENAI_API_KEY=none   (stop with Ctrl-C)",
            highlight=False,
            soft_wrap=True,
        )
        server.wait()


def show(file: Path, index: int, tokens: bool) -> None:
    episodes, damaged = records.read_episodes(file)
    for damage in damaged:
        console.print(f"[yellow]{damage}[/yellow]", highlight=False)
    if not 0 <= index < len(episodes):
        raise UserError(f"{file} holds episodes 0 to {len(episodes) - 1}, there is no {index}")
    episode = episodes[index]
    console.rule(f"{episode.task_id}   reward {episode.reward:g}   {episode.ending.value}")
    styles = {"assistant": "bold green", "system": "dim", "tool": "cyan"}
    for message in episode.messages:
        role = str(message["role"])
        console.print(f"{role}", style=styles.get(role, "bold"), end="  ")
        console.print(str(message["content"]), markup=False, highlight=False)
    sequence = episode.sequence
    if len(sequence):  # a policy of words leaves none
        console.rule(
            f"{int(sequence.mask.sum())} sampled of {len(sequence)} tokens, {-float(sequence.logprobs.sum()):.2f} nats"
        )
    if tokens:
        grid = Grid("position", "turn", "token id", "log-probability")
        for place in sequence.mask.nonzero()[0].tolist():
            grid.add_row(
                str(place), str(sequence.turns[place]), str(sequence.tokens[place]), f"{sequence.logprobs[place]:.4f}"
            )
        console.print(grid)


def methods() -> None:
    grid = Grid("name", "paper", "what it does", title="methods (your own: module:Name)")
    for name, plug in resolve("agents.methods:SHORT").items():
        cls = resolve(plug, "method")
        grid.add_row(name, getattr(cls, "paper", ""), (cls.__doc__ or "").strip().splitlines()[0])
    console.print(grid)


def environments() -> None:
    import gymnasium

    resolve("environments:register")
    grid = Grid("id", "class", title="environments (your own: module:Id)")
    for name, spec in sorted(gymnasium.registry.items()):
        if str(spec.entry_point).startswith("environments."):
            grid.add_row(name, str(spec.entry_point))
    console.print(grid)


def setup(names: Sequence[str]) -> None:
    import inspect

    known: dict[str, str] = resolve("environments:SETUPS")
    if not names:
        grid = Grid("name", "what it does", title="harness setup NAME")
        for name, place in known.items():
            grid.add_row(name, (inspect.getdoc(resolve(place)) or "").partition("\n")[0])
        console.print(grid)
        return
    for name in names:
        if name not in known:
            raise UnknownNameError("set-up", name, known)
    for name in names:
        with _progress() as progress:
            try:
                said = resolve(known[name])(progress)
            except RuntimeError as error:
                raise HarnessError(f"{name}: {error}") from error
        console.print(f"[green]{name}[/green]: {said}", highlight=False)


def _environment_id(env: str) -> str:
    return env if ":" in env else f"environments:{env}"


def json_object(text: str, option: str) -> dict[str, Any]:
    """The object behind an option's JSON."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{option} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{option} must be a JSON object, got {text!r}")
    return value


# ---------------------------------------------------------------- checks


def check_env(env: str, options: str) -> None:
    from harness.rollout.environments import make_environment

    made = make_environment(EnvironmentSettings(id=_environment_id(env), options=json_object(options, "--env-options")))
    check = resolve("environments.text:check_text_env")
    try:
        with console.status(f"checking {env}"):
            check(made)
    except resolve("environments.text:ContractError") as error:
        raise UserError(f"{env} does not keep the contract:\n{error}") from None
    console.print(f"[green]{env} keeps the contract[/green]", highlight=False)


def check_method(method: str, options: str) -> None:
    check = resolve("agents.check:check_method")
    try:
        check(construct(_plug_of(method), json_object(options, "--options"), "method"))
    except resolve("agents.check:MethodError") as error:
        raise UserError(f"{method} does not keep the contract:\n{error}") from None
    console.print(f"[green]{method} keeps the contract[/green]", highlight=False)
