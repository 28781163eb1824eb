"""Advantages of verl's batches by a method of ours, through the function that verl calls for them.

    estimator(token_level_rewards, response_mask, index, config) -> advantages, returns      [row, position]

verl shows an estimator rewards and masks. What a method reads besides (turns, states, log-probabilities) the trainer
gives beforehand (`Estimator.given`), as whole episodes in the order of the rows. Where verl's loss cannot express what
a method assigns, `lacking` says why before anything is written, and the estimator refuses such a credit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from harness.core.errors import HarnessError, UserError
from harness.core.types import Anchor, Credit, Episode, Evidence, KLForm, RolloutGroup, TokenSequence
from harness.experiment import Experiment, MethodSettings
from harness.protocols.capabilities import Capability, demands
from harness.protocols.check_method import random_step
from harness.protocols.method import AnyMethod, make_method

OFFERED = frozenset({Capability.TRAINING, Capability.RESUME, Capability.INITIAL, Capability.TOP_P, Capability.BFLOAT16})
"""What a job of verl can do for a method: it scores under the current and the initial weights, without a context."""
PROBES = 8
"""Random steps on which it is looked what a method assigns."""


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a batch, as a method sees it."""

    episode: Episode
    reference: Float[np.ndarray, " token"] | None = None
    """Log-probabilities under the reference policy, 0 off the mask."""


def response_start(sequence: TokenSequence) -> int:
    """Tokens of a sequence that are verl's prompt: all before the first sampled one; all but the last where none
    was sampled (a response is never empty)."""
    return int(np.argmax(sequence.mask)) if sequence.mask.any() else len(sequence) - 1


class Estimator:
    """A method as verl's advantage estimator. `diagnostics`: what the method logged of the last batch."""

    def __init__(self, method: AnyMethod, label: str) -> None:
        self.method, self.label = method, label
        self.pull = pull_of(method) or 0.0
        self.diagnostics: dict[str, float] = {}
        self._rows: Sequence[Row | None] | None = None

    @contextmanager
    def given(self, rows: Sequence[Row | None]) -> Iterator[None]:
        """The rows of the batch that is estimated inside, in its order; None for one that verl has added as
        padding."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def __call__(
        self,
        token_level_rewards: Float[Tensor, "row position"],
        response_mask: Shaped[Tensor, "row position"],
        index: Any = None,
        config: Any = None,
        **_: Any,
    ) -> tuple[Float[Tensor, "row position"], Float[Tensor, "row position"]]:
        """Advantages, and the same again as verl's returns. index: a key for each
        row, the same for siblings. HarnessError without the
        rows' episodes, or where they are not those of the batch; UserError for a credit that verl's loss cannot
        express."""
        rows = self._rows
        if rows is None or index is None or not len(rows) == len(index) == len(response_mask):
            given = "no episodes" if rows is None else f"{len(rows)} episodes"
            raise HarnessError(
                f"the estimator of {self.label!r} has {given} for {len(response_mask)} rows: it reads whole episodes, "
                "which the job's own trainer gives it (trainer.v1.trainer_mode, agent.default_agent_loop)"
            )
        members: dict[Any, list[int]] = {}
        for place, (row, key) in enumerate(zip(rows, index, strict=True)):
            if row is not None:
                members.setdefault(key, []).append(place)
        advantages = torch.zeros_like(token_level_rewards)
        for place, credit in self._credits(rows, list(members.values())):
            row = rows[place]
            assert row is not None
            self._lay(advantages[place], response_mask[place], row, credit)
        return advantages, advantages.clone()

    def _credits(self, rows: Sequence[Row | None], members: list[list[int]]) -> Iterator[tuple[int, Credit]]:
        """(row, credit) of every row of these groups."""
        of_groups = [[row for place in places if (row := rows[place]) is not None] for places in members]
        groups = [RolloutGroup(of[0].episode.task_id, tuple(row.episode for row in of)) for of in of_groups]
        evidence = [[Evidence(reference=row.reference) for row in of] for of in of_groups]
        if not groups:
            return
        credits, _, diagnostics = self.method.assign(groups, evidence, self.method.initial_state())
        self.diagnostics = {f"method/{name}": float(value) for name, value in diagnostics.items()}
        for places, of_group in zip(members, credits, strict=True):
            yield from zip(places, of_group, strict=True)

    def _lay(self, out: Tensor, mask: Tensor, row: Row, credit: Credit) -> None:
        """Write the advantages of one row's response."""
        sequence = row.episode.sequence
        why = inexpressible(credit, sequence, row.reference, self.pull)
        if why:
            raise UserError(f"{self.label!r} cannot be trained by verl: {why}")
        start = response_start(sequence)
        length = len(sequence) - start
        if length > len(mask) or not np.array_equal(mask[:length].bool().cpu().numpy(), sequence.mask[start:]):
            raise HarnessError(f"a row of {row.episode.task_id!r} has another mask than its episode")
        if credit.advantages is not None:
            out[:length] = torch.from_numpy(credit.advantages[start:]).to(out)


def inexpressible(
    credit: Credit, sequence: TokenSequence, reference: Float[np.ndarray, " token"] | None, pull: float
) -> str | None:
    """Why verl's loss cannot express a credit, or None: it has advantages, and one pull of one weight (`pull`, in the
    k3 form) to the reference policy on every sampled token."""
    for name, value in credit.streams():
        if name == "anchor":
            if not _is_pull(value, sequence, reference, pull):
                return (
                    "it pulls to other log-probabilities than the reference policy's, or in another form than k3 with "
                    "one weight (the stream 'anchor'); verl's loss knows that one pull"
                )
        elif name != "advantages":
            return f"it assigns the stream {name!r}; verl's loss knows advantages and the pull to the reference policy"
    if pull and credit.anchor is None:
        return "it leaves out the pull to the reference policy for some episodes; verl applies it to all"
    return None


def _is_pull(
    anchor: Anchor, sequence: TokenSequence, reference: Float[np.ndarray, " token"] | None, pull: float
) -> bool:
    mask = sequence.mask
    return (
        reference is not None
        and np.array_equal(anchor.logprobs[mask], reference[mask])
        and bool(np.all(anchor.weights[mask] == pull))
        and all(form is KLForm.K3 for form in anchor.forms[mask])
    )


def pull_of(method: AnyMethod) -> float | None:
    """Weight of a method's pull to the reference policy; None where it is not one number for the whole run."""
    return method.describe().reference_kl if method.needs.reference else 0.0


def lacking(experiment: Experiment, row: MethodSettings) -> list[str]:
    """Why a row cannot be trained by verl, a reason each: what it asks for that a job does not have, and what it
    assigns that verl's loss does not express. Empty where it can."""
    whole = f"the row {row.label!r}"
    reasons = [
        f"{'it' if asking == whole else asking} asks for {capability.value!r} ({capability.meaning})"
        for capability, asking in demands(experiment, [row])
        if capability not in OFFERED
    ]
    method = make_method(row.plug, row.options)
    if method.needs.values:
        reasons.append("it reads values of prefixes by re-rolling, which verl's loop does not play")
    if method.initial_state():
        reasons.append("it keeps a state from step to step, which verl's checkpoints do not hold")
    if pull_of(method) is None:
        reasons.append("the weight of its pull to the reference policy moves during training; verl's is one number")
    return reasons or _assigned(method)


def _assigned(method: AnyMethod) -> list[str]:
    """What the method assigns on random steps that verl's loss does not express."""
    found: dict[str, None] = {}
    for seed in range(PROBES):
        step = random_step(np.random.default_rng(seed), method.needs)
        credits, _, _ = method.assign(step.groups, step.evidence, method.initial_state())
        for group, evidence, of_group in zip(step.groups, step.evidence, credits, strict=True):
            for episode, known, credit in zip(group.episodes, evidence, of_group, strict=True):
                why = inexpressible(credit, episode.sequence, known.reference, pull_of(method) or 0.0)
                if why:
                    found[why] = None
    return list(found)


def seen_by_trainer(episode: Episode, response: Float[np.ndarray, " position"]) -> Episode:
    """The episode with the log-probabilities of its response under the policy that is trained (`old_log_probs`), in
    place of the server's: verl's loss takes its ratio to these."""
    sequence = episode.sequence
    return replace(episode, sequence=replace(sequence, logprobs=on_tokens(sequence, response)))


def on_tokens(sequence: TokenSequence, response: Float[np.ndarray, " position"]) -> Float[np.ndarray, " token"]:
    """Numbers of a response's positions as numbers of all tokens, 0 off the mask."""
    whole = np.zeros(len(sequence))
    start = response_start(sequence)
    whole[start:] = response[: len(sequence) - start]
    return np.where(sequence.mask, whole, 0.0)
