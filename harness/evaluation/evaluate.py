"""A policy that is not trained here plays tasks; every episode is on disk when it ends, and a second call plays what
is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.errors import HarnessError
from harness.core.locks import locked
from harness.core.types import Ending
from harness.evaluation.players import player_of
from harness.evaluation.playing import Record, Watch, play
from harness.evaluation.settings import Evaluation
from harness.evaluation.summary import summarise
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import panel
from harness.rollout.rollouts import Rollouts

PLAYED_ELSEWHERE = "another command is playing these episodes: this one waits, and takes over what it has played"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation left: the episodes' file (and the summary beside it), and what this call did."""

    file: Path
    summary: dict[str, Any]
    spent: Mapping[str, float]
    """What a text policy counted during this call."""
    lost: int
    """Episodes lost to the infrastructure; the same call tries them again."""
    reasons: str


def evaluate(
    asked: Evaluation, cache: Path, message: Callable[[str], None], progress: Callable[[str, int, int], None]
) -> Evaluated:
    """Play what is missing and write a summary beside the episodes. Another command that plays the same ones is waited
    for, and `message` says so. HarnessError where everything was lost."""
    player = player_of(asked, cache)
    with ExitStack() as pools:
        pool = pools.enter_context(EnvironmentPool(asked.environment))
        tasks = panel(pool.environment, asked.split, asked.tasks)
        if len(tasks) < asked.tasks:
            message(f"split {asked.split!r} holds {len(tasks)} tasks, {asked.tasks} were asked for: all are played")
        requests = asked.requests(tasks)
        identity = asked.identity(str(pool.environment.version), player.version)
        record = Record(asked.file(identity))
        pools.enter_context(alone(record.file.with_suffix(".lock"), message))
        for damage in record.load():
            message(str(damage))
        missing = [request for request in requests if not record.finished(request)]
        if len(missing) < len(requests):
            message(f"{len(requests) - len(missing)} of {len(requests)} episodes were played before")
        watch = Watch(record, len(missing), progress)
        waves = [missing[start : start + player.batch] for start in range(0, len(missing), player.batch)]
        others = [
            pools.enter_context(EnvironmentPool(asked.environment)) for _ in range(min(player.lanes, len(waves)) - 1)
        ]
        play(waves, [Rollouts(each, watch.failed) for each in (pool, *others)], player.policy, watch)
        played = record.of(requests)
        lost = sum(episode.ending is Ending.ERROR for _, episode in played)
        if lost == len(requests):
            raise HarnessError(f"all {lost} episodes were lost to the infrastructure; {watch.summary()}")
        summary = summarise(pool.environment, played) | {"policy": f"{asked.policy}, {asked.decoding}"}
        records.write_json(record.file.with_suffix(".json"), {"settings": identity} | summary)
    return Evaluated(record.file, summary, player.spent(), lost, watch.summary())


@contextmanager
def alone(lock: Path, message: Callable[[str], None], waits: str = PLAYED_ELSEWHERE) -> Iterator[None]:
    """Be the one process that holds a lock file; where another one is waited for, `message` says `waits`."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, "busy"))
        except HarnessError:
            message(waits)
            held.enter_context(locked(lock))
        yield
