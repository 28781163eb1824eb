"""verl itself: a job's configuration read by its own classes, our estimators and loss in its own registries, and its
numbers against ours.

Run where verl 0.9 is installed (without its dependencies, and with what it imports: ray, tensordict, hydra-core,
TransferQueue ...). Nothing here needs a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import small
from test_verl_parts import LOSSES, METHODS, THEIRS, Held, actor_config, expected

from harness import ROOT
from harness.backends.torch.optimiser import Optimiser
from harness.backends.verl.loss import NO_DUAL_CLIP, micro_batch, verl_policy_loss
from harness.core.fingerprint import slug
from harness.experiment import LossSettings, OptimiserSettings
from harness.losses import AnchorBatch, policy_loss
from harness.losses.terms import FORMS
from harness.protocols.method import make_method
from harness.report.export.verl_job import write_job
from harness.report.export.verl_settings import settings
from harness.types import KLForm

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("verl") is None,
        reason="verl is not installed: pip install --no-deps verl==0.9.1, and what it imports",
    ),
    pytest.mark.filterwarnings("ignore"),  # verl's and Ray's own
]
ROWS = [
    {"label": f"{plug.rpartition(':')[2]} {number}", "plug": plug, "options": options}
    for number, (plug, options) in enumerate(METHODS)
]
PROGRAM = """
import json, os, sys
from hydra import compose, initialize_config_dir
import hydra.utils
from omegaconf import OmegaConf
import verl  # imports the job's module
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.dataset.rl_dataset import collate_fn, get_dataset_class

job, row = os.environ["HARNESS_VERL_JOB"], sys.argv[1]
with initialize_config_dir(config_dir=job + "/rows", version_base=None):
    config = compose(config_name=row)
OmegaConf.resolve(config)
validate_config(config, need_reference_policy(config), need_critic(config))
parts = config.actor_rollout_ref
actor, rollout, algorithm = map(omega_conf_to_dataclass, (parts.actor, parts.rollout, config.algorithm))
data = get_dataset_class(config.data)(config.data.train_files, config=config.data)
loops = OmegaConf.load(parts.rollout.agent.agent_loop_config_path)
class Given:
    config = config
loop = hydra.utils.instantiate(loops[0], trainer_config=Given(), server_manager=None, tokenizer=None, tools=None)
print(json.dumps({
    "version": verl.__version__,
    "classes": [type(part).__name__ for part in (actor, rollout, algorithm, actor.optim, actor.engine)],
    "reference": need_reference_policy(config),
    "critic": need_critic(config),
    "loop": [type(loop).__name__, loop.experiment.methods[0].label, loop.window],
    "batch": sorted(collate_fn([data[0], data[1]])),
    "items": len(data),
    "estimator": core_algos.get_adv_estimator_fn(algorithm.adv_estimator).label,
    "loss": core_algos.get_policy_loss_fn(actor.policy_loss.loss_mode).__module__,
    "trainer": issubclass(get_trainer_cls(config.trainer.v1.trainer_mode), PPOTrainerSync),
    "mode": PPOTrainerSync.__name__,
    "actor": [actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c, actor.loss_agg_mode],
    "optim": [actor.optim.lr, list(actor.optim.betas), actor.optim.clip_grad, actor.optim.lr_warmup_steps],
    "kl": [actor.use_kl_loss, actor.kl_loss_coef, actor.kl_loss_type],
    "sampling": [rollout.n, rollout.temperature, rollout.top_p, rollout.max_model_len],
    "steps": config.trainer.total_training_steps,
    "names": [config.trainer.experiment_name, config.data.seed],
}))
"""


def in_verl(folder: Path, *words: str) -> dict[str, Any]:
    """What the program above prints, run in a process of its own as `launch.sh` prepares it."""
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")]),
        "VERL_USE_EXTERNAL_MODULES": "harness_job",
        "HARNESS_VERL_JOB": str(folder),
        "HARNESS_VERL_SEED": "5",
        "HARNESS_VERL_POLICY": str(folder),
        "RAY_AUTH_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
    }
    called = [sys.executable, "-W", "ignore", "-c", PROGRAM, *words]
    done = subprocess.run(called, env=environ, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def test_verls_classes_read_the_job(tmp_path: Path) -> None:
    """The way of `launch.sh`: verl imports the job's module, composes its configuration and validates it."""
    experiment = small(
        methods=ROWS,
        sampling={"group_size": 5, "temperature": 0.8, "top_p": 0.95},
        optimiser={"lr": 2e-6, "betas": [0.85, 0.97], "clip_norm": 0.3, "warmup_steps": 2},
        loss={"clip_low": 0.15, "clip_high": 0.25},
    )
    write_job(experiment, tmp_path)
    read = in_verl(tmp_path, "grpo-1")
    assert read["version"].startswith("0.9")
    assert read["classes"] == [
        "FSDPActorConfig",
        "RolloutConfig",
        "AlgoConfig",
        "FSDPOptimizerConfig",
        "FSDPEngineConfig",
    ]
    assert (read["reference"], read["critic"], read["kl"]) == (True, False, [True, 0.05, "low_var_kl"])
    assert (read["estimator"], read["loss"], read["trainer"]) == ("GRPO 1", "harness.backends.verl.loss", True)
    assert read["loop"] == ["EnvironmentLoop", "GRPO 0", 256]
    assert {"raw_prompt", "index", "task"} <= set(read["batch"])
    assert (read["items"], read["steps"], read["names"]) == (24, 6, ["grpo-1-seed5", 5])
    assert read["actor"] == [0.15, 0.25, NO_DUAL_CLIP, "token-mean"]
    assert read["optim"] == [2e-6, [0.85, 0.97], 0.3, 2]
    assert read["mode"] == "PPOTrainerSync"
    assert read["sampling"] == [5, 0.8, 0.95, 256]


# ---------------------------------------------------------------- numbers


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Our estimators, loss and trainer in verl's registries, by the function that a job calls."""
    from harness.backends.verl.plugin import register

    job = tmp_path_factory.mktemp("job")
    write_job(small(methods=ROWS), job)
    register(job)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["label"])
def test_verls_advantages_are_our_credit(row: dict[str, Any]) -> None:
    """Through verl's own `compute_advantage`, float64, padded, siblings apart, a row of padding among them."""
    from verl import DataProto
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.ray_trainer import compute_advantage

    method = make_method(row["plug"], row["options"])
    name = f"harness-{slug(row['label'])}"
    for seed in range(3):
        held = Held(method, seed)
        data = DataProto.from_dict(
            tensors={"token_level_rewards": held.rewards, "response_mask": held.mask},
            non_tensors={"uid": np.array(held.index, dtype=object)},
        )
        with core_algos.get_adv_estimator_fn(name).given(held.rows):
            done = compute_advantage(data, adv_estimator=name, config=None)
        wanted = expected(held, held.ours(method))
        torch.testing.assert_close(done.batch["advantages"], wanted, rtol=0, atol=1e-6)
        assert float((done.batch["advantages"] - wanted).abs().max()) <= 1e-12


def drawn(seed: int) -> tuple[torch.Tensor, ...]:
    """(old, current, advantages, mask) of six rows, float64; ratios leave every clip, one row has no token."""
    generator = torch.Generator().manual_seed(seed)
    shape = (6, 11)
    old = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    current = old + 0.8 * torch.randn(shape, generator=generator, dtype=torch.float64)
    gains = torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.7
    mask[2] = False
    return old, current, gains, mask


@pytest.mark.parametrize("given", LOSSES, ids=str)
def test_verls_vanilla_loss_is_ours(given: dict[str, Any]) -> None:
    """Loss and gradient of our function in verl's registry, and of verl's own, under its own configuration class."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.workers.config import FSDPActorConfig

    ours = LossSettings(**given)
    experiment = small(loss=given)
    actor = settings(experiment, experiment.methods[0], None, 96)["actor_rollout_ref"]["actor"]
    config = FSDPActorConfig(
        rollout_n=4,
        use_dynamic_bsz=True,
        **{name: value for name, value in actor.items() if name.startswith(("clip_ratio", "loss_"))},
    )
    old, current, gains, mask = drawn(1)
    info = {"dp_size": 3, "batch_num_tokens": 57, "global_batch_size": 9, "loss_scale_factor": config.loss_scale_factor}
    config.global_batch_info.update(info)
    found = []
    for name in ("vanilla", "harness"):
        leaf = current.clone().requires_grad_()
        out, facts = get_policy_loss_fn(name)(old, leaf, gains, mask, THEIRS[ours.aggregate], config)
        out.backward()
        found.append((out.detach(), leaf.grad, facts))
    (theirs, slope, said), (mine, own, told) = found
    torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=0)
    assert float((own - slope).norm() / slope.norm()) < 2e-6
    assert told["actor/ppo_kl"] == pytest.approx(said["actor/ppo_kl"], abs=1e-12)
    plain = current.clone().requires_grad_()
    whole = policy_loss(plain, micro_batch(old, gains, mask, info), ours).total * 3
    whole.backward()
    torch.testing.assert_close(whole.detach(), theirs, rtol=2e-6, atol=0)
    assert float((plain.grad - slope).norm() / slope.norm()) < 2e-6


def test_verls_pull_to_the_reference_policy_is_ours() -> None:
    """`low_var_kl` with its weight and aggregation against our anchor in the form k3."""
    from dataclasses import replace

    from verl.trainer.ppo.core_algos import agg_loss, kl_penalty

    old, current, gains, mask = drawn(2)
    reference = old - 0.3
    info = {"dp_size": 1, "batch_num_tokens": int(mask.sum()), "global_batch_size": 6}
    for aggregate in ("token-mean", "sequence-mean-token-mean"):
        ours = LossSettings(aggregate=aggregate)
        leaf = current.clone().requires_grad_()
        loss, _ = verl_policy_loss(old, leaf, gains, mask, THEIRS[aggregate], actor_config(ours, **info))
        pulled = kl_penalty(leaf, reference, "low_var_kl")
        theirs = loss + 0.05 * agg_loss(pulled, mask, THEIRS[aggregate], **info)
        theirs.backward()
        plain = current.clone().requires_grad_()
        batch = micro_batch(old, gains, mask, info)
        forms = torch.full(mask.shape, FORMS.index(KLForm.K3))
        anchor = AnchorBatch(reference, torch.full(mask.shape, 0.05, dtype=torch.float64), forms)
        whole = policy_loss(plain, replace(batch, streams=batch.streams | {"anchor": anchor}), ours).total
        whole.backward()
        torch.testing.assert_close(theirs.detach(), whole.detach(), rtol=2e-6, atol=0)
        assert float((leaf.grad - plain.grad).norm() / plain.grad.norm()) < 2e-6


@pytest.mark.parametrize(
    "given", [{}, {"warmup_steps": 3}, {"schedule": "cosine"}], ids=["constant", "warm-up", "cosine"]
)
def test_verls_schedule_is_ours(given: dict[str, Any]) -> None:
    from verl.utils import torch_functional

    experiment = small(optimiser=given)
    optim = settings(experiment, experiment.methods[0], None, 96)["actor_rollout_ref"]["actor"]["optim"]
    weight = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([weight], lr=optim["lr"])
    if optim["lr_scheduler_type"] == "constant":
        schedule = torch_functional.get_constant_schedule_with_warmup(theirs, optim["lr_warmup_steps"])
    else:
        schedule = torch_functional.get_cosine_schedule_with_warmup(
            theirs,
            optim["lr_warmup_steps"],
            10,
            min_lr_ratio=optim["min_lr_ratio"],
            zero_indexed_step=optim["zero_indexed_step"],
        )
    ours = Optimiser(torch.nn.ParameterList([weight]), OptimiserSettings(lr=optim["lr"], **given), 10)
    for step in range(10):
        assert theirs.param_groups[0]["lr"] == pytest.approx(ours.rate(step), rel=1e-12, abs=1e-18)
        theirs.step()
        schedule.step()


def test_verls_trainer_shows_the_estimator_whole_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From an episode as the agent loop hands it over to the advantages that verl's trainer stores, by its own
    `_compute_advantage`; the queue between them is a dictionary."""
    import transfer_queue
    from omegaconf import OmegaConf
    from tensordict import TensorDict
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.trainer.ppo.v1 import PPOTrainerSync
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    from harness.backends.verl.loop import row_of
    from harness.backends.verl.trainer import fed_trainer

    method = make_method(ROWS[3]["plug"], ROWS[3]["options"])
    held = Held(method, 4)
    fields: list[dict[str, Any]] = []
    for row, uid in zip(held.rows, held.index, strict=True):
        played = next(r for r in held.rows if r is not None) if row is None else row  # verl's padding copies a row
        output = AgentLoopOutput(metrics=AgentLoopMetrics(), **row_of(played.episode)).as_dict()
        if row is None:
            for name in ("responses", "response_mask", "rm_scores", "rollout_log_probs"):
                output[name] = torch.zeros_like(output[name][:1])
        output |= {"uid": uid, "old_log_probs": output["rollout_log_probs"].double()}
        fields.append(output)
    stored: dict[str, TensorDict] = {"all": list_of_dict_to_tensordict(fields)}

    def get(keys: Any, partition_id: str, select_fields: list[str]) -> TensorDict:
        return stored["all"].select(*select_fields, strict=False)

    def put(keys: Any, partition_id: str, fields: TensorDict) -> Any:
        stored["made"] = fields
        return batch

    monkeypatch.setattr(transfer_queue, "kv_batch_get", get)
    monkeypatch.setattr(transfer_queue, "kv_batch_put", put)
    made = fed_trainer(PPOTrainerSync, get, get_adv_estimator_fn)
    trainer = made.__new__(made)
    algorithm = {
        "adv_estimator": f"harness-{slug(ROWS[3]['label'])}",
        "use_kl_in_reward": False,
        "gamma": 1.0,
        "lam": 1.0,
    }
    trainer.config = OmegaConf.create({"algorithm": algorithm, "actor_rollout_ref": {"rollout": {"n": 3}}})
    trainer.use_reference_policy = False
    batch = type("Batch", (), {})()
    batch.keys = [f"{uid}_{place}_0" for place, uid in enumerate(held.index)]
    batch.partition_id, batch.tags = "train", [{"is_padding": row is None} for row in held.rows]
    batch.__class__.__len__ = lambda self: len(self.keys)
    metrics: dict[str, Any] = {}
    trainer._compute_advantage(batch, metrics)
    wanted = expected(held, held.ours(method))
    for place, row in enumerate(held.rows):
        if row is not None:
            theirs = stored["made"]["advantages"][place]
            torch.testing.assert_close(theirs.double(), wanted[place, : len(theirs)], rtol=0, atol=1e-6)
    assert any(name.startswith("method/") for name in metrics)
