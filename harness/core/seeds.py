"""One tree of random streams: every stream of a run is derived by name from the run's seed, so that no two parts
share one and none depends on order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedTree:
    """A place in the tree. `SeedTree(0)["sampling", 3, "task-7"].rng()` is the same stream in every process on every
    machine."""

    root: int
    path: tuple[str, ...] = ()

    def __getitem__(self, names: object) -> SeedTree:
        added = names if isinstance(names, tuple) else (names,)
        return SeedTree(self.root, (*self.path, *(str(name) for name in added)))

    def _digest(self) -> bytes:
        # Lengths in front of the names: ("a", "bc") and ("ab", "c") are different places.
        text = "".join(f"{len(name)}:{name}" for name in (str(self.root), *self.path))
        return hashlib.sha256(text.encode()).digest()

    def rng(self) -> np.random.Generator:
        """The stream at this place, from its beginning."""
        return np.random.Generator(np.random.Philox(key=int.from_bytes(self._digest()[:16], "big")))

    def integer(self) -> int:
        """A 63-bit seed for code that wants a number."""
        return int.from_bytes(self._digest()[16:24], "big") >> 1
