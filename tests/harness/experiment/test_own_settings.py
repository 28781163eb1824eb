"""Rows with settings of their own, and searches of them: who may differ in what, and what is tried."""

from __future__ import annotations

from typing import Any

import pytest
from experiments import GRPO, RLOO, small

from harness.core.errors import UserError
from harness.experiment import Experiment, parse_experiment, read_experiment, write_spec
from harness.experiment.search import search_facts, trials_of, tuning_experiment, with_tuned

SEARCH: dict[str, Any] = {"space": {"lr": [1e-4, 3e-4, 1e-3]}, "trials": 3, "seeds": [100, 101]}
KNOB = {"name": "options.kl", "values": [0.0, 0.1]}


def row(**changes: Any) -> dict[str, Any]:
    return GRPO.model_dump() | changes


def searched(*rows: dict[str, Any], **search: Any) -> Experiment:
    return small(search=SEARCH | search, methods=list(rows) or [row(knob=KNOB), RLOO.model_dump()])


# ---------------------------------------------------------------- rows


def test_a_row_runs_with_its_own_settings_and_the_others_with_the_shared_ones() -> None:
    dapo = row(label="DAPO", as_published=True, loss={"clip_high": 0.28}, sampling={"mixed_groups": True})
    experiment = small(methods=[row(), dapo])
    plain, own = (experiment.for_row(method) for method in experiment.methods)
    assert plain is experiment
    assert (own.loss.clip_high, own.sampling.mixed_groups) == (0.28, True)
    assert own.loss.clip_low == experiment.loss.clip_low
    assert own.optimiser == experiment.optimiser
    assert experiment.matched_facts() == small().matched_facts()  # what rows share is what the spec says


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {"lr": 1e-3}}, r"'GRPO' has optimiser settings of its own \(lr\): .* declares a \[search\]"),
        ({"optimiser": {"lr": 1e-3}, "as_published": True}, "has optimiser settings of its own"),
        ({"loss": {"clip_high": 0.3}}, "say as_published = true"),
        ({"loss": {"clip_hihg": 0.3}, "as_published": True}, "did you mean 'clip_high'"),
        ({"loss": {"clip_high": "much"}, "as_published": True}, "clip_high: Input should be a valid number"),
        ({"sampling": {"temperature": 0.5}, "as_published": True}, "unknown sampling key of method 'GRPO'"),
        ({"sampling": {"group_size": 8}, "as_published": True}, "group_size [*] prompts_per_step is 32, .* is 16"),
        ({"loss": {"aggregate": "sequence-mean-token-sum"}, "as_published": True}, "sum_constant goes with"),
    ],
)
def test_rows_may_not_differ_as_they_please(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(methods=[row(**changes)])


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": {"lr": 1e-3, "updates": 4}, "exploratory": True},
        {"sampling": {"group_size": 2, "prompts_per_step": 8}, "as_published": True},
        {"loss": {"aggregate": "sequence-mean-token-sum", "sum_constant": 5.0}, "as_published": True},
    ],
)
def test_what_rows_may_differ_in(changes: dict[str, Any]) -> None:
    experiment = small(methods=[row(**changes)])
    assert experiment.for_row(experiment.methods[0]) != experiment


# ---------------------------------------------------------------- searches


def test_every_row_has_as_many_trials_all_different_and_from_its_space() -> None:
    trials = trials_of(searched())
    assert [trial.method for trial in trials] == ["GRPO"] * 3 + ["RLOO"] * 3
    for method, names in (("GRPO", {"optimiser.lr", "options.kl"}), ("RLOO", {"optimiser.lr"})):
        own = [trial for trial in trials if trial.method == method]
        assert all(set(trial.settings) == names for trial in own)
        assert len({tuple(trial.settings.items()) for trial in own}) == 3
        for trial in own:
            assert trial.row.optimiser == {"lr": trial.settings["optimiser.lr"]}
            assert trial.settings["optimiser.lr"] in SEARCH["space"]["lr"]
    assert trials[0].row.options["kl"] == trials[0].settings["options.kl"]
    assert trials == trials_of(searched())  # drawn once and for all


def test_trials_run_on_what_is_not_reported() -> None:
    tuning = tuning_experiment(searched(steps=3))
    assert tuning.seeds == (100, 101)
    assert tuning.environment.eval_split == tuning.evaluation.curve_split == "dev"
    assert tuning.budget.steps == 3
    assert [method.label for method in tuning.methods][:2] == ["GRPO, trial 1", "GRPO, trial 2"]
    assert tuning.for_row(tuning.methods[0]).optimiser.lr == tuning.methods[0].optimiser["lr"]
    assert tuning.evaluation.every > 0
    assert tuning_experiment(searched(rule="final")).evaluation.every == 0


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"seeds": [0, 100]}, "seed 0 is a tuning seed and a reporting seed"),
        ({"seeds": [100, 100]}, "must differ from each other"),
        ({"split": "test"}, "split 'test' is trained on or reported on"),
        ({"split": "train"}, "split 'train' is trained on or reported on"),
        ({"space": {"rl": [1.0]}}, "unknown key of search.space 'rl'"),
        ({"space": {"lr": [-1.0]}}, "lr: Input should be greater than 0"),
        ({"space": {}}, "at least 1"),
        ({"trials": 4}, "4 trials of every row, but 'RLOO' has 3 settings to try; give it a knob"),
        ({"rule": "best"}, "'area' or 'final'"),
    ],
)
def test_a_search_that_is_not_fair_is_refused(search: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        searched(**search)


def test_a_knob_names_a_section() -> None:
    with pytest.raises(UserError, match=r"unknown knob of 'GRPO' 'kl'"):
        searched(row(knob={"name": "kl", "values": [0.0, 0.1]}))
    with pytest.raises(UserError, match="did you mean 'clip_high'"):
        searched(row(knob={"name": "loss.clip_hig", "values": [0.1, 0.2]}))


def test_tuned_rows_stand_beside_the_published_ones(tmp_path: Any) -> None:
    experiment = searched()
    tuned = with_tuned(experiment, {"GRPO": {"optimiser.lr": 1e-4, "options.kl": 0.1}})
    assert [method.label for method in tuned.methods] == ["GRPO", "GRPO, tuned", "RLOO"]
    published, found, _ = tuned.methods
    assert (published.optimiser, published.options["kl"]) == ({}, 0.0)
    assert (found.optimiser, found.options["kl"]) == ({"lr": 1e-4}, 0.1)
    # the tuned rows are not searched again, and the record of the search still belongs to the experiment
    assert trials_of(tuned) == trials_of(experiment)
    assert search_facts(tuned) == search_facts(experiment) != search_facts(searched(seeds=[100, 102]))
    write_spec(tuned, tmp_path / "spec.toml")
    assert read_experiment(tmp_path / "spec.toml") == tuned


def test_rows_share_the_search_and_not_what_it_found() -> None:
    facts = searched().matched_facts()
    assert "optimiser.lr" not in facts
    assert facts["optimiser.weight_decay"] == 0.0
    assert facts["search.trials"] == 3
    assert facts["search.space.lr"] == [1e-4, 3e-4, 1e-3]
    assert facts != searched(seeds=[100, 102]).matched_facts()
    assert not any(key.startswith("search") for key in small().matched_facts())


def test_a_spec_without_a_search_has_no_trials() -> None:
    assert trials_of(small()) == []
    with pytest.raises(UserError, match=r"declares no \[search\]"):
        tuning_experiment(small())
    assert parse_experiment(small().model_dump()) == small()
