"""The torch backend by four verbs: whole or in parts, the step is the one that `update` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.backends.torch import TorchBackend
from harness.backends.torch.session import Session
from harness.core.errors import HarnessError
from harness.experiment import LossSettings
from harness.losses import Batch, pack
from harness.protocols.backend import Prompt, SamplingParams
from harness.types import Anchor, Credit, KLForm, TokenSequence

Make = Callable[..., Any]
LOSS = LossSettings()


@pytest.fixture
def batch(ragged_groups: Callable[..., list[list[TokenSequence]]]) -> Batch:
    """Twelve uneven episodes with advantages and a pull."""
    rng = np.random.default_rng(3)
    sequences = [sequence for group in ragged_groups(3) for sequence in group]
    credits = [
        Credit(
            np.where(s.mask, rng.normal(size=len(s)), 0.0),
            anchor=Anchor(s.logprobs - s.mask, 0.1 * s.mask, np.full(len(s), KLForm.K3, dtype=object)),
        )
        for s in sequences
    ]
    return pack(sequences, credits)


def weights(backend: TorchBackend) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in backend.model.parameters()]


def test_a_whole_batch_is_the_backends_step_to_the_bit(backend_of: Make, batch: Batch) -> None:
    ours, other = backend_of(), backend_of()
    session = Session(other)
    for _ in range(3):
        wanted = ours.update(batch, LOSS)
        found = session.forward_backward(batch, LOSS) | session.optim_step()
        assert found == {name: wanted[name] for name in found}
    assert {"loss/total", "loss/surrogate", "loss/anchor", "gradient_norm", "lr"} == set(found)
    assert all(map(torch.equal, weights(ours), weights(other)))
    assert ours.version == other.version


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_add_up_to_the_step(backend_of: Make, batch: Batch, parts: int) -> None:
    ours, other = backend_of(), backend_of()
    session = Session(other)
    for _ in range(2):
        wanted = ours.update(batch, LOSS)
        shares = [session.forward_backward(batch.rows(rows), LOSS) for rows in torch.arange(len(batch)).split(parts)]
        found = session.optim_step()
        assert sum(share["loss/total"] for share in shares) == pytest.approx(wanted["loss/total"], rel=1e-12)
        assert found["gradient_norm"] == pytest.approx(wanted["gradient_norm"], rel=1e-10)
    for mine, theirs in zip(weights(ours), weights(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_it_samples_and_saves_as_the_backend_does(backend_of: Make, batch: Batch, tmp_path: Path) -> None:
    ours, other = backend_of(), backend_of()
    session = Session(other)
    ours.update(batch, LOSS)
    session.forward_backward(batch, LOSS)
    session.optim_step()
    asked, params = [Prompt([6, 7, 8], seed=4)], SamplingParams(6)
    assert np.array_equal(session.sample(asked, params)[0].tokens, ours.sample(asked, params)[0].tokens)
    session.save(tmp_path / "kept")
    back = backend_of()
    back.load(tmp_path / "kept")
    assert all(map(torch.equal, weights(ours), weights(back)))
    assert back.update(batch, LOSS) == ours.update(batch, LOSS)


def test_verbs_out_of_order_are_refused(backend_of: Make, batch: Batch, tmp_path: Path, tiny_directory: Path) -> None:
    session = Session(backend_of())
    with pytest.raises(HarnessError, match="no gradient"):
        session.optim_step()
    session.forward_backward(batch, LOSS)
    with pytest.raises(HarnessError, match="would be lost"):
        session.save(tmp_path)
    session.optim_step()
    with pytest.raises(HarnessError, match="no gradient"):
        session.optim_step()
    with pytest.raises(ValueError, match="without optimiser settings"):
        Session(TorchBackend(tiny_directory, None, dtype="float64", device="cpu"))
