"""Works as tasks of a Ray cluster: one that runs already, or one of this machine, started for the command.

A task has one core, and one GPU where the policy is not kept on the CPU. A worker that is killed is started again
elsewhere, and its run goes on from its last checkpoint. Needs the extra `ray`, and a file system that all machines of
the cluster share.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.core.errors import HarnessError, MissingDataError
from harness.executors.bars import Bars, bars
from harness.executors.errands import REPORT_EVERY_S, Errand, collect
from harness.executors.work import Work

RETRIES = 3
"""Times that the work of a killed worker is done again."""


class Ray:
    """Tasks of a Ray cluster (`harness.executors.work.Executor`)."""

    def __init__(self, shared: Path, address: str = "", at_once: int = 0, gpu: bool = False) -> None:
        """shared: a folder that all machines see. address: of a cluster that runs; empty for one of this machine (or
        the one that RAY_ADDRESS names). at_once: most tasks at once; 0 for as many as the cluster has room for."""
        self.shared, self.address, self.at_once, self.gpu = shared, address, at_once, gpu

    def do(self, works: Sequence[Work], title: str, console: Console) -> list[Any]:
        """See `harness.executors.work.Executor`."""
        if not works:
            return []
        ray = self._connected()
        self.shared.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".ray-", dir=self.shared) as mailbox,
            bars(console, title, works) as shown,
        ):
            errands = [Errand.of(work.do, place, Path(mailbox)) for place, work in enumerate(works)]
            task = ray.remote(num_cpus=1, num_gpus=self._gpus(ray), max_retries=RETRIES)(_do)
            return _Tasks(ray, task, shown, Path(mailbox)).all(errands, self.at_once or len(works))

    def _connected(self) -> Any:
        """Ray, with a session of this process; it ends with the process."""
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingDataError("--executor ray needs the package ray: pip install 'sibling-harness[ray]'") from None
        if ray.is_initialized():
            return ray
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": None if address else False}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(address="local", num_cpus=self.at_once or None, **quiet)
        except Exception as error:  # Ray raises that itself where its processes are too slow to start
            raise HarnessError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
        return ray

    def _gpus(self, ray: Any) -> int:
        return int(self.gpu and ray.cluster_resources().get("GPU", 0) >= 1)


class _Tasks:
    """The tasks of a call, some of them going on."""

    def __init__(self, ray: Any, task: Any, shown: Bars, mailbox: Path) -> None:
        self.ray, self.task, self.shown, self.mailbox = ray, task, shown, mailbox
        self.pending: dict[Any, int] = {}

    def all(self, errands: Sequence[Errand], at_once: int) -> list[Any]:
        """What each errand gives, in order."""
        outcomes: list[Any] = [None] * len(errands)
        waiting = list(errands)[::-1]
        try:
            while waiting or self.pending:
                while waiting and len(self.pending) < at_once:
                    errand = waiting.pop()
                    self.pending[self.task.remote(errand)] = errand.place
                ready, _ = self.ray.wait(list(self.pending), timeout=REPORT_EVERY_S)
                for word in collect(self.mailbox):
                    if word[0] in self.pending.values():
                        self.shown.show(*word)
                for reference in ready:
                    place = self.pending.pop(reference)
                    outcomes[place] = self._outcome(reference)
                    self.shown.finish(place, not isinstance(outcomes[place], Exception))
        except KeyboardInterrupt:
            for reference in self.pending:
                self.ray.cancel(reference, force=True)
            self.ray.shutdown()
            raise
        return outcomes

    def _outcome(self, reference: Any) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.WorkerCrashedError:
            return HarnessError(
                f"its worker was killed {RETRIES + 1} times (out of memory?); call again: "
                "the run goes on from its checkpoint"
            )
        except self.ray.exceptions.RayError as error:
            return HarnessError(f"Ray: {error}")


def _do(errand: Errand) -> Any:
    return errand()
