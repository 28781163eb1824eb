"""A process of rank 1 or above: it makes what rank 0 says and does what rank 0 does, until there is no more to do.

    python -m harness.backends.torch.member FOLDER RANK SIZE    as rank 0 starts it (`processes.Followers`)

Commands are tuples: `begin` (a start, settings and options: make your part), `end`, and what a part obeys to.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from harness.backends.torch.processes import Following
from harness.backends.torch.ranks import Options, part_of
from harness.protocols.backend import BackendSettings, Start


@runtime_checkable
class Ear(Protocol):
    """A rank's end of what rank 0 says: a pipe, or the store of a world."""

    rank: int
    size: int
    local_rank: int

    @property
    def store(self) -> Any:
        """What the ranks meet in."""
        ...

    def commands(self) -> Iterator[Any]:
        """What rank 0 says, until it says no more."""
        ...

    def ready(self) -> None:
        """Say that this rank is about to enter the group."""
        ...


def follow(ear: Ear) -> None:
    """Do what rank 0 says. Any error ends this rank, and rank 0 notices."""
    part: Any = None
    for command, *given in ear.commands():
        if command == "begin":
            part = _begun(ear, *given)
        elif command == "end":
            if part is not None:
                part.leave()
            part = None
        else:
            part.obey(command, *given)


def _begun(ear: Ear, start: Start, settings: BackendSettings, options: Options) -> Any:
    part = part_of(start, settings, options, ear.local_rank)
    ear.ready()
    part.join(ear.store, ear.rank, ear.size)
    return part


def _main() -> NoReturn:
    status = 1
    try:
        follow(Following(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
        status = 0
    except BaseException:
        traceback.print_exc()  # its last line is what rank 0 says
    sys.stderr.flush()
    os._exit(status)  # at once: a thread is still waiting for the pipe


if __name__ == "__main__":
    _main()
