"""Shards of the weights on two processes take the step of one: loss, gradient, checkpoints, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ranks import LOSS, credited, row

from harness.backends.torch import TorchBackend
from harness.backends.torch.generic import WholeForward
from harness.backends.torch.lora import Lora
from harness.core.errors import UserError
from harness.experiment import OptimiserSettings, PlugSettings
from harness.losses import Batch, pack
from harness.protocols.backend import BackendSettings, Start
from harness.protocols.check_backend import check_backend
from harness.types import TokenSequence

Make = Callable[..., TorchBackend]


@pytest.fixture
def made(tiny_directory: Path) -> Iterator[Make]:
    backends: list[TorchBackend] = []

    def make(dtype: str, **options: Any) -> TorchBackend:
        optimiser = OptimiserSettings(lr=1e-3, micro_tokens=64, schedule="cosine", warmup_steps=2)
        settings = BackendSettings(optimiser, 10, dtype=dtype, device="cpu")
        backends.append(TorchBackend.from_start(Start(tiny_directory), settings, **options))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


def states(backend: TorchBackend, folder: Path) -> dict[str, Any]:
    backend.save(folder)
    return torch.load(folder / "trainer_state.pt", weights_only=True)  # type: ignore[no-any-return]


def far(ours: dict[str, Any], theirs: dict[str, Any], key: str) -> float:
    """The largest distance of two optimisers' states of that name, relative to the norm of all of them. After the first
    step those named `exp_avg` are the gradient, times 1 - beta_1."""
    pairs = [(of[key], theirs["adam"]["state"][n][key]) for n, of in ours["adam"]["state"].items()]
    norm = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    return max(float((a - b).norm()) for a, b in pairs) / norm


def batches(ragged_groups: Callable[..., list[list[TokenSequence]]]) -> list[Batch]:
    """Uneven groups; a rank whose only row has no sampled token; a rank without any row."""
    groups = ragged_groups(3, groups=3)
    several = [[*groups[0], *groups[1][:1], *groups[2][:2]], [*groups[0], row([6, 7, 8], 3)], groups[1]]
    return [pack(sequences, credited(sequences, seed)) for seed, sequences in enumerate(several)]


@pytest.mark.slow
@pytest.mark.heavy
def test_two_processes_with_half_the_weights_take_the_step_of_one(
    made: Make, ragged_groups: Any, tmp_path: Path
) -> None:
    """The one reads the model through its own forward pass too, so that nothing but the order of additions differs.
    Then each goes on from what the other has saved."""
    two, one = made("float64", processes=2, shard=True), made("float64")
    one._forward = WholeForward(one.model)
    for number, batch in enumerate(batches(ragged_groups)):
        ours, theirs = two.update(batch, LOSS), one.update(batch, LOSS)
        assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-15)
        if number == 0:
            of_two, of_one = states(two, tmp_path / "first"), states(one, tmp_path / "other")
            assert far(of_two, of_one, "exp_avg") < 1e-12
            assert not any(parameter.grad is not None for parameter in two.model.parameters())
    of_two, of_one = states(two, tmp_path / "two"), states(one, tmp_path / "one")
    assert of_two["adam"]["param_groups"] == of_one["adam"]["param_groups"]
    assert (of_two["done"], of_two["masters"]) == (of_one["done"], of_one["masters"]) == (3, [])
    assert far(of_two, of_one, "exp_avg_sq") < 1e-12
    two.load(tmp_path / "one")
    one.load(tmp_path / "two")
    assert two.update(batch, LOSS) == pytest.approx(one.update(batch, LOSS), rel=1e-9)
    for a, b in zip(two.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.heavy
def test_in_float32_the_gradient_is_that_of_our_own_forward_pass(
    made: Make, ragged_groups: Any, tmp_path: Path
) -> None:
    """The head in chunks of three tokens, and layers computed once more."""
    chunks = {"chunk_mib": 3 * 4 * 280 / 2**20}
    two, one = made("float32", processes=2, shard=True, recompute_layers=True, **chunks), made("float32")
    batch = batches(ragged_groups)[0]
    ours, theirs = two.update(batch, LOSS), one.update(batch, LOSS)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours["loss/total"] == pytest.approx(theirs["loss/total"], rel=2e-6)
    assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
    assert far(states(two, tmp_path / "two"), states(one, tmp_path / "one"), "exp_avg") < 2e-6


@pytest.mark.slow
@pytest.mark.heavy
def test_under_bfloat16_parts_are_float32_and_go_on_from_a_checkpoint(
    made: Make, ragged_groups: Any, tmp_path: Path
) -> None:
    two = made("bfloat16", processes=2, shard=True)
    batch = batches(ragged_groups)[0]
    two.update(batch, LOSS)
    two.track("teacher", 0.5)
    wide = states(two, tmp_path)["masters"]
    assert {one.dtype for one in wide} == {torch.float32}
    for master, rounded in zip(wide, two.model.parameters(), strict=True):
        assert torch.equal(master.bfloat16(), rounded)
    first = two.update(batch, LOSS)
    two.load(tmp_path)
    assert two.update(batch, LOSS) == first
    one = made("bfloat16")
    one.load(tmp_path)  # one process goes on too, and its teacher is the same
    (ours,), (theirs,) = (backend.score(ragged_groups(3)[0][:1], "teacher") for backend in (two, one))
    assert (ours.logprobs == theirs.logprobs).all()
    assert one.update(batch, LOSS)["gradient_norm"] == pytest.approx(first["gradient_norm"], rel=0.02)


@pytest.mark.slow
@pytest.mark.heavy
def test_shards_keep_the_contract(tiny_directory: Path, tmp_path: Path) -> None:
    options = {"processes": 2, "shard": True}
    named = PlugSettings(plug="harness.backends.torch:TorchBackend", options=options)
    check_backend(named, tiny_directory, tmp_path / "saved")


def test_what_shards_cannot_do_is_refused(made: Make) -> None:
    with pytest.raises(UserError, match="shard needs several processes"):
        made("float32", shard=True)
    with pytest.raises(UserError, match="shard and lora do not go together"):
        made("float32", processes=2, shard=True, lora=Lora(4, 8.0))
    with pytest.raises(UserError, match="shard and states_8bit do not go together"):
        made("float32", processes=2, shard=True, states_8bit=True)
    with pytest.raises(UserError, match="patience_s must be positive, got 0"):
        made("float32", processes=2, patience_s=0.0)
