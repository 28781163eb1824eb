"""Processes that torchrun has started, on one machine or several, as ranks of one run.

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint box1:29500 \\
        -m harness.cli bench my_experiment.toml

All are the same command. That of rank 0 is `bench`; the others do what it tells them over torchrun's own store until it
is over (`World.commands`). torchrun ends them all where one of them fails, and so does its end.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from harness.backends.torch.processes import PATIENCE_S, Crew, lost
from harness.core.errors import HarnessError

COMMANDS = "commands"
"""Key of the store: how many commands there were."""
LOOK_S = 60
"""How long one look for the next command waits."""


class World(Crew):
    """The ranks of one torchrun; on rank 0 the others (see `Crew`), on those their end of it."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        made: Any = dist
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # The store is torchrun's: processes of rank 0 come and go.
        raw = made.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=PATIENCE_S))
        self._store = made.PrefixStore(f"harness-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", raw)
        self._number = self._first = 0

    @property
    def store(self) -> Any:
        """What the ranks meet in: since every `begin` another one, told apart by the command's number."""
        made: Any = dist
        return made.PrefixStore(f"group-{self._first}", self._store)

    def tell(self, *command: Any) -> None:
        """See `Crew.tell`."""
        self._number = self._store.add(COMMANDS, 1)
        if command[0] == "begin":
            self._first = self._number
        self._store.set(_key(self._number), pickle.dumps(command))

    def forget(self) -> None:
        """See `Crew.forget`: the store need not keep them."""
        while self._store.delete_key(_key(self._number)):
            self._number -= 1

    def commands(self) -> Iterator[Any]:
        """What rank 0 says, until it says that all is over. RuntimeError where the store is gone."""
        while True:
            self._number += 1
            key = _key(self._number)
            while not self._there(key):
                pass
            command = pickle.loads(self._store.get(key))
            if command[0] == "over":
                return
            if command[0] == "begin":
                self._first = self._number
            yield command

    def _there(self, key: str) -> bool:
        try:
            self._store.wait([key], timedelta(seconds=LOOK_S))
        except dist.DistStoreError:  # not yet
            return False
        return True

    def ready(self) -> None:
        """Nobody waits for that: torchrun notices a rank that is gone."""

    def assemble(self) -> None:
        """See `Crew.assemble`. That a rank is gone is torchrun's to notice."""

    def failure(self, error: BaseException) -> HarnessError:
        """See `Crew.failure`: which rank has failed, torchrun says."""
        return lost(self.size, error)

    def end(self) -> None:
        """See `Crew.end`."""
        self.tell("end")

    def kill(self) -> None:
        """See `Crew.kill`: with its error, rank 0 ends, and torchrun ends the others."""

    def over(self) -> None:
        """The command of rank 0 has done everything."""
        self.tell("over")


def in_world() -> bool:
    """Whether this process is one of several that torchrun has started, or was started by such a one."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _key(number: int) -> str:
    return f"command-{number}"
