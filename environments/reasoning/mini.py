"""ReasoningMini-v0: reasoning-gym's items and verifiers in a rendering that a policy of a million parameters can learn.

environment  3 + 5 - 2      agent  8 6 = 6
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from environments.reasoning.generated import create, derived_seed, library_version, split_of_question
from environments.reasoning.grader import score_generated
from environments.reasoning.items import SPLITS
from environments.text import Reply, TextEnv, over, unknown_name
from harness.endpoint import without_thinking

HABIT_SHARE = 0.3
"""The share of each split's tasks that the habitual mistake solves."""

DRAWS = 100
"""Items drawn per item kept; a generator that then has too few is refused."""

MAX_TOTAL = 20
"""Bound on every running total of a sum: a policy this small learns a table of facts, and this keeps the table at 20 by
9 by 2."""


@dataclass(frozen=True)
class Rendering:
    """How a generator's items look in Mini: functions of an item's metadata."""

    config: Mapping[str, Any]
    """The generator's options."""
    size: Mapping[str, int]
    """Items per split."""
    prompt: Callable[[Mapping[str, Any]], str]
    gold: Callable[[Mapping[str, Any]], str]
    """The working and the answer, `working = answer`."""
    habit: Callable[[Mapping[str, Any]], str]
    """The same by someone with one habitual mistake."""
    written: Callable[[str], str]
    """What follows the `=` in the form the generator's verifier reads."""
    keep: Callable[[Mapping[str, Any]], bool]


def _terms(metadata: Mapping[str, Any]) -> list[int]:
    """The signed terms of "3 + 5 - 2": 3, 5, -2."""
    first, *rest = metadata["expression"].split()
    return [int(first)] + [
        int(term) if sign == "+" else -int(term) for sign, term in zip(rest[::2], rest[1::2], strict=True)
    ]


def _running(terms: list[int]) -> str:
    totals = list(accumulate(terms))
    return f"{' '.join(map(str, totals[1:]))} = {totals[-1]}"


def _sum_keep(metadata: Mapping[str, Any]) -> bool:
    """Totals stay within 0..MAX_TOTAL, the habit's too; no term is 0, so that the habit is right only without a
    minus."""
    terms = _terms(metadata)
    return 0 not in terms and min(accumulate(terms)) >= 0 and sum(map(abs, terms)) <= MAX_TOTAL


def _spelled(word: str) -> str:
    return f"{' '.join(word)} = {' '.join(word)}"


def _ends_swapped(word: str) -> str:
    return word[-1] + word[1:-1] + word[0]


CHAIN_SUM = Rendering(
    config={"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1},
    size={"train": 4000, "dev": 250, "test": 500},
    prompt=lambda metadata: str(metadata["expression"]),
    gold=lambda metadata: _running(_terms(metadata)),
    habit=lambda metadata: _running([abs(term) for term in _terms(metadata)]),
    written=lambda answer: answer,
    keep=_sum_keep,
)
"""Running totals of three or four one-digit terms. Habit: never looks at the sign and adds every term."""

SPELL_BACKWARD = Rendering(
    config={"min_word_len": 3, "max_word_len": 5},
    size={"train": 2000, "dev": 200, "test": 400},
    prompt=lambda metadata: " ".join(metadata["word"]),
    gold=lambda metadata: _spelled(metadata["word"][::-1]),
    habit=lambda metadata: _spelled(_ends_swapped(metadata["word"])),
    written=lambda answer: answer.replace(" ", ""),
    keep=lambda metadata: metadata["word"].isascii() and metadata["word"].islower(),
)
"""Words of three to five letters, letter by letter. Habit: swaps the first and the last letter only."""


RENDERINGS = {"chain_sum": CHAIN_SUM, "spell_backward": SPELL_BACKWARD}


class ReasoningMini(TextEnv):
    """One short question a task, one action an episode: the answer is what follows the last `=`, if there is one.

    The generator's own verifier scores it; the reward is 1 for a full score, else 0. The items of a split are different
    from each other and, by a hash of the question, from those of the other splits; the habitual mistake solves
    `HABIT_SHARE` of them exactly.
    """

    mini = True

    def __init__(
        self,
        dataset: Literal["chain_sum", "spell_backward"] = "chain_sum",
        size: Mapping[str, int] | None = None,
        seed: int = 0,
        terse: bool = False,
    ) -> None:
        """dataset: one of RENDERINGS. size: items per split, over the rendering's own numbers."""
        if dataset not in RENDERINGS:
            raise unknown_name("dataset of ReasoningMini", dataset, RENDERINGS)
        self._rendering = RENDERINGS[dataset]
        for split in size or {}:
            if split not in SPLITS:
                raise unknown_name("split", split, SPLITS)
        self._sizes = {**self._rendering.size, **(size or {})}
        self._dataset, self._seed = dataset, seed
        tasks = {split: [f"{dataset}/{split}/{index}" for index in range(self._sizes[split])] for split in SPLITS}
        settings = json.dumps([dataset, dict(self._rendering.config), self._sizes, seed, HABIT_SHARE, MAX_TOTAL])
        super().__init__(tasks, max_turns=1, version=f"1 reasoning-gym={library_version()} {settings}", terse=terse)

    def open(self, task_id: str) -> Reply:
        """The question alone."""
        return Reply(self._rendering.prompt(self._entry(task_id)["metadata"]))

    def respond(self, action: str) -> Reply:
        """The verdict, which ends the episode."""
        _, mark, answer = without_thinking(action).rpartition("=")
        written = self._rendering.written(answer.strip()) if mark else ""
        dealt = _deal(self._dataset, self.split, self._sizes[self.split], self._seed)
        entry = self._entry(self.task_id)
        score = score_generated(dealt.dataset, self._dataset, dealt.settings, entry, written).score
        metrics = {"score": score, "answered": float(bool(written))}
        return over(success=score >= 1.0, metrics=metrics, answer=written or None)

    def gold(self, task_id: str) -> list[str]:
        """The working and the answer."""
        return [self._rendering.gold(self._entry(task_id)["metadata"])]

    def habit(self, task_id: str) -> list[str]:
        """The same with the rendering's habitual mistake."""
        return [self._rendering.habit(self._entry(task_id)["metadata"])]

    def answer(self, task_id: str) -> str:
        """The reference answer, as the generator writes it."""
        return str(self._entry(task_id)["answer"])

    def _entry(self, task_id: str) -> dict[str, Any]:
        split = self.split_of(task_id)
        entries = _deal(self._dataset, split, self._sizes[split], self._seed).entries
        return entries[int(task_id.rpartition("/")[2])]


@dataclass(frozen=True)
class Dealt:
    """The items of a split, and the generator they come from."""

    dataset: Any
    settings: str
    entries: tuple[dict[str, Any], ...]


@functools.lru_cache(maxsize=32)
def _deal(name: str, split: str, count: int, seed: int) -> Dealt:
    """The items of a split, the same for every environment of this process. Takes 10 to 60 microseconds per item drawn.

    Raises ValueError where the generator has too few different questions.
    """
    rendering = RENDERINGS[name]
    settings = {**rendering.config, "seed": derived_seed(seed, split, 0), "size": DRAWS * max(count, 1)}
    dataset = create(name, settings)
    open_places = {True: round(HABIT_SHARE * count), False: count - round(HABIT_SHARE * count)}
    chosen: dict[str, dict[str, Any]] = {}
    for index in range(DRAWS * count):
        if len(chosen) == count:
            break
        entry = dataset[index]
        question, metadata = entry["question"], entry["metadata"]
        if question in chosen or split_of_question(question) != split or not rendering.keep(metadata):
            continue
        habit_is_right = rendering.habit(metadata).rpartition("=")[2] == rendering.gold(metadata).rpartition("=")[2]
        if open_places[habit_is_right]:
            open_places[habit_is_right] -= 1
            chosen[question] = entry
    if len(chosen) < count:
        raise ValueError(
            f"{name!r} has only {len(chosen)} questions of the wanted kind for {split!r}; size asks for {count}"
        )
    entries = list(chosen.values())
    random.Random(seed).shuffle(entries)  # the rarer kind fills its places last
    return Dealt(dataset, json.dumps(settings), tuple(entries))
