"""Processes of one machine that train together: commands from the first to the others, sums over all.

The first process, of rank 0, starts the others and tells each over a pipe what to do; their gradients meet in gloo
(Gloo's ring all-reduce, through `torch.distributed`). A pipe that ends ends its process: nobody outlives rank 0.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from harness.core.errors import HarnessError

PATIENCE_S = 30
"""Seconds that a process is given to end by itself."""
LOOK_EVERY_S = 0.05
LONGEST_STEP = timedelta(hours=12)
"""How long one process waits for the others' gradients. Between two steps nobody waits here: commands come by pipe."""


class Group:
    """The sums of one rank with all others. meeting: a path, the same for all, where nothing stands yet."""

    def __init__(self, meeting: Path, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        # Not the process-wide default group: one process may hold several backends, or be part of another group.
        gloo: Any = dist  # whose group and store torch's own types leave out
        self._gloo = gloo.ProcessGroupGloo(gloo.FileStore(str(meeting), size), rank, size, LONGEST_STEP)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Put the sum over all ranks into every parameter's `grad`; None where no rank has one."""
        there = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        self._gloo.allreduce(there).wait()
        for parameter, ranks in zip(parameters, there.tolist(), strict=True):
            if not ranks:
                continue
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            held = own.cpu().contiguous()
            self._gloo.allreduce(held).wait()
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


class Followers:
    """Processes of ranks 1 to size - 1, as rank 0 sees them. Each runs `module` and reads commands from its input."""

    def __init__(self, module: str, size: int) -> None:
        self.size = size
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        self.meeting = self._folder / "meeting"
        # The same code and plugs as here, whatever put them on this process's path.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.end = weakref.finalize(self, _end, self._processes, self._folder)
        """Ends them all; called twice, it does nothing the second time. They end with this object too."""
        for rank in range(1, size):
            with self._output_of(rank).open("wb") as output:
                command = [sys.executable, "-m", module]
                self._processes.append(
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
        """One command to all. HarnessError where one of them has ended."""
        for rank in range(1, self.size):
            self.tell_one(rank, *command)

    def tell_one(self, rank: int, *command: Any) -> None:
        """One command to one of them."""
        pipe = self._processes[rank - 1].stdin
        assert pipe is not None
        try:
            pickle.dump(command, pipe)
            pipe.flush()
        except OSError as error:
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> HarnessError:
        """An error of rank 0 in words: that of the process which ended before it, where one has."""
        for rank, process in enumerate(self._processes, start=1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            if process.poll() is not None:
                last = self._output_of(rank).read_text(errors="replace").strip().splitlines()[-1:] or ["without a word"]
                return HarnessError(f"process {rank} of {self.size} ended (exit {process.returncode}): {last[0]}")
        return HarnessError(f"the processes lost each other: {error}")

    def assemble(self) -> None:
        """Wait until all are about to enter the group. HarnessError where one has ended before."""
        waiting = set(range(1, self.size))
        while waiting:
            waiting = {rank for rank in waiting if not ready(self.meeting, rank).exists()}
            if any(process.poll() is not None for process in self._processes):
                raise self.failure(HarnessError("one of them did not start"))
            time.sleep(LOOK_EVERY_S)

    def kill(self) -> None:
        """End them at once: rank 0 has left a step half done, and they wait for it."""
        for process in self._processes:
            process.kill()
        self.end()


def ready(meeting: Path, rank: int) -> Path:
    """The file by which a rank says that it is about to enter the group."""
    return meeting.with_name(f"ready-{rank}")


def _end(processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    for process in processes:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
    for process in processes:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)
