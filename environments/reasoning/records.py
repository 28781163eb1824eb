"""Questions from records: JSONL files (GSM8K, MATH, AIME) or the Hugging Face hub, graded with math-verify."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from environments.reasoning.answers import split_reference
from environments.reasoning.grader import Verdict, score_math
from environments.reasoning.items import SPLITS, Item
from environments.text import unknown_name

QUESTION_KEYS = ("question", "problem", "prompt")
ANSWER_KEYS = ("answer", "final_answer", "solution")
HUB_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}

Row = tuple[str, Item]
"""A record's place in its file ("17" for line 17) and the item."""


class Records:
    """Items with a reference answer.

    A question stands in one split only: in test rather than dev, in dev rather than train.
    """

    def __init__(self, name: str, rows: Mapping[str, list[Row]]) -> None:
        self.tasks: dict[str, list[str]] = {split: [] for split in SPLITS}
        self._items: dict[str, Item] = {}
        seen: set[str] = set()
        digest = hashlib.blake2b(digest_size=8)
        for split in reversed(SPLITS):
            for place, item in rows.get(split, []):
                words = " ".join(item.question.casefold().split())
                if words not in seen:
                    seen.add(words)
                    task_id = f"{name}/{split}/{place}"
                    self.tasks[split].append(task_id)
                    self._items[task_id] = item
                    digest.update(repr((task_id, item.question, item.answer, item.working)).encode())
        self.version = f"{name} {digest.hexdigest()}"
        self.terse = all(item.working is None for item in self._items.values())

    def item(self, task_id: str) -> Item:
        """The question of a task."""
        return self._items[task_id]

    def score(self, task_id: str, answer: str) -> Verdict:
        """Whether the answer equals the record's, as text or as mathematics."""
        item = self._items[task_id]
        assert item.answer is not None
        return score_math(item.answer, answer, question=item.question)


def from_files(file: str | Path | Mapping[str, str | Path]) -> Records:
    """Records of one JSONL file, divided by content into train, dev and test (8:1:1), or of one file per split.

    A line is an object with a question (`question`, `problem` or `prompt`) and an answer (`answer`, `final_answer` or
    `solution`); the answer may be a worked solution ending in `#### 42` or holding a boxed answer. Blank lines are
    skipped. Raises ValueError naming file and line for anything else, FileNotFoundError for a missing file.
    """
    if isinstance(file, Mapping):
        for split in file:
            if split not in SPLITS:
                raise unknown_name("split", split, SPLITS)
        rows = {split: list(_read(Path(path))) for split, path in file.items()}
        return Records(Path(next(iter(file.values()))).stem if file else "file", rows)
    return Records(Path(file).stem, _divide(list(_read(Path(file)))))


def _read(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
                yield str(number), item_of(record)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def item_of(record: Any) -> Item:
    """The item of one record. Raises ValueError where it has no question or no answer."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a record is an object with a question and an answer, got {type(record).__name__}")
    question, answer = _field(record, QUESTION_KEYS), _field(record, ANSWER_KEYS)
    working, reference = split_reference(answer)
    solution = record.get("solution")
    if working is None and isinstance(solution, str) and solution.strip() != reference:
        working = solution.strip() or None
    if not question.strip() or not reference:
        raise ValueError("the question or the answer is empty")
    return Item(question, reference, working)


def _field(record: Mapping[str, Any], keys: Iterable[str]) -> str:
    for key in keys:
        value = record.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return str(value)
    raise ValueError(
        f"no text under any of {', '.join(keys)}; the record has {', '.join(map(str, record)) or 'nothing'}"
    )


def _divide(rows: list[Row]) -> dict[str, list[Row]]:
    """8:1:1 in the order of the questions' hashes, so that every split has an item as soon as there are three."""

    def place(row: Row) -> bytes:
        return hashlib.blake2b(" ".join(row[1].question.casefold().split()).encode("utf-8", "surrogatepass")).digest()

    ordered = sorted(rows, key=place)
    share = max(1, len(ordered) // 10)
    test, dev = (share if len(ordered) > 1 else 0), (share if len(ordered) > 2 else 0)
    parts = {"test": ordered[:test], "dev": ordered[test : test + dev], "train": ordered[test + dev :]}
    return {split: sorted(part, key=lambda row: int(row[0])) for split, part in parts.items()}


def from_hub(name: str, subset: str | None = None) -> Records:
    """Records of a dataset of the Hugging Face hub (or of a folder that `datasets` can load).

    Its splits train, validation (or dev) and test become ours. Raises ValueError saying what to do where `datasets` is
    not installed, the hub cannot be reached, or nothing there has this name.
    """
    way_out = "or download it where a hub can be reached and give the JSONL file as file="
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"name={name!r} needs the package `datasets`: pip install datasets, {way_out}") from error
    try:
        found = {split: split for split in datasets.get_dataset_split_names(name, subset) if split in HUB_SPLITS}
        rows = {
            HUB_SPLITS[split]: [(str(number), item_of(record)) for number, record in enumerate(loaded, start=1)]
            for split in found
            for loaded in [datasets.load_dataset(name, subset, split=split)]
        }
    except Exception as error:
        raise ValueError(
            f"cannot load {name!r} through `datasets` ({type(error).__name__}: {error}); check the name, {way_out}"
        ) from error
    if not rows:
        raise ValueError(
            f"{name!r} has none of the splits {', '.join(HUB_SPLITS)}; give a JSONL file per split as file="
        )
    return Records(name.rpartition("/")[2], rows)
