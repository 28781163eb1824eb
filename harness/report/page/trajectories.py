"""Trajectories for a page: groups of siblings with every method's credit, packed so that two thousand open at once.

The page holds a light index of all groups; each group is compressed by itself and unpacked when it is looked at.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import records
from harness.evaluation.fidelity.measure import Measurement

Row = Mapping[str, Any]
TRAJECTORIES = "trajectories.jsonl.gz"
DIGITS = 3
"""Significant digits of a number that only colours a token or stands in its details."""


@dataclass(frozen=True)
class Shown:
    """What the page holds of trajectories."""

    facts: tuple[tuple[str, str], ...]
    methods: tuple[Mapping[str, Any], ...]
    """`name` and what the method's teacher reads."""
    groups: tuple[tuple[Row, str], ...]
    """An entry of the index, and the packed group."""
    truth: bool
    """Whether tokens have their re-rolled truth."""

    @property
    def episodes(self) -> int:
        """How many."""
        return sum(len(entry["won"]) for entry, _ in self.groups)

    def payload(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "methods": list(self.methods),
            "index": [entry for entry, _ in self.groups],
            "groups": [packed for _, packed in self.groups],
            "truth": self.truth,
        }


def of_record(file: Path) -> Shown:
    """The trajectories recorded in a file (`harness trajectories` writes it)."""
    reading = records.read(file)
    facts = reading.header.get("facts", {})
    named = ("environment", "split", "policy", "group_size", "seed", "rolls")
    return _shown(
        [(key, str(facts[key])) for key in named if key in facts], reading.header.get("methods", []), reading.strict()
    )


def of_fidelity(measurement: Measurement) -> Shown:
    """The episodes of a fidelity measurement: the first prompt, the sampled tokens, credits and truth."""
    facts = measurement.facts
    named = ("environment", "split", "policy", "group_size", "seed", "rolls")
    rows = [
        {
            "task_id": row["task_id"],
            "sibling": row["sibling"],
            "success": row["success"],
            "before": [[["user", row["prompt"]]]],
            "tokens": row["tokens"],
            "turns": [0] * len(row["tokens"]),
            "credit": row["credit"],
            "truth": row["truth"],
            "error": row["error"],
        }
        | {key: row[key] for key in ("before", "turns", "ending", "reward") if key in row}
        for row in measurement.episodes
    ]
    methods = [{"name": row["name"], "context": row["context"], "kind": row["kind"]} for row in measurement.methods]
    return _shown([(key, str(facts[key])) for key in named if key in facts], methods, rows)


def _shown(facts: Sequence[tuple[str, str]], methods: Sequence[Row], rows: Sequence[Row]) -> Shown:
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((int(row.get("group", 0)), str(row["task_id"])), []).append(row)
    packed = tuple((_entry(task, of), _pack(task, of)) for (_, task), of in groups.items())
    return Shown(tuple(facts), tuple(methods), packed, any("truth" in row for row in rows))


def _entry(task: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "task": task,
        "won": [int(bool(row["success"])) for row in rows],
        "ends": [str(row.get("ending", "")) for row in rows],
    }


def _pack(task: str, rows: Sequence[Row]) -> str:
    kept = ("success", "reward", "ending", "before", "after", "tokens", "turns", "logprobs", "credit", "gap", "weight",
            "truth", "error", "forgot")  # fmt: skip
    group = {"task": task, "siblings": [{key: _short(row[key]) for key in kept if key in row} for row in rows]}
    text = json.dumps(group, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {key: _short(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_short(entry) for entry in value]
    return value


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
