"""The torch backend over several processes of one machine: data parallelism with our own forward pass.

Rank 0 is the backend that a run holds: it plays, scores and writes. An update goes to all ranks; each computes the
gradient of its part of the rows, the parts are added up, and every rank takes the same step. Rows of one prompt stay
on one rank, so that the prompt is computed once; parts are dealt by tokens. A batch carries the counts of its whole
step, so that what is added up is the whole batch's gradient (no mean over ranks), whatever the parts' sizes.

Torch's `DistributedDataParallel` does the same sum from within a module's forward pass, which ours, that reads weights
beside it, does not go through.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.backends.torch.backend import TorchBackend
from harness.backends.torch.heads import CHUNK_MIB
from harness.backends.torch.lora import Lora
from harness.backends.torch.models import gpus
from harness.backends.torch.optimiser import Optimiser
from harness.backends.torch.processes import Followers, Group, ready
from harness.core.errors import HarnessError, UserError
from harness.losses import Batch, LossSpec
from harness.losses.streams import declared
from harness.protocols.backend import BackendSettings, Start
from harness.protocols.capabilities import EVERYTHING, Capability

LARGEST = "largest"
"""Metrics with this in their name are maxima; those of `loss` and `ratio` are sums over rows."""


class RanksBackend(TorchBackend):
    """A `TorchBackend` whose updates are computed by several processes (see the module's docstring).

    processes: how many, this one among them; the others are started with the first update. On GPUs each has one of its
    own. The result is that of one process up to the order in which gradients are added up.
    """

    without_effect: ClassVar[frozenset[str]] = frozenset({"processes"})
    _optimiser: Any
    _begin: tuple[Any, ...] = ()
    _followers: Followers | None = None
    _group: Group | None = None
    _loaded: Path | str | None = None
    _moved: bool = False
    """Whether the weights are others than those of the start or of the loaded checkpoint."""
    processes: int = 1

    @classmethod
    def from_start(
        cls,
        start: Start,
        settings: BackendSettings,
        chunk_mib: float = CHUNK_MIB,
        recompute_layers: bool = False,
        states_8bit: bool = False,
        lora: Lora | None = None,
        processes: int = 2,
    ) -> RanksBackend:
        """The policy of a start; see `harness.protocols.backend.Backend.from_start`. UserError for fewer than one
        process, and for fewer GPUs than processes where GPUs are used."""
        if processes < 1:
            raise UserError(f"processes must be at least 1, got {processes}")
        shared = (chunk_mib, recompute_layers, states_8bit, lora)
        made = super().from_start(start, _on_device(settings, 0, processes), *shared)
        assert isinstance(made, RanksBackend)
        made.processes, made._begin = processes, (start, settings, *shared)
        return made

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        """Everything but the gradient norms of single terms: each would have to be added up over the ranks too."""
        return EVERYTHING - {Capability.TERM_GRADIENTS}

    def update(self, batch: Batch, loss: LossSpec, per_term: bool = False) -> dict[str, float]:
        """See `harness.protocols.backend.Trainer.update`. HarnessError, with its words, where a process has ended."""
        if self._optimiser is None or self.processes == 1:
            return super().update(batch, loss)
        followers = self._started()
        self._moved = True
        try:
            followers.tell("update", batch, loss)
            return self.step(batch, loss)
        except BaseException as error:
            lost = isinstance(error, RuntimeError) and not isinstance(error, HarnessError)
            failed = followers.failure(error) if lost else None
            followers.kill()
            self._followers = self._group = None
            if failed is not None:
                raise failed from error
            raise

    def step(self, batch: Batch, loss: LossSpec) -> dict[str, float]:
        """This rank's part of an update that all ranks are at; the whole step's metrics."""
        assert self._group is not None
        own = deal(batch, self._group.size)[self._group.rank]
        part = super().update(batch.rows(torch.tensor(own, dtype=torch.int64)), loss)
        return _together(self._group.gathered(part))

    def load(self, path: Path | str) -> None:
        """See `harness.protocols.backend.Trainer.load`; all ranks load."""
        super().load(path)
        self._loaded, self._moved = path, False
        if self._followers is not None:
            self._followers.tell("load", path)

    def close(self) -> None:
        """End the other processes."""
        super().close()
        if self._followers is not None:
            self._followers.end()
        self._followers = self._group = None

    def join(self, group: Group) -> None:
        """Add up gradients with this group from now on."""
        self._group = group
        inner = self._optimiser._inner if isinstance(self._optimiser, Summing) else self._optimiser
        self._optimiser = Summing(inner, group)

    def _started(self) -> Followers:
        if self._followers is not None:
            return self._followers
        if self._moved:
            raise HarnessError("the processes that train with this one are gone: load a checkpoint to go on")
        followers = Followers(__name__, self.processes)
        try:
            start, settings, *shared = self._begin
            for rank in range(1, self.processes):
                here = _on_device(settings, rank, self.processes)
                followers.tell_one(rank, followers.meeting, rank, self.processes, start, here, shared)
            if self._loaded is not None:
                followers.tell("load", self._loaded)
            followers.assemble()
            self.join(Group(followers.meeting, 0, self.processes))
        except BaseException:
            followers.kill()
            raise
        self._followers = followers
        return followers


class Summing:
    """An optimiser that adds up the ranks' gradients before its step; anything else is the optimiser's own."""

    def __init__(self, inner: Optimiser, group: Group) -> None:
        self._inner, self._group = inner, group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self) -> dict[str, float]:
        """See `harness.backends.torch.optimiser.Optimiser.step`: the same on every rank."""
        self._group.sum_gradients(self._inner.masters)
        return self._inner.step()


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


def _together(parts: Sequence[dict[str, float]]) -> dict[str, float]:
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


def _on_device(settings: BackendSettings, rank: int, processes: int) -> BackendSettings:
    if settings.device not in ("auto", "cuda") or not gpus():
        return settings
    if gpus() < processes:
        raise UserError(f"processes is {processes}, but torch sees {gpus()} GPU(s): one each, or model.device = 'cpu'")
    return replace(settings, device=f"cuda:{rank}")


def _follow() -> None:
    """A rank above 0: steps with the others until its pipe ends."""
    meeting, rank, size, start, settings, shared = pickle.load(sys.stdin.buffer)
    backend = RanksBackend.from_start(start, settings, *shared)
    ready(meeting, rank).touch()
    backend.join(Group(meeting, rank, size))
    while True:
        try:
            command, *given = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if command == "load":
            backend.load(*given)
            continue
        batch, loss = given
        unknown = batch.streams.keys() - {stream.name for stream in declared()}
        if unknown:  # it would be left out of the loss here without a word
            raise UserError(f"the stream {min(unknown)!r} is declared in rank 0's process, and not in the others'")
        backend.step(batch, loss)


if __name__ == "__main__":
    _follow()
