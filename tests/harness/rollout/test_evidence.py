"""Evidence: what a step gathers in a few batched passes is what one pass per episode would have said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from harness.core.seeds import SeedTree
from harness.protocols.context import ContextSource
from harness.rollout import evidence
from harness.rollout.evidence import follow, gather
from harness.types import ContextRequest, Credit, Ending, Episode, Evidence, Method, Needs, RolloutGroup, TokenSequence

SEEDS = SeedTree(0)["step", 3]
NOTHING = Needs()


@dataclass
class Asks(Method[None]):
    """A method that wants evidence and assigns nothing."""

    needs: Needs = NOTHING

    def initial_state(self) -> None:
        return None

    def assign(self, groups: Any, evidence: Any, state: None) -> Any:
        return [[Credit() for _ in group.episodes] for group in groups], state, {}


@dataclass
class Brings(Asks):
    """One with a context of its own."""

    given: Callable[..., ContextRequest | None] = lambda group, index, rng: None

    def context(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return self.given(group, index, rng)


@pytest.fixture
def groups(ragged_groups: Callable[..., list[list[TokenSequence]]]) -> list[RolloutGroup]:
    """Three groups of four; in the first, two siblings said the same, and one never got to speak."""
    made = ragged_groups(0)
    made[0][1] = made[0][0]
    silent = made[0][0]
    silent = TokenSequence(silent.tokens[:4], np.zeros(4, dtype=bool), np.zeros(4), silent.turns[:4])
    made[0][3] = silent
    return [
        RolloutGroup(f"task {g}", tuple(Episode(f"task {g}", s, 0.0, False, Ending.COMPLETED) for s in row))
        for g, row in enumerate(made)
    ]


@dataclass
class Source(ContextSource):
    """A source that is a function."""

    given: Callable[..., ContextRequest | None]
    name: str = "given"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return self.given(group, index, rng)


@Source
def by_task(group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
    """The second group gets nothing."""
    return None if group.task_id == "task 1" else ContextRequest(f"guess {group.task_id}", literals=("3",))


def pairs(groups: list[RolloutGroup], found: list[list[Evidence]]) -> list[tuple[Episode, Evidence]]:
    assert [len(row) for row in found] == [len(group.episodes) for group in groups]
    return [
        (e, known)
        for group, row in zip(groups, found, strict=True)
        for e, known in zip(group.episodes, row, strict=True)
    ]


def test_a_method_that_needs_nothing_costs_nothing(groups: Any, backend_of: Any) -> None:
    gathered = gather(Asks(Needs()), groups, backend_of(), by_task, SEEDS)
    assert all(known == Evidence() or vars(known) == vars(Evidence()) for _, known in pairs(groups, gathered.evidence))
    assert (gathered.teacher_tokens, gathered.with_context) == (0, 0)


def test_the_reference_is_the_policy_at_the_start(groups: Any, backend_of: Any) -> None:
    backend, untouched = backend_of(), backend_of()
    for parameter in backend.model.parameters():
        parameter.data += 0.01
    gathered = gather(Asks(Needs(reference=True)), groups, backend, None, SEEDS)
    for episode, known in pairs(groups, gathered.evidence):
        alone = untouched.score([episode.sequence])[0].logprobs
        np.testing.assert_allclose(known.reference, alone, atol=1e-10)  # float64, batches of another shape
        assert known.teacher is None


def test_the_teacher_reads_the_context_and_the_same_tokens(groups: Any, backend_of: Any) -> None:
    backend = backend_of()
    gathered = gather(Asks(Needs(teacher="sampled")), groups, backend, by_task, SEEDS)
    tokens = 0
    distinct = set()
    for episode, known in pairs(groups, gathered.evidence):
        sequence = episode.sequence
        request = by_task(RolloutGroup(episode.task_id, ()), 0, SEEDS.rng())
        if request is None or not sequence.mask.any():
            assert known.teacher is None
            continue
        context = backend.renderer.context(request)
        alone = backend.score([sequence], contexts=[context])[0]
        np.testing.assert_allclose(known.teacher.logprobs, alone.logprobs, atol=1e-10)
        assert known.student is None
        assert not known.teacher.logprobs[~sequence.mask].any()
        np.testing.assert_array_equal(
            known.masked, backend.renderer.literal_mask(sequence.tokens, ["3"]) & sequence.mask
        )
        if (place := (context, tuple(sequence.tokens))) not in distinct:
            distinct.add(place)
            tokens += len(context) + len(sequence)
    assert gathered.with_context == 3 + 4  # a silent sibling, and a group without a context
    assert gathered.teacher_tokens == tokens  # what two siblings share is read once
    assert len(distinct) == gathered.with_context - 1


def moved(backend: Any) -> Any:
    """A backend whose current, initial, averaged and refreshed weights are four different ones."""
    for place in range(3):
        with torch.no_grad():
            for parameter in backend.model.parameters():
                parameter += 0.05 * torch.sin(torch.arange(parameter.numel(), dtype=parameter.dtype)).reshape(
                    parameter.shape
                )
        backend.track("teacher", 0.5)
        if place == 0:
            backend.track("reference")
    return backend


WEIGHTS = {"current": "current", "initial": "initial", "ema": "teacher"}


@pytest.mark.parametrize("policy", WEIGHTS)
@pytest.mark.parametrize("kind", ["sampled", "teacher", "student"])
def test_the_teacher_has_the_weights_that_are_asked_for_and_the_student_the_current_ones(
    groups: Any, backend_of: Any, policy: Any, kind: Any
) -> None:
    backend = moved(backend_of())
    if kind == "sampled":
        needs = Needs(teacher="sampled", teacher_policy=policy)
    else:
        needs = Needs(teacher="distribution", top_k=4, ids_of=kind, teacher_policy=policy)
    gathered = gather(Asks(needs), groups, backend, by_task, SEEDS)
    taught = [(e, known) for e, known in pairs(groups, gathered.evidence) if known.teacher is not None]
    assert len(taught) == gathered.with_context == 7
    for episode, known in taught:
        sequence = episode.sequence
        context = backend.renderer.context(by_task(RolloutGroup(episode.task_id, ()), 0, SEEDS.rng()))
        alone = {w: backend.score([sequence], w, contexts=[context])[0].logprobs for w in WEIGHTS.values()}
        for weights, logprobs in alone.items():
            near = np.allclose(known.teacher.logprobs, logprobs, atol=1e-10)
            assert near is (weights == WEIGHTS[policy]), weights
        if kind == "sampled":
            continue
        plain = backend.score([sequence])[0].logprobs
        np.testing.assert_allclose(known.student.logprobs, plain, atol=1e-10)
        whose = (WEIGHTS[policy], [context]) if kind == "teacher" else ("current", None)
        best = backend.score([sequence], whose[0], top_k=4, contexts=whose[1])[0].distribution
        np.testing.assert_array_equal(known.teacher.distribution.ids[sequence.mask], best.ids[sequence.mask])


@pytest.mark.parametrize("every", [0, 7])
def test_a_refreshed_reference_is_the_snapshot_and_not_the_start(groups: Any, backend_of: Any, every: int) -> None:
    backend = moved(backend_of())
    needs = Needs(reference=True, reference_every=every)
    gathered = gather(Asks(needs), groups, backend, None, SEEDS)
    for episode, known in pairs(groups, gathered.evidence):
        for weights in ("reference", "initial"):
            alone = backend.score([episode.sequence], weights)[0].logprobs
            same = np.allclose(known.reference, alone, atol=1e-10)
            assert same is (weights == ("reference" if every else "initial")) or not episode.sequence.mask.any()


@pytest.mark.parametrize(
    ("needs", "followed"),
    [
        (Needs(), {}),
        (Needs(teacher="sampled", teacher_policy="initial"), {}),
        (Needs(teacher_policy="ema"), {}),  # no teacher is asked for
        (Needs(reference_every=2), {}),  # nor a reference
        (Needs(teacher="sampled", teacher_policy="ema"), {"teacher": [1, 2, 3, 4, 5, 6]}),
        (Needs(teacher="sampled", teacher_policy="ema", teacher_every=3), {"teacher": [3, 6]}),
        (Needs(reference=True, reference_every=4), {"reference": [4]}),
    ],
)
def test_who_follows_the_policy_after_which_steps(
    needs: Needs, followed: dict[str, list[int]], backend_of: Any, groups: Any
) -> None:
    """The policy is somewhere else after every step, so that a snapshot that equals it was taken there."""
    backend = backend_of()
    sequences = [groups[0].episodes[0].sequence]
    found: dict[str, list[int]] = {}
    for step in range(1, 7):
        for parameter in backend.model.parameters():
            parameter.data += 0.01
        follow(needs, backend, step)
        for name in backend._snapshots._made:
            if np.array_equal(backend.score(sequences, name)[0].logprobs, backend.score(sequences)[0].logprobs):
                found.setdefault(name, []).append(step)
    assert found == followed


@pytest.mark.parametrize("ids_of", ["teacher", "student"])
@pytest.mark.parametrize("top_k", [5, None])
def test_both_distributions_stand_on_the_same_entries(
    groups: Any, backend_of: Any, ids_of: Any, top_k: int | None
) -> None:
    backend = backend_of()
    needs = Needs(teacher="distribution", top_k=top_k, ids_of=ids_of)
    gathered = gather(Asks(needs), groups, backend, by_task, SEEDS)
    for episode, known in pairs(groups, gathered.evidence):
        if known.teacher is None:
            continue
        sequence, mask = episode.sequence, episode.sequence.mask
        context = backend.renderer.context(by_task(RolloutGroup(episode.task_id, ()), 0, SEEDS.rng()))
        np.testing.assert_array_equal(known.teacher.distribution.ids, known.student.distribution.ids)
        fronts = {"teacher": [context], "student": None}
        best = backend.score([sequence], top_k=top_k or backend.vocabulary, contexts=fronts[ids_of])[0].distribution
        np.testing.assert_array_equal(known.teacher.distribution.ids[mask], best.ids[mask])
        for who in ("teacher", "student"):
            alone = backend.score([sequence], ids=[best.ids], contexts=fronts[who])[0]
            found = getattr(known, who)
            np.testing.assert_allclose(found.distribution.logprobs[mask], alone.distribution.logprobs[mask], atol=1e-10)
            np.testing.assert_allclose(found.logprobs, alone.logprobs, atol=1e-10)
            if top_k is None:
                np.testing.assert_allclose(np.exp(found.distribution.logprobs[mask]).sum(-1), 1, atol=1e-10)


@pytest.mark.parametrize(("top_k", "largest", "expected"), [(None, 100, 7), (None, 8192, None), (150, 100, 150)])
def test_whole_distributions_of_a_large_vocabulary_are_cut_and_said_to_be(
    top_k: int | None, largest: int, expected: int | None, groups: Any, backend_of: Any, monkeypatch: Any
) -> None:
    """What is asked for by number is given; what is asked for whole, only up to a size."""
    backend = backend_of()
    assert 150 < backend.vocabulary < 8192
    monkeypatch.setattr(evidence, "WHOLE_VOCABULARY", largest)
    monkeypatch.setattr(evidence, "LIKELIEST", 7)
    gathered = gather(Asks(Needs(teacher="distribution", top_k=top_k)), groups, backend, by_task, SEEDS)
    assert gathered.cut == ((7, backend.vocabulary) if expected == 7 else None)
    for _, known in pairs(groups, gathered.evidence):
        if known.teacher is not None:
            assert known.teacher.distribution.ids.shape[1] == (expected or backend.vocabulary)
            assert known.student.distribution.ids.shape[1] == (expected or backend.vocabulary)


def test_a_methods_own_context_goes_before_the_experiments(groups: Any, backend_of: Any) -> None:
    backend = backend_of()
    own = Brings(Needs(teacher="sampled"), lambda group, index, rng: ContextRequest("lower") if index == 2 else None)
    gathered = gather(own, groups, backend, by_task, SEEDS)
    assert gathered.with_context == 3
    for group, row in zip(groups, gathered.evidence, strict=True):
        assert [known.teacher is not None for known in row] == [False, False, True, False]
        alone = backend.score(
            [group.episodes[2].sequence], contexts=[backend.renderer.context(ContextRequest("lower"))]
        )[0]
        np.testing.assert_allclose(row[2].teacher.logprobs, alone.logprobs, atol=1e-10)
        assert row[2].masked is None  # nothing was to be masked


def test_what_does_not_fit_the_window_has_no_teacher_and_is_counted(groups: Any, backend_of: Any) -> None:
    """Contexts of so many tokens that the shorter sequences fit exactly and the longest do not."""
    backend = backend_of()
    lengths = sorted(len(e.sequence) for group in groups for e in group.episodes if e.sequence.mask.any())
    room = backend.window - lengths[len(lengths) // 2]
    words = "higher " * 60
    while len(backend.renderer.context(ContextRequest(words))) > room:
        words = words[:-1]
    size = len(backend.renderer.context(ContextRequest(words)))
    gathered = gather(Asks(Needs(teacher="sampled")), groups, backend, Source(lambda *_: ContextRequest(words)), SEEDS)
    fitting = [length for length in lengths if size + length <= backend.window]
    assert 0 < len(fitting) < len(lengths)
    assert (gathered.with_context, gathered.too_long) == (len(fitting), len(lengths) - len(fitting))
    for episode, known in pairs(groups, gathered.evidence):
        fits = episode.sequence.mask.any() and size + len(episode.sequence) <= backend.window
        assert (known.teacher is not None) is bool(fits)


def test_chance_in_a_context_is_the_steps_and_the_episodes_own(groups: Any, backend_of: Any) -> None:
    drawn: list[dict[tuple[str, int], int]] = []

    @Source
    def source(group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest:
        drawn[-1][group.task_id, index] = int(rng.integers(2**40))
        return ContextRequest("higher")

    for seeds in (SEEDS, SEEDS, SeedTree(0)["step", 4]):
        drawn.append({})
        gather(Asks(Needs(teacher="sampled")), groups if len(drawn) != 2 else groups[::-1], backend_of(), source, seeds)
    assert drawn[0] == drawn[1]
    assert not set(drawn[0].values()) & set(drawn[2].values())
    assert len(set(drawn[0].values())) == len(drawn[0])


def test_without_a_source_there_is_no_teacher(groups: Any, backend_of: Any) -> None:
    gathered = gather(Asks(Needs(teacher="sampled")), groups, backend_of(), None, SEEDS)
    assert all(known.teacher is None for _, known in pairs(groups, gathered.evidence))
    assert gathered.with_context == 0
