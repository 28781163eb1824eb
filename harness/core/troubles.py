"""What can be wrong with a completion that is no failure: counted per episode, under these names among its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

Trouble = Literal["truncated", "filtered", "refused"]
"""Cut by the limit of tokens of one turn; cut by a filter of the provider's; the model refuses, in a field of its
own."""
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)


def with_zeros(metrics: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metrics of several episodes (or of rows of them) for a common mean: those without a trouble that others had had
    it no time. Nothing is added where nobody had any."""
    given = [dict(each) for each in metrics]
    had: dict[str, Any] = {name: 0.0 for name in TROUBLES if any(name in each for each in given)}
    return [had | each for each in given]
