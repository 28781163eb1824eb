"""From an environment to a table: compare, which needs no spec, and init, which writes the spec alone."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.experiments import LAPTOP
from harness.cli.options import CacheFolder, EnvOptions, Json, Runs, Workers, json_object
from harness.cli.places import one_spec, spec_files
from harness.cli.running import numbers, refuse_damage, run_experiment
from harness.cli.screen import console, line, only_json, print_json, progress
from harness.cli.where import Where
from harness.core.errors import UserError
from harness.core.words import shown

if TYPE_CHECKING:
    from harness.experiment import Experiment, MethodSettings
    from harness.runs.proposal import Proposal

Methods = Annotated[
    list[str],
    typer.Argument(help="Short names (harness methods) or module:Name, with options: 'craft(credit=aligned)'."),
]
Env = Annotated[str, typer.Option("--env", help="An environment id (harness environments), or module:Id of your own.")]
Model = Annotated[str, typer.Option(help="The policy: tiny, smollm2 or a model directory.")]
Context = Annotated[str, typer.Option(help="What teachers read: a context source (default: one that fits).")]
SPEC = "spec.toml"


def compare(
    methods: Methods,
    env: Env = "",
    spec: Annotated[
        Path | None,
        typer.Option(help="Spec to take everything else from (default: the laptop's for it, or one that is made)."),
    ] = None,
    env_options: EnvOptions = "{}",
    model: Model = "tiny",
    context: Context = "",
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 0,1,2 or 0-2 (default: the spec's).")] = "",
    steps: Annotated[int, typer.Option(min=0, help="Optimiser steps (0: the spec's).")] = 0,
    runs: Runs = Path("runs"),
    cache: CacheFolder = Path(".cache"),
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Compare methods head to head in an environment: runs what is missing and prints the paired table.

    No spec is needed: window, token limit, warm start and panel come from what the environment's own solutions
    measure. What was chosen is shown, and written beside the results.

    Example: harness compare grpo 'craft(credit=aligned)' my_method:Mine --env my_env:Cafe-v0
    """
    from harness.core.fingerprint import fingerprint, slug
    from harness.experiment import write_spec
    from harness.report.delimited import lines
    from harness.report.terminal import terminal

    with only_json(as_json):
        if len(methods) < 2:
            raise UserError("compare needs two or more methods")
        rows = [row_of(text) for text in methods]
        template = _template(env, spec, json_object(env_options, "--env-options"), model, context, rows, cache)
        experiment = _compared(template, rows, seeds, steps)
        decides = fingerprint(experiment.model_dump(mode="json", exclude={"title"}))[:8]  # other seeds, another table
        short = "-".join(slug(row.label.rpartition(":")[2]) for row in rows)
        out = runs / "comparisons" / f"{experiment.name}-{short[:80]}-{decides}"
        for row in rows:
            line(f"  {shown(row.label)}: {shown(settings_of(row))}")
        write_spec(experiment, out / SPEC)
        line(f"spec: {shown(out / SPEC)}")
        table = run_experiment(experiment, out, runs, cache, Where(workers=workers), False)
        terminal(table, console)
        line(f"written: {shown(out)}")
    if as_json:
        print_json({"written": str(out), "rows": lines(table)})
    refuse_damage([table])


def init(
    methods: Annotated[
        list[str] | None, typer.Argument(help="The rows, as `compare` takes them (default: one without a teacher).")
    ] = None,
    env: Env = "",
    env_options: EnvOptions = "{}",
    model: Model = "tiny",
    context: Context = "",
    out: Annotated[Path, typer.Option(help="The spec file to write, or the folder for it.")] = Path(SPEC),
    cache: CacheFolder = Path(".cache"),
    as_json: Json = False,
) -> None:
    """Write the spec that `compare` would use for an environment, and say why it says what it says.

    Example: harness init grpo craft --env my_env:Cafe-v0 --out cafe/spec.toml
    """
    from harness.experiment import write_spec

    file = out if out.suffix == ".toml" else out / SPEC
    if file.exists():
        raise UserError(f"{file} exists; name another file with --out, or remove it")
    rows = [row_of(text) for text in methods] if methods else [_plain()]
    with only_json(as_json):
        made = _proposed(env, json_object(env_options, "--env-options"), model, context, rows, cache)
        write_spec(made.experiment, file)
        line(f"written: {shown(file)}   run it with: harness bench {shown(file)}")
    if as_json:
        print_json({"written": str(file), "reasons": list(made.reasons)})


def row_of(text: str) -> MethodSettings:
    """A row as people write it: `NAME`, `module:Name` or either with options in brackets, `NAME(key=value, ...)`;
    values as in TOML, plain words without quotes too. UserError for what cannot be read."""
    from harness.core.catalogue import plug_of
    from harness.experiment import MethodSettings

    found = re.fullmatch(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if found is None:
        raise UserError(f"a method is written NAME or NAME(option=value, ...), got {text!r}")
    options = dict(_option(part, text) for part in _parts(found[2] or ""))
    return MethodSettings(label=text.strip(), plug=plug_of(found[1], "method", "methods"), options=options)


def _parts(inside: str) -> Iterator[str]:
    """What stands between the commas that are in no brackets and no quotes."""
    depth, quote, begun = 0, "", 0
    for place, letter in enumerate(inside):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{(") - (letter in "]})")
            if letter == "," and depth == 0:
                yield inside[begun:place]
                begun = place + 1
    if inside[begun:].strip():
        yield inside[begun:]


def _option(part: str, whole: str) -> tuple[str, Any]:
    name, equals, value = (word.strip() for word in part.partition("="))
    if not equals or not re.fullmatch(r"\w+", name) or not value:
        raise UserError(f"options of a method are written option=value, got {part.strip()!r} in {whole!r}")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def settings_of(row: MethodSettings) -> str:
    """A row's plug and every setting of its method, those that it leaves to the method too."""
    from harness.core.plugs import original
    from harness.protocols.method import make_method

    made = original(make_method(row.plug, row.options))
    if not dataclasses.is_dataclass(made) or isinstance(made, type):
        return f"{row.plug} {row.options or ''}".strip()
    values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made) if field.init}
    listed = ", ".join(f"{name} = {value!r}" for name, value in values.items())
    return f"{row.plug}  {listed}" if listed else row.plug


def _compared(template: Experiment, rows: Sequence[MethodSettings], seeds: str, steps: int) -> Experiment:
    """The template with these rows, and with the seeds and steps that are asked for."""
    from harness.experiment import parse_experiment

    changed: dict[str, Any] = {
        "methods": [row.model_dump() for row in rows],
        "title": f"{', '.join(row.label for row in rows)} on {template.environment.id.rpartition(':')[2]}",
        "search": None,
    }
    if seeds:
        changed["seeds"] = numbers(seeds)
    data = template.model_dump() | changed
    if steps:
        data["budget"] = data["budget"] | {"steps": steps}
    return parse_experiment(data)


def _template(
    env: str,
    spec: Path | None,
    options: dict[str, Any],
    model: str,
    context: str,
    rows: Sequence[MethodSettings],
    cache: Path,
) -> Experiment:
    """The experiment whose methods are replaced: the spec that is named, the laptop's, or one made for this."""
    from harness.core.catalogue import environment_id
    from harness.experiment import read_experiment

    if spec is not None:
        file = one_spec(spec)
        template = read_experiment(file)
        given = {"--env-options": bool(options), "--model": model != "tiny", "--context": bool(context)}
        for option in (name for name, value in given.items() if value):
            raise UserError(f"{option} goes without --spec: {file} says it; change it there")
        if env and environment_id(env) != template.environment.id:
            raise UserError(
                f"--env says {environment_id(env)}, {spec} says {template.environment.id}; "
                "leave the environment to the spec or name another"
            )
        return template
    if env and not (options or context or model != "tiny") and LAPTOP.is_dir():
        for file in spec_files([LAPTOP]):
            template = read_experiment(file)
            if template.environment.id == environment_id(env):
                line(f"everything else as in {shown(file)}")
                return template
    return _proposed(env, options, model, context, rows, cache).experiment


def _proposed(
    env: str,
    options: dict[str, Any],
    model: str,
    context: str,
    rows: Sequence[MethodSettings],
    cache: Path,
) -> Proposal:
    """A spec made from the environment, its reasons printed."""
    from harness.core.catalogue import environment_id, plug_of
    from harness.experiment import EnvironmentSettings
    from harness.runs.proposal import propose

    if not env:
        raise UserError("name an environment with --env: `harness environments` lists them, your own is module:Id")
    settings = EnvironmentSettings(id=environment_id(env), options=options)
    source = plug_of(context, "context source", "contexts") if context else ""
    with progress() as show:
        made = propose(settings, rows, cache, model, source, show)
    for reason in made.reasons:
        line(f"  {shown(reason)}")
    return made


def _plain() -> MethodSettings:
    """The first installed method without a teacher."""
    from harness.core.catalogue import catalogue
    from harness.experiment import MethodSettings
    from harness.protocols.method import make_method

    for short, plug in catalogue("methods").items():
        needs = make_method(plug, {}).needs
        if needs.teacher == "none" and not needs.values:
            return MethodSettings(label=short, plug=plug)
    raise UserError("no method without a teacher is installed: name the rows")
