"""The contract of a text policy: one that acts in text and is not trained here (gold replay, do-nothing, a model at
an endpoint)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from harness.core.plugs import construct
from harness.core.types import Message


@runtime_checkable
class TextPolicy(Protocol):
    """A policy that acts in text. Its constructor's arguments are a spec's or a command's options. Safe to share
    between threads where `concurrency` > 1."""

    name: str
    """What tables and records call it."""
    concurrency: int = 1
    """Episodes it is glad to play at once."""
    version: str = ""
    """Everything that changes its actions, its options included: part of a record's name. Where it is empty,
    the options stand in for it."""

    @abstractmethod
    def act(self, environment: Any, task_id: str, messages: Sequence[Message], info: dict[str, Any]) -> str:
        """The next action, in answer to the conversation so far.

        environment: the unwrapped environment (`harness.protocols.environment`), to be asked and never stepped. info:
        the environment's, plus `turn`, `seed` (of this turn's chance), `greedy`, and `usage`, a dict of counts the
        policy may add to. Raises EndpointError where a model's endpoint failed: that is the infrastructure's failure
        and never the agent's.
        """
        ...

    def spent(self) -> Mapping[str, float]:
        """Counts of this process so far (calls, tokens, cost), of lost episodes too."""
        return {}


def make_policy(plug: str, options: Mapping[str, Any]) -> TextPolicy:
    """The policy named `"module:Name"` with these options. UserError where it is none or an option is wrong."""
    made: TextPolicy = construct(plug, options, "policy", TextPolicy)
    return made
