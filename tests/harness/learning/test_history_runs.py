"""Runs whose conversations outgrow the window: learned from in pieces, recorded, stopped and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import judged, small

from harness.core import records
from harness.core.episodes import read_episodes
from harness.experiment import Experiment, parse_experiment
from harness.learning.checkpoints import checkpoints
from harness.learning.run import Run, Stopped, identity
from harness.learning.train import train
from harness.protocols.backend import Start

METHODS = {
    "grpo": ("agents.methods.grpo:GRPO", {}),
    "craft": ("agents.methods.craft:CRAFT", {}),
    "vineppo": ("agents.methods.vineppo:VinePPO", {"rolls": 2}),
}


def spec(method: str, history: str = "drop-oldest", **changes: Any) -> Experiment:
    plug, options = METHODS[method]
    sections: dict[str, Any] = {
        "environment": {"id": "long_environment:Long-v0"},
        "sampling": {"history": history, "prompts_per_step": 2},
        "optimiser": {"minibatches": 2},
        "loss": {"aggregate": "sequence-mean-token-mean"},
        "budget": {"steps": 2, "checkpoint_every": 1},
        "evaluation": {"tasks": 2, "samples": 1, "every": 2, "curve_tasks": 2},
        "context": "agents.contexts:ReferenceSolution",
        "methods": [{"label": method, "plug": plug, "options": options}],
    }
    return small(**sections | changes)


def run_of(experiment: Experiment, directory: Path, folder: Path, **more: Any) -> Run:
    start = Start(directory, "0" * 64, {})
    return Run(experiment, experiment.methods[0], 0, start, folder, judged(experiment), **more)


def trained(run: Run) -> Path:
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.pool:
        train(run)
    return run.folder


def weights(folder: Path) -> bytes:
    return (checkpoints(folder)[-1] / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["grpo", "craft", "vineppo"])
def test_a_run_in_pieces_that_was_stopped_is_the_run_that_was_not(
    tiny_directory: Path, tmp_path: Path, method: str
) -> None:
    experiment = spec(method)
    calm = trained(run_of(experiment, tiny_directory, tmp_path / "calm"))
    with pytest.raises(Stopped):
        trained(run_of(experiment, tiny_directory, tmp_path / "stopped", stopping=lambda: True))
    stopped = trained(run_of(experiment, tiny_directory, tmp_path / "stopped"))
    for name in ("steps.jsonl", "curve.jsonl", "episodes.jsonl.gz"):
        assert (calm / name).read_bytes() == (stopped / name).read_bytes(), name
    assert weights(calm) == weights(stopped) != (tiny_directory / "model.safetensors").read_bytes()
    rows = records.read(calm / "steps.jsonl").strict()
    assert all(row["pieces"] > 1 and np.isfinite(row["loss/total"]) for row in rows)
    assert any(row["teacher/share"] > 0 for row in rows) == (method == "craft")
    episodes, damaged = read_episodes(calm / "episodes.jsonl.gz")
    assert not damaged
    assert any(episode.sequence.starts for episode in episodes)
    for episode in episodes:
        assert sorted(set(episode.sequence.turns[episode.sequence.mask].tolist())) == list(range(5))


def test_a_spec_that_keeps_its_history_is_the_spec_it_was_before_there_was_a_choice() -> None:
    said, unsaid = spec("grpo", "keep"), spec("grpo", "keep", sampling={"prompts_per_step": 2})
    assert said.matched_facts() == unsaid.matched_facts()
    assert "sampling.history" not in unsaid.matched_facts()
    assert "history" not in unsaid.model_dump(mode="json")["sampling"]
    dropping = spec("grpo")
    assert dropping.matched_facts()["sampling.history"] == "drop-oldest"
    assert parse_experiment(dropping.model_dump(mode="json")).sampling.history == "drop-oldest"
    assert identity(dropping, dropping.methods[0], 0) != identity(said, said.methods[0], 0)


def test_a_history_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="history"):
        spec("grpo", "forget")
