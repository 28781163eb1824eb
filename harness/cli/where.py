"""Where a command executes runs, as its options say: `--executor`, `--workers`, and what an executor takes besides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import json_object
from harness.core.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from harness.executors.work import Executor
    from harness.experiment import Experiment

EXECUTORS = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Where:
    """Which executor, how many runs at once, and its own options."""

    executor: str = "local"
    workers: int = 0
    """Runs at once; 0 for as many as there is room for."""
    address: str = ""
    """Of a Ray cluster."""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of submitit."""

    @classmethod
    def of(cls, executor: str, workers: int, address: str, slurm: str) -> Where:
        """As options on the command line say it. UserError for an executor that does not exist, or another one's
        option."""
        if executor not in EXECUTORS:
            raise UnknownNameError("executor", executor, EXECUTORS)
        options = json_object(slurm, "--slurm")
        for given, option, owner in ((address, "--ray-address", "ray"), (options, "--slurm", "slurm")):
            if given and executor != owner:
                raise UserError(f"{option} goes with --executor {owner}, this is --executor {executor}")
        return cls(executor, workers, address, options)

    def make(self, experiment: Experiment, runs: Path) -> Executor:
        """The executor of an experiment's runs. runs: a folder that all its machines see."""
        gpu = experiment.model.device != "cpu"
        if self.executor == "ray":
            from harness.executors.ray import Ray

            return Ray(runs, self.address, self.workers, gpu)
        if self.executor == "slurm":
            from harness.executors.slurm import Slurm

            return Slurm(runs, self.slurm, self.workers, gpu)
        from harness.executors.local import Local

        return Local(self.workers or default_workers(experiment))


def default_workers(experiment: Experiment) -> int:
    """One process a GPU, or else one a core."""
    if experiment.model.device == "cpu":
        return _cores()
    from harness.backends.torch.models import gpus

    return gpus() or _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
