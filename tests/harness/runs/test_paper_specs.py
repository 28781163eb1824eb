"""The specs of the papers' experiments: what they name exists, what they quote was printed, what they need is said; and
two steps of each on an environment and a policy that fit a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from experiments import judged, quiet

from harness import ROOT
from harness.core import records
from harness.core.errors import MissingDataError, UserError
from harness.experiment import Experiment, parse_experiment, read_experiment
from harness.learning.warm_start import start_of
from harness.runs.job import run_job
from harness.runs.paper import PAPER, read_paper, require_at_hand
from harness.runs.plan import Job, check_plugs
from harness.tables.published import choose, parse

SPECS = sorted((ROOT / "results" / "paper").glob("*/*/spec.toml"))
MINI = {"appworld": "Bifurcation-v0", "tau3-airline": "Tau3AirlineMini-v0", "mathematics": "ReasoningMini-v0"}
"""Which small environment stands in; Bifurcation for those that have none of their own, or are dear to start."""


def name_of(spec: Path) -> str:
    return "-".join(spec.parts[-3:-1])


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_what_a_spec_names_exists_and_what_it_quotes_was_printed(spec: Path) -> None:
    experiment, paper = read_experiment(spec), read_paper(spec.parent)
    check_plugs(experiment)
    entries = parse((ROOT / "results" / "published.toml").read_text(encoding="utf-8"))
    assert [choose(entries, **quote) for quote in paper.quote]
    assert paper.need
    notes = (spec.parent / "NOTES.md").read_text(encoding="utf-8")
    assert "Needs" in notes or "the main table" in notes


def test_what_is_missing_is_named_with_what_fetches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ROOT / "results" / "paper" / "craft" / "alfworld" / "spec.toml"
    with pytest.raises(MissingDataError, match=r"my_alfworld.*adding-an-environment.*hf download Qwen/Qwen2.5-3B"):
        require_at_hand(read_experiment(spec), spec.parent)


def test_a_quote_names_a_paper_and_an_environment(tmp_path: Path) -> None:
    """The environment alone would quote every paper that measured on it."""
    (tmp_path / PAPER).write_text('[[quote]]\nenvironment = "AppWorld"\n')
    with pytest.raises(UserError, match="a quote names a paper and an environment, got environment"):
        read_paper(tmp_path)


def test_a_need_names_one_place(tmp_path: Path) -> None:
    (tmp_path / PAPER).write_text('[[need]]\nwhat = "x"\ncommand = "y"\n')
    with pytest.raises(UserError, match="a path or a module"):
        read_paper(tmp_path)


def shrunken(spec: Path) -> Experiment:
    """Two steps of two groups of four by a tiny policy on a small environment; methods and losses are the spec's, but
    for a summariser that would need an endpoint."""
    data = read_experiment(spec).model_dump(mode="json", exclude_none=True)
    smaller: dict[str, dict[str, Any]] = {
        "sampling": {"group_size": 4, "prompts_per_step": 2, "max_new_tokens": 6},
        "budget": {"steps": 2, "checkpoint_every": 2},
        "evaluation": {"tasks": 1, "samples": 1, "every": 0, "start_tasks": 0, "extra": []},
        "optimiser": {"micro_tokens": 1024},
    }
    for section, changes in smaller.items():
        data[section] |= changes
    data["evaluation"].pop("curve_split", None)
    data["environment"] = {"id": f"environments:{MINI.get(spec.parent.name, 'Bifurcation-v0')}"}
    data["backend"] = "harness.backends.torch:TorchBackend"
    size = {"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "mlp": 32, "window": 512, "vocabulary": 320}
    data["model"] = {"name": "tiny", "device": "cpu", "tiny": size}
    data["warm_start"] = {"steps": 3, "batch": 4, "demonstrations": 20}
    for row in data["methods"]:
        if "summariser" in row["options"]:
            row["options"]["summariser"] = "rules"
    return parse_experiment(data | {"seeds": [0]})


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_two_steps_of_every_row(spec: Path, tmp_path: Path) -> None:
    experiment = shrunken(spec)
    start, panel = start_of(experiment, tmp_path / "cache"), judged(experiment)
    for number, row in enumerate(experiment.methods):
        own = experiment.for_row(row)
        job = Job(own, start, "method", row, 0, {"model": "tiny"}, (), panel, tmp_path / str(number))
        run_job(job, quiet)
        assert [step["step"] for step in records.read(job.folder / "steps.jsonl").rows] == [0, 1], row.label
