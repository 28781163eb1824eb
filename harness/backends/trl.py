"""Training inside TRL's `GRPOTrainer` (TRL 1.16, the extra `trl`): its loop, accelerate's backward pass and clipping,
its callbacks; our feed in place of its data and our loss in place of its own.

    _prepare_inputs   the waiting update of the feed, in place of prompts to generate from
    compute_loss      `harness.losses.policy_loss` of that update, micro-batch by micro-batch
    _clip_grad_norm   the norm for the log; our schedule's rate; no step along an undefined gradient
    log               nothing: the run records

These are methods that TRL and transformers may change between two versions: `check_hooks` says by name what has. Model,
sampler, scores, optimiser states and checkpoints are the torch backend's, so that either goes on from what the other
has saved. One process: our forward pass reads weights beside the module that accelerate would wrap.
"""

from __future__ import annotations

import copy
import gc
import inspect
import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from harness.backends.torch.backend import TorchBackend, _add_ratios
from harness.backends.torch.heads import CHUNK_MIB
from harness.backends.torch.lora import Lora
from harness.core.errors import HarnessError, MissingDataError, UserError
from harness.losses import Batch, LossSpec, policy_loss
from harness.protocols.backend import BackendSettings, Start
from harness.protocols.capabilities import EVERYTHING, Capability
from harness.protocols.feed import Feed, Metrics, Update

HOOKS: Mapping[str, tuple[str, ...]] = {
    "_prepare_inputs": ("self", "generation_batch"),
    "compute_loss": ("self", "model", "inputs", "return_outputs", "num_items_in_batch"),
    "_clip_grad_norm": ("self", "model"),
    "log": ("self", "logs", "start_time"),
}
"""Methods of `GRPOTrainer` that are overridden, with their parameters."""
ENDLESS = 10**9
"""Most optimiser steps of one call of the trainer: the feed says when it is over."""
PROMPTS = 2
"""Rows of the data set that the trainer believes it draws from: the fewest that it takes."""


class TrlBackend(TorchBackend):
    """A `TorchBackend` whose optimiser steps are taken by TRL's trainer (see the module's docstring)."""

    without_effect: ClassVar[frozenset[str]] = frozenset()
    _made: Any = None
    _folder: Any = None

    @classmethod
    def from_start(  # type: ignore[override]  # in one process: those options are not here
        cls,
        start: Start,
        settings: BackendSettings,
        chunk_mib: float = CHUNK_MIB,
        recompute_layers: bool = False,
        states_8bit: bool = False,
        lora: Lora | None = None,
    ) -> TrlBackend:
        """The policy of a start; options are the torch backend's. MissingDataError without TRL, UserError for weights
        in bfloat16 and where TRL's hooks are others than those of `HOOKS`."""
        check_hooks(_trl().GRPOTrainer)
        if settings.dtype == "bfloat16":
            raise UserError("under TRL weights are float32 or float64: its clipping does not see our float32 copies")
        made = super().from_start(start, settings, chunk_mib, recompute_layers, states_8bit, lora)
        assert isinstance(made, TrlBackend)
        return made

    @classmethod
    def capabilities(cls) -> frozenset[Capability]:
        """Everything but bfloat16, and but the gradients of single terms, for which TRL's loop has no place."""
        return EVERYTHING - {Capability.BFLOAT16, Capability.TERM_GRADIENTS}

    def update(self, batch: Batch, loss: LossSpec, per_term: bool = False) -> dict[str, float]:
        """See `harness.protocols.backend.Trainer.update`: a feed of one update."""
        single = _Single(Update(batch, loss, step=0, number=0, last=True))
        self.drive(single)
        return dict(single.metrics)

    def drive(self, feed: Feed) -> None:
        """TRL's trainer pulls from the feed until it is over."""
        if self._optimiser is None:
            raise ValueError("this backend was made without optimiser settings: it samples and scores only")
        first = feed.next()
        if first is None:
            return
        self._made = self._made or self._trainer()
        self._made.feed, self._made.waiting = feed, first
        self._made.train()

    def save(self, path: Path | str) -> None:
        """See `harness.protocols.backend.Trainer.save`. What TRL has written into the model's configuration (its
        padding, its tokenizer's tokens) is not saved."""
        if self._made is None:
            return super().save(path)
        model = self.model
        theirs = dict(vars(model.config)), model.generation_config
        config, generation = self._made.configured
        vars(model.config).update(vars(copy.deepcopy(config)))
        model.generation_config = copy.deepcopy(generation)
        try:
            super().save(path)
        finally:
            vars(model.config).update(theirs[0])
            model.generation_config = theirs[1]

    def close(self) -> None:
        """Let go of the trainer and its folder."""
        super().close()
        if self._folder is not None:
            self._folder()
            gc.unfreeze()
        self._made = self._folder = None

    def _trainer(self) -> Any:
        from datasets import Dataset

        trl = _trl()
        assert self._optimiser is not None
        folder = tempfile.mkdtemp(prefix="trl-")
        self._folder = weakref.finalize(self, shutil.rmtree, folder, True)
        clip = self._optimiser.settings.clip_norm
        arguments = trl.GRPOConfig(
            output_dir=folder,
            use_cpu=self.device.type == "cpu",
            bf16=False,
            activation_checkpointing=False,  # the option recompute_layers is ours
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
            per_device_train_batch_size=PROMPTS,
            num_generations=PROMPTS,
            gradient_accumulation_steps=1,  # micro-batches add up within compute_loss
            max_grad_norm=math.inf if clip is None else clip,
            max_steps=ENDLESS,
        )
        model = self.model if self._adapter is None else self._adapter.model
        between = _between_steps()
        configured = copy.deepcopy(self.model.config), copy.deepcopy(self.model.generation_config)
        made = type("FedTrainer", (_Fed, trl.GRPOTrainer), {})(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),  # never asked
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": "-"}] * PROMPTS),
            processing_class=copy.deepcopy(self.tokenizer),  # TRL changes its padding
            callbacks=[between],
            # Our rate is set before every step; theirs must not.
            optimizers=(self._optimiser.adam, LambdaLR(self._optimiser.adam, _unchanged)),
        )
        if made.accelerator.num_processes > 1:
            raise UserError("the TRL backend trains in one process; several: the option processes of the torch backend")
        made.backend, made.configured, between.trainer = self, configured, made
        # Every call of `train` collects garbage, and would look through all that was ever imported: tenths of a second
        # where a warm start calls it for every step.
        gc.collect()
        gc.freeze()
        return made


class _Single:
    """A feed of one update."""

    def __init__(self, update: Update) -> None:
        self._update: Update | None = update
        self.metrics: Metrics = {}

    def next(self) -> Update | None:
        update, self._update = self._update, None
        return update

    def report(self, metrics: Metrics) -> None:
        self.metrics = metrics


def check_hooks(trainer: Any) -> None:
    """UserError naming every method of a trainer class that is missing or takes other parameters than `HOOKS` says."""
    wrong = []
    for name, wanted in HOOKS.items():
        method = getattr(trainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method else None
        if found != wanted:
            given = "is missing" if found is None else f"takes ({', '.join(found)})"
            wrong.append(f"{name}({', '.join(wanted)}) {given}")
    if wrong:
        raise UserError(
            f"this version of TRL has another {trainer.__name__} than the backend was written for: "
            f"{'; '.join(wrong)}. Install the one that the extra names: pip install 'sibling-harness[trl]'"
        )


class _Fed:
    """What stands in front of `GRPOTrainer`: our feed and our loss. Its fields are set once it is made."""

    backend: TrlBackend
    configured: tuple[Any, Any]
    feed: Feed
    waiting: Update | None
    metrics: dict[str, float]
    accelerator: Any
    args: Any

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        return {"update": self.waiting}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        self.backend.model.eval()  # the trainer has just switched dropout on: credit needs one policy
        update = inputs["update"]
        self.metrics = {}
        for logprobs, support, part in self.backend.differentiable(update.batch):
            out = policy_loss(logprobs, part, update.loss, support)
            self.accelerator.backward(out.total)  # at once: no two micro-batches' graphs are held together
            for name, value in (out.terms | {"total": out.total}).items():
                known = self.metrics.get(f"loss/{name}", 0.0)
                self.metrics[f"loss/{name}"] = known + float(value.detach())
            _add_ratios(self.metrics, logprobs.detach(), part, update.loss)
        # The trainer goes backward from what it is given: from a leaf, which reaches no weight.
        return torch.tensor(self.metrics["loss/total"], device=self.args.device, requires_grad=True)

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        optimiser = self.backend._optimiser
        assert optimiser is not None
        rate = optimiser.rate(optimiser.done)
        for group in optimiser.adam.param_groups:
            group["lr"] = rate
        if not math.isfinite(float(norm)):
            for parameter in optimiser.parameters:
                parameter.grad = None  # the step then leaves it alone
        self.metrics |= {"gradient_norm": float(norm), "lr": rate}
        return norm

    def log(self, logs: Any, start_time: Any = None) -> None:
        pass

    def stepped(self) -> bool:
        """Report the step that was taken and fetch the next update; whether there is one."""
        lacking = {"loss/total", "gradient_norm"} - self.metrics.keys()
        if lacking or self.waiting is None:
            raise HarnessError(f"TRL took a step in which {min(lacking, default='no update')} was not asked of us")
        backend = self.backend
        assert backend._optimiser is not None
        backend._optimiser.done += 1
        backend.version += 1
        backend.release()
        metrics, self.metrics, last = self.metrics, {}, self.waiting.last
        self.feed.report(metrics)
        if last:
            backend.sync()
        self.waiting = self.feed.next()
        return self.waiting is not None


def _between_steps() -> Any:
    from transformers import TrainerCallback

    class BetweenSteps(TrainerCallback):  # type: ignore[misc]
        """Ends the trainer's loop with the feed. trainer: set once it is made."""

        trainer: Any = None

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
            control.should_training_stop = not self.trainer.stepped()
            return control

    return BetweenSteps()


def _unchanged(_: int) -> float:
    return 1.0


def _trl() -> Any:
    try:
        import trl
        import trl.trainer.grpo_trainer  # what TRL imports only when asked
    except (ImportError, RuntimeError) as error:
        raise MissingDataError(
            f"the TRL backend needs the package trl: pip install 'sibling-harness[trl]' ({error})"
        ) from None
    return trl
