"""The contract of a context source: what a teacher may read that the policy did not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from harness.core.plugs import construct
from harness.core.types import ContextRequest, RolloutGroup


@runtime_checkable
class ContextSource(Protocol):
    """Says what the teacher of an episode reads. Its fields are a spec's `options`.

    It renders in the environment's own grammar, is a function of the group, the index and the random stream alone,
    and never shows an episode its own transcript.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What the footnote of a table calls it."""
        ...

    @abstractmethod
    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        """What the teacher of `group.episodes[index]` reads; None where this group has nothing to offer."""
        ...


def make_context(plug: str, options: Mapping[str, Any]) -> ContextSource:
    """The source named `"module:Name"` with these options. UserError where it is none or an option is wrong."""
    made: ContextSource = construct(plug, options, "context source", ContextSource)
    return made
