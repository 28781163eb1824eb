"""Reasoning-v0: a question, one completion, a verifier; from reasoning-gym's generators, from files or from a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from environments.reasoning import records
from environments.reasoning.answers import CLOSE, OPEN, extract_answer
from environments.reasoning.generated import generator, library_version
from environments.reasoning.grader import GraderFailure, Verdict
from environments.reasoning.items import SPLITS, Item, Source
from environments.text import Message, Reply, TextEnv, over, unknown_name

INSTRUCTIONS = f"Solve the problem. You may reason first; then give the final answer alone between {OPEN} and {CLOSE}."
SIZE = {"train": 1000, "dev": 100, "test": 200}


class Reasoning(TextEnv):
    r"""One question a task, one action an episode; a verifier scores the answer that `extract_answer` reads from it.

    Questions come from one of

    * `dataset="leg_counting"`, or `datasets={"chain_sum": {"max_terms": 3}, "leg_counting": {}}` with each generator's
      options: reasoning-gym's generators; `size` items per split and generator, made when first asked for; task ids
      `chain_sum/test/17`.
    * `file="gsm8k.jsonl"`, divided 8:1:1 by content, or `file={"train": ..., "test": ...}`; see `records.from_files`.
    * `name="openai/gsm8k"`, `subset="main"`: the Hugging Face hub; see `records.from_hub`.

    reward: `sparse` is 1 where the verifier's score is 1 and 0 otherwise; `dense` is the score itself. Either way
    success means a score of 1 and `info["metrics"]["score"]` holds the score. Thinking is never graded.
    `verifier_failed` counts answers that took a verifier all its time or crashed it, which earn nothing; where no
    verdict can be had through no fault of the answer, the episode ends with truncated=True and `info["failure"]`.
    terse: by default true where the source knows final answers only.
    """

    def __init__(
        self,
        dataset: str | None = None,
        datasets: Mapping[str, Mapping[str, Any]] | None = None,
        file: str | Path | Mapping[str, str | Path] | None = None,
        name: str | None = None,
        subset: str | None = None,
        size: Mapping[str, int] | None = None,
        seed: int = 0,
        reward: Literal["sparse", "dense"] = "sparse",
        terse: bool | None = None,
    ) -> None:
        given = [
            key
            for key, value in {"dataset": dataset, "datasets": datasets, "file": file, "name": name}.items()
            if value
        ]
        if len(given) > 1:
            raise ValueError(f"Reasoning takes one of dataset, datasets, file and name; got {', '.join(given)}")
        if reward not in ("sparse", "dense"):
            raise unknown_name("reward", reward, ("sparse", "dense"))
        if file:
            self._source: Source = records.from_files(file)
        elif name:
            self._source = records.from_hub(name, subset)
        else:
            self._source = Generated(datasets or {dataset or "chain_sum": {}}, _checked_sizes(size), seed)
        self._dense = reward == "dense"
        super().__init__(
            self._source.tasks,
            max_turns=1,
            version=f"2 {reward} {self._source.version}",
            terse=self._source.terse if terse is None else terse,
        )

    def open(self, task_id: str) -> Reply:
        """The instructions and the question."""
        question = self._source.item(task_id).question
        return Reply([{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}])

    def respond(self, action: str) -> Reply:
        """The verdict, which ends the episode."""
        answer = extract_answer(action)
        verdict = self._source.score(self.task_id, answer)
        success = verdict.score >= 1.0
        metrics = {
            "score": verdict.score,
            "answered": float(bool(answer)),
            "verifier_failed": float(verdict.note in ("timeout", "crashed")),
        }
        reward = verdict.score if self._dense else float(success)
        return over(success, reward=reward, metrics=metrics, answer=answer or None)

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """The one turn of an episode; see the class for how a failure of the grader is reported."""
        try:
            return super().step(action)
        except GraderFailure as error:
            return grader_failed(self, error)

    def gold(self, task_id: str) -> list[str] | None:
        """The working, where it is known, and the answer; None where only the verifier knows what is right."""
        self.split_of(task_id)
        item = self._source.item(task_id)
        if item.answer is None:
            return None
        tagged = f"{OPEN}{item.answer}{CLOSE}"
        return [tagged if item.working is None else f"{item.working}\n{tagged}"]

    def answer(self, task_id: str) -> str | None:
        """The reference answer; None where only the verifier knows what is right."""
        self.split_of(task_id)
        return self._source.item(task_id).answer


def grader_failed(env: TextEnv, error: GraderFailure) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
    """What a step returns that no verdict could be had on."""
    failure = {"kind": "grader", "message": str(error)}
    info = {"task_id": env.task_id, "success": False, "metrics": {"turns": float(env.turn)}, "failure": failure}
    return (), 0.0, False, True, info


class Generated:
    """The source that `dataset` and `datasets` name."""

    terse = True

    def __init__(self, datasets: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int], seed: int) -> None:
        self._generators = {name: generator(name, config, sizes, seed) for name, config in datasets.items()}
        self.tasks = {
            split: [f"{name}/{split}/{index}" for name in datasets for index in range(count)]
            for split, count in sizes.items()
        }
        settings = {
            "datasets": {name: dict(config) for name, config in datasets.items()},
            "size": dict(sizes),
            "seed": seed,
        }
        self.version = f"reasoning-gym={library_version()} {json.dumps(settings, sort_keys=True)}"

    def item(self, task_id: str) -> Item:
        """The question of a task."""
        name, split, index = task_id.split("/")
        return self._generators[name].item(split, int(index))

    def score(self, task_id: str, answer: str) -> Verdict:
        """The verdict on an answer: our own check's where there is one, else the generator's verifier's."""
        name, split, index = task_id.split("/")
        return self._generators[name].score(split, int(index), answer)


def _checked_sizes(size: Mapping[str, int] | None) -> dict[str, int]:
    sizes = SIZE | dict(size or {})
    for split, count in sizes.items():
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"size of {split!r} must be a whole number of items, got {count!r}")
    return sizes
