"""Low-rank adapters (LoRA, Hu et al. 2021, 2106.09685) through `peft`: the model's own weights stay as they are, and
small matrices beside its linear layers are trained.

So the initial policy is the adapter switched off, and a snapshot is a second set of the small matrices: neither is a
second model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import MissingDataError, UnknownNameError, UserError

FOLDER = "adapter"
"""Of a checkpoint: what `peft` opens on top of the initial model."""


@dataclass(frozen=True)
class Lora:
    """Which adapters. ValueError for a rank or an alpha that is none."""

    rank: int = 16
    alpha: float = 32.0
    """The adapter adds alpha / rank times B A."""
    targets: tuple[str, ...] = ()
    """Names of linear layers (`q_proj`); empty for all but the output layer."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"lora needs rank >= 1 and alpha > 0, got {self.rank} and {self.alpha:g}")


class Adapter:
    """The adapter of one model, which is changed in place: its linear layers call it."""

    def __init__(self, model: Any, settings: Lora, seed: int) -> None:
        peft = _peft()
        known = sorted({name.rpartition(".")[2] for name, part in _linear(model) if part is not _output_layer(model)})
        for target in settings.targets:
            if target not in known:
                raise UnknownNameError("linear layer of the model", target, known)
        config = peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=list(settings.targets or known),
            lora_dropout=0.0,  # credit needs one policy
            bias="none",
            task_type="CAUSAL_LM",
        )
        self._peft = peft
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that peft asks transformers for
            self.model: Any = peft.get_peft_model(model, config)
        # What is never computed with (the lower half's generation settings, training mode) stays as it was.
        model.eval()
        self.layers = [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "lora_A")]
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._draw(seed)
        self.first = [parameter.detach().clone() for parameter in self.parameters]
        """The adapter at step 0."""

    @torch.no_grad()
    def _draw(self, seed: int) -> None:
        """A as `peft` draws it (Kaiming uniform), from a stream of its own, on any device the same; B is 0, so that
        the policy begins as the model."""
        generator = torch.Generator().manual_seed(seed % 2**63)
        for _, layer in self.layers:
            weight = layer.lora_A["default"].weight
            drawn = torch.empty(weight.shape)
            torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            weight.copy_(drawn)
            layer.lora_B["default"].weight.zero_()

    @contextmanager
    def off(self) -> Iterator[None]:
        """The initial policy for a while."""
        with self.model.disable_adapter():
            yield

    @contextmanager
    def holding(self, values: Sequence[Tensor]) -> Iterator[None]:
        """Another adapter's values for a while."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        self._put(values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def save(self, path: Path, initial: Callable[[], Any]) -> None:
        """The adapter, in a folder that `peft` opens, and the whole model with it merged in. initial: the initial
        model anew, in the computer's memory."""
        self.model.save_pretrained(path / FOLDER, save_embedding_layers=False)  # "auto" asks a hub
        merged = initial()
        with torch.no_grad():
            for name, layer in self.layers:
                weight = merged.get_submodule(name).weight
                weight += layer.get_delta_weight("default").to(weight.device, weight.dtype)
        merged.save_pretrained(path)

    def load(self, path: Path) -> None:
        """The adapter that was saved beside a merged model."""
        if not (path / FOLDER).is_dir():
            raise UserError(f"{str(path)!r} holds no adapter: it was not written with the option lora")
        weights = self._peft.load_peft_weights(str(path / FOLDER), device="cpu")
        self._peft.set_peft_model_state_dict(self.model, weights)


def _linear(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear))


def _output_layer(model: Any) -> Any:
    return model.get_output_embeddings()


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise MissingDataError("the option lora needs the package peft: pip install 'sibling-harness[lora]'") from None
    return peft
