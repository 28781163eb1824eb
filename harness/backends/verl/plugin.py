"""A job's estimators, loss and trainer in verl's registries: what the module of a job calls when verl imports it."""

from __future__ import annotations

from pathlib import Path

from harness.backends.verl.credit import Estimator
from harness.backends.verl.loss import verl_policy_loss
from harness.backends.verl.trainer import fed_trainer
from harness.core.fingerprint import slug
from harness.experiment import MethodSettings, read_experiment
from harness.protocols.method import make_method

LOSS = "harness"
"""The loss's name in verl's registry (`actor.policy_loss.loss_mode`)."""
TRAINER = "harness"
"""The trainer's (`trainer.v1.trainer_mode`)."""


def estimator_name(row: MethodSettings) -> str:
    """A row's name in verl's registry of estimators (`algorithm.adv_estimator`)."""
    return f"harness-{slug(row.label)}"


def register(job: Path) -> None:
    """Put an estimator for each row of a job, the loss and the trainer into verl's registries. job: its folder."""
    from transfer_queue import kv_batch_get
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

    for row in read_experiment(job / "spec.toml").methods:
        made = Estimator(make_method(row.plug, row.options), row.label)
        core_algos.register_adv_est(estimator_name(row))(made)
    core_algos.register_policy_loss(LOSS)(verl_policy_loss)
    register_trainer(TRAINER)(fed_trainer(PPOTrainerSync, kv_batch_get, core_algos.get_adv_estimator_fn))
