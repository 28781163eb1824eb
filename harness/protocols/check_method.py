"""Is it a credit-assignment method? Random steps, and the properties every method must have on them.

    from harness.protocols.check_method import check_method
    check_method(Mine())        # raises MethodError with everything that is wrong, or returns

`harness check-method my_method:Mine` runs the same suite. Nothing here knows a method by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from harness.core.errors import UserError
from harness.core.plugs import completed, original
from harness.core.types import (
    ContextRequest,
    Credit,
    Ending,
    Episode,
    Evidence,
    Needs,
    RolloutGroup,
    Scores,
    TokenSequence,
    TopK,
    Values,
)
from harness.protocols.method import Method, MethodFacts, brings_context

VOCABULARY = 13
WORDS = ("look", "open", "take", "drop", "wait", "ask")
TOLERANCE = 1e-9
"""Room for the rounding of sums taken in another order."""


class MethodError(ValueError):
    """A method that breaks the contract, with every property it breaks."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step hands to a method."""

    groups: tuple[RolloutGroup, ...]
    evidence: tuple[tuple[Evidence, ...], ...]


def random_step(rng: np.random.Generator, needs: Needs, rewards: str = "any", siblings: int | None = None) -> Step:
    """Ragged multi-turn groups over a vocabulary of 13 tokens, and the evidence `needs` asks for.

    rewards: "any" of binary, equal or real ones, or one of "binary", "equal", "real" for all groups. Some episodes
    have no teacher, some tokens are masked literals, some groups have a solution or an answer; every array is
    read-only.
    """
    groups, evidence = [], []
    for number in range(int(rng.integers(1, 4))):
        size = siblings or int(rng.integers(1, 6))
        kind = rewards if rewards != "any" else str(rng.choice(["binary", "equal", "real"]))
        given = _rewards(rng, kind, size)
        episodes = tuple(_episode(rng, f"task-{number}", reward) for reward in given)
        solution = (f"{WORDS[0]} {number}", WORDS[1]) if rng.random() < 0.5 else None
        answer = str(rng.integers(100)) if rng.random() < 0.5 else None
        groups.append(RolloutGroup(f"task-{number}", episodes, solution, answer))
        taught = rng.random() < 0.8
        evidence.append(tuple(_evidence(rng, episode, needs, taught) for episode in episodes))
    return Step(tuple(groups), tuple(evidence))


def _rewards(rng: np.random.Generator, kind: str, size: int) -> Float[np.ndarray, " group"]:
    if kind == "equal":
        return np.full(size, float(rng.random()))
    return rng.integers(0, 2, size).astype(np.float64) if kind == "binary" else rng.random(size)


def _episode(rng: np.random.Generator, task_id: str, reward: float) -> Episode:
    tokens, mask, turns = [0, 1], [False, False], [0, 0]
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"do {task_id}"}]
    for turn in range(int(rng.integers(1, 4))):
        sampled, observed = int(rng.integers(1, 9)), int(rng.integers(0, 4))
        tokens += rng.integers(0, VOCABULARY, sampled + observed).tolist()
        mask += [True] * sampled + [False] * observed
        turns += [turn] * (sampled + observed)
        messages.append({"role": "assistant", "content": " ".join(rng.choice(WORDS, sampled))})
        messages.append({"role": "user", "content": f"seen {int(rng.integers(9))}"})
    marked = np.array(mask)
    logprobs = np.where(marked, -rng.exponential(1.0, len(mask)), 0.0)
    sequence = TokenSequence(_frozen(np.array(tokens)), _frozen(marked), _frozen(logprobs), _frozen(np.array(turns)))
    met = [task_id, *(str(message["content"]) for message in messages[2:-1:2])]
    return Episode(
        *(task_id, sequence, float(reward), bool(reward > 0.5), Ending.COMPLETED, tuple(messages)),
        states=tuple(f"state of {name}" for name in met),
        state_values=tuple(sum(map(ord, name)) % 11 / 10 for name in met),
        end_value=0.2 + 0.6 * float(reward) if len(met) % 2 else None,
    )


def _evidence(rng: np.random.Generator, episode: Episode, needs: Needs, taught: bool) -> Evidence:
    known = _scored(rng, episode.sequence, needs, taught)
    return replace(known, values=_valued(rng, episode, needs.values_at)) if needs.values else known


def _valued(rng: np.random.Generator, episode: Episode, at: str) -> Values:
    """Values as re-rolls give them: what stands behind a token (a turn) stands in front of the next, and the last is
    the reward."""
    mask = episode.sequence.mask
    turns = episode.sequence.turns[mask]
    segment = np.arange(len(turns)) if at == "token" else np.unique(turns, return_inverse=True)[1]
    worth = np.append(rng.random(int(segment.max(initial=-1)) + 1), episode.reward)
    before, after, error = np.zeros((3, len(mask)))
    before[mask], after[mask], error[mask] = worth[segment], worth[segment + 1], 0.1
    return Values(_frozen(before), _frozen(after), _frozen(error))


def _scored(rng: np.random.Generator, sequence: TokenSequence, needs: Needs, taught: bool) -> Evidence:
    reference = None
    if needs.reference:
        reference = _frozen(np.where(sequence.mask, sequence.logprobs + rng.normal(0, 0.5, len(sequence)), 0.0))
    if needs.teacher == "none" or not taught or rng.random() < 0.2:
        return Evidence(reference=reference)
    masked = _frozen(sequence.mask & (rng.random(len(sequence)) < 0.1))
    if needs.teacher == "sampled":
        gap = rng.normal(0, 1, len(sequence)) * rng.choice([0.0, 1.0, 8.0])
        teacher = Scores(_frozen(np.where(sequence.mask, sequence.logprobs + gap, 0.0)))
        return Evidence(teacher, reference=reference, masked=masked)
    k = VOCABULARY if needs.top_k is None else min(needs.top_k, VOCABULARY)
    logits = rng.normal(0, 2, (2, len(sequence), VOCABULARY))
    logits[1] += logits[0] * rng.choice([0.0, 1.0, 5.0])
    full = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    full[:, ~sequence.mask] = 0.0
    ids = np.argsort(-full[0 if needs.ids_of == "teacher" else 1], axis=-1, kind="stable")[:, :k]
    places = np.arange(len(sequence))
    teacher, student = (
        Scores(
            _frozen(np.where(sequence.mask, side[places, sequence.tokens], 0.0)),
            TopK(_frozen(ids), _frozen(np.take_along_axis(side, ids, axis=1))),
        )
        for side in full
    )
    return Evidence(teacher, student, reference, masked)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def streams(credit: Credit) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a credit, by name: "advantages", "anchor.weights", "distillation.target.logprobs", ..."""
    for name, value in credit.streams():
        yield from _arrays(name, value)


def _arrays(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "i":  # ids say where a distribution stands, not how much credit there is
            yield name, value
    elif is_dataclass(value):
        for entry in fields(value):
            yield from _arrays(f"{name}.{entry.name}", getattr(value, entry.name))


def differing(one: Credit, other: Credit, tolerance: float | int) -> list[str]:
    """Names of the streams in which two credits differ by more than `tolerance`; 0 compares bytes."""
    mine, theirs = dict(streams(one)), dict(streams(other))
    if mine.keys() != theirs.keys():
        return sorted(mine.keys() ^ theirs.keys())
    return [name for name, array in mine.items() if not _same(array, theirs[name], tolerance)]


def _same(one: np.ndarray, other: np.ndarray, tolerance: float | int) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype == object:
        return bool(np.all(one == other))
    return one.tobytes() == other.tobytes() if tolerance == 0 else bool(np.allclose(one, other, tolerance, tolerance))


def problems(method: Any, rng: np.random.Generator, permutable: bool = True) -> list[str]:
    """What is wrong with a method on one random step; empty when nothing is.

    `permutable=False` excuses a method that draws among siblings from asking the same of every order of them.
    """
    found: list[str] = []
    needs = method.needs
    if not isinstance(needs, Needs):
        return [f"needs is {needs!r}, not a harness.types.Needs"]
    state = method.initial_state()
    step = random_step(rng, needs)
    credits, later, log = method.assign(step.groups, step.evidence, state)
    relative = getattr(method, "group_relative", Method.group_relative)
    found += _shape_problems(step, credits, relative)
    if found:
        return found
    found += _log_problems(log) + _description_problems(method)
    again, _, _ = method.assign(step.groups, step.evidence, method.initial_state())
    if _any_differs(credits, again, 0):
        found.append("assign is not deterministic: the same step from the same state gave other credits")
    method.assign(step.groups, step.evidence, later)
    try:
        restored = json.loads(json.dumps(later))
    except (TypeError, ValueError) as error:
        found.append(f"the state cannot be written to a checkpoint as JSON: {error}")
    else:
        first, second = (method.assign(step.groups, step.evidence, s)[0] for s in (later, restored))
        if _any_differs(first, second, 0):
            found.append("a state that went through JSON gives other credits")
    if _any_differs(credits, _whole(method.assign(*_in_pieces(step), method.initial_state())[0], step), TOLERANCE):
        found.append("credit of a sampled token changes where its episode is in several pieces")
    found += _symmetry_problems(method, rng, needs, permutable)
    found += _context_problems(method, rng, needs)
    method.assign((), (), method.initial_state())
    return found


def check_method(method: Any, seeds: Sequence[int] = range(40), permutable: bool = True) -> None:
    """Raise MethodError, naming each broken property once with the seed that shows it, unless `method` keeps them
    all."""
    what = type(original(method)).__name__
    try:
        method = completed(method, Method, "it")
    except UserError as error:
        raise MethodError(f"{what} is no method: {error}") from None
    broken: dict[str, int] = {}
    for seed in seeds:
        for problem in problems(method, np.random.default_rng(seed), permutable):
            broken.setdefault(problem, seed)
    if broken:
        listed = "\n".join(f"  - {problem} (seed {seed})" for problem, seed in broken.items())
        raise MethodError(f"{what} breaks the contract of a method:\n{listed}")


def _shape_problems(step: Step, credits: Sequence[Sequence[Credit]], relative: bool) -> list[str]:
    found = []
    if [len(row) for row in credits] != [len(group.episodes) for group in step.groups]:
        return ["assign must return one credit for every episode of every group"]
    for group, row in zip(step.groups, credits, strict=True):
        for episode, credit in zip(group.episodes, row, strict=True):
            mask = episode.sequence.mask
            for name, array in streams(credit):
                if len(array) != len(mask):
                    found.append(f"{name} needs one entry per token of the sequence")
                elif array.dtype != object and not np.all(np.isfinite(array[mask])):
                    found.append(f"{name} is not finite on every sampled token")
                elif name in ("advantages", "likelihood") or name.endswith("weights"):
                    if np.any(array[~mask] != 0):
                        found.append(f"{name} is not 0 off the sampled-token mask")
                    if array.dtype != np.float64:
                        found.append(f"{name} has dtype {array.dtype}, not float64")
            silent = credit.advantages is None or not np.any(credit.advantages)
            if relative and np.ptp(group.rewards) == 0 and not silent:
                found.append("a group with equal rewards has advantages")
    return sorted(set(found))


def _log_problems(log: dict[str, float]) -> list[str]:
    bad = [name for name, value in log.items() if not (isinstance(value, float) and math.isfinite(value))]
    return [f"diagnostic {name!r} is not a finite float" for name in bad]


def _description_problems(method: Any) -> list[str]:
    described = method.describe()
    if not isinstance(described, MethodFacts):
        return [f"describe returned {type(described).__name__}, not harness.types.MethodFacts"]
    found = []
    if described.reference_kl == 0 and method.needs.reference:
        found.append("describe says reference_kl = 0, but needs asks for the reference policy")
    if described.context is not None and not brings_context(method):
        found.append("describe names a context of the method's own, but it defines no context()")
    verdict = method.verdict([])
    if not (verdict is None or isinstance(verdict, str)):
        found.append(f"verdict returned {type(verdict).__name__}, not text or None")
    return found


def _any_differs(one: Sequence[Sequence[Credit]], other: Sequence[Sequence[Credit]], tolerance: float | int) -> bool:
    pairs = zip([c for row in one for c in row], [c for row in other for c in row], strict=True)
    return any(differing(first, second, tolerance) for first, second in pairs)


def _symmetry_problems(method: Any, rng: np.random.Generator, needs: Needs, permutable: bool) -> list[str]:
    """Changes of a step that must not change what a token gets."""
    step = random_step(rng, needs, siblings=int(rng.integers(2, 6)))
    credits = method.assign(step.groups, step.evidence, method.initial_state())[0]
    found = []
    shifted = [
        replace(group, episodes=tuple(replace(e, reward=e.reward + 0.5) for e in group.episodes))
        for group in step.groups
    ]
    relative = getattr(method, "group_relative", Method.group_relative)
    if relative and _any_differs(credits, method.assign(shifted, step.evidence, method.initial_state())[0], TOLERANCE):
        found.append("adding a constant to all rewards changes credit")
    if not permutable:
        return found
    orders = [rng.permutation(len(group.episodes)) for group in step.groups]
    moved = [
        replace(group, episodes=tuple(group.episodes[i] for i in order))
        for group, order in zip(step.groups, orders, strict=True)
    ]
    known = [[row[i] for i in order] for row, order in zip(step.evidence, orders, strict=True)]
    expected = [[row[i] for i in order] for row, order in zip(credits, orders, strict=True)]
    if _any_differs(expected, method.assign(moved, known, method.initial_state())[0], TOLERANCE):
        found.append("permuting siblings does not permute credit")
    back = method.assign(step.groups[::-1], step.evidence[::-1], method.initial_state())[0]
    if _any_differs(credits, back[::-1], TOLERANCE):
        found.append("the order of the groups changes credit")
    return found


def _in_pieces(step: Step) -> tuple[list[RolloutGroup], list[list[Evidence]]]:
    """The step with every episode of several turns in two pieces: the second begins with the first prompt and the turn
    before the last."""
    groups, evidence = [], []
    for group, known in zip(step.groups, step.evidence, strict=True):
        places = [_second_piece(episode.sequence) for episode in group.episodes]
        episodes = zip(group.episodes, places, strict=True)
        groups.append(replace(group, episodes=tuple(replace(e, sequence=_split(e.sequence, at)) for e, at in episodes)))
        evidence.append([_inserted(one, at) for one, at in zip(known, places, strict=True)])
    return groups, evidence


def _second_piece(sequence: TokenSequence) -> tuple[int, list[int]]:
    """Where it begins, and the places of the tokens that it shows again; nowhere for an episode of one turn."""
    last, sampled = int(sequence.turns.max()), np.flatnonzero(sequence.mask)
    if last == 0:
        return 0, []
    begin = int(np.argmax(sequence.turns == last))
    shown = np.flatnonzero(sequence.turns == last - 1)
    return begin, [*range(int(sampled[0])), *shown[shown >= sampled[0]].tolist()]


def _split(sequence: TokenSequence, at: tuple[int, list[int]]) -> TokenSequence:
    begin, shown = at
    parts = [sequence.mask, sequence.logprobs]
    mask, logprobs = (np.insert(part, begin, np.zeros(len(shown), part.dtype)) for part in parts)
    tokens, turns = (np.insert(part, begin, part[shown]) for part in (sequence.tokens, sequence.turns))
    return TokenSequence(tokens, mask, logprobs, turns, (begin,) if begin else ())


def _inserted(record: Any, at: tuple[int, list[int]]) -> Any:
    """A per-token record with zeros for what is shown again."""
    begin, shown = at
    if isinstance(record, np.ndarray):
        return _frozen(np.insert(record, begin, np.zeros((len(shown), *record.shape[1:]), record.dtype), axis=0))
    if is_dataclass(record) and not isinstance(record, type):
        return replace(record, **{f.name: _inserted(getattr(record, f.name), at) for f in fields(record)})
    return record


def _whole(credits: Sequence[Sequence[Credit]], step: Step) -> list[list[Credit]]:
    """Credits of the step in pieces, without what is shown again there."""
    return [
        [_removed(credit, _second_piece(e.sequence)) for credit, e in zip(row, group.episodes, strict=True)]
        for row, group in zip(credits, step.groups, strict=True)
    ]


def _removed(record: Any, at: tuple[int, list[int]]) -> Any:
    begin, shown = at
    if isinstance(record, np.ndarray):
        return np.delete(record, slice(begin, begin + len(shown)), axis=0)
    if isinstance(record, dict):
        return {name: _removed(value, at) for name, value in record.items()}
    if is_dataclass(record) and not isinstance(record, type):
        return replace(record, **{f.name: _removed(getattr(record, f.name), at) for f in fields(record)})
    return record


def _context_problems(method: Any, rng: np.random.Generator, needs: Needs) -> list[str]:
    """A context is a request or None, and the same under the same draw."""
    if not brings_context(method):
        return []
    found = []
    for group in random_step(rng, needs).groups:
        for index in range(len(group.episodes)):
            first, second = (method.context(group, index, np.random.default_rng(5)) for _ in range(2))
            if first is not None and not isinstance(first, ContextRequest):
                found.append(f"context returned {type(first).__name__}, not a ContextRequest or None")
            elif first != second:
                found.append("context is not a function of the group, the index and the random stream")
    return sorted(set(found))
