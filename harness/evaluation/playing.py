"""`harness evaluate`: a policy that is not trained here plays tasks; every episode is on disk when it ends, and a second call plays what is missing."""

from __future__ import annotations

import hashlib
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.core import records
from harness.core.errors import EnvironmentFailure, HarnessError, UnknownNameError, UserError
from harness.core.plugs import construct, resolve
from harness.core.seeds import SeedTree
from harness.core.types import Ending, Episode
from harness.evaluation import summary as tally
from harness.experiment.settings import EnvironmentSettings, ModelSettings
from harness.rollout.environments import EnvironmentPool
from harness.rollout.panel import panel
from harness.rollout.rollouts import Request, Rollouts, Speaker

WAVE = 64
"""Episodes that a token policy samples as one batch."""
LOST_IN_A_ROW = 8
"""Lost episodes after which the infrastructure is held to be down and nothing more is tried."""
REFERENCES = {"gold": "Gold", "do-nothing": "DoNothing"}

Waves = Sequence[Sequence[Request]]


@dataclass(frozen=True)
class Evaluation:
    """What is to be played. What changes an episode is part of the record's name: changed, it is another record."""

    env: str
    """An environment id, with or without its module."""
    policy: str
    """gold, do-nothing, smollm2, endpoint:MODEL, module:Name of a text policy, or a model directory."""
    split: str = "test"
    tasks: int = 20
    samples: int = 1
    greedy: bool = False
    max_new_tokens: int = 128
    temperature: float = 1.0
    env_options: Mapping[str, Any] = field(default_factory=dict)
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = 300.0
    """Longest wait for one reset or step. Generous: a user played by a model may need several attempts."""
    concurrency: int = 0
    """Episodes in flight; 0 lets the policy decide."""
    seed: int = 0
    out: Path = Path("runs/evaluations")

    @property
    def decoding(self) -> str:
        return "greedy" if self.greedy else "sampled"

    @property
    def environment(self) -> EnvironmentSettings:
        name = self.env if ":" in self.env else f"environments:{self.env}"
        return EnvironmentSettings(id=name, options=dict(self.env_options), deadline_s=self.deadline_s)

    def identity(self, environment_version: str, policy_version: str) -> dict[str, Any]:
        """What makes up the record's name: what changes an episode. Keys of endpoints are never written."""
        same = {
            name: getattr(self, name)
            for name in ("policy", "split", "greedy", "max_new_tokens", "temperature", "env_options", "seed")
        }
        return _without_keys(
            same
            | {"env": self.environment.id, "environment_version": environment_version, "policy_version": policy_version}
        )

    def file(self, identity: Mapping[str, Any]) -> Path:
        """Where the episodes stand."""
        digest = hashlib.sha256(records.line_of(identity).encode()).hexdigest()[:8]
        policy = Path(self.policy).name if Path(self.policy).is_dir() else self.policy
        parts = (self.env.rpartition(":")[2], policy, self.split, self.decoding, f"seed{self.seed}", digest)
        return self.out / (re.sub(r"[^\w.-]+", "-", "_".join(parts)) + ".jsonl")

    def requests(self, tasks: Sequence[str]) -> list[Request]:
        seeds = SeedTree(self.seed)["evaluation"]
        return [
            Request(task, seeds[self.decoding, task, number], greedy=self.greedy)
            for task in tasks
            for number in range(self.samples)
        ]


def _without_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_keys(entry) if isinstance(entry, Mapping) else entry
        for name, entry in settings.items()
        if name != "api_key"
    }


# ---------------------------------------------------------------- policies


@dataclass(frozen=True)
class Player:
    """Who speaks, and how."""

    speaker: Speaker
    lanes: int
    """Conversations that go on at once without waiting for each other, each in environments of its own."""
    batch: int = 1
    """Episodes of one lane that are sampled as one batch."""
    version: str = ""
    """What makes the policy what it is, beyond its name: the hash of its weights, or what it says of itself."""

    def spent(self) -> dict[str, float]:
        """What a policy of words counted in this process, or nothing."""
        count: Callable[[], dict[str, float]] = getattr(getattr(self.speaker, "policy", None), "spent", dict)
        return count()


def player_of(asked: Evaluation, cache: Path) -> Player:
    """The policy that `asked.policy` names."""
    kind, colon, name = asked.policy.partition(":")
    if asked.policy in REFERENCES:
        return _words(f"agents.policies.reference:{REFERENCES[asked.policy]}", {}, asked)
    if kind == "endpoint":
        given = {"model": name, "temperature": asked.temperature, "max_tokens": asked.max_new_tokens}
        given |= {"concurrency": asked.concurrency} if asked.concurrency else {}
        return _words("agents.policies.endpoint:EndpointPolicy", given, asked)
    if colon and not Path(asked.policy).is_dir():
        return _words(asked.policy, {}, asked)
    if asked.policy_options:
        raise UserError(
            f"--policy-options are for policies of words; {asked.policy!r} takes none, got {dict(asked.policy_options)}"
        )
    return _tokens(asked, cache)


def _words(plug: str, options: Mapping[str, Any], asked: Evaluation) -> Player:
    from harness.rollout.rollouts import TextSpeaker

    policy = construct(plug, {**options, **asked.policy_options}, "policy")
    version = getattr(policy, "version", records.line_of(asked.policy_options))
    return Player(TextSpeaker(policy), asked.concurrency or getattr(policy, "concurrency", 1), version=version)


def _tokens(asked: Evaluation, cache: Path) -> Player:
    if asked.policy == "tiny":
        raise UserError("the tiny policy has no weights of its own; name the directory of a checkpoint")
    if asked.policy != "smollm2" and not Path(asked.policy).is_dir():
        known = (*REFERENCES, "smollm2", "endpoint:MODEL")
        raise UnknownNameError("policy", asked.policy, known, "(or the directory of a model, or module:Name)")
    from harness.backends.torch.models import base_directory
    from harness.learning.warm_start import checkpoint_hash
    from harness.protocols.backend import SamplingParams
    from harness.rollout.rollouts import PolicySpeaker

    directory = base_directory(ModelSettings(name=asked.policy), cache)
    assert directory is not None
    backend = resolve("harness.backends.torch:TorchBackend")(directory, temperature=asked.temperature)
    speaker = PolicySpeaker(backend, SamplingParams(asked.max_new_tokens, asked.temperature))
    return Player(speaker, 1, asked.concurrency or WAVE, checkpoint_hash(directory))


# ---------------------------------------------------------------- playing


def play(waves: Waves, lanes: Sequence[Rollouts], speaker: Speaker, done: Callable[[list[Episode]], None]) -> None:
    """Play all waves, each lane one after another; `done` is called here, in the caller's thread, as waves end.

    Whatever a lane or `done` raises ends the playing, as does Ctrl-C: lanes are daemon threads and take up nothing more.
    """
    waiting: queue.SimpleQueue[Sequence[Request]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[list[Episode] | BaseException] = queue.SimpleQueue()
    over = threading.Event()
    for wave in waves:
        waiting.put(wave)

    def lane(rollouts: Rollouts) -> None:
        while not over.is_set():
            try:
                ended.put(rollouts.play(waiting.get_nowait(), speaker))
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
    """The episodes of one evaluation on disk. Of several episodes with one seed, what was lost counts only if nothing finished."""

    file: Path
    episodes: dict[tuple[str, int], tuple[int, Episode]] = field(default_factory=dict)
    """(task, seed) to the episode's place in the file and the episode."""
    lines: int = 0

    def load(self) -> tuple[records.Damage, ...]:
        if not self.file.is_file():
            return ()
        episodes, damaged = records.read_episodes(self.file)
        self._take(episodes)
        return damaged

    def add(self, episodes: Sequence[Episode]) -> None:
        records.append(self.file, [records.episode_to_row(episode) for episode in episodes], kind="episodes")
        self._take(episodes)

    def _take(self, episodes: Sequence[Episode]) -> None:
        for episode in episodes:
            key = (episode.task_id, episode.seed)
            if key not in self.episodes or self.episodes[key][1].ending is Ending.ERROR:
                self.episodes[key] = self.lines, episode
            self.lines += 1

    def finished(self, request: Request) -> bool:
        known = self.episodes.get((request.task_id, request.seeds.integer()))
        return known is not None and known[1].ending is not Ending.ERROR

    def of(self, requests: Sequence[Request]) -> list[tuple[int, Episode]]:
        return [self.episodes[r.task_id, r.seeds.integer()] for r in requests]


class Watch:
    """Writes what ends, tells how far it is, and gives up when everything is lost: a dead endpoint is not asked a thousand times."""

    def __init__(self, record: Record, total: int, progress: Callable[[str, int, int], None]) -> None:
        self.record, self.total, self.progress = record, total, progress
        self.done, self.lost_in_a_row = 0, 0
        self.reasons: dict[str, str] = {}
        """Kind of failure to the last message of that kind."""

    def failed(self, task_id: str, failure: EnvironmentFailure) -> None:
        self.reasons[failure.kind] = f"task {task_id!r}: {failure.message}"

    def __call__(self, episodes: list[Episode]) -> None:
        self.record.add(episodes)
        self.done += len(episodes)
        self.progress("episodes", self.done, self.total)
        for episode in episodes:
            self.lost_in_a_row = self.lost_in_a_row + 1 if episode.ending is Ending.ERROR else 0
        if self.lost_in_a_row >= LOST_IN_A_ROW:
            raise HarnessError(
                f"{self.lost_in_a_row} episodes in a row were lost to the infrastructure, so nothing more is tried; {self.said()}"
            )

    def said(self) -> str:
        return "; ".join(f"{kind}: {message}" for kind, message in self.reasons.items())


def evaluate(asked: Evaluation, cache: Path, console: Console, progress: Callable[[str, int, int], None]) -> Path:
    """Play what is missing, write a summary beside the episodes, print it; the episodes' file."""
    player = player_of(asked, cache)
    with ExitStack() as pools:
        pool = pools.enter_context(EnvironmentPool(asked.environment))
        environment = pool.facts
        requests = asked.requests(panel(environment, asked.split, asked.tasks))
        identity = asked.identity(str(environment.version), player.version)
        record = Record(asked.file(identity))
        for damage in record.load():
            console.print(f"[yellow]{damage}[/yellow]", highlight=False)
        missing = [request for request in requests if not record.finished(request)]
        if len(missing) < len(requests):
            console.print(
                f"{len(requests) - len(missing)} of {len(requests)} episodes were played before", highlight=False
            )
        watch = Watch(record, len(missing), progress)
        waves = [missing[start : start + player.batch] for start in range(0, len(missing), player.batch)]
        others = [
            pools.enter_context(EnvironmentPool(asked.environment)) for _ in range(min(player.lanes, len(waves)) - 1)
        ]
        play(waves, [Rollouts(each, watch.failed) for each in (pool, *others)], player.speaker, watch)
        lost = sum(episode.ending is Ending.ERROR for _, episode in record.of(requests))
        if lost == len(requests):
            raise HarnessError(f"all {lost} episodes were lost to the infrastructure; {watch.said()}")
        summary = tally.summarise(environment, record.of(requests)) | {"policy": f"{asked.policy}, {asked.decoding}"}
    records.write_json(record.file.with_suffix(".json"), {"settings": identity} | summary)
    tally.tell(asked.environment.id.rpartition(":")[2], summary, console)
    tally.tell_counts("spent by this call", player.spent(), console)
    if lost:
        console.print(
            f"[yellow]{lost} episodes lost[/yellow] (the same command tries them again): {watch.said() or 'in an earlier call'}",
            highlight=False,
        )
    console.print(
        f"episodes: {record.file}   (look at one: harness show {record.file} 0)", highlight=False, soft_wrap=True
    )
    return record.file
