"""Where a command executes runs, as its options say: `--executor`, `--workers`, and what an executor takes besides."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

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
    processes: int = 0
    """That train each run together; 0 for as many as its spec says."""

    @classmethod
    def of(cls, executor: str, workers: int, address: str, slurm: str, processes: int = 0) -> Where:
        """As options on the command line say it. UserError for an executor that does not exist, or another one's
        option."""
        if executor not in EXECUTORS:
            raise UnknownNameError("executor", executor, EXECUTORS)
        options = json_object(slurm, "--slurm")
        for given, option, owner in ((address, "--ray-address", "ray"), (options, "--slurm", "slurm")):
            if given and executor != owner:
                raise UserError(f"{option} goes with --executor {owner}, this is --executor {executor}")
        if processes > 1 and executor != "local":
            raise UserError(f"--processes goes with --executor local, this is --executor {executor}")
        return cls(executor, workers, address, options, processes)

    def over(self, experiment: Experiment) -> Experiment:
        """The experiment with each run over as many processes as were asked for. UserError where its backend knows of
        none."""
        if not self.processes:
            return experiment
        from harness.protocols.backend import backend_class

        named = experiment.backend
        asked = named.model_copy(update={"options": named.options | {"processes": self.processes}})
        if "processes" not in getattr(backend_class(named)[0], "without_effect", ()):
            raise UserError(f"--processes: the backend {named.plug} has no option processes, it trains in one")
        return experiment.model_copy(update={"backend": asked})

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

        if "TORCHELASTIC_RUN_ID" in os.environ:  # its ranks train one run at a time
            return Local(1)
        return Local(self.workers or default_workers(experiment))


def default_workers(experiment: Experiment) -> int:
    """One process a GPU, or else one a core; of runs over several processes as many as have room, and on GPUs one: each
    of its processes has a GPU of its own."""
    several = int(experiment.backend.options.get("processes", 1))
    if experiment.model.device == "cpu":
        return max(1, _cores() // several)
    from harness.backends.torch.models import gpus

    return (1 if several > 1 and gpus() else gpus()) or max(1, _cores() // several)


@contextmanager
def crew(processes: int) -> Iterator[int]:
    """Lead the processes that torchrun has started, while a command lasts; how many train each run together (as given
    where there is no torchrun). Those above rank 0 do what it says, and exit. UserError where another number was asked
    for."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield processes
        return
    from harness.backends.torch.member import follow
    from harness.backends.torch.world import World

    world = World()
    if world.rank > 0:
        follow(world)
        raise typer.Exit
    if processes not in (0, world.size):
        raise UserError(f"--processes is {processes}, but torchrun has started {world.size}: leave it out")
    try:
        yield world.size
    finally:
        world.over()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
