"""The policies that the methods of a table start from: one for every seed, which all methods of that seed share; made
once and cached by content.

A spec with [warm_start] has a start of its own for every seed: demonstrations, first weights and batches are drawn from
it, so that an interval over seeds speaks of another start as well. A ready-made model is the one start of all seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.errors import DamagedRecordError, UserError
from harness.core.fingerprint import fingerprint
from harness.core.locks import locked
from harness.core.records import read_json
from harness.core.sources import revision
from harness.core.sums import SUMS, require_whole
from harness.experiment import Experiment, WarmStartSettings
from harness.learning.benefit import known_measurement, measure
from harness.learning.demonstrations import Replays
from harness.learning.fitting import make_weights
from harness.learning.policy_hash import checkpoint_hash
from harness.protocols.backend import Start, deciding
from harness.rollout.environments import EnvironmentPool, environment_module

Progress = Callable[[str, int, int], None]
Starts = Mapping[int, Start]
"""The start of every seed."""
WHOLE = "start.json"
"""The file of a start that says what it was made from; a directory without it is half-made."""


def start_of(experiment: Experiment, cache: Path, progress: Progress | None = None, seed: int = 0) -> Start:
    """The starting policy of a seed, and what was measured on it; made when it is not in the cache. Another process
    that is making the same one is waited for."""
    with _starts(experiment, cache) as starts:
        return starts.make(seed, progress or (lambda what, done, total: None))


def starts_at_hand(experiment: Experiment, cache: Path, seeds: Sequence[int]) -> dict[int, Start]:
    """The starts of those seeds whose starts have been made and measured."""
    with _starts(experiment, cache) as starts:
        found = {seed: starts.at_hand(seed) for seed in seeds}
    return {seed: start for seed, start in found.items() if start is not None}


def start_seeds(experiment: Experiment) -> tuple[int, ...]:
    """The seeds under which starts are made: those of the experiment, or one for all where the start is a ready-made
    model."""
    return experiment.seeds if experiment.warm_start else (0,)


def for_every_seed(experiment: Experiment, made: Starts) -> dict[int, Start]:
    """The start of every seed of an experiment, from the starts of its `start_seeds`."""
    return {seed: made[seed if experiment.warm_start else 0] for seed in experiment.seeds}


@contextmanager
def _starts(experiment: Experiment, cache: Path) -> Iterator[_Starts]:
    # Importing torch takes seconds; a tiny policy has no directory to look up.
    base = None
    if experiment.model.name != "tiny":
        from harness.backends.torch.models import base_directory

        base = base_directory(experiment.model, cache)
    elif experiment.warm_start is None:
        raise UserError("model 'tiny' has no weights of its own: the experiment needs a [warm_start] section")
    with EnvironmentPool(experiment.environment) as pool:
        yield _Starts(experiment, cache, base, Replays(experiment.environment, pool, cache))


@dataclass
class _Starts:
    """The starts of an experiment in the cache."""

    experiment: Experiment
    cache: Path
    base: Path | None
    """The ready-made model; None for the tiny one."""
    replays: Replays

    def at_hand(self, seed: int) -> Start | None:
        """A seed's start; None where it has still to be made or measured."""
        settings = self.experiment.warm_start
        if settings is not None and not (self._directory(settings, seed) / WHOLE).is_file():
            return None
        start = self._unmeasured(seed)
        found = known_measurement(self.experiment, start, self.replays, self.cache, seed if settings else 0)
        return None if found is None else replace(start, measured=found)

    def make(self, seed: int, progress: Progress) -> Start:
        """A seed's start, whatever that takes."""
        settings = self.experiment.warm_start
        name = f"start-{self._directory(settings, seed).name if settings else fingerprint(str(self.base))[:16]}"
        with locked(self.cache / "locks" / f"{name}.lock"):
            if (known := self.at_hand(seed)) is not None:
                return known
            if settings is not None:
                directory = self._directory(settings, seed)
                if not (directory / WHOLE).is_file():
                    facts = {"origin": self._origin(settings), "seed": seed}
                    make_weights(
                        self.experiment, settings, self.replays, self.base, directory, seed, progress, {WHOLE: facts}
                    )
            start = self._unmeasured(seed)
            found = measure(self.experiment, start, self.replays, self.cache, seed if settings else 0, progress)
            return replace(start, measured=found)

    def _unmeasured(self, seed: int) -> Start:
        settings = self.experiment.warm_start
        if settings is not None:
            directory = self._directory(settings, seed)
            self._check(directory, settings, seed)
            return Start(directory, checkpoint_hash(directory), {}, self._origin(settings))
        assert self.base is not None
        content = checkpoint_hash(self.base)
        return Start(self.base, content, {}, content)

    def _check(self, directory: Path, settings: WarmStartSettings, seed: int) -> None:
        """DamagedRecordError where a start in the cache is not the one that was made for this experiment and seed."""
        remedy = f"remove {directory} and call again: the start is made anew"
        if not (directory / SUMS).is_file():
            raise DamagedRecordError(f"{directory} has no {SUMS}, so nothing says that it is whole; {remedy}")
        require_whole(directory, remedy)
        made = read_json(directory / WHOLE)
        if made != {"origin": self._origin(settings), "seed": seed}:
            raise DamagedRecordError(f"{directory} holds another start than its name says; {remedy}")

    def _directory(self, settings: WarmStartSettings, seed: int) -> Path:
        return self.cache / "warm-starts" / f"{self._origin(settings)[:16]}-seed{seed}"

    def _origin(self, settings: WarmStartSettings) -> str:
        """Everything that decides the starts of an experiment but the seed."""
        e, pool = self.experiment, self.replays.pool
        return fingerprint(
            {
                "environment": [e.environment.id, e.environment.options, pool.environment.version],
                "split": e.environment.train_split,
                "model": e.model.model_dump(exclude={"device", "name"} if self.base else {"device"}),
                "base": checkpoint_hash(self.base) if self.base else None,
                "warm_start": settings.model_dump(),
                "backend": deciding(e.backend).model_dump(),
                "micro_tokens": e.optimiser.micro_tokens,
                "max_new_tokens": e.sampling.max_new_tokens,
                "code": revision(
                    "harness.learning.fitting",
                    e.backend.module,
                    environment_module(pool),
                    *(named.module for named in settings.contexts),
                ),
            }
        )
