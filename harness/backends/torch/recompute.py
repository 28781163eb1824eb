"""Layers of any Hugging Face model that keep their input alone while gradients are wanted, and are computed once more
on the way back (Chen et al. 2016, 1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from harness.core.errors import UserError


def recompute_layers_of(model: Any) -> None:
    """Make a model's layers so. UserError where the model does not say which its layers are.

    The model's own switch works in training mode only, where dropout acts; this one leaves the mode alone.
    """
    layers = layers_of(model)
    if not layers:
        raise UserError(f"{type(model).__name__} does not say which its layers are: leave recompute_layers off")
    for layer in layers:
        layer.forward = partial(_again, layer.forward)


def layers_of(model: Any) -> list[Any]:
    """The layers of a model, in order; none where it does not say which they are."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _again(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, **named)
