"""Environments: made from a spec's settings, and pooled."""

from __future__ import annotations

import threading
from typing import Any

import gymnasium

from harness.core.errors import HarnessError, UnknownNameError, UserError
from harness.core.plugs import checked_options, completed, load, original
from harness.experiment import EnvironmentSettings
from harness.protocols.environment import TextEnvironment
from harness.rollout.deadlines import Deadlines


def make_environment(settings: EnvironmentSettings) -> Any:
    """The Gymnasium environment of an experiment; the nearest right id when there is none of that name."""
    module, colon, name = settings.id.rpartition(":")
    if colon:
        load(module, "environment", name)
    if name not in gymnasium.registry:
        raise UnknownNameError("environment", settings.id, _registered(module))
    try:
        options = _checked_options(settings, gymnasium.registry[name])
        return gymnasium.make(settings.id, **options)
    except (gymnasium.error.Error, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: it lacks something
        if isinstance(error, HarnessError):
            raise
        raise UserError(f"environment {settings.id!r}: {error}") from error


def contract_of(environment: Any, name: str) -> TextEnvironment:
    """What an environment declares (`harness.protocols.environment`), with the contract's defaults where it is silent.

    UserError for one that is no text environment.
    """
    declared: TextEnvironment = completed(environment.unwrapped, TextEnvironment, f"environment {name!r}")
    return declared


def environment_module(pool: EnvironmentPool) -> str:
    """The module of the pool's environment class: where its code begins."""
    return str(type(original(pool.environment)).__module__)


def _registered(module: str) -> list[str]:
    """The ids a module has registered, with its name in front; every id where it is not known whose they are."""
    package = module.partition(".")[0]
    home = {
        name: getattr(spec.entry_point, "__module__", spec.entry_point) for name, spec in gymnasium.registry.items()
    }
    own = [name for name, place in home.items() if str(place).partition(":")[0].partition(".")[0] == package]
    return [f"{module}:{name}" for name in own] if own else list(gymnasium.registry)


def _checked_options(settings: EnvironmentSettings, spec: Any) -> dict[str, Any]:
    entry = spec.entry_point
    maker = entry if callable(entry) else gymnasium.envs.registration.load_env_creator(entry)
    return checked_options(maker, settings.options, f"environment {settings.id}")


class EnvironmentPool:
    """Instances of one environment, made when first needed and used again; a failed one is closed and never used
    again."""

    def __init__(self, settings: EnvironmentSettings) -> None:
        self.settings = settings
        self.deadlines = Deadlines(settings.deadline_s, settings.threads)
        self.environment = contract_of(make_environment(settings), settings.id)
        """An instance that is only asked what it declares, and never played."""
        self._idle: list[Any] = []

    def take(self) -> Any:
        """An idle instance, or a fresh one."""
        return self._idle.pop() if self._idle else self.fresh()

    def fresh(self) -> Any:
        """One that has not been played in."""
        return make_environment(self.settings)

    def give(self, environment: Any, failed: bool = False) -> None:
        """Put back; a failed one is closed on a thread of its own, since closing may hang too."""
        if failed:
            threading.Thread(target=_close_quietly, args=(environment,), daemon=True).start()
        else:
            self._idle.append(environment)

    def close(self) -> None:
        # Within the deadline, and whatever it raises: an episode is complete before its environment is closed.
        """Close all instances; failures of closing are ignored."""
        self.deadlines.run([environment.close for environment in (*self._idle, self.environment)])
        self._idle.clear()
        self.deadlines.close()

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close_quietly(environment: Any) -> None:
    try:
        environment.close()
    except BaseException:
        return  # it has failed already, and that is recorded
