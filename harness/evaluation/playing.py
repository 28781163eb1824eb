"""Playing waves of episodes in lanes, each episode on disk when it ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.core import records
from harness.core.episodes import episode_to_row, read_episodes
from harness.core.errors import EnvironmentFailure, HarnessError
from harness.core.types import Ending, Episode
from harness.rollout.conversation import Request
from harness.rollout.policies import ActingPolicy
from harness.rollout.rollouts import Rollouts

LOST_IN_A_ROW = 8
"""Lost episodes after which the infrastructure is held to be down and nothing more is tried."""

Waves = Sequence[Sequence[Request]]


def play(waves: Waves, lanes: Sequence[Rollouts], policy: ActingPolicy, done: Callable[[list[Episode]], None]) -> None:
    """Play all waves, each lane one after another; `done` is called here, in the caller's thread, as waves end.

    Whatever a lane or `done` raises ends the playing, as does Ctrl-C: lanes are daemon threads and take up nothing
    more.
    """
    waiting: queue.SimpleQueue[Sequence[Request]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[list[Episode] | BaseException] = queue.SimpleQueue()
    over = threading.Event()
    for wave in waves:
        waiting.put(wave)

    def lane(rollouts: Rollouts) -> None:
        while not over.is_set():
            try:
                ended.put(rollouts.play(waiting.get_nowait(), policy))
            except queue.Empty:
                return
            except BaseException as error:
                ended.put(error)
                return

    for rollouts in lanes:
        threading.Thread(target=lane, args=(rollouts,), daemon=True, name="evaluation").start()
    try:
        for _ in waves:
            result = ended.get()
            if isinstance(result, BaseException):
                raise result
            done(result)
    finally:
        over.set()


@dataclass
class Record:
    """The episodes of one evaluation on disk. Of several episodes with one seed, what was lost counts only if nothing
    finished."""

    file: Path
    episodes: dict[tuple[str, int], tuple[int, Episode]] = field(default_factory=dict)
    """(task, seed) to the episode's place in the file and the episode."""
    lines: int = 0

    def load(self) -> tuple[records.Damage, ...]:
        """Read what an earlier call recorded; what could not be read is returned."""
        if not self.file.is_file():
            return ()
        episodes, damaged = read_episodes(self.file)
        self._take(episodes)
        return damaged

    def add(self, episodes: Sequence[Episode]) -> None:
        """Write episodes that have just ended."""
        records.append(self.file, [episode_to_row(episode) for episode in episodes], kind="episodes")
        self._take(episodes)

    def _take(self, episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            key = (episode.task_id, episode.seed)
            if key not in self.episodes or self.episodes[key][1].ending is Ending.ERROR:
                self.episodes[key] = self.lines, episode
            self.lines += 1

    def finished(self, request: Request) -> bool:
        """Whether a request has an episode that was not lost."""
        known = self.episodes.get((request.task_id, request.seeds.integer()))
        return known is not None and known[1].ending is not Ending.ERROR

    def of(self, requests: Sequence[Request]) -> list[tuple[int, Episode]]:
        """(place in the file, episode) of every request, in order."""
        return [self.episodes[r.task_id, r.seeds.integer()] for r in requests]


class Watch:
    """Writes what ends, reports how far it is, and gives up when everything is lost: a dead endpoint is not asked a
    thousand times."""

    def __init__(self, record: Record, total: int, progress: Callable[[str, int, int], None]) -> None:
        self.record, self.total, self.progress = record, total, progress
        self.done, self.lost_in_a_row = 0, 0
        self.reasons: dict[str, str] = {}
        """Kind of failure to the last message of that kind."""

    def failed(self, task_id: str, failure: EnvironmentFailure) -> None:
        """Remember why an attempt failed."""
        self.reasons[failure.kind] = f"task {task_id!r}: {failure.message}"

    def __call__(self, episodes: list[Episode]) -> None:
        self.record.add(episodes)
        self.done += len(episodes)
        self.progress("episodes", self.done, self.total)
        for episode in episodes:
            self.lost_in_a_row = self.lost_in_a_row + 1 if episode.ending is Ending.ERROR else 0
        if self.lost_in_a_row >= LOST_IN_A_ROW:
            raise HarnessError(
                f"{self.lost_in_a_row} episodes in a row were lost to the infrastructure, so nothing more is tried; "
                f"{self.summary()}"
            )

    def summary(self) -> str:
        """The last message of every kind of failure."""
        return "; ".join(f"{kind}: {message}" for kind, message in self.reasons.items())
