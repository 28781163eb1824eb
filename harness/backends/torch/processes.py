"""Processes that train together: commands from the first to the others, and sums over all.

The first process, of rank 0, tells each other one what to do (`Crew`); their gradients meet in gloo or, on GPUs, in
NCCL (`Group`, through `torch.distributed`). Here the others are started by rank 0 on its own machine and hear it over a
pipe: a pipe that ends ends its process, whatever that is doing, so nobody outlives rank 0. Those that torchrun has
started, on any number of machines: `harness.backends.torch.world`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from harness.core.errors import HarnessError

MEMBER = "harness.backends.torch.member"
"""The module that a process of rank 1 and above runs."""
PATIENCE_S = 1800.0
"""How long one process waits for another within a step: gloo's own default. Between two steps nobody waits so: commands
come by another way."""
START_S = 1800
"""Seconds that a process is given to start and read its model."""
END_S = 30
"""Seconds that a process is given to end by itself."""
LOOK_EVERY_S = 0.05


class Group:
    """The sums of one rank with all others."""

    def __init__(
        self, store: Any, rank: int, size: int, patience_s: float = PATIENCE_S, device: torch.device | None = None
    ) -> None:
        """store: what the ranks meet in (`torch.distributed.Store`), the same for all and used for nothing else.
        device: where the summed tensors are; None for the CPU."""
        self.rank, self.size = rank, size
        patience = timedelta(seconds=patience_s)
        # Not the process-wide default group: one process may hold several backends, or be part of another group.
        made: Any = dist  # whose groups and stores torch's own types leave out
        self._gloo = made.ProcessGroupGloo(made.PrefixStore("gloo", store), rank, size, patience)
        self._nccl: Any = None
        if device is not None and device.type == "cuda" and dist.is_nccl_available():
            self._nccl = made.ProcessGroupNCCL(made.PrefixStore("nccl", store), rank, size, patience)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Put the sum over all ranks into every parameter's `grad`; None where no rank has one."""
        there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        self._gloo.allreduce(there).wait()
        for parameter, ranks in zip(parameters, there.tolist(), strict=True):
            if not ranks:
                continue
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            held = own.contiguous() if self._nccl else own.cpu().contiguous()
            (self._nccl or self._gloo).allreduce(held).wait()
            parameter.grad = held.to(parameter.device)

    def gathered(self, item: Any) -> list[Any]:
        """What every rank gave, by rank, on every rank."""
        own = torch.frombuffer(bytearray(pickle.dumps(item)), dtype=torch.uint8)
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(own)
        self._gloo.allreduce(sizes).wait()
        every = torch.zeros((self.size, int(sizes.max())), dtype=torch.uint8)
        every[self.rank, : len(own)] = own
        self._gloo.allreduce(every).wait()  # the others' rows are 0: the sum is what each gave
        return [pickle.loads(row[:n].numpy().tobytes()) for row, n in zip(every, sizes.tolist(), strict=True)]


@runtime_checkable
class Crew(Protocol):
    """The other ranks, as rank 0 sees them."""

    size: int
    """Ranks, rank 0 among them."""
    store: Any
    """What the ranks meet in."""

    @abstractmethod
    def tell(self, *command: Any) -> None:
        """One command to all. HarnessError where one of them has ended."""
        ...

    @abstractmethod
    def assemble(self) -> None:
        """Wait until all have made what they train and are about to enter the group. HarnessError where one has ended
        before."""
        ...

    @abstractmethod
    def forget(self) -> None:
        """All have done what they were told, and met there."""
        ...

    @abstractmethod
    def failure(self, error: BaseException) -> HarnessError:
        """An error of rank 0 in words: that of the process which ended before it, where one has."""
        ...

    @abstractmethod
    def end(self) -> None:
        """Nothing more is to be done; called twice, it does nothing the second time."""
        ...

    @abstractmethod
    def kill(self) -> None:
        """Rank 0 has left a step half done, and the others wait for it: end them at once."""
        ...


class Followers(Crew):
    """Processes of this machine that rank 0 has started; see `Crew`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        self.store = _store(self._folder, size)
        # The same code and plugs as here, whatever put them on this process's path.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        self.processes: list[subprocess.Popen[bytes]] = []
        self._end = weakref.finalize(self, _end, self.processes, self._folder)  # they end with this object too
        for rank in range(1, size):
            with self._output_of(rank).open("wb") as output:
                command = [sys.executable, "-m", MEMBER, str(self._folder), str(rank), str(size)]
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=output,
                        env=environment,
                        start_new_session=True,  # Ctrl-C is rank 0's to answer: it finishes its step
                    )
                )

    def _output_of(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.txt"

    def tell(self, *command: Any) -> None:
        """See `Crew.tell`."""
        pickled = pickle.dumps(command)
        for process in self.processes:
            assert process.stdin is not None
            try:
                process.stdin.write(pickled)
                process.stdin.flush()
            except OSError as error:
                raise self.failure(error) from error

    def failure(self, error: BaseException) -> HarnessError:
        """See `Crew.failure`."""
        latest = time.monotonic() + 1  # a process whose end was noticed may not have ended quite yet
        while time.monotonic() < latest and all(process.poll() is None for process in self.processes):
            time.sleep(LOOK_EVERY_S)
        for rank, process in enumerate(self.processes, start=1):
            if process.poll() is not None:
                last = self._output_of(rank).read_text(errors="replace").strip().splitlines()[-1:] or ["without a word"]
                return HarnessError(f"process {rank} of {self.size} ended (exit {process.returncode}): {last[0]}")
        return lost(self.size, error)

    def assemble(self) -> None:
        """See `Crew.assemble`; HarnessError too where that takes too long."""
        waiting, latest = set(range(1, self.size)), time.monotonic() + START_S
        while waiting:
            waiting = {rank for rank in waiting if not _ready(self._folder, rank).exists()}
            if any(process.poll() is not None for process in self.processes):
                raise self.failure(HarnessError("one of them did not start"))
            if time.monotonic() > latest:
                raise lost(self.size, HarnessError(f"process {min(waiting)} was not ready in {START_S} s"))
            time.sleep(LOOK_EVERY_S)

    def forget(self) -> None:
        """See `Crew.forget`: a pipe keeps nothing."""

    def end(self) -> None:
        """See `Crew.end`."""
        self._end()

    def kill(self) -> None:
        """See `Crew.kill`."""
        for process in self.processes:
            process.kill()
        self._end()


def lost(size: int, error: BaseException) -> HarnessError:
    """Ranks that no longer hear each other, though none is known to have ended."""
    words = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return HarnessError(f"the {size} processes lost each other: {words[0]}")


class Following:
    """A started process's end of the pipe."""

    def __init__(self, folder: Path, rank: int, size: int) -> None:
        self.rank, self.size, self.local_rank = rank, size, rank
        self.store = _store(folder, size)
        self._folder = folder
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                self._heard.put(pickle.load(sys.stdin.buffer))
            except EOFError:  # rank 0 has closed its end, or is gone: whatever is going on here, nobody waits for it
                os._exit(0)
            except BaseException as error:
                self._heard.put(("fail", error))
                return

    def commands(self) -> Iterator[Any]:
        """What rank 0 says, until it says no more."""
        while True:
            command = self._heard.get()
            if command[0] == "fail":
                raise command[1]
            yield command

    def ready(self) -> None:
        """Say that this rank is about to enter the group."""
        _ready(self._folder, self.rank).touch()


def _store(folder: Path, size: int) -> Any:
    made: Any = dist
    return made.FileStore(str(folder / "meeting"), size)


def _ready(folder: Path, rank: int) -> Path:
    return folder / f"ready-{rank}"


def _end(processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    for process in processes:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
    for process in processes:
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)
