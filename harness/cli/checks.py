"""Commands that hold a plug to its contract: check-env, check-method, check-context, check-policy, check-backend,
and a model to what this harness relies on: check-model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import CacheFolder, EnvOptions, Json, PlugOptions, json_object
from harness.cli.screen import console, line, only_json, print_json
from harness.core.errors import UnknownNameError, UserError
from harness.core.words import lines, shown


def check_env(
    env: Annotated[str, typer.Argument(help="An id, as `harness environments` lists them, or module:Id of your own.")],
    options: EnvOptions = "{}",
) -> None:
    """Check that an environment keeps the contract.

    Example: harness check-env my_env:MyEnv-v0
    """
    from harness.core.catalogue import environment_id
    from harness.experiment import EnvironmentSettings
    from harness.protocols.check_environment import ContractError, check_text_env
    from harness.rollout.environments import make_environment

    settings = EnvironmentSettings(id=environment_id(env), options=json_object(options, "--env-options"))
    made = make_environment(settings)
    try:
        with console.status(f"checking {env}"):
            check_text_env(made)
    except ContractError as error:
        raise UserError(f"{shown(env)} does not keep the contract:\n{error}") from None
    finally:
        made.close()
    line(f"[green]{shown(env)} keeps the contract[/green]")


def check_method(
    method: Annotated[str, typer.Argument(help="A short name, or module:Name of your own.")],
    options: PlugOptions = "{}",
) -> None:
    """Run the property suite on a method.

    Example: harness check-method my_method:Mine
    """
    from harness.core.catalogue import plug_of
    from harness.protocols.check_method import MethodError
    from harness.protocols.check_method import check_method as check
    from harness.protocols.method import make_method

    try:
        check(make_method(plug_of(method, "method", "methods"), json_object(options, "--options")))
    except MethodError as error:
        raise UserError(f"{shown(method)} does not keep the contract:\n{error}") from None
    line(f"[green]{shown(method)} keeps the contract[/green]")


def check_context(
    source: Annotated[str, typer.Argument(help="A short name, as `harness contexts` lists them, or module:Name.")],
    options: PlugOptions = "{}",
) -> None:
    """Check that a source of privileged contexts keeps the contract.

    Example: harness check-context my_contexts:Mine
    """
    from harness.core.catalogue import plug_of
    from harness.protocols.check_context import ContextError
    from harness.protocols.check_context import check_context as check
    from harness.protocols.context import make_context

    try:
        check(make_context(plug_of(source, "context source", "contexts"), json_object(options, "--options")))
    except ContextError as error:
        raise UserError(f"{shown(source)} does not keep the contract:\n{error}") from None
    line(f"[green]{shown(source)} keeps the contract[/green]")


def check_policy(
    policy: Annotated[str, typer.Argument(help="A short name (gold, do-nothing), or module:Name of your own.")],
    env: Annotated[str, typer.Option("--env", help="An environment to act in: `harness environments` lists them.")],
    options: PlugOptions = "{}",
    env_options: EnvOptions = "{}",
) -> None:
    """Check that a text policy keeps the contract, in episodes of an environment.

    Example: harness check-policy my_policy:Mine --env my_env:MyEnv-v0
    """
    from harness.core.catalogue import environment_id, plug_of
    from harness.experiment import EnvironmentSettings
    from harness.protocols.check_policy import PolicyError
    from harness.protocols.check_policy import check_policy as check
    from harness.protocols.policy import make_policy
    from harness.rollout.environments import contract_of, make_environment

    made = make_policy(plug_of(policy, "policy", "policies"), json_object(options, "--options"))
    settings = EnvironmentSettings(id=environment_id(env), options=json_object(env_options, "--env-options"))
    environment = make_environment(settings)
    try:
        check(made, contract_of(environment, env))
    except PolicyError as error:
        raise UserError(f"{shown(policy)} does not keep the contract:\n{error}") from None
    finally:
        environment.close()
    line(f"[green]{shown(policy)} keeps the contract[/green]")


def check_backend(
    backend: Annotated[str, typer.Argument(help="module:Name of a backend.")] = "harness.backends.torch:TorchBackend",
    model: Annotated[
        Path | None, typer.Option(help="Model directory to check it with (default: a random model of two layers).")
    ] = None,
    options: PlugOptions = "{}",
) -> None:
    """Check that a backend keeps the contract, on a small model.

    Example: harness check-backend my_backend:MyBackend
    """
    from harness.backends.torch.models import create_tiny
    from harness.experiment import PlugSettings, TinySettings
    from harness.protocols.check_backend import BackendError
    from harness.protocols.check_backend import check_backend as check

    named = PlugSettings(plug=backend, options=json_object(options, "--options"))
    with tempfile.TemporaryDirectory() as scratch, console.status(f"checking {backend}"):
        directory = model or Path(scratch) / "model"
        if model is None:
            small = TinySettings(width=32, layers=2, heads=4, kv_heads=2, mlp=64, window=96, vocabulary=280)
            create_tiny(directory, ["look up, then act", "0123456789"], small, seed=0)
        try:
            check(named, directory, Path(scratch) / "saved")
        except BackendError as error:
            raise UserError(f"{shown(backend)} does not keep the contract:\n{error}") from None
    line(f"[green]{shown(backend)} keeps the contract[/green]")


def check_model(
    model: Annotated[str, typer.Argument(help="smollm2, or the directory of a Hugging Face model.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    cache: CacheFolder = Path(".cache"),
    as_json: Json = False,
) -> None:
    """Check that a model is sampled as its plain forward pass says, and that its chat template is read rightly.

    Example: harness check-model smollm2
    """
    from harness.backends.torch import TorchBackend
    from harness.backends.torch.check_model import full_report
    from harness.backends.torch.models import DTYPES, base_directory
    from harness.experiment import ModelSettings

    if model == "tiny":
        raise UserError("the tiny policy has no weights of its own; name the directory of a checkpoint")
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    directory = base_directory(ModelSettings(name=model), cache)
    assert directory is not None
    with only_json(as_json), console.status(f"checking {model}"):
        report = full_report(TorchBackend(directory, dtype=dtype, device=device))
    if as_json:
        print_json({"facts": dict(report.facts), "wrong": list(report.wrong)})
    else:
        for name, fact in report.facts.items():
            console.print(f"{shown(name)}: ", style="bold", end="")
            console.print(lines(str(fact)), markup=False, highlight=False, soft_wrap=True)
    if report.wrong:
        listed = "\n".join(f"  - {wrong}" for wrong in report.wrong)
        raise UserError(f"{shown(model)} cannot be used as it is:\n{listed}")
    if not as_json:
        line(f"[green]{shown(model)} can be used[/green]")
