"""Logs in the format of inspect_ai: one evaluation log a method, its samples the episodes that a results folder keeps.

inspect view --log-dir OUT
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.core.fingerprint import slug
from harness.core.records import write_whole
from harness.core.types import Ending
from harness.report.export.held import Held, Row

VERSION = 2
"""Of the layout of inspect_ai's logs."""
NO_TIME = "1970-01-01T00:00:00+00:00"
"""Records keep no times; the format demands one."""
ROLES = ("system", "user", "assistant", "tool")


def log_of(held: Held, method: str) -> Row:
    """The log of one method's episodes, as plain data.

    A task that was played several times has as many epochs. The score `success` is 1 or 0; reward, ending and the
    environment's metrics stand in a sample's metadata. An episode lost to the infrastructure has no score.
    """
    samples = list(_samples(held.episodes[method]))
    scores = [sample["scores"]["success"]["value"] for sample in samples if sample["scores"]]
    run: Mapping[str, Any] = next((run for run in held.found.runs if run["method"] == method), {})
    mean = {"name": "mean", "value": sum(scores) / len(scores)} if scores else None
    scored = {"name": "success", "scorer": "success", "metrics": {"mean": mean} if mean else {}}
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "run_id": slug(held.experiment.name),
            "eval_id": slug(f"{held.experiment.name}-{method}"),
            "task_id": slug(f"{held.experiment.name}-{method}"),
            "created": NO_TIME,
            "task": f"{held.experiment.name}: {method}",
            "dataset": {"name": held.experiment.environment.id, "samples": len(samples)},
            "model": f"harness/{held.experiment.model.name}",
            "config": {},
            "metadata": {"method": method, "plug": run.get("plug", ""), "options": run.get("options", {})},
        },
        "plan": {"name": "plan", "steps": []},
        "results": {"total_samples": len(samples), "completed_samples": len(scores), "scores": [scored]},
        "stats": {"started_at": NO_TIME, "completed_at": NO_TIME, "model_usage": {}},
        "samples": samples,
    }


def _samples(episodes: Iterable[Row]) -> Iterable[Row]:
    played: dict[str, int] = {}
    for episode in episodes:
        task = str(episode["task_id"])
        played[task] = played.get(task, 0) + 1
        messages = [_message(message) for message in episode["messages"]]
        opening = next((m["content"] for m in messages if m["role"] == "user"), "")
        lost = episode["ending"] == Ending.ERROR
        score = {"value": int(episode["success"]), "answer": episode.get("answer")}
        yield {
            "id": task,
            "epoch": played[task],
            "input": opening,
            "target": "",
            "messages": messages,
            "scores": {} if lost else {"success": score},
            "metadata": {key: episode[key] for key in ("seed", "reward", "ending", "metrics")},
        }


def _message(message: Mapping[str, Any]) -> Row:
    role = message["role"] if message["role"] in ROLES else "user"
    content = message.get("content")
    return {"role": role, "content": content if isinstance(content, str) else json.dumps(content)}


def write_logs(held: Held, out: Path) -> Iterable[Path]:
    """A log for every method of which episodes are kept."""
    for method in held.episodes:
        file = out / f"{slug(held.experiment.name)}_{slug(method)}.json"
        write_whole(file, json.dumps(log_of(held, method), indent=1, sort_keys=True) + "\n")
        yield file
