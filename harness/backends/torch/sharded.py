"""The torch backend over several processes that each hold a part of the weights: FSDP2 (`torch.distributed.fsdp`, Zhao
et al. 2023, 2304.11277) around the model's own forward pass, with our chunked head.

    Shards           a rank's part of weights, gradients and optimiser states; it trains
    ShardedBackend   rank 0 as a run holds it: the whole weights, which sample and score, and its part of the shards

Layers are gathered one after the other as a pass comes to them; embeddings and head for the whole of it. A pass reads
hidden states and head within one module's forward (`_Whole`), because FSDP gathers weights in modules' hooks and
nowhere else; our own forward pass, which reads weights beside their modules, would find parts. Every rank takes as many
micro-batches, those without rows an empty one: gathering is done by all or by none.

FSDP averages gradients over ranks; a batch carries the counts of its whole step, so parts are to be added up: before a
step gradients are multiplied by the number of ranks. What is saved is the torch backend's: whole weights and states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from harness.backends.torch.backend import TRAINER_STATE, TorchBackend
from harness.backends.torch.generic import WholeForward
from harness.backends.torch.heads import Reading
from harness.backends.torch.models import load_model
from harness.backends.torch.optimiser import Optimiser
from harness.backends.torch.processes import Group
from harness.backends.torch.ranks import Options, RanksBackend, joined, on_device, own_rows
from harness.backends.torch.recompute import layers_of, recompute_layers_of
from harness.backends.torch.rows import Rows
from harness.core.errors import UserError
from harness.losses import Batch, LossSpec
from harness.protocols.backend import BackendSettings, Snapshot, Start, check_snapshot


class _Whole(torch.nn.Module):
    """A model within which anything may be computed while its weights are there."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, run: Callable[[], list[Tensor]]) -> list[Tensor]:
        """What `run` gives, none of it a view of something else: FSDP hooks onto it."""
        return [tensor.clone() for tensor in run()]


class Shards(TorchBackend):
    """One rank's part of a policy; it is trained, and neither samples nor scores."""

    _group: Group
    _mesh: DeviceMesh
    _root: Any
    _optimiser: Any
    options: Options
    shown: Sequence[Tensor] = ()
    """Where the whole weights go after every update: rank 0's."""

    @classmethod
    def of_ranks(cls, start: Start, settings: BackendSettings, options: Options, local_rank: int = 0) -> Shards:
        """The policy of a start on this rank of its machine, whole until it joins the others. Under bfloat16 the parts
        are float32, and rounded when they are gathered."""
        here = on_device(settings, local_rank, options.processes)
        wide = replace(here, optimiser=None, dtype="float32" if here.dtype == "bfloat16" else here.dtype)
        made = cls.from_start(start, wide, options.chunk_mib)
        assert isinstance(made, Shards)
        made.settings, made.dtype, made.options = settings.optimiser, here.dtype, options
        return made

    def join(self, store: Any, rank: int, size: int) -> None:
        """Keep a part of the weights; the other ranks that meet in this store keep theirs."""
        made: Any = dist
        options, patience = self.options, timedelta(seconds=self.options.patience_s)
        self._group = Group(store, rank, size, options.patience_s)
        if dist.is_initialized():
            raise UserError("this process trains shards already: close that backend first")
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        meeting = made.PrefixStore("shards", store)
        dist.init_process_group(backend, store=meeting, rank=rank, world_size=size, timeout=patience)
        self._mesh = init_device_mesh(self.device.type, (size,))
        self._forward = WholeForward(self.model)  # which tries the model out while it is whole
        layers = layers_of(self.model)
        if options.recompute_layers:
            recompute_layers_of(self.model)
        narrow = self.dtype == "bfloat16"
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if narrow else MixedPrecisionPolicy()
        self._root = _Whole(self.model)
        for module in (*layers, self._root):
            fully_shard(module, mesh=self._mesh, mp_policy=policy)
        assert self.settings is not None
        self._optimiser = Adding(Optimiser(self.model, self.settings, self.steps), size)

    def leave(self) -> None:
        """Let go of the other ranks."""
        with suppress(Exception):  # of which some may be gone
            dist.destroy_process_group()

    def obey(self, command: str, *given: Any) -> Any:
        """This rank's part of what all do."""
        if command == "load":
            return self.load(*given)
        if command == "update":
            metrics = self.step(*given)
            self._show()
            return metrics
        return self.whole() if command == "whole" else self.whole_state()

    def step(self, batch: Batch, loss: LossSpec) -> dict[str, float]:
        """This rank's part of an update that all ranks are at; the whole step's metrics."""
        part = self.update(own_rows(batch, self._group), loss)
        return joined(self._group.gathered(part))

    def differentiable(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None, Batch]]:
        """See `TorchBackend.differentiable`; then empty passes, until every rank has gone through as many."""
        rows = [row[:length] for row, length in zip(batch.tokens.numpy(), batch.lengths.tolist(), strict=True)]
        own = sum(1 for _ in self._parts(rows, batch.prompts.tolist(), self._forward))
        most = max(self._group.gathered(own))
        yield from super().differentiable(batch)
        nothing = torch.zeros((1, 1), dtype=torch.int64, device=self.device)
        for _ in range(own, most):
            (out,) = self._root(lambda: [self._forward.unembed(self._forward.score(nothing)[0])])
            (out.sum() * 0).backward()

    def _read(self, part: Rows, places: tuple[Tensor, Tensor], reading: Reading, *given: Tensor) -> list[Tensor]:
        read = super()._read
        return self._root(lambda: read(part, places, reading, *given))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _show(self) -> None:
        for parameter, whole in zip_longest(self._parameters(), self.shown):
            gathered = parameter.full_tensor()
            if whole is not None:
                whole.detach().copy_(gathered)

    def _parameters(self) -> list[DTensor]:
        return list(self.model.parameters())

    def whole(self) -> list[Tensor]:
        """The whole weights on rank 0, as training has them; nothing on the others."""
        return [kept for parameter in self._parameters() if (kept := self._gathered(parameter.detach())) is not None]

    def _gathered(self, part: Any) -> Any:
        """A tensor of which every rank holds a part, whole on rank 0's CPU; anything else as it is."""
        if not isinstance(part, DTensor):
            return part
        full = part.full_tensor()
        return full.cpu() if self._group.rank == 0 else None

    def whole_state(self) -> dict[str, Any]:
        """On rank 0, the state of an optimiser of one process (`harness.backends.torch.optimiser`)."""
        state = self._optimiser.state()
        adam = state["adam"]["state"]
        gathered = {n: {key: self._gathered(value) for key, value in of.items()} for n, of in adam.items()}
        masters = self.whole() if self.dtype == "bfloat16" else []
        whole: dict[str, Any] = state | {"adam": state["adam"] | {"state": gathered}, "masters": masters}
        return whole

    @torch.no_grad()
    def load(self, path: Path | str) -> None:
        """This rank's part of a saved directory."""
        wide = "float32" if self.dtype == "bfloat16" else self.dtype
        saved: Sequence[Tensor] = list(load_model(path, wide, torch.device("cpu"))[0].parameters())
        file, state = Path(path) / TRAINER_STATE, None
        if file.is_file():
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            saved = state["masters"] or saved
        for parameter, whole in zip(self._parameters(), saved, strict=True):
            parameter.copy_(self._part(whole, parameter))
        if state is not None:
            adam = state["adam"]["state"]
            cut = {n: self._cut(of, self._parameters()[n]) for n, of in adam.items()}
            self._optimiser.restore(state | {"adam": state["adam"] | {"state": cut}, "masters": []})

    def _cut(self, states: Mapping[str, Any], like: DTensor) -> dict[str, Any]:
        return {key: self._part(value, like) if value.ndim else value for key, value in states.items()}

    def _part(self, whole: Tensor, like: DTensor) -> DTensor:
        there = whole.to(self.device, like.dtype)
        return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


class Adding:
    """An optimiser whose gradients are added up over ranks where FSDP has averaged them; anything else is its own."""

    def __init__(self, inner: Optimiser, size: int) -> None:
        self._inner, self._size = inner, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self) -> dict[str, float]:
        """See `harness.backends.torch.optimiser.Optimiser.step`: the same on every rank."""
        for parameter in self._inner.masters:
            if parameter.grad is not None:
                parameter.grad.mul_(self._size)
        return self._inner.step()


class ShardedBackend(RanksBackend):
    """A `TorchBackend` that is trained in parts (see the module's docstring)."""

    _shards: Shards | None = None

    @classmethod
    def of_ranks(cls, start: Start, settings: BackendSettings, options: Options, local_rank: int = 0) -> ShardedBackend:
        """See `RanksBackend.of_ranks`."""
        made = super().of_ranks(start, replace(settings, optimiser=None), options, local_rank)
        assert isinstance(made, ShardedBackend)
        made.settings, made.begin = settings.optimiser, (start, settings, options)
        return made

    def update(self, batch: Batch, loss: LossSpec, per_term: bool = False) -> dict[str, float]:
        """See `harness.protocols.backend.Trainer.update`; the whole weights follow at once."""
        self.release()
        metrics = super().update(batch, loss)
        self.version += 1
        return metrics

    def obey(self, command: str, *given: Any) -> Any:
        """Rank 0's part of what all do."""
        assert self._shards is not None
        return self._shards.obey(command, *given)

    def track(self, name: Snapshot, decay: float = 0.0) -> None:
        """See `harness.protocols.backend.Trainer.track`."""
        if self.dtype != "bfloat16":
            return super().track(name, decay)
        check_snapshot(name, decay)
        self._snapshots[name].follow([whole.to(self.device) for whole in self._asked("whole")], decay)

    def save(self, path: Path | str) -> None:
        """See `harness.protocols.backend.Trainer.save`."""
        super().save(path)
        torch.save(self._asked("state"), Path(path) / TRAINER_STATE)

    def _asked(self, command: str) -> Any:
        self._started()
        return self.together(command)

    def load(self, path: Path | str) -> None:
        """See `harness.protocols.backend.Trainer.load`; all ranks load."""
        super().load(path)
        if self._shards is not None:
            self._shards.load(path)

    def join(self, store: Any, rank: int, size: int) -> None:
        """Train in parts with the ranks that meet in this store."""
        self._shards = Shards.of_ranks(*self.begin)
        self._shards.join(store, rank, size)
        self._shards.shown = list(self.model.parameters())
        if self._loaded is not None:
            self._shards.load(self._loaded)

    def leave(self) -> None:
        """Let go of the other ranks."""
        super().leave()
        if self._shards is not None:
            self._shards.leave()
        self._shards = None
