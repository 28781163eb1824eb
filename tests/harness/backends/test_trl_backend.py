"""TRL's trainer around our feed and loss: the torch backend's first step, checkpoints that either goes on from, a
whole run, and hooks of another version refused by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import job, judged, quiet, small

from harness.backends.torch import TorchBackend
from harness.backends.torch.lora import Lora
from harness.backends.trl import HOOKS, TrlBackend, check_hooks
from harness.core import records
from harness.core.errors import MissingDataError, UserError
from harness.experiment import Experiment, LossSettings, OptimiserSettings, PlugSettings
from harness.learning.feed import RunFeed
from harness.learning.run import Run
from harness.learning.warm_start import start_of
from harness.losses import LossSpec, pack
from harness.protocols.backend import BackendSettings, Start
from harness.protocols.check_backend import check_backend
from harness.runs.job import run_job
from harness.types import Anchor, Credit, Distillation, KLForm, TokenSequence, TopK

Make = Callable[..., Any]
LOSS = LossSettings()
PLUG = "harness.backends.trl:TrlBackend"
SMALL = {"width": 64, "layers": 2, "heads": 4, "kv_heads": 1, "mlp": 128, "window": 160, "vocabulary": 384}
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: pip install '.[trl]'")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # TRL's, accelerate's and datasets' own


# ---------------------------------------------------------------- without TRL


class OfToday:
    """The hooks as they are, and no trainer."""

    def _prepare_inputs(self, generation_batch: Any) -> Any: ...
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any: ...
    def _clip_grad_norm(self, model: Any) -> Any: ...
    def log(self, logs: Any, start_time: Any = None) -> None: ...


class OfTomorrow(OfToday):
    _clip_grad_norm: Any = None

    def compute_loss(self, model: Any, batch: Any) -> Any: ...  # type: ignore[override]


def test_another_trainer_is_refused_by_the_names_of_its_hooks() -> None:
    check_hooks(OfToday)
    with pytest.raises(UserError) as refused:
        check_hooks(OfTomorrow)
    words = str(refused.value)
    assert "another OfTomorrow than the backend was written for" in words
    assert "compute_loss(self, model, inputs, return_outputs, num_items_in_batch) takes (self, model, batch)" in words
    assert "_clip_grad_norm(self, model) is missing" in words
    assert "_prepare_inputs" not in words
    assert "pip install 'sibling-harness[trl]'" in words


@pytest.mark.skipif(find_spec("trl") is not None, reason="TRL is installed")
def test_without_trl_it_says_what_to_install(tiny_directory: Path) -> None:
    with pytest.raises(MissingDataError, match=r"pip install 'sibling-harness\[trl\]'"):
        TrlBackend.from_start(Start(tiny_directory), BackendSettings())


# ---------------------------------------------------------------- with TRL


@needs_trl
def test_the_installed_trainer_has_the_hooks() -> None:
    from trl import GRPOTrainer

    check_hooks(GRPOTrainer)
    assert set(HOOKS) <= set(dir(GRPOTrainer))


@pytest.fixture
def pair_of(tiny_directory: Path) -> Iterator[Make]:
    """A backend of either kind, alike in everything else."""
    made: list[TorchBackend] = []

    def make(dtype: str = "float32", **options: Any) -> tuple[TrlBackend, TorchBackend]:
        optimiser = OptimiserSettings(lr=1e-3, micro_tokens=64, schedule="cosine", warmup_steps=2)
        settings = BackendSettings(optimiser, 10, dtype=dtype, device="cpu")
        pair = [cls.from_start(Start(tiny_directory), settings, **options) for cls in (TrlBackend, TorchBackend)]
        made.extend(pair)
        return pair[0], pair[1]  # type: ignore[return-value]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def sequences(ragged_groups: Make) -> list[TokenSequence]:
    return sum(ragged_groups(3, groups=3), [])


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


def first_gradient(
    backend: TorchBackend, batch: Any, loss: LossSpec = LOSS
) -> tuple[dict[str, float], list[torch.Tensor]]:
    """A step's metrics, and the gradients as its optimiser finds them."""
    seen: list[torch.Tensor] = []
    assert backend._optimiser is not None
    parameters = backend._optimiser.parameters
    hook = backend._optimiser.adam.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in parameters if p.grad is not None)
    )
    metrics = backend.update(batch, loss)
    hook.remove()
    return metrics, seen


@needs_trl
@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("options", [{}, {"lora": Lora(4, 8.0)}], ids=["all weights", "adapter"])
def test_steps_are_the_torch_backends(pair_of: Make, sequences: list[TokenSequence], options: Any) -> None:
    """All four terms, several micro-batches: the first step's loss within 2e-6, its gradient's norm within 1e-4, and
    every gradient within 2e-6 of the whole's norm; then two steps more under the schedule."""
    if options:
        pytest.importorskip("peft", reason="peft is not installed")
    theirs, ours = pair_of(**options)
    batch = pack(sequences, credited(sequences))
    (one, there), (other, here) = first_gradient(theirs, batch), first_gradient(ours, batch)
    assert one["loss/total"] == pytest.approx(other["loss/total"], rel=2e-6)
    assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    assert one.keys() == other.keys()
    whole = sum(float(g.square().sum()) for g in here) ** 0.5
    assert max(float((a - b).norm()) for a, b in zip(there, here, strict=True)) <= 2e-6 * whole
    for seed in (1, 2):
        batch = pack(sequences, credited(sequences, seed))
        assert theirs.update(batch, LOSS) == pytest.approx(ours.update(batch, LOSS), rel=1e-4)


@needs_trl
@pytest.mark.slow
@pytest.mark.heavy
def test_either_goes_on_from_what_the_other_saved(
    pair_of: Make, sequences: list[TokenSequence], tmp_path: Path
) -> None:
    """The same files, and after them the same third step."""
    theirs, ours = pair_of("float64")
    batch = pack(sequences, credited(sequences))
    for name, backend in (("trl", theirs), ("torch", ours)):
        for _ in range(2):
            backend.update(batch, LOSS)
        backend.save(tmp_path / name)
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        assert (tmp_path / "trl" / name).read_bytes() == (tmp_path / "torch" / name).read_bytes(), name
    theirs.load(tmp_path / "torch")
    ours.load(tmp_path / "trl")
    assert theirs.update(batch, LOSS) == pytest.approx(ours.update(batch, LOSS), rel=1e-9)


@needs_trl
@pytest.mark.slow
@pytest.mark.heavy
def test_it_keeps_the_contract(tiny_directory: Path, tmp_path: Path) -> None:
    check_backend(PlugSettings(plug=PLUG), tiny_directory, tmp_path / "saved")


MINI: dict[str, Any] = {
    "environment": {"id": "environments:ReasoningMini-v0"},
    "context": "agents.contexts:SiblingOrSolution",
    "model": {"name": "tiny", "device": "cpu", "tiny": SMALL},
    "warm_start": {"steps": 150, "batch": 16, "lr": 3e-3},
    "sampling": {"group_size": 4, "prompts_per_step": 8, "max_new_tokens": 12},
    "budget": {"steps": 2, "checkpoint_every": 1},
    "evaluation": {"every": 0, "tasks": 4, "samples": 1},
}
METHODS = [
    pytest.param({"plug": "agents.methods.grpo:GRPO", "options": {"kl": 0.01}}, id="GRPO"),
    pytest.param({"plug": "agents.methods.craft:CRAFT", "options": {"credit": "aligned"}}, id="CRAFT"),
]


def mini(method: dict[str, Any], **changes: Any) -> Experiment:
    return small(**MINI, methods=[{"label": "under test", **method}], **changes)


@pytest.fixture(scope="module")
def solver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start that solves some tasks."""
    return start_of(small(**MINI), tmp_path_factory.mktemp("solver")).directory


@needs_trl
@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("method", METHODS)
def test_reasoning_mini_through_both(solver: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    """Two steps from one start: the first step agrees, and both are judged on the same tasks."""
    steps, rows = {}, {}
    for name, backend in (("trl", PLUG), ("torch", "harness.backends.torch:TorchBackend")):
        run_job(job(mini(method, backend=backend), solver, tmp_path / name), quiet)
        steps[name] = records.read(tmp_path / name / "steps.jsonl").strict()
        rows[name] = records.read(tmp_path / name / "rows.jsonl").strict()
    theirs, ours = (steps[name][0] for name in ("trl", "torch"))
    assert [row["step"] for row in steps["trl"]] == [0, 1]
    assert ours["gradient_norm"] > 0
    assert theirs["loss/total"] == pytest.approx(ours["loss/total"], rel=2e-6, abs=1e-9)
    assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-4)
    assert [row["task_id"] for row in rows["trl"]] == [row["task_id"] for row in rows["torch"]]


@needs_trl
@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("method", METHODS)
def test_the_first_gradient_on_reasoning_mini_is_every_engines(
    solver: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    """What a run feeds first, to one process, to two and to TRL: every gradient within 2e-6 of the whole's norm."""
    experiment = mini(method)
    run = Run(experiment, experiment.methods[0], 0, Start(solver, "0" * 64, {}), tmp_path, judged(experiment))
    with run.pool, contextlib.closing(run):
        update = RunFeed(run).next()
    assert update is not None
    settings = BackendSettings(experiment.optimiser, 2, device="cpu")
    seen = []
    for cls, options in ((TorchBackend, {}), (TorchBackend, {"processes": 2}), (TrlBackend, {})):
        with contextlib.closing(cls.from_start(Start(solver), settings, **options)) as backend:
            seen.append(first_gradient(backend, update.batch, update.loss))
    (metrics, ours), *others = seen
    whole = sum(float(g.square().sum()) for g in ours) ** 0.5
    assert whole > 0
    for known, theirs in others:
        # A surrogate's terms are of order 1 and cancel: what is left of them has their rounding.
        assert known["loss/total"] == pytest.approx(metrics["loss/total"], rel=2e-6, abs=1e-7)
        assert max(float((a - b).norm()) for a, b in zip(theirs, ours, strict=True)) <= 2e-6 * whole
