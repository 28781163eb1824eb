"""Works as jobs of SLURM, through submitit: one job each, queued and watched from here.

A job that is preempted or runs out of its time is put back into the queue, one that is killed is sent again; its run
goes on from its last checkpoint. Needs the extra `slurm`, and a file system that all machines share.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.core.errors import HarnessError, MissingDataError, UserError
from harness.executors.bars import Bars, bars
from harness.executors.errands import REPORT_EVERY_S, Errand, collect
from harness.executors.work import Work

RETRIES = 3
"""Times that a job which ended without an answer is sent again."""
DAY_MIN = 24 * 60


class Slurm:
    """Jobs of a batch system (`harness.executors.work.Executor`)."""

    def __init__(self, shared: Path, options: Mapping[str, Any], at_once: int = 0, gpu: bool = False) -> None:
        """shared: a folder that all machines see. options: parameters of submitit's `AutoExecutor`
        (`{"slurm_partition": "gpu", "timeout_min": 600}`); `cluster` "local" or "debug" needs no SLURM. at_once: most
        jobs in the queue; 0 for all of them."""
        self.shared, self.at_once = shared, at_once
        self.cluster = str(options.get("cluster", "slurm"))
        asked = {"timeout_min": DAY_MIN, "cpus_per_task": 1} | ({"gpus_per_node": 1} if gpu else {})
        self.parameters = asked | {name: value for name, value in options.items() if name != "cluster"}

    def do(self, works: Sequence[Work], title: str, console: Console) -> list[Any]:
        """See `harness.executors.work.Executor`."""
        if not works:
            return []
        self.shared.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".slurm-", dir=self.shared) as mailbox,
            bars(console, title, works) as shown,
        ):
            executor = self._executor(Path(mailbox) / "jobs")
            errands = [Errand.of(work.do, place, Path(mailbox)) for place, work in enumerate(works)]
            return _Queue(executor, shown, Path(mailbox)).all(errands, self.at_once or len(works))

    def _executor(self, folder: Path) -> Any:
        try:
            import submitit
        except ModuleNotFoundError:
            raise MissingDataError(
                "--executor slurm needs the package submitit: pip install 'sibling-harness[slurm]'"
            ) from None
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
            executor.update_parameters(**self.parameters)
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise UserError(f"--executor slurm: {error}") from error
        return executor


class _Queue:
    """The jobs of a call, some of them queued or going on."""

    def __init__(self, executor: Any, shown: Bars, mailbox: Path) -> None:
        self.executor, self.shown, self.mailbox = executor, shown, mailbox
        self.pending: dict[int, Any] = {}
        self.sent: dict[int, int] = {}

    def all(self, errands: Sequence[Errand], at_once: int) -> list[Any]:
        """What each errand gives, in order."""
        outcomes: list[Any] = [None] * len(errands)
        waiting = list(errands)[::-1]
        try:
            while waiting or self.pending:
                while waiting and len(self.pending) < at_once:
                    errand = waiting.pop()
                    self.pending[errand.place] = self.executor.submit(errand)
                    self.sent[errand.place] = self.sent.get(errand.place, 0) + 1
                for place, job in list(self.pending.items()):
                    if not job.done():
                        continue
                    del self.pending[place]
                    outcomes[place] = _outcome(job)
                    if outcomes[place] is LOST and self.sent[place] <= RETRIES:
                        self.shown.say(f"sent again: {self.shown.names[place]} (job {job.job_id} was killed)")
                        waiting.append(errands[place])
                        continue
                    if outcomes[place] is LOST:
                        outcomes[place] = HarnessError(
                            f"its job was killed {RETRIES + 1} times (out of memory?); call again: the run goes on "
                            "from its checkpoint"
                        )
                    self.shown.finish(place, not isinstance(outcomes[place], Exception))
                for word in collect(self.mailbox):
                    if word[0] in self.pending:
                        self.shown.show(*word)
                time.sleep(REPORT_EVERY_S)
        except KeyboardInterrupt:
            for job in self.pending.values():
                job.cancel()
            raise
        return outcomes


LOST = object()
"""Instead of an outcome: the job left none."""


def _outcome(job: Any) -> Any:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return job.result()
    except UncompletedJobError:
        return LOST
    except FailedJobError as error:
        return HarnessError(f"job {job.job_id}: {error}")
