"""The budget: one declaration makes a field of records, of the trainer's counters and of every rendering."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.budget import budget_fields
from harness.core.errors import UserError
from harness.learning.state import Spent
from harness.tables.records import Run, RunBudget, parsed

# A field is declared before anything reads the declarations: in an interpreter of its own.
ADDED = """
import json
from dataclasses import asdict, dataclass

from harness.core import budget


@dataclass
class Budget(budget.Budget):
    judge_calls: int = budget.spent("Judge calls", "Calls to a judge.", total=True)


budget.Budget = Budget

from harness.learning.state import Spent
from harness.tables.table import build
from renderings import renderings
from table_records import Records

records = Records().add("GRPO", 0.6)
runs = [run.model_dump() | {"budget": {"judge_calls": 70 + run.seed}} for run in records.runs]
spent = Spent(judge_calls=3)
print(json.dumps({"spent": asdict(spent), "budget": spent.budget(), "text": renderings(build(runs, records.rows))}))
"""


def test_one_declaration_makes_a_field(tmp_path: Path) -> None:
    tests, root = Path(__file__).parents[2], Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", ADDED],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{root}:{tests}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    found = json.loads(done.stdout)
    assert found["spent"]["judge_calls"] == found["budget"]["judge_calls"] == 3
    for form in ("markdown", "latex", "html", "terminal"):
        assert "Judge calls, total" in found["text"][form]
        assert "213" in found["text"][form]  # 70 + 71 + 72
    header, line, _ = found["text"]["csv"].splitlines()
    assert (header.split(",")[-1], line.split(",")[-1]) == ("judge_calls", "213")


def test_the_trainer_counts_what_is_declared_and_its_place() -> None:
    names = [field.name for field in budget_fields()]
    spent = Spent(step=3, cursor=24, rollouts=192)
    assert list(spent.budget()) == names
    assert spent.budget()["rollouts"] == 192
    assert set(vars(spent)) == {*names, "step", "cursor"}
    assert all(field.meaning for field in budget_fields())


def test_a_record_of_a_budget_holds_what_is_declared_and_nothing_else() -> None:
    run = {"method": "GRPO", "seed": 0, "matched": {}}
    spent = Spent(rollouts=5).budget()
    assert parsed(Run, run | {"budget": spent}).budget == RunBudget(rollouts=5)
    assert parsed(Run, run | {"budget": spent | {"wall_s": 1.5}}).budget.wall_s == 1.5
    with pytest.raises(UserError, match=r"not a Run: budget\.rollout: "):
        parsed(Run, run | {"budget": {"rollout": 5}})
