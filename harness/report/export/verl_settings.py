"""A row's settings as verl 0.9 writes them, and what of a spec it has no setting for.

verl's configuration is its own `ppo_trainer` with these entries laid over it. Everything that decides a result is
written out, so that another version's defaults change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from harness.backends.verl.credit import lacking, pull_of
from harness.backends.verl.loss import AGGREGATES, NO_DUAL_CLIP
from harness.backends.verl.plugin import LOSS, TRAINER, estimator_name
from harness.core.fingerprint import slug
from harness.experiment import Experiment, MethodSettings
from harness.protocols.backend import deciding
from harness.protocols.method import make_method

Tree = dict[str, Any]
JOB, SEED = "${oc.env:HARNESS_VERL_JOB}", "${oc.decode:${oc.env:HARNESS_VERL_SEED}}"
"""The job's folder and the run's seed, as a configuration reads them from what the launch script has set."""
POLICY = "${oc.env:HARNESS_VERL_POLICY}"
"""The directory that training starts from, where a job does not know it."""


def refusals(experiment: Experiment, row: MethodSettings) -> list[str]:
    """Why a row cannot be a job of verl, a reason each; empty where it can."""
    return [*lacking(experiment, row), *_without_setting(experiment.for_row(row))]


def _without_setting(experiment: Experiment) -> Iterator[str]:
    """What the spec asks for that verl 0.9 has no setting for."""
    optimiser, sampling, loss = experiment.optimiser, experiment.sampling, experiment.loss
    updates = optimiser.updates * optimiser.minibatches
    if optimiser.schedule == "linear":
        yield "optimiser.schedule = 'linear': verl's FSDP engine has 'constant' and 'cosine'"
    if optimiser.schedule == "cosine" and optimiser.warmup_steps:
        yield "optimiser.warmup_steps before a cosine decay: verl's warm-up begins at rate 0, a step behind ours"
    if updates > 1 and (optimiser.schedule != "constant" or optimiser.warmup_steps):
        yield "a schedule over several updates a step: verl's moves once a step, ours with every update"
    if sampling.prompts_per_step % optimiser.minibatches:
        yield (
            f"optimiser.minibatches = {optimiser.minibatches} does not divide sampling.prompts_per_step = "
            f"{sampling.prompts_per_step}: verl's parts are equal"
        )
    if sampling.history != "keep":
        yield f"sampling.history = {sampling.history!r}: an episode in several pieces is several samples of verl's"
    if sampling.mixed_groups:
        yield "sampling.mixed_groups: verl 0.9 draws tasks without the limit sampling.candidate_limit"
    if loss.sum_constant is not None and loss.sum_constant != int(loss.sum_constant):
        yield f"loss.sum_constant = {loss.sum_constant:g}: verl's loss_scale_factor is a whole number"
    own = deciding(experiment.backend).options
    if own:
        yield f"options of {experiment.backend.plug} that decide a result ({', '.join(own)}): verl is not it"
    if experiment.search is not None:
        yield "[search]: its trials are ours; export the spec with the settings that it found"


def settings(experiment: Experiment, row: MethodSettings, policy: str | None, window: int) -> Tree:
    """The configuration of one row. policy: the directory of the model that training starts from, None where it is
    named when a run is started; window: most tokens of an episode."""
    ours = experiment.for_row(row)
    steps, every = ours.budget.steps, ours.evaluation.every
    name = slug(row.label)
    return {
        "hydra": {"searchpath": ["pkg://verl.trainer.config"]},
        "defaults": ["ppo_trainer", "_self_"],
        "algorithm": {"adv_estimator": estimator_name(row), "use_kl_in_reward": False},
        "data": _data(ours, window),
        "critic": {"enable": False},
        "actor_rollout_ref": {
            "model": {"path": policy or POLICY},
            "actor": _actor(ours, row, window),
            "ref": {"fsdp_config": _precision(ours)},
            "rollout": _rollout(ours, name, window),
        },
        "trainer": {
            "v1": {"trainer_mode": TRAINER},
            "total_epochs": 1,
            "total_training_steps": steps,
            "save_freq": ours.budget.checkpoint_every,
            "test_freq": every or steps,
            "val_before_train": every > 0,
            "nnodes": 1,
            "n_gpus_per_node": 1,
            "logger": ["console"],
            "project_name": slug(ours.name),
            "experiment_name": f"{name}-seed{SEED}",
            "default_local_dir": f"{JOB}/runs/{name}-seed{SEED}",
        },
        "ray_kwargs": {"ray_init": {"runtime_env": {"env_vars": _environ(policy is None)}}},
    }


def _environ(asked: bool) -> Tree:
    """What the processes of a Ray cluster have to know. asked: the policy too."""
    names = ["PYTHONPATH", "VERL_USE_EXTERNAL_MODULES", "HARNESS_VERL_JOB", "HARNESS_VERL_SEED"]
    return {name: f"${{oc.env:{name}}}" for name in (*names, *(["HARNESS_VERL_POLICY"] if asked else []))}


def _data(experiment: Experiment, window: int) -> Tree:
    return {
        "train_files": f"{JOB}/tasks/train.json",
        "val_files": f"{JOB}/tasks/evaluation.json",
        "custom_cls": {"path": "pkg://harness.backends.verl.tasks", "name": "Tasks"},
        "train_batch_size": experiment.sampling.prompts_per_step,
        "max_prompt_length": window,
        "max_response_length": window,
        "shuffle": False,  # the tasks come in the run's own order
        "validation_shuffle": False,
        "seed": SEED,
        "dataloader_num_workers": 0,
    }


def _actor(experiment: Experiment, row: MethodSettings, window: int) -> Tree:
    loss, optimiser = experiment.loss, experiment.optimiser
    pull = pull_of(make_method(row.plug, row.options)) or 0.0
    return {
        "policy_loss": {"loss_mode": LOSS},
        "clip_ratio": loss.clip_low,
        "clip_ratio_low": loss.clip_low,
        "clip_ratio_high": loss.clip_high,
        "clip_ratio_c": NO_DUAL_CLIP if loss.dual_clip is None else loss.dual_clip,
        "loss_agg_mode": AGGREGATES[loss.aggregate],
        "loss_scale_factor": None if loss.sum_constant is None else int(loss.sum_constant),
        "use_kl_loss": pull > 0,
        "kl_loss_coef": pull,
        "kl_loss_type": "low_var_kl",
        "entropy_coeff": 0,
        "ppo_epochs": optimiser.updates,
        "ppo_mini_batch_size": experiment.sampling.prompts_per_step // optimiser.minibatches,
        "shuffle": optimiser.minibatches > 1,
        "data_loader_seed": SEED,
        "use_dynamic_bsz": True,
        "ppo_max_token_len_per_gpu": max(optimiser.micro_tokens, window),
        "optim": _optimiser(experiment),
        "fsdp_config": _precision(experiment),
    }


def _optimiser(experiment: Experiment) -> Tree:
    """AdamW and its schedule. A warm-up is a cosine that falls to 1: that one's steps can be counted from 1, as ours
    are."""
    ours = experiment.optimiser
    warm, clip = ours.warmup_steps, ours.clip_norm
    return {
        "optimizer": "AdamW",
        "lr": ours.lr,
        "betas": list(ours.betas),
        "weight_decay": ours.weight_decay,
        "clip_grad": math.inf if clip is None else clip,
        "lr_scheduler_type": "cosine" if warm or ours.schedule == "cosine" else "constant",
        "min_lr_ratio": 1.0 if warm else 0.0,
        "zero_indexed_step": not warm,
        "lr_warmup_steps": warm,
        "lr_warmup_steps_ratio": 0.0,
    }


def _precision(experiment: Experiment) -> Tree:
    return {"model_dtype": "fp32", "dtype": experiment.model.dtype}


def _rollout(experiment: Experiment, loop: str, window: int) -> Tree:
    sampling = experiment.sampling
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": -1, "do_sample": True}
    return {
        "name": "vllm",
        "mode": "async",
        "n": sampling.group_size,
        **drawn,
        "dtype": experiment.model.dtype,
        "tensor_model_parallel_size": 1,
        "max_model_len": window,
        "calculate_log_probs": True,
        "val_kwargs": {**drawn, "n": experiment.evaluation.samples},
        "agent": {"default_agent_loop": loop, "agent_loop_config_path": f"{JOB}/loops.yaml"},
    }


def loops(rows: Mapping[str, str]) -> list[Tree]:
    """An agent loop for each row (name in verl: label), as verl's list of them."""
    target = "harness.backends.verl.loop.EnvironmentLoop"
    return [{"name": name, "_target_": target, "job": JOB, "row": label} for name, label in rows.items()]
