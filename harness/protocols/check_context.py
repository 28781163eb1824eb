"""Is it a context source? Random groups, and what must hold of a privileged context on them.

`harness check-context my_contexts:Mine` runs this suite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.core.plugs import original
from harness.core.types import ContextRequest, Episode, Needs, RolloutGroup
from harness.protocols.check_method import random_step
from harness.protocols.context import ContextSource


class ContextError(ValueError):
    """A context source that breaks the contract, with everything it breaks."""


def check_context(source: ContextSource, seeds: Sequence[int] = range(40)) -> None:
    """Raise ContextError, naming each broken property once with the seed that shows it, unless `source` keeps them
    all."""
    broken: dict[str, int] = {}
    if not (isinstance(source.name, str) and source.name.strip()):
        broken["name must be text that a table's footnote can print"] = 0
    for seed in seeds:
        for group in random_step(np.random.default_rng(seed), Needs()).groups:
            for index in range(len(group.episodes)):
                for problem in _problems(source, group, index, seed):
                    broken.setdefault(problem, seed)
    if broken:
        listed = "\n".join(f"  - {problem} (seed {seed})" for problem, seed in broken.items())
        raise ContextError(f"{type(original(source)).__name__} breaks the contract of a context source:\n{listed}")


def _problems(source: ContextSource, group: RolloutGroup, index: int, seed: int) -> list[str]:
    first, second = (source(group, index, np.random.default_rng(seed)) for _ in range(2))
    if first is None and second is None:
        return []
    if not (isinstance(first, ContextRequest) and isinstance(second, ContextRequest)):
        return [f"it returned {type(first).__name__}, not a ContextRequest or None"]
    found = []
    if first != second:
        found.append("it is not a function of the group, the index and the random stream")
    text = first.content if isinstance(first.content, str) else "\n".join(str(m["content"]) for m in first.content)
    if not text.strip():
        found.append("it returned an empty context; nothing to offer is None")
    if not all(isinstance(literal, str) for literal in first.literals):
        found.append("literals must be text")
    own = _actions(group.episodes[index])
    others = ["\n".join(_actions(peer)) for place, peer in enumerate(group.episodes) if place != index]
    # A single action may well be what a sibling, or the solution, says too.
    if len(own) > 1 and "\n".join(own) in text and not any("\n".join(own) in other for other in others):
        found.append("an episode's teacher reads that episode's own transcript")
    return found


def _actions(episode: Episode) -> list[str]:
    return [str(message["content"]) for message in episode.messages if message["role"] == "assistant"]
