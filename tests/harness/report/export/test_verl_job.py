"""An experiment as a job of verl: what is in the folder, the same bytes twice, and which rows are refused."""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from experiments import GRPO, RLOO, small

from harness.core.errors import MissingDataError, UnknownNameError, UserError
from harness.experiment import Experiment, read_experiment
from harness.report.export.verl_job import write_job, yaml
from harness.report.export.verl_settings import refusals, settings

FILES = {
    *("spec.toml", "harness_job.py", "launch.sh", "README.md", "loops.yaml", "tasks/train.json"),
    *("tasks/evaluation.json", "rows/grpo.yaml", "rows/rloo.yaml"),
}


def row(label: str, plug: str, **options: Any) -> dict[str, Any]:
    return {"label": label, "plug": plug, "options": options}


def two() -> Experiment:
    return small(methods=[given.model_dump(exclude_none=True) for given in (GRPO, RLOO)])


def one(**sections: Any) -> dict[str, Any]:
    experiment = small(**sections)
    return settings(experiment, experiment.methods[0], None, 96)


def found(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# ---------------------------------------------------------------- the folder


def test_the_folder_holds_everything_and_is_the_same_bytes_twice(tmp_path: Path) -> None:
    experiment = two()
    written = write_job(experiment, tmp_path / "a")
    write_job(experiment, tmp_path / "b")
    assert {str(file.relative_to(tmp_path / "a")) for file in written} == set(found(tmp_path / "a")) == FILES
    assert found(tmp_path / "a") == found(tmp_path / "b")
    kept = read_experiment(tmp_path / "a" / "spec.toml")
    assert kept == experiment
    ast.parse((tmp_path / "a" / "harness_job.py").read_text())
    told = (tmp_path / "a" / "README.md").read_text()
    assert all(name.partition("/")[0] in told for name in FILES - {"README.md"})
    assert "GRPO, RLOO" in told


def test_only_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    write_job(two(), tmp_path, rows=["RLOO"])
    assert set(found(tmp_path)) == FILES - {"rows/grpo.yaml"}
    assert [given.label for given in read_experiment(tmp_path / "spec.toml").methods] == ["RLOO"]
    with pytest.raises(UnknownNameError, match="did you mean 'GRPO'"):
        write_job(two(), tmp_path, rows=["GRPOO"])


def test_tasks_are_the_train_split_and_the_panel(tmp_path: Path) -> None:
    write_job(two(), tmp_path)
    train = json.loads((tmp_path / "tasks/train.json").read_text())
    panel = json.loads((tmp_path / "tasks/evaluation.json").read_text())
    assert (train["split"], train["steps"], train["prompts_per_step"]) == ("train", 6, 4)
    assert (panel["split"], panel["steps"], len(panel["tasks"])) == ("test", None, 6)
    assert not set(train["tasks"]) & set(panel["tasks"])


def test_the_launch_script_asks_for_what_is_missing(tmp_path: Path) -> None:
    write_job(two(), tmp_path)

    def launched(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        # In place of python, what says what it was given.
        (tmp_path / "python").write_text('#!/bin/sh\necho "$HARNESS_VERL_JOB $HARNESS_VERL_SEED $*"\n')
        (tmp_path / "python").chmod(0o755)
        given = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environ}
        called = ["sh", str(tmp_path / "launch.sh"), *words]
        return subprocess.run(called, env=given, capture_output=True, text=True, check=False)

    for words in ((), ("grpo",), ("gigpo", "0")):
        assert "rows: grpo rloo" in launched(*words).stderr
    assert "HARNESS_VERL_POLICY" in launched("grpo", "0").stderr
    done = launched("grpo", "3", "trainer.nnodes=2", HARNESS_VERL_POLICY="policy")
    assert done.stdout == (
        f"{tmp_path} 3 -m verl.trainer.main_ppo --config-path {tmp_path}/rows --config-name grpo trainer.nnodes=2\n"
    )


def test_the_policy_is_the_one_that_is_named(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        write_job(two(), tmp_path / "job", model)
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 77}))
    write_job(two(), tmp_path / "job", model)
    text = (tmp_path / "job/rows/grpo.yaml").read_text()
    assert f'path: "{model}"' in text
    assert "max_model_len: 77" in text
    assert "HARNESS_VERL_POLICY" not in (tmp_path / "job/launch.sh").read_text()
    write_job(two(), tmp_path / "job", model, window=50)
    assert "max_model_len: 50" in (tmp_path / "job/rows/grpo.yaml").read_text()
    (model / "config.json").write_text("{}")
    with pytest.raises(UserError, match="--window"):
        write_job(two(), tmp_path / "job", model)
    with pytest.raises(MissingDataError, match="smollm2"):
        write_job(small(model={"name": "smollm2"}), tmp_path / "job")


# ---------------------------------------------------------------- settings


def test_settings_are_the_specs() -> None:
    made = one(
        sampling={"group_size": 5, "prompts_per_step": 8, "temperature": 0.7, "top_p": 0.9},
        optimiser={"lr": 1e-6, "betas": [0.8, 0.99], "weight_decay": 0.1, "clip_norm": 0.5, "updates": 3},
        loss={"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 4.0, "aggregate": "sequence-mean-token-mean"},
        model={"dtype": "bfloat16"},
    )
    actor, rollout = made["actor_rollout_ref"]["actor"], made["actor_rollout_ref"]["rollout"]
    assert (rollout["n"], rollout["temperature"], rollout["top_p"], rollout["dtype"]) == (5, 0.7, 0.9, "bfloat16")
    assert made["data"]["train_batch_size"] == actor["ppo_mini_batch_size"] == 8
    assert (actor["clip_ratio_low"], actor["clip_ratio_high"], actor["clip_ratio_c"]) == (0.1, 0.3, 4.0)
    assert (actor["loss_agg_mode"], actor["ppo_epochs"], actor["shuffle"]) == ("seq-mean-token-mean", 3, False)
    optim = actor["optim"]
    assert (optim["lr"], optim["betas"], optim["weight_decay"], optim["clip_grad"]) == (1e-6, [0.8, 0.99], 0.1, 0.5)
    assert (made["trainer"]["total_training_steps"], made["trainer"]["test_freq"]) == (6, 2)
    assert not actor["use_kl_loss"]


def test_parts_of_a_pass_and_the_pull_to_the_reference_policy() -> None:
    made = one(
        sampling={"prompts_per_step": 8},
        optimiser={"minibatches": 4},
        methods=[row("GRPO", "agents.methods.grpo:GRPO", kl=0.04)],
    )
    actor = made["actor_rollout_ref"]["actor"]
    assert (actor["ppo_mini_batch_size"], actor["shuffle"]) == (2, True)
    assert (actor["use_kl_loss"], actor["kl_loss_coef"], actor["kl_loss_type"]) == (True, 0.04, "low_var_kl")


def test_a_rows_own_settings_are_laid_over() -> None:
    own = row("DAPO", "agents.methods.grpo:DAPO") | {"loss": {"clip_high": 0.28}, "as_published": True}
    assert one(methods=[own])["actor_rollout_ref"]["actor"]["clip_ratio_high"] == 0.28


def test_yaml_writes_what_json_and_yaml_read_alike() -> None:
    given = {"a": {"b": [1, 2.5], "c": [], "d": {}}, "e": "a: b # c", "f": 1e-6, "g": math.inf, "h": None, "i": True}
    assert yaml(given) == (
        'a:\n  b:\n    - 1\n    - 2.5\n  c: []\n  d: {}\ne: "a: b # c"\nf: 1.0e-06\ng: .inf\nh: null\ni: true\n'
    )
    assert yaml([{"x": 1, "y": {"z": 2}}, {"x": 3}]) == "- x: 1\n  y:\n    z: 2\n- x: 3\n"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (row("x", "agents.methods.craft:CRAFT"), "'contexts'"),
        (row("x", "agents.methods.craft:CRAFT"), "a state from step to step"),
        (row("x", "agents.methods.craft:CRAFT"), "moves during training"),
        (row("x", "agents.methods.hsd:HSD"), "'whole distributions'"),
        (row("x", "agents.methods.sgcd:SGCD", top_k=4), "'top-k distributions'"),
        (row("x", "agents.methods.sdpo:SDPO"), "'snapshots'"),
        (row("x", "agents.methods.vineppo:VinePPO"), "values of prefixes"),
    ],
)
def test_rows_are_refused_for_what_they_need(given: dict[str, Any], reason: str) -> None:
    experiment = small(methods=[given])
    assert any(reason in why for why in refusals(experiment, experiment.methods[0]))


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"model": {"dtype": "float64"}}, "'float64'"),
        ({"optimiser": {"schedule": "linear"}}, "'linear'"),
        ({"optimiser": {"schedule": "cosine", "warmup_steps": 2}}, "begins at rate 0"),
        ({"optimiser": {"schedule": "cosine", "updates": 2}}, "moves once a step"),
        ({"optimiser": {"minibatches": 3}}, "does not divide"),
        ({"sampling": {"history": "drop-oldest"}}, "several pieces"),
        ({"sampling": {"mixed_groups": True}}, "candidate_limit"),
        ({"loss": {"aggregate": "sequence-mean-token-sum", "sum_constant": 2.5}}, "whole number"),
        (
            {"backend": {"plug": "harness.backends.torch:TorchBackend", "options": {"recompute_layers": True}}},
            "recompute_layers",
        ),
    ],
)
def test_specs_are_refused_for_what_verl_has_no_setting_for(sections: dict[str, Any], reason: str) -> None:
    experiment = small(**sections)
    [why] = refusals(experiment, experiment.methods[0])
    assert reason in why


def test_a_refusal_names_rows_and_reasons_and_writes_nothing(tmp_path: Path) -> None:
    mixed = small(
        methods=[
            row("GRPO", "agents.methods.grpo:GRPO", kl=0.0),
            row("mine", "agents.methods.hsd:HSD"),
            row("other", "agents.methods.vineppo:VinePPO", kl=0.0),
        ]
    )
    with pytest.raises(UserError) as refused:
        write_job(mixed, tmp_path)
    for words in ("'mine': it asks for 'contexts'", "'other': it reads values", "can train: --method 'GRPO'"):
        assert words in str(refused.value)
    assert found(tmp_path) == {}
    write_job(mixed, tmp_path, rows=["GRPO"])
    with pytest.raises(UserError, match=r"\[\[methods\]\]"):
        write_job(small(methods=[]), tmp_path)
