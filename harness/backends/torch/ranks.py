"""The torch backend over several processes: data parallelism with our own forward pass (`sharded` has the other way).

Rank 0 is the backend that a run holds: it plays, scores and writes. An update goes to all ranks; each computes the
gradient of its part of the rows, the parts are added up, and every rank takes the same step. Rows of one prompt stay
on one rank, so that the prompt is computed once; parts are dealt by tokens. A batch carries the counts of its whole
step, so that what is added up is the whole batch's gradient (no mean over ranks), whatever the parts' sizes.

Torch's `DistributedDataParallel` does the same sum from within a module's forward pass, which ours, that reads weights
beside it, does not go through.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.backends.torch.backend import TorchBackend
from harness.backends.torch.lora import Lora
from harness.backends.torch.models import gpus
from harness.backends.torch.optimiser import Optimiser
from harness.backends.torch.processes import Crew, Followers, Group
from harness.backends.torch.world import World, in_world
from harness.core.errors import HarnessError, UserError
from harness.losses import Batch, LossSpec
from harness.losses.streams import declared
from harness.protocols.backend import BackendSettings, Start
from harness.protocols.capabilities import EVERYTHING, Capability

LARGEST = "largest"
"""Metrics with this in their name are maxima; those of `loss` and `ratio` are sums over rows."""


@dataclass(frozen=True)
class Options:
    """The torch backend's options, as they are sent to other processes (`TorchBackend`)."""

    chunk_mib: float
    recompute_layers: bool
    states_8bit: bool
    lora: Lora | None
    processes: int
    shard: bool
    patience_s: float

    def check(self) -> None:
        """UserError for a number that cannot be, and for what shards cannot do."""
        if self.processes < 1:
            raise UserError(f"processes must be at least 1, got {self.processes}")
        if not self.patience_s > 0:
            raise UserError(f"patience_s must be positive, got {self.patience_s:g}")
        if self.shard and (self.lora or self.states_8bit):
            other = "lora" if self.lora else "states_8bit"
            raise UserError(f"shard and {other} do not go together: leave one of them out")


class RanksBackend(TorchBackend):
    """A `TorchBackend` whose updates are computed by several processes (see the module's docstring); on a rank above 0
    that rank's part of it.

    The others are started with the first update, or by torchrun before. The result is that of one process up to the
    order in which gradients are added up.
    """

    processes: int
    begin: tuple[Start, BackendSettings, Options]
    _optimiser: Any
    _crew: Crew | None = None
    _group: Group | None = None
    _loaded: Path | str | None = None
    _moved: bool = False
    """Whether the weights are others than those of the start or of the loaded checkpoint."""

    @classmethod
    def of_ranks(cls, start: Start, settings: BackendSettings, options: Options, local_rank: int = 0) -> RanksBackend:
        """The policy of a start, as the process holds it that is this rank of its machine. UserError where a machine
        with GPUs has fewer of them than processes."""
        here = on_device(settings, local_rank, options.processes)
        shared = (options.chunk_mib, options.recompute_layers, options.states_8bit, options.lora)
        made = cls.from_start(start, here, *shared)
        assert isinstance(made, RanksBackend)
        made.processes, made.begin = options.processes, (start, settings, options)
        return made

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        """Everything but the gradient norms of single terms: each would have to be added up over the ranks too."""
        return EVERYTHING - {Capability.TERM_GRADIENTS}

    def update(self, batch: Batch, loss: LossSpec, per_term: bool = False) -> dict[str, float]:
        """See `harness.protocols.backend.Trainer.update`. HarnessError, with its words, where a process has ended."""
        self._started()
        self._moved = True
        metrics: dict[str, float] = self.together("update", batch, loss)
        return metrics

    def together(self, command: str, *given: Any) -> Any:
        """Something that all ranks do at once. A failure on any of them ends the others."""
        crew = self._started()
        try:
            crew.tell(command, *given)
            done = self.obey(command, *given)
            crew.forget()
            return done
        except BaseException as error:
            lost = isinstance(error, RuntimeError) and not isinstance(error, HarnessError)
            failed = crew.failure(error) if lost else None
            crew.kill()
            self.leave()
            if failed is not None:
                raise failed from error
            raise

    def obey(self, command: str, *given: Any) -> Any:
        """This rank's part of what all do."""
        if command == "load":
            return super().load(*given)
        return self.step(*given)

    def step(self, batch: Batch, loss: LossSpec) -> dict[str, float]:
        """This rank's part of an update that all ranks are at; the whole step's metrics."""
        assert self._group is not None
        part = super().update(own_rows(batch, self._group), loss)
        return joined(self._group.gathered(part))

    def load(self, path: Path | str) -> None:
        """See `harness.protocols.backend.Trainer.load`; all ranks load."""
        super().load(path)
        self._loaded, self._moved = path, False
        if self._crew is not None:
            self._crew.tell("load", path)

    def close(self) -> None:
        """End the other processes."""
        super().close()
        if self._crew is not None:
            self._crew.end()
        self.leave()

    def join(self, store: Any, rank: int, size: int) -> None:
        """Add up gradients with the ranks that meet in this store, from now on."""
        _, _, options = self.begin
        self._group = Group(store, rank, size, options.patience_s, self.device)
        inner = self._optimiser.inner if isinstance(self._optimiser, Summing) else self._optimiser
        self._optimiser = Summing(inner, self._group)

    def leave(self) -> None:
        """Let go of the other ranks."""
        self._crew = self._group = None

    def _started(self) -> Crew:
        if self._crew is not None:
            return self._crew
        if self._moved:
            raise HarnessError("the processes that train with this one are gone: load a checkpoint to go on")
        start, settings, options = self.begin
        crew = World() if in_world() else Followers(self.processes)
        if crew.size != self.processes:
            raise UserError(f"processes is {self.processes}, but torchrun has started {crew.size}")
        try:
            crew.tell("begin", start, settings, options)
            if self._loaded is not None:
                crew.tell("load", self._loaded)
            crew.assemble()
            self.join(crew.store, 0, crew.size)
        except BaseException:
            crew.kill()
            raise
        self._crew = crew
        return crew


class Summing:
    """An optimiser that adds up the ranks' gradients before its step; anything else is the optimiser's own."""

    def __init__(self, inner: Optimiser, group: Group) -> None:
        self.inner, self._group = inner, group

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def step(self) -> dict[str, float]:
        """See `harness.backends.torch.optimiser.Optimiser.step`: the same on every rank."""
        self._group.sum_gradients(self.inner.masters)
        return self.inner.step()


def several(start: Start, settings: BackendSettings, options: Options) -> TorchBackend:
    """The torch backend with these options: over several processes where it is to train in them, else in this one.
    UserError for options that cannot be."""
    options.check()
    if options.shard and options.processes == 1:
        raise UserError("shard needs several processes: processes in [backend], or harness bench --processes")
    if options.processes == 1 or settings.optimiser is None:  # who only samples and scores does it alone
        shared = (options.chunk_mib, options.recompute_layers, options.states_8bit, options.lora)
        return TorchBackend.from_start(start, settings, *shared)
    if not options.shard:
        return RanksBackend.of_ranks(start, settings, options)
    from harness.backends.torch.sharded import ShardedBackend

    return ShardedBackend.of_ranks(start, settings, options)


def part_of(start: Start, settings: BackendSettings, options: Options, local_rank: int) -> Any:
    """What a rank above 0 trains: it joins a group, obeys, and leaves."""
    if not options.shard:
        return RanksBackend.of_ranks(start, settings, options, local_rank)
    from harness.backends.torch.sharded import Shards

    return Shards.of_ranks(start, settings, options, local_rank)


def deal(batch: Batch, ranks: int) -> list[list[int]]:
    """The rows of each rank: rows of one prompt together, the most tokens first to whoever has the fewest. Every rank
    deals alike. A rank may get nothing."""
    families: dict[bytes, list[int]] = {}
    tokens: list[Tensor] = list(batch.tokens)
    for row, prompt in enumerate(batch.prompts.tolist()):
        families.setdefault(tokens[row][:prompt].numpy().tobytes(), []).append(row)
    lengths = batch.lengths.tolist()

    def size(rows: Sequence[int]) -> int:
        return sum(lengths[row] for row in rows)

    dealt: list[list[int]] = [[] for _ in range(ranks)]
    for rows in sorted(families.values(), key=size, reverse=True):
        min(dealt, key=size).extend(rows)
    return [sorted(rows) for rows in dealt]


def own_rows(batch: Batch, group: Group) -> Batch:
    """The rows of this rank. UserError for a stream of the loss that its process does not know."""
    unknown = batch.streams.keys() - {stream.name for stream in declared()}
    if unknown:  # it would be left out of the loss here without a word
        raise UserError(f"the stream {min(unknown)!r} is declared in rank 0's process, and not in the others'")
    return batch.rows(torch.tensor(deal(batch, group.size)[group.rank], dtype=torch.int64))


def joined(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The step's metrics from those of the ranks: losses and shares add up, the largest is the largest of all, and
    what the optimiser says is the same everywhere."""
    whole: dict[str, float] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part[name] for part in parts if name in part]
        if LARGEST in name:
            whole[name] = max(values)
        else:
            whole[name] = sum(values) if name.startswith(("loss/", "ratio/")) else values[0]
    return whole


def on_device(settings: BackendSettings, local_rank: int, processes: int) -> BackendSettings:
    """The same settings with the GPU of this rank of its machine, where GPUs are used. UserError for fewer GPUs than
    the processes that this machine has."""
    if settings.device not in ("auto", "cuda") or not gpus():
        return settings
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes)) if in_world() else processes
    if gpus() < here:
        raise UserError(f"{here} processes, but torch sees {gpus()} GPU(s): one each, or model.device = 'cpu'")
    return replace(settings, device=f"cuda:{local_rank}")
