"""Weights that follow the policy at a distance: a teacher that averages it, a reference that is refreshed now and then.

A snapshot has weights of its own, the initial ones when it is first asked for; where nobody asks there is neither
memory nor a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = "snapshot_{name}.pt"
"""Of a saved snapshot: its averages, parameter by parameter."""


class Followed:
    """One snapshot: its weights, the averages behind them (float32 ones behind a bfloat16 model), and the forward pass
    that reads them, where it has one of its own."""

    def __init__(self, parameters: Sequence[Tensor], forward: Any = None) -> None:
        self.forward = forward
        self._parameters = list(parameters)
        narrow = any(p.dtype == torch.bfloat16 for p in self._parameters)
        self.averages = [p.detach().float().clone() for p in self._parameters] if narrow else self._parameters

    @torch.no_grad()
    def follow(self, current: Sequence[Tensor], decay: float) -> None:
        """average <- decay * average + (1 - decay) * current, written so that equal weights stay equal to the bit."""
        for average, now in zip(self.averages, current, strict=True):
            if decay == 0:
                average.copy_(now)
            else:
                average.add_(now - average, alpha=1 - decay)
        self._show()

    @torch.no_grad()
    def restore(self, saved: Sequence[Tensor]) -> None:
        """Take over saved averages."""
        for average, was in zip(self.averages, saved, strict=True):
            average.copy_(was)
        self._show()

    def _show(self) -> None:
        """Round the averages into the model, where they are not its own parameters."""
        if self.averages is not self._parameters:
            for parameter, average in zip(self._parameters, self.averages, strict=True):
                parameter.copy_(average)


class Snapshots:
    """Snapshots by name. `pristine()` makes one with the initial weights."""

    def __init__(self, pristine: Callable[[], Followed]) -> None:
        self._pristine = pristine
        self._made: dict[str, Followed] = {}

    def __getitem__(self, name: str) -> Followed:
        if name not in self._made:
            self._made[name] = self._pristine()
        return self._made[name]

    def save(self, directory: Path) -> None:
        """One file for each snapshot there is."""
        for name, snapshot in self._made.items():
            torch.save([average.detach() for average in snapshot.averages], directory / FILE.format(name=name))

    def load(self, directory: Path) -> None:
        """The snapshots of a directory, and no others."""
        self._made.clear()
        for file in sorted(directory.glob(FILE.format(name="*"))):
            snapshot = self[file.stem.removeprefix(FILE.partition("{")[0])]
            snapshot.restore(torch.load(file, map_location=snapshot.averages[0].device, weights_only=True))
