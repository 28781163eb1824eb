"""Demonstrations: an environment's own gold actions and its habitual mistakes, played once and kept for every seed.

The replays belong to the environment alone. What one start makes of them (which tasks, which of them by habit, which
after a privileged context) is drawn from that start's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from harness.core import records
from harness.core.episodes import episode_from_row, episode_to_row
from harness.core.errors import DamagedRecordError, UserError
from harness.core.fingerprint import fingerprint
from harness.core.locks import locked
from harness.core.seeds import SeedTree
from harness.core.sources import revision
from harness.core.types import ContextRequest, Ending, Episode, Message, RolloutGroup, TokenSequence
from harness.experiment import EnvironmentSettings, Experiment, WarmStartSettings
from harness.protocols.backend import Backend, SamplingParams
from harness.protocols.context import ContextSource, make_context
from harness.rollout.conversation import Conversation, Request
from harness.rollout.environments import EnvironmentPool, environment_module
from harness.rollout.panel import tasks_of
from harness.rollout.policies import MessagePolicy, TokenPolicy
from harness.rollout.rollouts import Rollouts

SHARED = SeedTree(0)["warm-start"]
"""Of what all seeds share: the replays, and the texts of the tokenizer."""
AT_ONCE = 8
"""Demonstrations played side by side: nothing is gained by more, and an environment that keeps few live worlds would
replay them."""
Scripts = Mapping[str, tuple[str, ...]]


class Replays:
    """Gold and habit of tasks as episodes without tokens: played once, then read from the cache. Of two processes that
    want the same ones, the second waits for the first."""

    def __init__(self, settings: EnvironmentSettings, pool: EnvironmentPool, cache: Path) -> None:
        self.pool = pool
        self.rollouts = Rollouts(pool)
        decided_by = {
            "environment": [settings.id, settings.options, pool.environment.version],
            "code": revision("harness.rollout.rollouts", environment_module(pool)),
        }
        name = fingerprint(decided_by)[:16]
        self._file = cache / "demonstrations" / f"{name}.jsonl"
        self._lock = cache / "locks" / f"demonstrations-{name}.lock"
        self._known: dict[str, Episode] = {}

    def gold(self, tasks: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The actions that solve these tasks. UserError for one that the environment does not know them of."""
        gold = {task: self.pool.environment.gold(task) for task in tasks}
        unknown = next((task for task, actions in gold.items() if actions is None), None)
        if unknown is not None:
            raise UserError(f"task {unknown!r} of {self.pool.settings.id} has no gold actions to demonstrate")
        return {task: tuple(actions or ()) for task, actions in gold.items()}

    def habit(self, gold: Scripts) -> dict[str, tuple[str, ...]]:
        """The habitual mistake on each task; its gold actions where it has none."""
        return {task: tuple(self.pool.environment.habit(task) or actions) for task, actions in gold.items()}

    def play(self, scripts: Scripts) -> dict[str, Episode]:
        """The episode of each task's script. One that failed in the environment is not kept: it may pass next time."""
        keys = {task: fingerprint([task, script]) for task, script in scripts.items()}
        if any(key not in self._known for key in keys.values()):
            with locked(self._lock):
                self._read()
                missing = [task for task, key in keys.items() if key not in self._known]
                requests = [Request(task, SHARED["demonstration", task], script=scripts[task]) for task in missing]
                played = dict(zip(missing, self.rollouts.play(requests, MessagePolicy(), at_once=AT_ONCE), strict=True))
                self._known |= {keys[task]: episode for task, episode in played.items()}
                kept = {keys[task]: episode for task, episode in played.items() if episode.ending is not Ending.ERROR}
                if kept:
                    rows = [{"script": key, "episode": episode_to_row(episode)} for key, episode in kept.items()]
                    records.append(self._file, rows, kind="demonstrations")
        return {task: self._known[key] for task, key in keys.items()}

    def groups(self, tasks: Sequence[str]) -> list[RolloutGroup]:
        """Per task the group from which privileged contexts are drawn: one sibling by habit, one right."""
        gold = self.gold(tasks)
        right, careless = self.play(gold), self.play(self.habit(gold))
        environment = self.pool.environment
        return [
            RolloutGroup(
                task,
                (careless[task], right[task]),
                None if environment.terse else gold[task],
                environment.answer(task),
            )
            for task in tasks
        ]

    def texts(self, decided_by: Mapping[str, Any], make: Callable[[], list[str]]) -> list[str]:
        """Texts made of these replays, from the cache or made now; decided_by: what they depend on beside the replays.
        A damaged file is made anew."""
        file = self._file.with_name(f"texts-{fingerprint([self._file.stem, decided_by])[:16]}.jsonl")
        with locked(self._lock.with_name(f"{file.stem}.lock")):
            if file.is_file():
                reading = records.read(file)
                if not reading.damaged and len(reading.rows) == reading.header.get("texts"):
                    return [row["text"] for row in reading.rows]
            texts = make()
            records.write_rows(file, [{"text": text} for text in texts], kind="texts", texts=len(texts))
            return texts

    def _read(self) -> None:
        if not self._file.is_file():
            return
        reading = records.read(self._file)
        # What a kill cut off is taken back by the next append.
        damaged = [damage for damage in reading.damaged if damage.reason != records.HALF]
        if damaged:
            where = "; ".join(map(str, damaged))
            raise DamagedRecordError(f"{where}; remove the file and call again: the demonstrations are played anew")
        for row in reading.rows:
            self._known.setdefault(row["script"], episode_from_row(row["episode"]))


@dataclass(frozen=True)
class Demonstrator:
    """The demonstrations of one start: which tasks of the train split, by which actions, after which context."""

    experiment: Experiment
    settings: WarmStartSettings
    replays: Replays
    sources: Sequence[ContextSource]
    seeds: SeedTree

    @classmethod
    def of(cls, experiment: Experiment, settings: WarmStartSettings, replays: Replays, seeds: SeedTree) -> Demonstrator:
        """UserError where a share of contexts is wanted and no source named."""
        sources = [make_context(named.plug, named.options) for named in settings.contexts]
        if settings.context_share and not sources:
            raise UserError("warm_start.context_share is set, but warm_start.contexts names no source")
        return cls(experiment, settings, replays, sources, seeds)

    def tasks(self, seeds: SeedTree) -> list[str]:
        """The tasks that are demonstrated, in the order of these seeds."""
        tasks = tasks_of(self.replays.pool.environment, self.experiment.environment.train_split)
        order = seeds["tasks"].rng().permutation(len(tasks))
        return [tasks[place] for place in order[: self.settings.demonstrations].tolist()]

    def texts(self) -> list[str]:
        """Every message of gold demonstrations and what teachers read of them, for a tokenizer to be trained on; the
        same for every seed, so that all starts of an experiment read and write the same tokens. Kept in the cache:
        the first start makes them for all."""
        decided_by = {
            "split": self.experiment.environment.train_split,
            "demonstrations": self.settings.demonstrations,
            "contexts": [named.model_dump() for named in self.settings.contexts],
            "code": revision(__name__, *(named.module for named in self.settings.contexts)),
        }
        return self.replays.texts(decided_by, self._texts)

    def _texts(self) -> list[str]:
        tasks = self.tasks(SHARED)
        episodes = self.replays.play(self.replays.gold(tasks)).values()
        texts = [str(message["content"]) for episode in episodes for message in episode.messages]
        every = range(len(self.sources))
        contexts = self.contexts([(task, source) for task in tasks for source in every], SHARED)
        given = [request.content for request in contexts if request is not None]
        return texts + [text for text in given if isinstance(text, str)]

    def sequences(self, backend: Backend) -> list[TokenSequence]:
        """The demonstrations as the policy would have sampled them. UserError where most cannot be learned from."""
        rng, tasks = self.seeds["demonstrations"].rng(), self.tasks(self.seeds)
        gold = self.replays.gold(tasks)
        habit = self.replays.habit(gold)
        conditioned = rng.random(len(tasks)) < self.settings.context_share
        careless = rng.random(len(tasks)) < self.settings.habit_share
        wanted = {place: int(rng.integers(len(self.sources))) for place in np.flatnonzero(conditioned).tolist()}
        given = self.contexts([(tasks[place], source) for place, source in wanted.items()], self.seeds)
        contexts = dict(zip(wanted, given, strict=True))
        chosen = [
            (task, contexts.get(place), bool(careless[place]) and contexts.get(place) is None)
            for place, task in enumerate(tasks)
        ]
        right = self.replays.play({task: gold[task] for task, _, by_habit in chosen if not by_habit})
        wrong = self.replays.play({task: habit[task] for task, _, by_habit in chosen if by_habit})
        played = [(wrong if by_habit else right)[task] for task, _, by_habit in chosen]
        policy = TokenPolicy(backend, SamplingParams(self.experiment.sampling.max_new_tokens))
        tools = self.replays.pool.environment.tools
        whole = [
            (task, context, habit[task] if by_habit else gold[task], episode)
            for (task, context, by_habit), episode in zip(chosen, played, strict=True)
            if episode.ending is not Ending.ERROR
        ]
        kept = [found for entry in whole if (found := as_sampled(*entry, policy, tools)) is not None]
        if len(kept) < len(tasks) / 2:
            raise UserError(
                f"only {len(kept)} of {len(tasks)} demonstrations can be learned from: "
                f"{len(tasks) - len(whole)} failed in the environment, "
                f"{len(whole) - len(kept)} do not fit the model's window of {backend.window} tokens"
            )
        return kept

    def contexts(self, wanted: Sequence[tuple[str, int]], seeds: SeedTree) -> list[ContextRequest | None]:
        """What a source (by its number) would give for a task, to the sibling that went by habit; for each pair."""
        tasks = list(dict.fromkeys(task for task, _ in wanted))
        groups = dict(zip(tasks, self.replays.groups(tasks), strict=True))
        return [self.sources[n](groups[task], 0, seeds["context", task, n].rng()) for task, n in wanted]


def as_sampled(
    task: str,
    context: ContextRequest | None,
    script: tuple[str, ...],
    episode: Episode,
    policy: TokenPolicy,
    tools: Sequence[Any] | None,
) -> TokenSequence | None:
    """A replay in tokens, as if the policy had sampled its script: token for token what playing it again would give.
    None where it does not fit the policy's window."""
    conversation = Conversation(Request(task, SHARED, context=context, script=script), None, 0)
    opening, *replies = _turns(episode.messages, script)
    conversation.messages.extend(opening)
    conversation.info = {"tools": tools} if tools else {}
    policy.open(conversation)
    if len(conversation.tokens) >= policy.window:
        return None
    for turn, reply in enumerate(replies):
        [(_, full)] = policy.act([conversation])
        if full or (turn + 1 < len(replies) and not policy.observe(conversation, reply)):
            return None
        conversation.turn += 1
    return conversation.episode().sequence


def _turns(messages: Sequence[Message], script: Sequence[str]) -> list[list[Message]]:
    """The opening, then what answered each action of the script. An opening may show messages of an agent too: ours
    are those from which on all of them are the script's."""
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    spoken = [messages[place]["content"] for place in places]
    actions = [*script, *[""] * len(spoken)]
    first = next(n for n in range(len(spoken) + 1) if spoken[n:] == actions[: len(spoken) - n])
    bounds = [*places[first:], len(messages)]
    return [list(messages[: bounds[0]])] + [list(messages[a + 1 : b]) for a, b in pairwise(bounds)]
