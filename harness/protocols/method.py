"""The contract of a credit-assignment method: everything the engine ever asks of one.

    needs ----------> evidence is gathered ----> assign(groups, evidence, state) ----> credits, the next state,
    diagnostics context() ------> what its teacher reads, where the method brings a context of its own
    describe() -----> what a table says of its row besides numbers
    verdict() ------> whether, by its own diagnostics, a finished run was worth the method's name

Only `needs`, `initial_state` and `assign` must be there; a class that inherits nothing gets the defaults of the rest.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from harness.core.plugs import construct
from harness.core.types import ContextRequest, Credit, Evidence, Needs, RolloutGroup

State = TypeVar("State")


@dataclass(frozen=True)
class MethodFacts:
    """What a table says of a method's row besides its numbers."""

    reference_kl: float | None = None
    """Weight of the pull to the reference policy; 0 where there is none, None where it moves during training or is
    not known."""
    context: str | None = None
    """Name of the privileged context that the method brings itself, for the row's footnote."""
    summariser: str | None = None
    """Who writes that context, where somebody does."""
    notes: tuple[str, ...] = ()
    """Further footnotes of the row."""
    control: Literal["upper", "lower"] | None = None
    """What a row is that no method could be: "upper", credit from true values, or "lower", the same with its sign
    turned. A control is measured against and stands outside a table's tests."""


@runtime_checkable
class Method(Protocol[State]):
    """A credit-assignment method: it annotates tokens, and nothing else. Its fields are its hyperparameters (a spec's
    `options`)."""

    paper: ClassVar[str] = ""
    """Where it is from: authors, year, arXiv id."""
    group_relative: ClassVar[bool] = True
    """Whether credit depends on rewards through their differences inside a group alone: none for equal rewards, and
    the same when all rise by a constant. False for values of single episodes and for discounted returns."""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What it wants as evidence."""
        ...

    @abstractmethod
    def initial_state(self) -> State:
        """The state before the first step: plain data that goes through JSON unchanged."""
        ...

    @abstractmethod
    def assign(
        self, groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]], state: State
    ) -> tuple[list[list[Credit]], State, dict[str, float]]:
        """Credits per group and episode, the next step's state, and diagnostics to log (finite floats)."""
        ...

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        """What the teacher of `group.episodes[index]` reads; None where this group has nothing to offer. A method
        that does not define it reads the experiment's context source."""
        missing = f"{type(self).__name__} brings no context of its own"
        raise NotImplementedError(missing)

    def describe(self) -> MethodFacts:
        """What a table says of this row. By default: no pull to the reference policy where none is needed."""
        return MethodFacts(reference_kl=None if self.needs.reference else 0.0)

    def verdict(self, history: Sequence[Mapping[str, float]]) -> str | None:
        """Why a run with these diagnostics (one mapping a step) does not count as this method, or None."""
        return None

    @property
    def external_calls(self) -> int:
        """Requests to language models other than the policy that this process has sent so far."""
        return 0


AnyMethod = Method[Any]


def brings_context(method: AnyMethod) -> bool:
    """Whether the method defines what its teacher reads, instead of reading the experiment's source."""
    return getattr(method.context, "__func__", None) is not Method.context


def paper_of(cls: type) -> str:
    """Where a method's class says that it is from; empty where it does not."""
    return str(getattr(cls, "paper", Method.paper))


def make_method(plug: str, options: Mapping[str, Any]) -> AnyMethod:
    """The method named `"module:Name"` with these options. UserError where it is no method or an option is wrong."""
    made: AnyMethod = construct(plug, options, "method", Method)
    return made
