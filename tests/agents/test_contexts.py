"""What a teacher reads: rendered tersely, drawn from the others, never one's own transcript."""

from __future__ import annotations

import numpy as np
import pytest

from agents.contexts import (
    Answer,
    CreditReference,
    FirstSuccessfulSibling,
    ReferenceSolution,
    SiblingAndAnswer,
    SiblingOrSolution,
    SuccessfulSibling,
)
from agents.methods.hsd import HSD
from agents.methods.opsd import OPSD
from agents.methods.sdpo import SDPO
from agents.methods.sgcd import SGCD
from agents.transcripts import transcript
from harness.types import Ending, Episode, RolloutGroup, TokenSequence


def episode(*said, success=False, opening=("system", "user")):
    """Actions and replies in turn, behind opening messages; three tokens a turn, one of them sampled."""
    messages = [{"role": role, "content": f"opening {role}"} for role in opening]
    messages += [{"role": "user" if i % 2 else "assistant", "content": text} for i, text in enumerate(said)]
    turns = (len(said) + 1) // 2
    sequence = TokenSequence(
        np.arange(3 * turns + 1),
        np.array([False] + [True, False, False] * turns),
        np.zeros(3 * turns + 1),
        np.array([0, *np.repeat(np.arange(turns), 3)]),
    )
    return Episode("t", sequence, float(success), success, Ending.COMPLETED, tuple(messages))


WIN = episode("look 4", "it is 7", "take 7", "done", success=True)
OTHER = episode("take 7", "done", success=True)
LOSS = episode("take 4", "no")


def rng():
    return np.random.default_rng(0)


def test_a_transcript_is_actions_and_the_replies_between_them():
    assert transcript(WIN) == "look 4\nit is 7\ntake 7"
    assert transcript(OTHER) == "take 7"  # one turn: the action and nothing else
    assert transcript(Episode("t", WIN.sequence, 0.0, False, Ending.COMPLETED)) == ""
    # An environment that opens in the assistant's name: two sampled turns, so the greeting is nobody's action.
    greeted = episode("look 4", "it is 7", "take 7", success=True, opening=("system", "assistant", "user"))
    assert transcript(greeted) == "look 4\nit is 7\ntake 7"


def test_sources():
    group = RolloutGroup("t", (WIN, LOSS), solution=("look 4", "take 7"), answer="7")
    bare = RolloutGroup("t", (WIN, LOSS))
    sibling, solution, answer = SuccessfulSibling(), ReferenceSolution(), Answer()
    assert sibling(group, 1, rng()).content == transcript(WIN)
    assert sibling(group, 0, rng()) is None  # the only success has no other to read
    assert solution(group, 0, rng()).content == "look 4\ntake 7"
    assert answer(group, 0, rng()).content == "7"
    assert solution(bare, 0, rng()) is None
    assert answer(bare, 0, rng()) is None
    assert SiblingAndAnswer()(group, 1, rng()).content == "7\n" + transcript(WIN)
    assert SiblingAndAnswer()(group, 0, rng()).content == "7"
    assert SiblingAndAnswer()(bare, 1, rng()).content == transcript(WIN)
    assert SiblingAndAnswer()(bare, 0, rng()) is None
    assert SiblingOrSolution()(group, 1, rng()).content == transcript(WIN)
    assert SiblingOrSolution()(group, 0, rng()).content == "look 4\ntake 7"
    assert SiblingOrSolution()(bare, 0, rng()) is None
    names = [
        source.name
        for source in (sibling, solution, answer, SiblingAndAnswer(), SiblingOrSolution(), CreditReference())
    ]
    assert len(set(names)) == len(names)


def test_nobody_reads_itself_and_every_peer_is_drawn():
    wins = tuple(episode(f"go {i}", success=True) for i in range(4))
    group = RolloutGroup("t", wins)
    for index in range(4):
        read = {SuccessfulSibling()(group, index, np.random.default_rng(s)).content for s in range(60)}
        assert read == {f"go {i}" for i in range(4) if i != index}


def test_the_first_success_is_the_first_that_is_not_the_reader():
    group = RolloutGroup("t", (LOSS, *(episode(f"go {i}", success=True) for i in range(3))))
    read = [FirstSuccessfulSibling()(group, index, rng()).content for index in range(4)]
    assert read == ["go 0", "go 1", "go 0", "go 0"]
    assert FirstSuccessfulSibling()(RolloutGroup("t", (WIN, LOSS)), 0, rng()) is None
    assert [SDPO().context(group, index, rng()).content for index in range(4)] == read


def test_the_credit_reference_is_one_text_for_all_and_only_for_mixed_groups():
    group = RolloutGroup("t", (WIN, LOSS, OTHER))
    first, second = (CreditReference()(group, i, rng()) for i in (0, 1))
    assert first is second
    assert CreditReference()(RolloutGroup("t", (WIN, OTHER)), 0, rng()) is None
    assert SGCD().context(group, 0, rng()) == first
    assert SGCD().context(RolloutGroup("t", (LOSS, LOSS)), 0, rng()) is None
    with pytest.raises(ValueError, match="llm:MODEL"):
        CreditReference("gpt")


def test_the_credit_reference_hides_the_answer_and_says_which_tokens_to_leave_alone():
    group = RolloutGroup("t", (WIN, LOSS), answer="7")
    request = CreditReference()(group, 1, rng())
    assert "7" not in request.content
    assert request.literals == ("7",)
    assert "look 4" in request.content


def test_methods_that_bring_their_context_name_it():
    assert SGCD().describe().context == "credit reference by rules, no language model"
    assert SGCD(summariser="llm:m").describe().context == "credit reference by language model m"
    assert SGCD().describe().summariser == "rules, no language model"
    assert SGCD(reference="self").describe().summariser is None
    assert "second time" in SGCD(reference="self").describe().context
    names = [
        HSD().describe().context,
        OPSD().describe().context,
        SDPO().describe().context,
        SDPO(feedback=True).describe().context,
    ]
    assert len(set(names)) == 4


def test_the_self_context_repeats_the_opening_alone():
    group = RolloutGroup("t", (WIN, LOSS))
    assert SGCD(reference="self").context(group, 1, rng()).content == "opening system\nopening user"


def test_sdpo_reads_its_own_feedback_where_nobody_else_succeeded_and_only_there():
    group = RolloutGroup("t", (WIN, LOSS))
    assert SDPO().context(group, 1, rng()).content == transcript(WIN)
    assert SDPO(feedback=True).context(group, 1, rng()).content == transcript(WIN)
    assert SDPO(feedback=True).context(group, 0, rng()).content == "done"
    assert SDPO().context(group, 0, rng()) is None
