"""What a backend can do beyond the least, by name; and what an experiment asks for, held against it before anything
runs.

    class Mine(Backend):
        @classmethod
        def capabilities(cls):
            return frozenset({Capability.TRAINING, Capability.CONTEXTS})

The least is to sample tokens with their log-probabilities at temperature 1 and above or below it, greedily too, and to
score them, in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from harness.core.errors import UserError
from harness.experiment import MethodSettings
from harness.protocols.method import make_method

if TYPE_CHECKING:
    from harness.experiment import Experiment


class Capability(StrEnum):
    """A thing that some backends can do and others cannot. `meaning` says it in words."""

    TRAINING = "training"
    RESUME = "resume"
    CONTEXTS = "contexts"
    INITIAL = "initial weights"
    SNAPSHOTS = "snapshots"
    TOP_K = "top-k distributions"
    VOCABULARY = "whole distributions"
    TOP_P = "top-p"
    TERM_GRADIENTS = "term gradients"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"

    @property
    def meaning(self) -> str:
        """What it is, in words."""
        return _MEANINGS[self]


_MEANINGS = {
    Capability.TRAINING: "`update` is an optimiser step on the one loss, with all its streams",
    Capability.RESUME: "after `load`, training goes on as if it had never stopped",
    Capability.CONTEXTS: "`score` takes tokens in front of a sequence: a teacher's privileged context",
    Capability.INITIAL: "`score` under the weights that training began with",
    Capability.SNAPSHOTS: "`track`: weights that follow those being trained at a distance, and `score` under them",
    Capability.TOP_K: "`score` gives the distribution over the K likeliest entries, or over given ones",
    Capability.VOCABULARY: "`score` gives the distribution over the whole vocabulary",
    Capability.TOP_P: "`sample` restricts what is sampled to the likeliest mass, and says how much it cut off",
    Capability.TERM_GRADIENTS: "`update` measures the gradient of each loss term alone (without it the log lacks them)",
    Capability.BFLOAT16: "weights in bfloat16, the optimiser's copies in float32",
    Capability.FLOAT64: "everything in float64",
}
EVERYTHING = frozenset(Capability)
"""What a backend has that says nothing else."""


def demands(experiment: Experiment, rows: Sequence[MethodSettings]) -> Iterator[tuple[Capability, str]]:
    """Every capability that an experiment with these rows cannot do without, and what asks for it."""
    if experiment.warm_start is not None:
        yield Capability.TRAINING, "[warm_start]"
    if experiment.model.dtype != "float32":
        yield Capability(experiment.model.dtype), f"model.dtype = {experiment.model.dtype!r}"
    if experiment.sampling.top_p < 1:
        yield Capability.TOP_P, f"sampling.top_p = {experiment.sampling.top_p:g}"
    for row in rows:
        for capability in _of_row(row):
            yield capability, f"the row {row.label!r}"


def _of_row(row: MethodSettings) -> Iterator[Capability]:
    """What a row's method asks for by its `needs`."""
    needs = make_method(row.plug, row.options).needs
    yield Capability.TRAINING
    yield Capability.RESUME
    if needs.reference:
        yield Capability.SNAPSHOTS if needs.reference_every else Capability.INITIAL
    if needs.teacher == "none":
        return
    yield Capability.CONTEXTS
    if needs.teacher_policy != "current":
        yield Capability.SNAPSHOTS if needs.teacher_policy == "ema" else Capability.INITIAL
    if needs.teacher == "distribution":
        yield Capability.VOCABULARY if needs.top_k is None else Capability.TOP_K


def check_demands(
    plug: str, offered: frozenset[Capability], experiment: Experiment, rows: Sequence[MethodSettings]
) -> None:
    """UserError naming every capability that an experiment with these rows asks for and its backend lacks, and what
    asks for it."""
    lacking: dict[Capability, list[str]] = {}
    for capability, asking in demands(experiment, rows):
        if capability not in offered:
            lacking.setdefault(capability, []).append(asking)
    if lacking:
        named = [
            f"{capability.value!r} ({capability.meaning}), for which {_listed(dict.fromkeys(asking))}"
            for capability, asking in lacking.items()
        ]
        raise UserError(
            f"backend {plug} lacks {'; and '.join(named)}. It has: "
            f"{', '.join(sorted(map(str, offered))) or 'none beyond sampling and scoring'}; "
            "docs/backends.md says which backends have what"
        )


def _listed(asking: Sequence[str] | dict[str, None]) -> str:
    """ "A asks", "A and B ask"; of many the first three."""
    names = list(asking)
    if len(names) == 1:
        return f"{names[0]} asks"
    rest = len(names) - 3
    return f"{', '.join(names[:3])} and {rest} more ask" if rest > 0 else f"{' and '.join(names)} ask"
