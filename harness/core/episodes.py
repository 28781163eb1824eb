"""Episodes as rows of records, with nothing lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import DamagedRecordError, UserError
from harness.core.records import Damage, Row, plain, read, write_rows
from harness.core.types import Ending, Episode, TokenSequence

SOLVED, FAILED, LOST = "1", "0", "-"
"""How a point of a learning curve writes the outcome of one task, in the panel's order; LOST: to the infrastructure."""


def episode_to_row(episode: Episode) -> Row:
    """An episode as plain data, with nothing lost: a NaN reward or metric becomes None and comes back as NaN. `starts`
    stands there only where its tokens are in several pieces.

    Raises UserError for an infinite number, which JSON could not carry.
    """
    sequence = episode.sequence
    numbers = np.concatenate(
        [np.asarray(sequence.logprobs, dtype=np.float64), [episode.reward, *episode.metrics.values()]]
    )
    if np.isinf(numbers).any() or np.isnan(sequence.logprobs).any():
        raise UserError(
            f"episode on {episode.task_id!r}: infinite numbers and NaN log-probabilities cannot be recorded"
        )
    row = {
        "task_id": episode.task_id,
        "seed": int(episode.seed),
        "reward": None if math.isnan(episode.reward) else float(episode.reward),
        "success": bool(episode.success),
        "ending": episode.ending.value,
        "metrics": {key: None if math.isnan(value) else float(value) for key, value in episode.metrics.items()},
        "messages": plain(episode.messages, "messages"),
        "tokens": sequence.tokens.tolist(),
        "mask": sequence.mask.astype(int).tolist(),
        "logprobs": sequence.logprobs.astype(np.float64).tolist(),
        "turns": sequence.turns.tolist(),
    }
    row |= {"starts": list(sequence.starts)} if sequence.starts else {}
    known = {
        "answer": episode.answer,
        "states": list(episode.states),
        "state_values": list(episode.state_values),
        "end_value": episode.end_value,
    }
    return row | {name: value for name, value in known.items() if value not in (None, [])}


def episode_from_row(row: Mapping[str, Any]) -> Episode:
    """The episode of a row; arrays come back as int64, bool and float64.

    Raises DamagedRecordError when a field is absent or wrong.
    """
    try:
        sequence = TokenSequence(
            tokens=np.array(row["tokens"], dtype=np.int64),
            mask=np.array(row["mask"], dtype=bool),
            logprobs=np.array(row["logprobs"], dtype=np.float64),
            turns=np.array(row["turns"], dtype=np.int64),
            starts=tuple(map(int, row.get("starts", ()))),
        )
        return Episode(
            task_id=row["task_id"],
            sequence=sequence,
            reward=math.nan if row["reward"] is None else float(row["reward"]),
            success=bool(row["success"]),
            ending=Ending(row["ending"]),
            messages=tuple(row["messages"]),
            metrics={key: math.nan if value is None else float(value) for key, value in row["metrics"].items()},
            seed=int(row["seed"]),
            answer=row.get("answer"),
            states=tuple(row.get("states", ())),
            state_values=tuple(map(float, row.get("state_values", ()))),
            end_value=None if row.get("end_value") is None else float(row["end_value"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedRecordError(f"episode on {row.get('task_id')!r}: {type(error).__name__}: {error}") from error


def write_episodes(path: str | Path, episodes: Iterable[Episode]) -> None:
    """A compressed sample of episodes (`.jsonl.gz`): the same episodes give the same bytes under one zlib."""
    write_rows(path, (episode_to_row(episode) for episode in episodes), "episodes")


def read_episodes(path: str | Path) -> tuple[list[Episode], tuple[Damage, ...]]:
    """The episodes of a sample and what could not be read of it."""
    reading = read(path)
    return [episode_from_row(row) for row in reading.rows], reading.damaged
