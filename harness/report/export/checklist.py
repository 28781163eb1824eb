"""A reporting checklist, filled in from the records of a results folder.

The survey of credit assignment by Zhang (2026, arXiv 2604.09459) contributes a reporting checklist, whose items were
not at hand. The questions are ours; the first seven follow, in our words, the closing list of the method guide that the
survey's author publishes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.core.records import write_whole
from harness.report.escaping import markdown as escaped
from harness.report.export.card import drops
from harness.report.export.held import Held
from harness.tables.endpoints import AREA

FILE = "CHECKLIST.md"
OPEN = "not recorded here; to be answered by hand"


def answers(held: Held) -> list[tuple[str, str]]:
    """(question, answer) in order; what the records do not tell is said to be open."""
    experiment, runs = held.experiment, [run for run in held.found.runs if run["role"] == "method"]
    lost = drops(held)
    wanted = experiment.evaluation
    contexts = sorted({str(run["context"]) for run in runs if run.get("context")})
    endpoint = "area under the learning curve" if wanted.primary == AREA else "success at the end"
    return [
        (
            "Which feedback is used, and when?",
            f"reward of the environment in training; teachers read: {_listed(contexts)}",
        ),
        ("Are snapshots of states or branches needed?", OPEN),
        ("Extra rollouts and calls for each trajectory", _spent(held)),
        (
            "Is the credit causal, predictive or correlational?",
            "see the fidelity table where one is made; else " + OPEN,
        ),
        ("Does the granularity match the decisions?", "credit of single tokens, for every row"),
        (
            "Is the comparison controlled for compute?",
            f"every row: {experiment.budget.steps} steps of {experiment.sampling.prompts_per_step} groups of "
            f"{experiment.sampling.group_size}; what each spent stands in the table",
        ),
        ("Are stability and entropy reported apart from success?", "in steps.jsonl.gz" if held.steps else OPEN),
        ("Seeds", f"{len(experiment.seeds)}: {_listed(map(str, experiment.seeds))}"),
        ("Primary endpoint, declared before the runs", f"{endpoint}, {wanted.decoding}; margin {wanted.margin:g}"),
        ("Tasks judged on", f"{wanted.tasks} of {experiment.environment.eval_split!r}, {wanted.samples} samples each"),
        ("Rows that test nothing", _listed(m.label for m in experiment.methods if m.exploratory)),
        ("Options of each row", "; ".join(f"{m.label}: {m.options or 'defaults'}" for m in experiment.methods)),
        (
            "Episodes lost, runs missing",
            f"{len(lost['evaluation'])} rows with losses, {len(lost['missing_runs'])} runs",
        ),
        ("Code", str(held.provenance.get("code", {}).get("commit", OPEN))),
        ("Machine", str(held.provenance.get("machine", {}).get("cpu", OPEN))),
        ("License of data and weights", OPEN),
    ]


def _spent(held: Held) -> str:
    keys = ("rollouts", "teacher_tokens", "external_calls")
    parts = []
    for method in held.experiment.methods:
        budgets = [run["budget"] for run in held.found.runs if run["method"] == method.label]
        if budgets:
            means = ", ".join(f"{sum(b.get(k, 0) for b in budgets) / len(budgets):,.0f} {k}" for k in keys)
            parts.append(f"{method.label}: {means}")
    return "; ".join(parts).replace("_", " ") or OPEN


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def write_checklist(held: Held, out: Path) -> Iterable[Path]:
    """CHECKLIST.md."""
    title = held.experiment.title or held.experiment.name
    lines = [f"| {escaped(question)} | {escaped(answer)} |" for question, answer in answers(held)]
    head = [f"# Reporting checklist: {escaped(title)}", "", "| question | answer |", "|---|---|"]
    write_whole(out / FILE, "\n".join([*head, *lines]) + "\n")
    yield out / FILE
