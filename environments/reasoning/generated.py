"""Items of reasoning-gym's generators: any split, any index, made when first asked for, no question in two splits."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import threading
from collections.abc import Mapping
from typing import Any

import reasoning_gym.factory

from environments.reasoning import exact
from environments.reasoning.grader import Verdict, score_generated
from environments.reasoning.items import SPLITS, Item
from environments.text import unknown_name

ATTEMPTS = 64
"""Draws per item until its question falls into the split: with a quarter of all questions, 0.75^64 = 1e-8 go
without."""


def split_of_question(question: str) -> str:
    """The split a question belongs to, by a hash of its words: a half train, a quarter dev, a quarter test."""
    words = " ".join(question.casefold().split())
    place = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]
    return SPLITS[0] if place < 128 else SPLITS[1] if place < 192 else SPLITS[2]


def derived_seed(seed: int, split: str, attempt: int) -> int:
    """A generator seed below 2**31. Generators add the index to it, so seeds that stand close would share items."""
    digest = hashlib.blake2b(f"{seed}/{split}/{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


class Generator:
    """One configured generator; `item(split, index)` is deterministic by (seed, split, index) and kept once made.

    Splits differ in their generator seeds and hold different questions: an item whose question belongs elsewhere is
    drawn again. Within a split a question may come twice where a generator has few.
    """

    def __init__(self, name: str, config: Mapping[str, Any], sizes: Mapping[str, int], seed: int) -> None:
        self.name, self.sizes, self.seed = name, dict(sizes), seed
        self._config = _checked_config(name, config)
        self._datasets: dict[tuple[str, int], tuple[Any, str]] = {}
        self._items: dict[tuple[str, int], Item] = {}
        self._lock = threading.Lock()  # generators keep no promise about threads

    def item(self, split: str, index: int) -> Item:
        """Raises ValueError where the generator does not have enough different questions."""
        with self._lock:
            found = self._items.get((split, index))
            if found is None:
                found = self._items[split, index] = self._draw(split, index)
            return found

    def _draw(self, split: str, index: int) -> Item:
        for attempt in range(ATTEMPTS):
            entry = self.dataset(split, attempt)[0][index]
            if split_of_question(entry["question"]) == split and exact.gradable(entry):
                answer = entry["answer"]
                return Item(
                    entry["question"], answer if isinstance(answer, str) else None, entry=entry, attempt=attempt
                )
        raise ValueError(
            f"generator {self.name!r}: none of {ATTEMPTS} draws for item {index} of {split!r} has a question of "
            "that split and an answer to compare with; its configuration leaves too few different questions"
        )

    def dataset(self, split: str, attempt: int) -> tuple[Any, str]:
        """The dataset of one attempt at every item of a split, and its settings as JSON."""
        made = self._datasets.get((split, attempt))
        if made is None:
            settings = self._config | {"seed": derived_seed(self.seed, split, attempt), "size": self.sizes[split]}
            made = create(self.name, settings), json.dumps(settings)
            self._datasets[split, attempt] = made
        return made

    def score(self, split: str, index: int, answer: str) -> Verdict:
        """The verdict on an answer: our own check's where there is one, else the generator's verifier's."""
        item = self.item(split, index)
        assert item.entry is not None
        dataset, settings = self.dataset(split, item.attempt)
        return score_generated(dataset, self.name, settings, item.entry, answer)


@functools.lru_cache(maxsize=64)
def _shared(name: str, config: str, sizes: str, seed: int) -> Generator:
    return Generator(name, json.loads(config), json.loads(sizes), seed)


def generator(name: str, config: Mapping[str, Any], sizes: Mapping[str, int], seed: int) -> Generator:
    """The generator so configured. A process's environments share its items, which may take a second each to make."""
    return _shared(name, json.dumps(dict(config), sort_keys=True), json.dumps(dict(sizes), sort_keys=True), seed)


def library_version() -> str:
    """The version of reasoning-gym, on which every item depends."""
    return importlib.metadata.version("reasoning-gym")


def _checked_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    known = {known: kinds for known, kinds in reasoning_gym.factory.DATASETS.items() if known != "composite"}
    if name not in known:
        raise unknown_name("reasoning-gym generator", name, sorted(known))
    if name in exact.REFUSED:
        raise ValueError(f"generator {name!r} is not offered: {exact.REFUSED[name]}")
    fields = [entry.name for entry in dataclasses.fields(known[name][1]) if entry.name not in ("seed", "size")]
    for key in config:
        if key in ("seed", "size"):
            raise ValueError(f"generator {name!r}: {key!r} is an option of the environment, not of the generator")
        if key not in fields:
            raise unknown_name(f"option of generator {name!r}", key, fields)
    create(name, {**config, "seed": 0, "size": 1})
    return dict(config)


def create(name: str, settings: Mapping[str, Any]) -> Any:
    """The generator so configured. ValueError where it refuses the settings."""
    try:
        return reasoning_gym.factory.create_dataset(name, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"generator {name!r} refuses {dict(settings)}: {error}") from error
