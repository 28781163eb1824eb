"""Commands about policies and episodes: evaluate, show, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import CacheFolder, Json, json_object
from harness.cli.places import existing
from harness.cli.screen import console, line, only_json, print_json, progress
from harness.core.errors import UnknownNameError, UserError
from harness.core.words import shown


def evaluate(
    env: Annotated[str, typer.Option("--env", help="An environment id: `harness environments` lists them.")],
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
        str, typer.Option(help="JSON object passed to a text policy: prices, params, max_calls, ...")
    ] = "{}",
    concurrency: Annotated[int, typer.Option(min=0, help="Episodes in flight (0: the policy's own).")] = 0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds an environment may take to answer.")] = 300.0,
    seed: int = 0,
    out: Annotated[Path, typer.Option(help="Where the episodes are written.")] = Path("runs/evaluations"),
    cache: CacheFolder = Path(".cache"),
    as_json: Json = False,
) -> None:
    """Play an environment with a policy that is not trained here. Called again, it plays only what is missing.

    Example: harness evaluate --env Reasoning-v0 --policy smollm2 --tasks 8
    """
    from harness.evaluation.evaluate import evaluate as play
    from harness.evaluation.settings import Evaluation
    from harness.report.evaluation import print_evaluated

    asked = Evaluation(
        env=env, policy=policy, split=split, tasks=tasks, samples=samples, greedy=greedy, max_new_tokens=max_new_tokens,
        temperature=temperature, env_options=json_object(options, "--env-options"),
        policy_options=json_object(policy_options, "--policy-options"), deadline_s=deadline, concurrency=concurrency,
        seed=seed, out=out,
    )  # fmt: skip
    with only_json(as_json):
        with progress() as show_progress:
            done = play(asked, cache, lambda text: line(f"[yellow]{shown(text)}[/yellow]"), show_progress)
        print_evaluated(done, asked.environment.id.rpartition(":")[2], console)
    if as_json:
        print_json({"file": str(done.file), "lost": done.lost, "spent": dict(done.spent)} | done.summary)


def show(
    file: Annotated[Path, typer.Argument(help="An episodes file (.jsonl or .jsonl.gz).")],
    index: Annotated[int, typer.Argument(help="Which episode, counted from 0; -1 is the last.")] = 0,
    tokens: Annotated[bool, typer.Option(help="Also list the sampled tokens with their log-probabilities.")] = False,
    as_json: Json = False,
) -> None:
    """Print one recorded episode.

    Example: harness show results/laptop/reasoning-mini/episodes/grpo.jsonl.gz 3
    """
    from rich.table import Table as Grid

    from harness.core.episodes import read_episodes
    from harness.core.records import read
    from harness.core.words import lines

    reading = read(existing(file, "file of episodes"))
    if reading.header.get("kind") != "episodes" and not any("tokens" in row for row in reading.rows):
        raise UserError(f"{file} is no record of episodes (harness evaluate and a run's folder hold some)")
    episodes, damaged = read_episodes(file)
    for damage in damaged:
        console.print(f"[yellow]{shown(damage)}[/yellow]", highlight=False)
    if not -len(episodes) <= index < len(episodes):
        raise UserError(f"{file} holds episodes 0 to {len(episodes) - 1}, there is no {index}")
    episode = episodes[index]
    if as_json:
        print_json(reading.rows[index])
        return
    console.rule(f"{shown(episode.task_id)}   reward {episode.reward:g}   {episode.ending.value}")
    styles = {"assistant": "bold green", "system": "dim", "tool": "cyan"}
    for message in episode.messages:
        role = str(message["role"])
        console.print(shown(role), style=styles.get(role, "bold"), end="  ")
        console.print(lines(str(message["content"])), markup=False, highlight=False)
    sequence = episode.sequence
    if len(sequence):  # a text policy leaves none
        pieces = f" in {len(sequence.pieces)} pieces" if sequence.starts else ""
        sampled, nats = int(sequence.mask.sum()), -float(sequence.logprobs.sum())
        console.rule(f"{sampled} sampled of {len(sequence)} tokens{pieces}, {nats:.2f} nats")
    if tokens:
        grid = Grid("position", "turn", "token id", "log-probability")
        for place in sequence.mask.nonzero()[0].tolist():
            grid.add_row(
                str(place), str(sequence.turns[place]), str(sequence.tokens[place]), f"{sequence.logprobs[place]:.4f}"
            )
        console.print(grid)


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

    /v1/chat/completions takes messages, /v1/completions token ids; /v1/weights, which this machine alone may ask, loads
    other weights of the same model.

    Example: harness serve smollm2 --port 8000
    """
    from harness.backends.torch.models import DTYPES, base_directory
    from harness.experiment import Experiment, ModelSettings
    from harness.protocols.backend import BackendSettings, Start, make_backend
    from harness.serving.server import ModelServer

    if model == "tiny":
        raise UserError("the tiny policy has no weights of its own; name the directory of a checkpoint")
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    directory = base_directory(ModelSettings(name=model), cache)
    assert directory is not None
    named = Experiment.model_fields["backend"].default
    backend = make_backend(named, Start(directory), BackendSettings(dtype=dtype, device=device))
    with ModelServer(backend, name or Path(model).name, host, port, batch, directory) as server:
        line(f"{shown(server.name)} at {server.url}   window {backend.window} tokens")
        line(f"use it with: OPENAI_BASE_URL={server.url} OPENAI_API_KEY=none   (stop with Ctrl-C)")
        server.wait()
