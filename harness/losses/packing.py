"""From ragged sequences and credits to one batch of tensors: the only place that pads and shifts by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.core.types import Anchor, Credit, Distillation, KLForm, TokenSequence
from harness.losses.terms import FORMS, TAIL_FLOOR, AnchorBatch, Batch, DistillationBatch


def pack(sequences: Sequence[TokenSequence], credits: Sequence[Credit]) -> Batch:
    """One row per sequence, longest first; column p of a per-token tensor is about token p + 1. No sampled token is lost.

    A stream that is None in some credits counts as zeros there, and is None in the batch only where it is None in all.
    Raises ValueError when a sequence begins with a sampled token (nothing predicts it) or a stream has the wrong length.
    """
    if len(sequences) != len(credits):
        raise ValueError(f"{len(sequences)} sequences but {len(credits)} credits")
    if not sequences:
        raise ValueError("nothing to pack: no sequences")
    for index, (sequence, credit) in enumerate(zip(sequences, credits, strict=True)):
        _check(index, sequence, credit)
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ordered = [sequences[index] for index in order]
    given = [credits[index] for index in order]
    width = int(lengths.max())

    def column(values: Sequence[np.ndarray | None], dtype: Any, trailing: tuple[int, ...] = ()) -> np.ndarray:
        """Rows of label columns: the first token's entry falls away, absent rows and the padding are 0."""
        rows = np.zeros((len(values), max(width - 1, 0), *trailing), dtype=dtype)
        for row, value in enumerate(values):
            if value is not None and len(value):
                rows[row, : len(value) - 1] = value[1:]
        return rows

    def stream(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
        return None if all(value is None for value in values) else column(values, np.float64)

    tokens = np.zeros((len(ordered), width), dtype=np.int64)
    for row, sequence in enumerate(ordered):
        tokens[row, : len(sequence)] = sequence.tokens
    return Batch.from_numpy(
        tokens=tokens,
        lengths=lengths[order],
        prompts=np.array([_prompt_length(sequence) for sequence in ordered], dtype=np.int64),
        order=order,
        mask=column([sequence.mask for sequence in ordered], np.bool_),
        logprobs=column([sequence.logprobs for sequence in ordered], np.float64),
        advantages=stream([credit.advantages for credit in given]),
        likelihood=stream([credit.likelihood for credit in given]),
        anchor=_anchor([credit.anchor for credit in given], column),
        distillation=_distillation([credit.distillation for credit in given], column),
        step_tokens=int(sum(sequence.mask.sum() for sequence in sequences)),
        step_sequences=len(sequences),
    )


def _check(index: int, sequence: TokenSequence, credit: Credit) -> None:
    if len(sequence) == 0:
        raise ValueError(f"sequence {index} is empty")
    if sequence.mask[0]:
        raise ValueError(f"sequence {index}: its first token is marked as sampled, but nothing precedes it")
    streams: dict[str, np.ndarray | None] = {
        "advantages": credit.advantages,
        "likelihood": credit.likelihood,
        "anchor": None if credit.anchor is None else credit.anchor.weights,
        "distillation": None if credit.distillation is None else credit.distillation.weights,
    }
    for name, stream in streams.items():
        if stream is not None and len(stream) != len(sequence):
            raise ValueError(f"credit {index}: {name} has {len(stream)} entries for {len(sequence)} tokens")
        if stream is not None and not np.all(np.isfinite(stream)):
            raise ValueError(f"credit {index}: {name} is not finite everywhere")


def _prompt_length(sequence: TokenSequence) -> int:
    return int(np.argmax(sequence.mask)) if sequence.mask.any() else len(sequence)


def _anchor(anchors: Sequence[Anchor | None], column: Callable[..., np.ndarray]) -> AnchorBatch | None:
    if all(anchor is None for anchor in anchors):
        return None
    codes = {form: code for code, form in enumerate(FORMS)}
    forms = [None if a is None else np.array([codes[form] for form in a.forms]) for a in anchors]
    packed = column(forms, np.int64)
    # Padding and absent anchors take the form everybody shares, or else k3: their weight is 0, and a batch that knows one form only stays so.
    used = {code for array in forms if array is not None for code in array.tolist()}
    filler = used.pop() if len(used) == 1 else codes[KLForm.K3]
    for row, array in enumerate(forms):
        packed[row, 0 if array is None else len(array) - 1 :] = filler
    return AnchorBatch(
        logprobs=Batch.tensor(column([a and a.logprobs for a in anchors], np.float64)),
        weights=Batch.tensor(column([a and a.weights for a in anchors], np.float64)),
        forms=Batch.tensor(packed),
    )


def _distillation(given: Sequence[Distillation | None], column: Callable[..., np.ndarray]) -> DistillationBatch | None:
    present = [entry for entry in given if entry is not None]
    if not present:
        return None
    kinds = {(d.divergence, d.alpha, d.ratio_clip, d.target.ids.shape[1]) for d in present}
    if len(kinds) > 1:
        raise ValueError(
            f"one step needs one kind of distillation (divergence, alpha, ratio_clip, k), got {sorted(map(str, kinds))}"
        )
    divergence, alpha, ratio_clip, k = kinds.pop()
    return DistillationBatch(
        ids=Batch.tensor(column([d and d.target.ids for d in given], np.int64, (k,))),
        logprobs=Batch.tensor(column([d and _with_tail(d.target.logprobs) for d in given], np.float64, (k + 1,))),
        weights=Batch.tensor(column([d and d.weights for d in given], np.float64)),
        divergence=divergence,
        alpha=alpha,
        ratio_clip=ratio_clip,
    )


def _with_tail(logprobs: np.ndarray) -> np.ndarray:
    """log(1 - sum) beside the k entries, the sum kept `TAIL_FLOOR` below 1 (as `losses.with_tail` does for the policy)."""
    top = logprobs.max(-1, keepdims=True)
    total = top + np.log(np.exp(logprobs - top).sum(-1, keepdims=True))
    return np.concatenate([logprobs, np.log(-np.expm1(np.minimum(total, -TAIL_FLOOR)))], -1)
