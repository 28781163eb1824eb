"""What every method of this folder shares: plain state, checked options, and streams laid on the sampled-token mask.

A method's state between steps is a dict of floats: it goes into a checkpoint as JSON and comes back unchanged.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import numpy as np
from jaxtyping import Float

from harness.protocols.method import MethodFacts
from harness.types import Anchor, Credit, Distillation, Episode, Evidence, KLForm, RolloutGroup, TokenSequence

Number = float | int
"""A hyperparameter: a spec may write 1 for 1.0."""
State = dict[str, float]
Assignment = tuple[list[list[Credit]], State, dict[str, float]]
"""Credits per group and episode, the next step's state, diagnostics."""


class Described:
    """What the methods of this folder say of themselves: the weight of their pull to the reference policy is the
    field `kl`."""

    def describe(self) -> MethodFacts:
        return MethodFacts(reference_kl=float(getattr(self, "kl", 0.0)))


class Stateless(Described):
    """A method that carries nothing from one step to the next."""

    def initial_state(self) -> State:
        return {}


def one_of(owner: object, option: str, given: str, allowed: Sequence[str]) -> None:
    """Raise ValueError, with the nearest allowed value, unless `given` is one of `allowed`."""
    if given in allowed:
        return
    near = difflib.get_close_matches(str(given).casefold(), allowed, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(map(repr, allowed))
    raise ValueError(f"{type(owner).__name__}: {option} = {given!r} is not one of {known}{hint}")


def within(owner: object, low: Number, high: Number, **options: object) -> None:
    """Raise ValueError unless every option is a finite number in [low, high]."""
    for option, given in options.items():
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise ValueError(f"{type(owner).__name__}: {option} = {given!r} must be a finite number")
        if not low <= given <= high:
            raise ValueError(f"{type(owner).__name__}: {option} = {given!r} is outside [{low:g}, {high:g}]")


def members(
    groups: Sequence[RolloutGroup], evidence: Sequence[Sequence[Evidence]]
) -> Iterator[tuple[RolloutGroup, Sequence[Evidence]]]:
    """Every group with its episodes' evidence; ValueError when one is missing."""
    if len(groups) != len(evidence):
        raise ValueError(f"assign: {len(groups)} groups but evidence for {len(evidence)}")
    for group, known in zip(groups, evidence, strict=True):
        if len(group.episodes) != len(known):
            given = f"{len(group.episodes)} episodes, evidence for {len(known)}"
            raise ValueError(f"assign: task {group.task_id!r} has {given}")
        yield group, known


def on_mask(sequence: TokenSequence, value: Number | Float[np.ndarray, " token"]) -> Float[np.ndarray, " token"]:
    """`value` on the sampled tokens and 0 elsewhere."""
    return np.where(sequence.mask, np.asarray(value, dtype=np.float64), 0.0)


def teacher_gap(episode: Episode, known: Evidence) -> Float[np.ndarray, " token"] | None:
    """Delta = log q - log p: how much likelier the teacher finds each sampled token than the behaviour policy did
    (nats).

    0 off the mask; None when the episode has no teacher.
    """
    if known.teacher is None:
        return None
    gap = on_mask(episode.sequence, np.asarray(known.teacher.logprobs, dtype=np.float64) - episode.sequence.logprobs)
    if not np.all(np.isfinite(gap)):
        raise ValueError(f"task {episode.task_id!r}: the teacher's log-probabilities of sampled tokens must be finite")
    return gap


def reference_anchor(
    episode: Episode, known: Evidence, weight: Number, forms: np.ndarray | KLForm = KLForm.K3
) -> Anchor | None:
    """Pull towards the reference policy with one weight on every sampled token; None when the weight is 0.

    Raises ValueError when the reference's log-probabilities are missing.
    """
    if weight == 0:
        return None
    if known.reference is None:
        raise ValueError(f"task {episode.task_id!r}: a reference anchor of weight {weight:g} needs Evidence.reference")
    sequence = episode.sequence
    if isinstance(forms, KLForm):
        forms = np.full(len(sequence), forms, dtype=object)
    return Anchor(on_mask(sequence, known.reference), on_mask(sequence, weight), forms)


FORMS = ("forward", "reverse", "jsd")
"""The divergences the loss knows, as `harness.types.Distillation` names them."""


def distillation(
    sequence: TokenSequence,
    known: Evidence,
    weight: Number,
    form: str = "forward",
    alpha: Number = 0.5,
    ratio_clip: Number | None = None,
    entry_clip: Number | None = None,
) -> Distillation | None:
    """Pull towards the teacher's distributions with one weight on every sampled token; None without a teacher."""
    if known.teacher is None or known.teacher.distribution is None:
        return None
    divergence = cast(Literal["forward", "reverse", "jsd"], form)
    ratio, entry = (None if clip is None else float(clip) for clip in (ratio_clip, entry_clip))
    target = known.teacher.distribution
    return Distillation(target, on_mask(sequence, weight), divergence, float(alpha), ratio, entry)
