"""A work sent to another process or machine, done there as it would have been done here.

It is sent as bytes, and unpacked only once the environment is what every worker of this project has: the number of
threads decides the last bits of a sum, and torch asks for it when it is first imported. Progress comes back by files
in a folder that both sides see; so do all records, checkpoints and starts, so executors need a file system that all
their machines share.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError, UnknownNameError, UserError

Report = Callable[[str, int, int], None]
"""What is going on, how much of it is done, and out of how much."""
Doing = Callable[[Report], Any]
REPORT_EVERY_S = 0.2
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
"""Of every worker: two threads beside a busy neighbour fall to a quarter of one alone."""


def stopping() -> bool:
    """Whether the works of this process are to stop where they can go on later; an executor that can say so puts its
    own question here."""
    return False


def attempt(do: Doing, report: Report) -> Any:
    """What a work gives, or the error it raised: as a value that travels between processes."""
    try:
        return do(report)
    except UnknownNameError as error:
        return UserError(str(error))  # its own arguments do not travel
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return HarnessError(f"{type(error).__name__}: {error}")
        return error


def spaced(report: Report) -> Report:
    """A report that passes on at most one word every `REPORT_EVERY_S`, and each that says the end."""
    last = 0.0

    def passed_on(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY_S or done == total:
            last = now
            report(what, done, total)

    return passed_on


@dataclass(frozen=True)
class Errand:
    """One work, packed: called where it is to be done."""

    packed: bytes
    place: int
    home: str
    """The folder that relative paths start from, on this machine and on that one."""
    mailbox: str

    @classmethod
    def of(cls, do: Doing, place: int, mailbox: Path) -> Errand:
        """The errand to do a work, sent from the current directory."""
        return cls(pickle.dumps(do), place, str(Path.cwd()), str(mailbox.resolve()))

    def __call__(self) -> Any:
        """What the work gives, or the error it raised."""
        os.environ |= ENVIRONMENT
        for folder in (self.home, self.mailbox):
            if not Path(folder).is_dir():
                return UserError(
                    f"{platform.node()} does not see {folder}: runs are sent to machines that share a file system"
                )
        os.chdir(self.home)
        return attempt(pickle.loads(self.packed), spaced(lambda *word: leave(Path(self.mailbox), self.place, word)))

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue when a job is preempted or out of time: the same again, since a run
        goes on from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def leave(mailbox: Path, place: int, word: tuple[str, int, int]) -> None:
    """Leave word of how far a work has come; trouble with the folder is not the work's."""
    scratch = mailbox / f".{place}-{os.getpid()}"
    try:
        scratch.write_text(json.dumps(word))
        os.replace(scratch, mailbox / f"{place}.json")
    except OSError:
        return


def collect(mailbox: Path) -> Iterator[tuple[int, str, int, int]]:
    """(place, what, done, total) of every work that has left word."""
    for file in sorted(mailbox.glob("*.json")):
        try:
            what, done, total = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        yield int(file.stem), what, done, total
