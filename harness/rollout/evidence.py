"""What credit needs from models: a teacher reading privileged contexts, the same tokens without them, the reference
policy; and when the weights of teacher and reference follow the policy's.

Passes are batched over the whole step, asked for only where a method needs them, and counted. Within a step, equal
context and equal tokens are scored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.core.pieces import flat, joined
from harness.core.seeds import SeedTree
from harness.core.types import (
    ContextRequest,
    Episode,
    Evidence,
    Needs,
    RolloutGroup,
    Scores,
    TeacherPolicy,
    TokenSequence,
    TopK,
)
from harness.protocols.backend import Backend, Weights
from harness.protocols.context import ContextSource
from harness.protocols.method import AnyMethod, brings_context


@dataclass
class Gathered:
    """The evidence of a step, and what it cost."""

    evidence: list[list[Evidence]]
    teacher_tokens: int = 0
    """Tokens the teacher read, contexts included."""
    with_context: int = 0
    """Episodes that had a teacher."""
    too_long: int = 0
    """Episodes whose context and tokens (of one of their pieces) do not fit the window together: they have no
    teacher."""
    cut: tuple[int, int] | None = None
    """Where whole distributions were asked for and the vocabulary is too large: (entries given, vocabulary)."""


@dataclass
class _Plan:
    """Episodes that get a teacher: their place, and what stands before the tokens they have in common with it, at the
    beginning of each of their pieces."""

    places: list[tuple[int, int]] = field(default_factory=list)
    openings: list[tuple[int, ...]] = field(default_factory=list)
    """The first prompt as the policy read it."""
    contexts: list[tuple[int, ...]] = field(default_factory=list)
    """The first prompt as the teacher reads it."""
    literals: list[tuple[str, ...]] = field(default_factory=list)


def gather(
    method: AnyMethod, groups: Sequence[RolloutGroup], backend: Backend, source: ContextSource | None, seeds: SeedTree
) -> Gathered:
    """Evidence for every episode of a step. `source` gives the contexts of a method that brings none of its own."""
    needs = method.needs
    evidence: list[list[dict[str, Any]]] = [[{} for _ in group.episodes] for group in groups]
    out = Gathered([])
    sequences = [[episode.sequence for episode in group.episodes] for group in groups]
    if needs.reference:
        _reference(backend, sequences, evidence, "reference" if needs.reference_every else "initial")
    if needs.teacher != "none":
        context = method.context if brings_context(method) else source
        plan = _requests(context, groups, backend, seeds, out)
        _teacher(needs, backend, sequences, plan, evidence, out)
    out.evidence = [[Evidence(**known) for known in row] for row in evidence]
    return out


WHOLE_VOCABULARY = 8192
"""Largest vocabulary of which whole distributions are given: two of them for every token of a step are kept at once."""
LIKELIEST = 100
"""Entries given of a larger one, the rest being the tail: the most that 2601.20802 takes."""
TEACHERS: dict[TeacherPolicy, Weights] = {"current": "current", "initial": "initial", "ema": "teacher"}
"""Whose weights score for `Needs.teacher_policy`."""


def follow(needs: Needs, backend: Backend, step: int) -> None:
    """Let the teacher and the reference follow the policy, as a method needs it, once `step` steps are done."""
    moving = needs.teacher != "none" and needs.teacher_policy == "ema"
    if moving and step % needs.teacher_every == 0:
        backend.track("teacher", needs.teacher_decay)
    if needs.reference and needs.reference_every and step % needs.reference_every == 0:
        backend.track("reference")


def _reference(
    backend: Backend, sequences: list[list[TokenSequence]], evidence: list[list[dict[str, Any]]], weights: Weights
) -> None:
    every = [sequence for row in sequences for sequence in row]
    scores = iter(joined(backend.score(flat(every), policy=weights), every))
    for row in evidence:
        for known in row:
            known["reference"] = next(scores).logprobs


def _requests(context: Any, groups: Sequence[RolloutGroup], backend: Backend, seeds: SeedTree, out: Gathered) -> _Plan:
    plan = _Plan()
    if context is None:
        return plan
    for g, group in enumerate(groups):
        for i, episode in enumerate(group.episodes):
            request: ContextRequest | None = context(group, i, seeds["context", group.task_id, i].rng())
            if request is None or not episode.sequence.mask.any():
                continue
            opening, tokens = _prompts(backend, episode, request)
            longest = max(map(len, episode.sequence.pieces))
            if len(tokens) + longest - len(opening) > backend.window:
                out.too_long += 1
                continue
            plan.places.append((g, i))
            plan.openings.append(opening)
            plan.contexts.append(tokens)
            plan.literals.append(request.literals)
    out.with_context = len(plan.places)
    return plan


def _prompts(backend: Backend, episode: Episode, request: ContextRequest) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first prompt as the policy read it, and as its teacher reads it: the context is part of one conversation.
    Of tokens that no conversation is known of, the context stands in front."""
    renderer = backend.renderer
    messages = episode.messages[: episode.opened]
    if messages:
        opening = renderer.opening(messages, episode.tools)
        if all(tuple(piece.tokens[: len(opening)].tolist()) == opening for piece in episode.sequence.pieces):
            return opening, renderer.opening(messages, episode.tools, request)
    return (), renderer.context(request)


def _teacher(
    needs: Needs,
    backend: Backend,
    sequences: list[list[TokenSequence]],
    plan: _Plan,
    evidence: list[list[dict[str, Any]]],
    out: Gathered,
) -> None:
    chosen = [sequences[g][i] for g, i in plan.places]
    # Siblings often say the same and read the same: one pass serves them all.
    first: dict[bytes, int] = {}
    same = [first.setdefault(_key(c, s), n) for n, (c, s) in enumerate(zip(plan.contexts, chosen, strict=True))]
    distinct = sorted(set(same))
    whole = [chosen[n] for n in distinct]
    pieces = [(n, piece) for n in distinct for piece in chosen[n].pieces]
    openings, contexts = [plan.openings[n] for n, _ in pieces], [plan.contexts[n] for n, _ in pieces]
    asked = [_behind(piece, len(plan.openings[n])) for n, piece in pieces]
    k = _entries(needs, backend.vocabulary)
    if needs.teacher == "distribution" and needs.top_k is None and k < backend.vocabulary:
        out.cut = (k, backend.vocabulary)
    of_teacher, of_student = _passes(needs, k, backend, asked, openings, contexts)
    teacher, student = joined(of_teacher, whole), None if of_student is None else joined(of_student, whole)
    out.teacher_tokens += sum(len(s) + len(c) for s, c in zip(asked, contexts, strict=True))
    place = {n: row for row, n in enumerate(distinct)}
    for (g, i), representative, literals in zip(plan.places, same, plan.literals, strict=True):
        known = evidence[g][i]
        known["teacher"] = teacher[place[representative]]
        if student is not None:
            known["student"] = student[place[representative]]
        if literals:
            sequence = sequences[g][i]
            marks = [backend.renderer.literal_mask(piece.tokens, literals) for piece in sequence.pieces]
            known["masked"] = np.concatenate(marks) & sequence.mask


def _entries(needs: Needs, vocabulary: int) -> int:
    """Entries of a distribution."""
    if needs.top_k is None:
        return vocabulary if vocabulary <= WHOLE_VOCABULARY else LIKELIEST
    return min(needs.top_k, vocabulary)


def _passes(
    needs: Needs,
    k: int,
    backend: Backend,
    sequences: list[TokenSequence],
    openings: list[tuple[int, ...]],
    contexts: list[tuple[int, ...]],
) -> tuple[list[Scores], list[Scores] | None]:
    """The teacher's scores and, where distributions are wanted, the student's on the same ids, over whole pieces. The
    student has the current weights, whoever teaches."""
    if not sequences:
        return [], []
    weights = TEACHERS[needs.teacher_policy]
    if needs.teacher == "sampled":
        return _whole(backend.score(sequences, weights, contexts=contexts), openings), None
    if needs.ids_of == "teacher":
        teacher = backend.score(sequences, weights, top_k=k, contexts=contexts)
        student = backend.score(sequences, ids=_ids(teacher), contexts=openings)
    else:
        student = backend.score(sequences, top_k=k, contexts=openings)
        teacher = backend.score(sequences, weights, ids=_ids(student), contexts=contexts)
    return _whole(teacher, openings), _whole(student, openings)


def _behind(sequence: TokenSequence, opening: int) -> TokenSequence:
    """What follows the first prompt."""
    tokens, mask, logprobs, turns = sequence.tokens, sequence.mask, sequence.logprobs, sequence.turns
    return TokenSequence(tokens[opening:], mask[opening:], logprobs[opening:], turns[opening:])


def _whole(scores: list[Scores], openings: list[tuple[int, ...]]) -> list[Scores]:
    """Scores laid out over whole pieces again; nothing of a first prompt was sampled."""
    out = []
    for score, opening in zip(scores, openings, strict=True):
        known, front = score.distribution, len(opening)
        if known is not None:
            rows = ((front, 0), (0, 0))
            known = TopK(np.pad(known.ids, rows), np.pad(known.logprobs, rows))
        out.append(Scores(np.pad(score.logprobs, (front, 0)), known))
    return out


def _ids(scores: Sequence[Scores]) -> list[np.ndarray]:
    return [score.distribution.ids for score in scores if score.distribution is not None]


def _key(context: tuple[int, ...], sequence: TokenSequence) -> bytes:
    digest = hashlib.sha256(np.asarray(context, dtype=np.int64).tobytes() + b"|")
    digest.update(sequence.tokens.astype(np.int64).tobytes() + sequence.mask.tobytes() + repr(sequence.starts).encode())
    return digest.digest()
