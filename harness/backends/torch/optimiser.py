"""AdamW with a schedule, gradient clipping, and float32 master weights and gradients under bfloat16 models."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import MissingDataError
from harness.experiment import OptimiserSettings


class Optimiser:
    """One optimiser over a model's parameters; `step` takes what `backward` has accumulated."""

    def __init__(self, model: Any, settings: OptimiserSettings, steps: int, states_8bit: bool = False) -> None:
        self.settings, self.steps, self.done = settings, steps, 0
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # Steps of 1e-6 vanish in bfloat16: the optimiser works on float32 copies and writes the rounded values back.
        narrow = any(p.dtype == torch.bfloat16 for p in self.parameters)
        self.masters = [p.detach().float().clone() for p in self.parameters] if narrow else self.parameters
        if narrow:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                parameter.register_post_accumulate_grad_hook(partial(_add_gradient, master))
        # Fused: one kernel over all parameters instead of one for each of them and each operation.
        make = _eight_bit() if states_8bit else partial(torch.optim.AdamW, fused=True)
        self.adam = make(self.masters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)

    def zero(self) -> None:
        """Forget the accumulated gradients."""
        for parameter in self.masters:
            # None and not 0: a parameter that the loss does not reach is then left alone, decay and momentum included.
            parameter.grad = None

    def step(self) -> dict[str, float]:
        """Clip, step, and advance the schedule; returns the gradient norm before clipping and the learning rate
        used."""
        limit = self.settings.clip_norm
        norm = _number(torch.nn.utils.clip_grad_norm_(self.masters, math.inf if limit is None else limit))
        rate = self.rate(self.done)
        if math.isfinite(norm):  # a step along an infinite or undefined gradient would destroy the weights
            for group in self.adam.param_groups:
                group["lr"] = rate
            self.adam.step()
            self._share_weights()
        self.done += 1
        return {"gradient_norm": norm, "lr": rate}

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then constant, linear or cosine decay to 0 at the last step."""
        settings = self.settings
        if step < settings.warmup_steps:
            return settings.lr * (step + 1) / settings.warmup_steps
        if settings.schedule == "constant":
            return settings.lr
        share = (step - settings.warmup_steps) / max(self.steps - settings.warmup_steps, 1)
        remaining = 1 - share if settings.schedule == "linear" else (1 + math.cos(math.pi * share)) / 2
        return settings.lr * max(remaining, 0.0)

    def state(self) -> dict[str, Any]:
        """Everything `restore` needs to go on as if never stopped."""
        return {
            "adam": self.adam.state_dict(),
            "done": self.done,
            "masters": [] if self._shared else list(self.masters),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved `state`."""
        self.adam.load_state_dict(state["adam"])
        self.done = int(state["done"])
        with torch.no_grad():
            # None were saved where the masters are the parameters themselves, which come with the model.
            for master, saved in zip(self.masters, state["masters"], strict=False):
                master.copy_(saved)

    @property
    def _shared(self) -> bool:
        return self.masters is self.parameters

    @torch.no_grad()
    def _share_weights(self) -> None:
        if not self._shared:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                parameter.copy_(master)


def _number(norm: Any) -> float:
    """A norm as a number; that of parameters of which every process holds a part is itself in parts."""
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def _eight_bit() -> Any:
    try:
        import bitsandbytes
    except ImportError:
        raise MissingDataError(
            "the option states_8bit needs the package bitsandbytes: pip install 'sibling-harness[states-8bit]'"
        ) from None
    return bitsandbytes.optim.AdamW8bit


def _add_gradient(master: Tensor, parameter: Tensor) -> None:
    """Take a parameter's gradient over to its master as soon as it is there: micro-batches add up in float32, and the
    narrow gradients of all parameters are never held together."""
    assert parameter.grad is not None
    if master.grad is None:
        master.grad = parameter.grad.to(master.dtype)
    else:
        master.grad += parameter.grad
    parameter.grad = None
