"""Conversations that outgrow the window: what is dropped, what the policy reads then, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from harness.backends import SamplingParams
from harness.core.episodes import episode_to_row
from harness.core.seeds import SeedTree
from harness.experiment import EnvironmentSettings
from harness.protocols.context import ContextSource
from harness.protocols.method import Method
from harness.rollout.conversation import Prefix, Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.evidence import gather
from harness.rollout.policies import TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.rollout.values import prefixes, value_groups
from harness.types import ContextRequest, Credit, Ending, Episode, Needs, RolloutGroup

NEW, TURNS = 4, 7
NOTHING = Needs()
TASKS = ("1-7:3", "2-8:2", "3-9:7")


@pytest.fixture(scope="module")
def rollouts() -> Iterator[Rollouts]:
    with EnvironmentPool(
        EnvironmentSettings(id="environments:Guess-v0", options={"windows": 3, "max_turns": TURNS})
    ) as pool:
        yield Rollouts(pool)


@pytest.fixture
def policy(backend_of: Callable[..., Any]) -> TokenPolicy:
    return TokenPolicy(backend_of(), SamplingParams(NEW), "drop-oldest")


def requests(copies: int = 2, **more: Any) -> list[Request]:
    return [Request(task, SeedTree(5)[task, copy], **more) for task in TASKS for copy in range(copies)]


def parts_of(episode: Episode, policy: TokenPolicy) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """The first prompt, the sampled tokens of every turn, and what stands between them: rendered a second time."""
    sequence, renderer = episode.sequence, policy.renderer
    turns = int(sequence.turns.max()) + 1
    spoken = [sequence.tokens[sequence.mask & (sequence.turns == turn)].tolist() for turn in range(turns)]
    replies = [episode.messages[2 + 2 * turn] for turn in range(turns - 1)]
    bridges = [
        list(renderer.bridge([reply], said[-1] in renderer.stop_ids))
        for said, reply in zip(spoken, replies, strict=False)
    ]
    return list(renderer.opening(episode.messages[:1])), spoken, bridges


def naive(episode: Episode, policy: TokenPolicy) -> list[list[int]]:
    """The pieces, from the messages and the sampled tokens alone: in front of every turn the fewest oldest turns are
    dropped that leave room for a whole completion."""
    opening, spoken, bridges = parts_of(episode, policy)
    pieces, first = [opening + spoken[0]], 0
    for turn in range(1, len(spoken)):
        for kept in range(first, turn):
            prompt = opening + [t for n in range(kept, turn) for t in spoken[n] + bridges[n]]
            if len(prompt) + NEW <= policy.window or kept == turn - 1:
                break
        if kept != first:
            first = kept
            pieces.append([])
        pieces[-1] = prompt + spoken[turn]
    return pieces


def test_pieces_are_those_of_a_second_rendering(rollouts: Rollouts, policy: TokenPolicy) -> None:
    episodes = rollouts.play(requests(), policy)
    assert max(len(e.sequence.pieces) for e in episodes) > 2
    for episode in episodes:
        assert [piece.tokens.tolist() for piece in episode.sequence.pieces] == naive(episode, policy)
        assert all(len(piece) <= policy.window and piece.mask.any() for piece in episode.sequence.pieces)
        assert episode.ending is not Ending.TOKEN_LIMIT
        # Every turn was sampled once, in order, and each prompt is the beginning of its piece.
        sampled = episode.sequence.turns[episode.sequence.mask]
        assert sorted(set(sampled.tolist())) == list(range(int(sampled[-1]) + 1))
        assert all(a <= b for a, b in pairwise(sampled.tolist()))


def test_a_piece_is_what_the_template_writes_of_the_messages_that_are_left(
    rollouts: Rollouts, policy: TokenPolicy
) -> None:
    """Words that stopped by themselves are the same tokens when they are rendered anew: gold actions do."""
    [episode] = rollouts.play([Request(TASKS[0], SeedTree(1), script=("5 6", "7 8", "6 4", "5", "3"))], policy)
    *_, last = episode.sequence.pieces
    prompt = last.tokens[: int(np.argmax(last.mask))].tolist()
    dropped = int(last.turns[last.turns > 0].min())
    assert dropped > 0
    turn = int(last.turns[last.mask][0])
    messages = [episode.messages[0], *episode.messages[1 + 2 * dropped : 1 + 2 * turn]]
    assert prompt == list(policy.renderer.opening(messages))


def test_log_probabilities_are_those_of_each_piece_read_alone(rollouts: Rollouts, policy: TokenPolicy) -> None:
    for episode in rollouts.play(requests(1), policy):
        for piece, score in zip(
            episode.sequence.pieces, policy.backend.score(list(episode.sequence.pieces)), strict=True
        ):
            np.testing.assert_allclose(score.logprobs, piece.logprobs, atol=1e-10)


def test_until_the_window_is_full_both_histories_are_one(rollouts: Rollouts, policy: TokenPolicy) -> None:
    keeping = TokenPolicy(policy.backend, SamplingParams(NEW))
    kept = [episode_to_row(e) for e in rollouts.play(requests(), keeping)]
    dropped = rollouts.play(requests(), policy)
    assert {row["ending"] for row in kept} == {"token_limit"}
    for row, episode in zip(kept, dropped, strict=True):
        first = episode.sequence.pieces[0]
        assert row["tokens"][: len(first)] == first.tokens.tolist()
        assert "starts" not in row


def test_an_episode_ends_where_its_last_turn_alone_does_not_fit(backend_of: Callable[..., Any]) -> None:
    settings = EnvironmentSettings(id="odd_environments:Faulty-v0", options={"reply": " 7" * 60})
    with EnvironmentPool(settings) as pool:
        policy = TokenPolicy(backend_of(), SamplingParams(NEW), "drop-oldest")
        for episode in Rollouts(pool).play(requests(1), policy):
            assert episode.ending is Ending.TOKEN_LIMIT
            assert not episode.sequence.starts  # a piece in which nothing can be sampled is not begun


def test_what_one_piece_had_is_gone_on_from_in_the_right_piece(rollouts: Rollouts, policy: TokenPolicy) -> None:
    """An episode is played on from every prefix: the same pieces as far as it goes."""
    [episode] = rollouts.play([Request(TASKS[0], SeedTree(3))], policy)
    sequence = episode.sequence
    assert len(sequence.pieces) > 2
    places = np.flatnonzero(sequence.mask).tolist()
    asked = [
        Request(TASKS[0], SeedTree(9)[n], prefix=Prefix(given, episode.origin))
        for n, given in enumerate(prefixes(sequence)[:-1])
    ]
    for place, again in zip(places, rollouts.play(asked, policy), strict=True):
        np.testing.assert_array_equal(again.sequence.tokens[:place], sequence.tokens[:place])
        assert [s for s in again.sequence.starts if s <= place] == [s for s in sequence.starts if s <= place]
        assert not again.sequence.mask[:place].any()
        assert again.sequence.mask[place]
    group = RolloutGroup(TASKS[0], (episode,))
    [[value]] = value_groups([group], 1, "turn", rollouts, policy, SeedTree(2)).values
    assert value.before.shape == sequence.mask.shape
    assert value.after[sequence.mask][-1] == episode.reward


class Hint(ContextSource):
    """The same few words for everybody."""

    name = "hint"

    def __call__(self, group: RolloutGroup, index: int, rng: np.random.Generator) -> ContextRequest | None:
        return ContextRequest("lower", literals=("higher", "lower", "1", "7"))


@dataclass
class Asks(Method[None]):
    """A method that wants evidence and assigns nothing."""

    needs: Needs = NOTHING

    def initial_state(self) -> None:
        return None

    def assign(self, groups: Any, evidence: Any, state: None) -> Any:
        return [[Credit() for _ in group.episodes] for group in groups], state, {}


@pytest.mark.parametrize("ids_of", ["teacher", "student"])
def test_teacher_student_and_reference_read_every_piece_with_its_own_prompt(
    rollouts: Rollouts, policy: TokenPolicy, ids_of: Any
) -> None:
    backend, renderer = policy.backend, policy.renderer
    episodes = rollouts.play(requests(1), policy)
    policy.backend.window += 40  # so that the words in front fit as well
    groups = [RolloutGroup(e.task_id, (e,)) for e in episodes]
    needs = Needs(teacher="distribution", top_k=5, ids_of=ids_of, reference=True)
    try:
        gathered = gather(Asks(needs), groups, backend, Hint(), SeedTree(0))
        read = 0
        for episode, [known] in zip(episodes, gathered.evidence, strict=True):
            assert known.teacher is not None
            taught, student, reference, masked = [], [], [], []
            opening = renderer.opening(episode.messages[:1])
            context = renderer.opening(episode.messages[:1], None, Hint()(groups[0], 0, SeedTree(0).rng()))
            for piece in episode.sequence.pieces:
                assert tuple(piece.tokens[: len(opening)]) == opening
                behind = type(piece)(
                    *(a[len(opening) :] for a in (piece.tokens, piece.mask, piece.logprobs, piece.turns))
                )
                front = [0.0] * len(opening)
                [score] = backend.score([behind], contexts=[context])
                taught += [*front, *score.logprobs]
                [score] = backend.score([piece])
                student += score.logprobs.tolist()
                reference += backend.score([piece], "initial")[0].logprobs.tolist()
                masked += (renderer.literal_mask(piece.tokens, ["higher", "lower", "1", "7"]) & piece.mask).tolist()
                read += len(context) + len(behind)
            np.testing.assert_allclose(known.teacher.logprobs, taught, atol=1e-10)
            np.testing.assert_allclose(known.student.logprobs, student, atol=1e-10)
            np.testing.assert_allclose(known.reference, reference, atol=1e-10)
            assert known.masked.tolist() == masked
            np.testing.assert_array_equal(known.teacher.distribution.ids, known.student.distribution.ids)
            assert known.teacher.distribution.ids.shape == (len(episode.sequence), 5)
        assert gathered.teacher_tokens == read
    finally:
        policy.backend.window -= 40
