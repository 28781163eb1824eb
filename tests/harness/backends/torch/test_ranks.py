"""Several processes take the step of one: gradients added up over gloo, whatever rows each has."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import GRPO, quiet, small
from hypothesis import given
from hypothesis import strategies as st

from harness.backends.torch import TorchBackend
from harness.backends.torch.lora import Lora
from harness.backends.torch.ranks import deal
from harness.core import records
from harness.core.errors import HarnessError, UserError
from harness.experiment import LossSettings, OptimiserSettings, PlugSettings
from harness.learning.run import identity
from harness.learning.warm_start import start_of
from harness.losses import pack
from harness.protocols.backend import BackendSettings, Start
from harness.protocols.check_backend import check_backend
from harness.report.folder import build_table
from harness.runs.job import run_job
from harness.runs.plan import plan
from harness.runs.record import gather_records
from harness.tables.agreement import agreements
from harness.types import Anchor, Credit, Distillation, KLForm, TokenSequence, TopK

Make = Callable[..., Any]
LOSS = LossSettings()
SMALL = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 1, "mlp": 128, "window": 160, "vocabulary": 384}


def row(tokens: list[int], prompt: int) -> TokenSequence:
    mask = np.arange(len(tokens)) >= prompt
    return TokenSequence(np.array(tokens), mask, np.where(mask, -1.0, 0.0), np.zeros(len(tokens), dtype=np.int64))


def credited(sequences: list[TokenSequence], seed: int = 0) -> list[Credit]:
    """Every stream of the loss."""
    rng = np.random.default_rng(seed)
    out = []
    for s in sequences:
        anchor = Anchor(s.logprobs - 0.1, s.mask * 0.2, np.full(len(s), KLForm.K3, dtype=object))
        teacher = TopK(rng.permuted(np.tile(np.arange(6, 16), (len(s), 1)), axis=1)[:, :3], np.full((len(s), 3), -1.5))
        told = Distillation(teacher, s.mask * 0.3)
        out.append(Credit(rng.normal() * s.mask, rng.normal(size=len(s)) * s.mask, anchor, told))
    return out


def grads(backend: TorchBackend) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in backend.model.parameters()]


# ---------------------------------------------------------------- dealing


def test_whole_groups_go_to_whoever_has_the_fewest_tokens() -> None:
    """Three prompts with 2 x 6, 2 x 5 and 1 x 8 tokens (12, 10 and 8) on two ranks: the first takes 12, the second 10
    and then 8, being behind."""
    a, b, c = [7, 8, 9, 10, 11, 12], [8, 8, 9, 10, 11], [9, 8, 9, 10, 11, 12, 13, 14]
    sequences = [row(a, 3), row(b, 3), row(a, 3), row(b, 3), row(c, 3)]
    batch = pack(sequences, [Credit(s.mask * 1.0) for s in sequences])
    dealt = [[int(batch.order[place]) for place in rows] for rows in deal(batch, 2)]
    assert [sorted(rows) for rows in dealt] == [[0, 2], [1, 3, 4]]
    assert deal(batch, 1) == [[0, 1, 2, 3, 4]]
    assert [len(rows) for rows in deal(batch, 5)] == [2, 2, 1, 0, 0]


@given(st.lists(st.tuples(st.integers(6, 9), st.integers(1, 9)), min_size=1, max_size=12), st.integers(1, 5))
def test_every_row_is_dealt_once_and_no_prompt_is_on_two_ranks(rows: list[tuple[int, int]], ranks: int) -> None:
    sequences = [row([first, 7] + [8] * sampled, 2) for first, sampled in rows]
    batch = pack(sequences, [Credit(s.mask * 1.0) for s in sequences])
    dealt = deal(batch, ranks)
    assert sorted(sum(dealt, [])) == list(range(len(rows)))
    homes = [{int(batch.tokens[place, 0]) for place in of_rank} for of_rank in dealt]
    assert sum(map(len, homes)) == len(set().union(*homes))
    # Greedy: the fullest rank is ahead of the emptiest by at most its own largest group.
    tokens = [sum(int(batch.lengths[place]) for place in of_rank) for of_rank in dealt]
    groups = {first: sum(2 + n for other, n in rows if other == first) for first, _ in rows}
    assert max(tokens) - min(tokens) <= max(groups.values())


# ---------------------------------------------------------------- processes


@pytest.fixture
def ranks_of(tiny_directory: Path) -> Iterator[Make]:
    made: list[TorchBackend] = []

    def make(dtype: str = "float64", processes: int = 2, **options: Any) -> TorchBackend:
        settings = BackendSettings(OptimiserSettings(lr=1e-3, micro_tokens=64), 10, dtype=dtype, device="cpu")
        made.append(TorchBackend.from_start(Start(tiny_directory), settings, processes=processes, **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def far(ours: TorchBackend, theirs: TorchBackend) -> float:
    """The largest distance of two gradients, relative to the whole gradient's norm."""
    pairs = list(zip(grads(ours), grads(theirs), strict=True))
    assert all((a is None) == (b is None) for a, b in pairs)
    norm = sum(float(b.square().sum()) for _, b in pairs if b is not None) ** 0.5
    return max(float((a - b).norm()) for a, b in pairs if a is not None and b is not None) / norm


@pytest.mark.slow
@pytest.mark.heavy
def test_two_processes_take_the_step_of_one(ranks_of: Make, ragged_groups: Make, tmp_path: Path) -> None:
    """Uneven groups; then a rank whose only row has no sampled token, and one without any row; then on from a
    checkpoint."""
    two, one = ranks_of(), ranks_of(processes=1)
    groups = ragged_groups(3, groups=3)
    uneven = [*groups[0], *groups[1][:1], *groups[2][:2]]
    silent = row([6, 7, 8], 3)
    for sequences in (uneven, [*groups[0], silent], groups[1]):
        dealt = deal(pack(sequences, credited(sequences)), 2)
        assert len(sequences) == len(groups[1]) or all(dealt)
        batch = pack(sequences, credited(sequences))
        ours, theirs = two.update(batch, LOSS), one.update(batch, LOSS)
        assert far(two, one) < 1e-12
        assert ours == pytest.approx(theirs, rel=1e-12)
    assert not dealt[1]
    two.save(tmp_path)
    three = ranks_of(processes=3)
    three.load(tmp_path)
    batch = pack(uneven, credited(uneven, 1))
    assert three.update(batch, LOSS) == pytest.approx(two.update(batch, LOSS), rel=1e-12)
    two.load(tmp_path)
    two.update(batch, LOSS)
    for a, b in zip(two.model.parameters(), three.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"lora": Lora(4, 8.0)}, marks=pytest.mark.heavy)], ids=["all weights", "adapter"]
)
def test_in_float32_gradients_are_those_of_one_process(ranks_of: Make, ragged_groups: Make, options: Any) -> None:
    if options:
        pytest.importorskip("peft", reason="peft is not installed")
    two, one = ranks_of("float32", **options), ranks_of("float32", processes=1, **options)
    sequences = sum(ragged_groups(4, groups=5), [])
    batch = pack(sequences, credited(sequences))
    assert two.update(batch, LOSS) == pytest.approx(one.update(batch, LOSS), rel=1e-5)
    assert far(two, one) < 2e-6


@pytest.mark.slow
@pytest.mark.heavy
def test_a_process_that_ends_is_said_and_the_others_end(ranks_of: Make, ragged_groups: Make, tmp_path: Path) -> None:
    two = ranks_of(processes=3)
    sequences = sum(ragged_groups(3, groups=3), [])
    batch = pack(sequences, credited(sequences))
    two.save(tmp_path)
    two.update(batch, LOSS)
    others = two._crew.processes
    others[1].kill()
    others[1].wait()
    with pytest.raises(HarnessError, match=r"process 2 of 3 ended \(exit -9\)"):
        two.update(batch, LOSS)
    assert all(process.poll() is not None for process in others)
    with pytest.raises(HarnessError, match="load a checkpoint"):
        two.update(batch, LOSS)
    two.load(tmp_path)
    assert two.update(batch, LOSS)["gradient_norm"] > 0


@pytest.mark.slow
@pytest.mark.heavy
def test_a_process_that_stands_still_is_not_waited_for_forever(ranks_of: Make, ragged_groups: Make) -> None:
    two = ranks_of(patience_s=15.0)
    sequences = sum(ragged_groups(3, groups=3), [])
    batch = pack(sequences, credited(sequences))
    two.update(batch, LOSS)
    (other,) = two._crew.processes
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(HarnessError, match="the 2 processes lost each other: "):
        two.update(batch, LOSS)
    assert other.poll() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.heavy
def test_it_keeps_the_contract(tiny_directory: Path, tmp_path: Path) -> None:
    check_backend(
        PlugSettings(plug="harness.backends.torch:TorchBackend", options={"processes": 2}),
        tiny_directory,
        tmp_path / "saved",
    )


@pytest.mark.slow
@pytest.mark.heavy
def test_reasoning_mini_through_one_process_and_through_two(tmp_path: Path) -> None:
    """GRPO and CRAFT, three steps from one start that solves some tasks: the first steps agree, and the two tables are
    matched and agree row by row."""
    changes: dict[str, Any] = {
        "environment": {"id": "environments:ReasoningMini-v0"},
        "context": "agents.contexts:SiblingOrSolution",
        "model": {"name": "tiny", "device": "cpu", "tiny": SMALL},
        "warm_start": {"steps": 150, "batch": 16, "lr": 3e-3},
        "sampling": {"group_size": 4, "prompts_per_step": 8, "max_new_tokens": 12},
        "budget": {"steps": 3, "checkpoint_every": 1},
        "evaluation": {"every": 0, "tasks": 8, "samples": 1},
        "methods": [GRPO.model_dump(exclude_none=True), {"label": "CRAFT", "plug": "agents.methods.craft:CRAFT"}],
    }
    start, tables, first = start_of(small(**changes), tmp_path / "cache"), [], []
    for processes in (1, 2):
        backend = {"plug": "harness.backends.torch:TorchBackend", "options": {"processes": processes}}
        experiment = small(**changes, backend=backend)
        jobs = plan(experiment, {0: start}, tmp_path / str(processes))
        for one in jobs:
            run_job(one, quiet)
        tables.append(build_table(experiment, gather_records(jobs)))
        trained = [one for one in jobs if one.role == "method"]
        first.append([records.read(one.folder / "steps.jsonl").strict()[0] for one in trained])
    for one, two in zip(*first, strict=True):
        assert one["gradient_norm"] > 0
        assert two["loss/total"] == pytest.approx(one["loss/total"], rel=2e-6, abs=1e-9)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    found = agreements(*tables)
    assert {row.method for row in found} >= {"GRPO", "CRAFT"}
    assert not [row for row in found if row.verdict == "differs"]


def test_a_number_of_processes_is_no_fact_of_a_run() -> None:
    """Which are matched, and which run a checkpoint is of."""

    def known(**options: Any) -> Any:
        backend = {"plug": "harness.backends.torch:TorchBackend", "options": options}
        return identity(small(backend=backend), GRPO, 0)

    assert (
        known() == known(processes=2) == known(processes=8, shard=True, patience_s=60.0) == identity(small(), GRPO, 0)
    )
    assert known() != known(recompute_layers=True)


def test_what_cannot_be_is_refused(ranks_of: Make) -> None:
    with pytest.raises(UserError, match="processes must be at least 1, got 0"):
        ranks_of(processes=0)
