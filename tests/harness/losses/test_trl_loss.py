"""Our loss against TRL's: `GRPOTrainer._compute_loss` on the same tokens, behaviour log-probabilities and
advantages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.experiment import LossSettings
from harness.losses import policy_loss
from harness.packing import pack
from harness.types import Anchor, Credit, KLForm, TokenSequence

pytest.importorskip("trl", reason="TRL is not installed: pip install 'sibling-harness[trl]'")
pytestmark = pytest.mark.slow
Make = Callable[..., Any]
LONGEST = 64


@dataclass(frozen=True)
class Pair:
    """One choice of constants in both vocabularies."""

    trl: dict[str, Any]
    ours: LossSettings
    beta: float = 0.0
    form: KLForm = KLForm.K3


PAIRS = {
    "grpo": Pair({"loss_type": "grpo"}, LossSettings(aggregate="sequence-mean-token-mean")),
    "grpo, k3 anchor": Pair(
        {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False},
        LossSettings(aggregate="sequence-mean-token-mean"),
        0.3,
    ),
    "bnpo": Pair({"loss_type": "bnpo"}, LossSettings()),
    "dapo": Pair({"loss_type": "dapo"}, LossSettings()),
    "dapo, clip higher": Pair(
        {"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.5}, LossSettings(clip_low=0.1, clip_high=0.5)
    ),
    "dapo, k3 anchor": Pair({"loss_type": "dapo", "beta": 0.04, "use_bias_correction_kl": False}, LossSettings(), 0.04),
    "dapo, importance-weighted k3 anchor": Pair(
        {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": True}, LossSettings(), 0.3, KLForm.IS_K3
    ),
    "dr_grpo": Pair(
        {"loss_type": "dr_grpo", "max_completion_length": LONGEST},
        LossSettings(aggregate="sequence-mean-token-sum", sum_constant=LONGEST),
    ),
}


def a_step(ragged_groups: Make, backend: Any) -> tuple[list[TokenSequence], list[float], list[np.ndarray]]:
    """Multi-turn episodes whose behaviour lies up to 0.6 nat off the policy on either side, so that some ratios are
    clipped and some are not; an advantage each, and reference log-probabilities."""
    rng = np.random.default_rng(5)
    sequences = [sequence for group in ragged_groups(11) for sequence in group]
    near = []
    for sequence, score in zip(sequences, backend.score(sequences), strict=True):
        moved = np.where(sequence.mask, score.logprobs + rng.uniform(-0.6, 0.6, len(sequence)), 0.0)
        near.append(TokenSequence(sequence.tokens, sequence.mask, moved, sequence.turns))
    references = [np.where(s.mask, s.logprobs + rng.normal(0, 0.5, len(s)), 0.0) for s in near]
    return near, rng.normal(size=len(near)).tolist(), references


def ours(
    backend: Any, sequences: list[TokenSequence], advantages: list[float], references: list[np.ndarray], pair: Pair
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient by parameter name, through packing, shared prompts and our own forward pass."""
    credits = []
    for sequence, advantage, reference in zip(sequences, advantages, references, strict=True):
        forms = np.full(len(sequence), pair.form, dtype=object)
        anchor = Anchor(reference, pair.beta * sequence.mask, forms) if pair.beta else None
        credits.append(Credit(advantages=advantage * sequence.mask, anchor=anchor))
    total = 0.0
    for logprobs, support, part in backend.differentiable(pack(sequences, credits)):
        out = policy_loss(logprobs, part, pair.ours, support)
        out.total.backward()
        total += float(out.total.detach())
    return total, {name: p.grad for name, p in backend.model.named_parameters()}


@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_are_those_of_trl(
    name: str, backend_of: Make, ragged_groups: Make, tiny_directory: Path, tmp_path: Path
) -> None:
    from trl_bridge import loss_inputs, trainer_of

    pair = PAIRS[name]
    backend = backend_of()
    sequences, advantages, references = a_step(ragged_groups, backend)
    trainer = trainer_of(tiny_directory, tmp_path, len(sequences), torch.float64, **pair.trl)
    inputs = loss_inputs(sequences, advantages, torch.float64, references)
    theirs = trainer._compute_loss(trainer.model.train(), inputs)
    theirs.backward()
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][-1]
    assert 0.05 < clipped < 0.6  # both branches of the surrogate are looked at
    total, gradients = ours(backend, sequences, advantages, references, pair)
    # float64 weights, but transformers' norms and rotations and TRL's log-probabilities are float32 (6e-8 each,
    # hundreds of them in a row)
    assert total == pytest.approx(float(theirs.detach()), rel=1e-5)
    for parameter, expected in trainer.model.named_parameters():
        off = float((gradients[parameter] - expected.grad).abs().max())
        assert off <= 1e-5 * float(expected.grad.abs().max()), parameter


def test_a_wrong_constant_would_be_noticed(
    backend_of: Make, ragged_groups: Make, tiny_directory: Path, tmp_path: Path
) -> None:
    from trl_bridge import loss_inputs, trainer_of

    backend = backend_of()
    sequences, advantages, references = a_step(ragged_groups, backend)
    trainer = trainer_of(tiny_directory, tmp_path, len(sequences), torch.float64, loss_type="dapo")
    theirs = float(
        trainer._compute_loss(trainer.model.train(), loss_inputs(sequences, advantages, torch.float64)).detach()
    )
    for other in ("grpo", "dapo, clip higher"):
        total, _ = ours(backend, sequences, advantages, references, PAIRS[other])
        assert total != pytest.approx(theirs, rel=1e-3)
