"""A rollout card: a bundle of records together with the views, reporting rules and drops behind the reported scores.

Masters, Liu & Albrecht 2026, arXiv 2605.12131. Of that paper its abstract was at hand, which names the parts: the
rollout record is preserved; views, reporting rules and drops manifests are declared. Names of files and fields are
ours, and follow no published schema.

    card.json       what was run, and the three declarations below
    rollouts.jsonl  the rollout record: the episodes that the folder keeps, whole
    rows.jsonl      evaluation, a line for each policy, seed, task and decoding: what scores are made of
    drops.json      everything that is in no score, with its reason and number
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from harness.core.records import line_of, write_whole
from harness.report.export.held import Held, Row


def card(held: Held) -> Row:
    """What was run and how its scores come about, as plain data."""
    experiment, wanted = held.experiment, held.experiment.evaluation
    return {
        "card": "rollout card after arXiv 2605.12131; names of files and fields are this project's",
        "title": experiment.title or experiment.name,
        "record": {
            "rollouts": {label: len(rows) for label, rows in held.episodes.items()},
            "complete": False,
            "sampled_how": "some episodes of each method's first seed; of evaluation, rows.jsonl alone",
        },
        "matched": held.found.runs[0]["matched"] if held.found.runs else {},
        "spec": json.loads(experiment.model_dump_json(exclude_none=True)),
        "views": views(held),
        "reporting_rules": rules(held),
        "drops": "drops.json",
        "primary": {"endpoint": wanted.primary, "decoding": wanted.decoding, "margin": wanted.margin},
        "provenance": dict(held.provenance),
    }


def views(held: Held) -> list[Row]:
    """Which part of the record each reported score reads."""
    wanted, environment = held.experiment.evaluation, held.experiment.environment
    both: list[Row] = [
        {
            "name": f"success, {decoding}",
            "file": "rows.jsonl",
            "where": {"decoding": decoding, "split": environment.eval_split},
            "tasks": wanted.tasks,
            "episodes_a_task": wanted.samples if decoding == "sampled" else 1,
        }
        for decoding in ("sampled", "greedy")
    ]
    curve: Row = {
        "name": "area under the learning curve",
        "points_every": wanted.every,
        "tasks": wanted.curve_tasks,
        "split": wanted.curve_split or environment.eval_split,
    }
    return [*both, curve] if wanted.every else both


def rules(held: Held) -> list[Row]:
    """How each score is made of its view."""
    wanted = held.experiment.evaluation
    fixed = [
        ("success of a task", "mean over its finished episodes; 1 where the environment says success, else 0"),
        ("success of a row", "mean over tasks, then over seeds"),
        ("running out of turns or tokens", "an episode like any other: its success is what the environment says"),
        ("lost to the infrastructure", "in no mean; counted in drops.json and in the table's heading"),
        ("tokens", "sampled tokens of training; a teacher's and other models' are counted apart"),
        ("wall time", "training alone; in no score"),
    ]
    declared = [*fixed, *((name, "see docs/reading-a-table.md") for name in wanted.extra)]
    return [{"of": of, "rule": rule} for of, rule in declared]


def drops(held: Held) -> Row:
    """What is in no score: episodes lost, groups dropped in training, files damaged, rows and seeds missing."""
    found, experiment = held.found, held.experiment
    lost = [
        {key: row[key] for key in ("method", "seed", "task_id", "decoding", "failed")} | {"reason": "infrastructure"}
        for row in found.rows
        if row.get("failed")
    ]
    trained = [
        {"method": run["method"], "seed": run["seed"], "reason": reason, "number": number}
        for run in found.runs
        for key, reason in (("dropped_groups", "group dropped"), ("failed_episodes", "rollout lost to infrastructure"))
        if (number := run["budget"].get(key, 0))
    ]
    there = {(run["method"], run["seed"]) for run in found.runs}
    missing = [
        {"method": method.label, "seed": seed, "reason": "no finished run"}
        for method in experiment.methods
        for seed in experiment.seeds
        if (method.label, seed) not in there
    ]
    return {"evaluation": lost, "training": trained, "missing_runs": missing, "damaged": list(found.damaged)}


def write_card(held: Held, out: Path) -> Iterable[Path]:
    """The four files of a card."""
    episodes = [{"method": label} | row for label, rows in held.episodes.items() for row in rows]
    texts = {
        "card.json": json.dumps(card(held), indent=2, sort_keys=True) + "\n",
        "rollouts.jsonl": "".join(line_of(row) + "\n" for row in episodes),
        "rows.jsonl": "".join(line_of(row) + "\n" for row in held.found.rows),
        "drops.json": json.dumps(drops(held), indent=2, sort_keys=True) + "\n",
    }
    for name, text in texts.items():
        write_whole(out / name, text)
        yield out / name
