"""Rollouts: what is sampled is what is recorded, and whatever an environment does, it is an episode and never a crash
or a wrong reward."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from odd_environments import FAILED, FAULTS, PLAYED, STEP_FAULTS

from harness.backends import SamplingParams
from harness.core.episodes import episode_to_row
from harness.core.seeds import SeedTree
from harness.experiment import EnvironmentSettings, LossSettings
from harness.packing import pack
from harness.protocols.method import make_method
from harness.rollout.conversation import Conversation, Request
from harness.rollout.environments import EnvironmentPool
from harness.rollout.evidence import gather
from harness.rollout.policies import MessagePolicy, TokenPolicy
from harness.rollout.rollouts import Rollouts
from harness.types import ContextRequest, Ending, Episode, RolloutGroup

TASKS = ("1-7:3", "2-8:2", "3-9:7")


@pytest.fixture
def pool_of() -> Iterator[Callable[..., EnvironmentPool]]:
    """Pools of Guess, or of an environment that goes wrong; closed after the test."""
    FAILED.clear()
    PLAYED.clear()
    pools: list[EnvironmentPool] = []

    def make(deadline_s: float = 20.0, threads: int = 1, concurrency: int = 512, **options: Any) -> EnvironmentPool:
        settings = EnvironmentSettings(
            id="odd_environments:Faulty-v0",
            options=options,
            deadline_s=deadline_s,
            threads=threads,
            concurrency=concurrency,
        )
        pools.append(EnvironmentPool(settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def policy(backend_of: Callable[..., Any]) -> TokenPolicy:
    return TokenPolicy(backend_of(), SamplingParams(4))


def requests(tasks: Sequence[str] = TASKS, copies: int = 2, **more: Any) -> list[Request]:
    return [Request(task, SeedTree(5)[task, copy], **more) for task in tasks for copy in range(copies)]


def rows(episodes: Sequence[Episode], digits: int | None = None) -> list[dict[str, Any]]:
    """Episodes as plain data; log-probabilities rounded where they come out of differently shaped batches."""
    out = [episode_to_row(episode) for episode in episodes]
    return [row | {"logprobs": np.round(row["logprobs"], digits).tolist()} for row in out] if digits else out


class Witness(TokenPolicy):
    """Keeps what every prompt was."""

    prompts: dict[Any, list[list[int]]]

    def act(self, conversations: Sequence[Conversation]) -> list[tuple[str, bool]]:
        self.prompts = getattr(self, "prompts", {})
        for conversation in conversations:
            self.prompts.setdefault(conversation.request.seeds, []).append(list(conversation.tokens))
        return super().act(conversations)


# ---------------------------------------------------------------- what is recorded is what was said


def test_the_same_seeds_give_the_same_episodes(pool_of: Any, policy: TokenPolicy) -> None:
    first = rows(Rollouts(pool_of()).play(requests(), policy))
    assert rows(Rollouts(pool_of()).play(requests(), policy)) == first
    assert len({str(row["tokens"]) for row in first}) > 1


def test_an_episode_does_not_depend_on_its_company(pool_of: Any, policy: TokenPolicy) -> None:
    together = rows(Rollouts(pool_of()).play(requests(), policy), digits=9)
    alone = [Rollouts(pool_of()).play([request], policy)[0] for request in requests()]
    assert rows(alone, digits=9) == together
    in_waves = Rollouts(pool_of(concurrency=2)).play(requests(), policy)
    assert rows(in_waves, digits=9) == together


class SideBySide(TokenPolicy):
    """Acts in several conversations at once, one of which it thinks about until all others are over."""

    def __init__(self, backend: Any, slow: Any = None) -> None:
        super().__init__(backend, SamplingParams(4))
        self.concurrency = 3
        self.others_over, self.lock, self.slow, self.acted = threading.Event(), threading.Lock(), slow, 0

    def act(self, conversations: Sequence[Conversation]) -> list[tuple[str, bool]]:
        (conversation,) = conversations
        if conversation.request.seeds == self.slow:
            assert self.others_over.wait(60), "it was waited for"
        with self.lock:  # the model is one
            acted = super().act(conversations)
            self.acted += 1
        if self.acted == 15:  # the other five have had their three turns
            self.others_over.set()
        return acted


def test_side_by_side_nobody_waits_for_a_slow_conversation(pool_of: Any, backend_of: Any, policy: TokenPolicy) -> None:
    """It is the first of six and three are played at once; the episodes are those that are played turn by turn."""
    asked = requests()
    turn_by_turn = rows(Rollouts(pool_of()).play(asked, policy), digits=9)
    slow = SideBySide(backend_of(), slow=asked[0].seeds)
    assert rows(Rollouts(pool_of()).play(asked, slow), digits=9) == turn_by_turn


class Broken(SideBySide):
    def act(self, conversations: Sequence[Conversation]) -> list[tuple[str, bool]]:
        if conversations[0].request.task_id == TASKS[1]:
            raise RuntimeError("the model is gone")
        return super().act(conversations)


def test_side_by_side_an_error_of_the_model_ends_the_playing(pool_of: Any, backend_of: Any) -> None:
    with pytest.raises(RuntimeError, match="the model is gone"):
        Rollouts(pool_of()).play(requests(), Broken(backend_of()))


def test_every_prompt_extends_the_one_before(pool_of: Any, backend_of: Any) -> None:
    witness = Witness(backend_of(), SamplingParams(4))
    episodes = Rollouts(pool_of()).play(requests(), witness)
    for request, episode in zip(requests(), episodes, strict=True):
        prompts = witness.prompts[request.seeds]
        assert len(prompts) == 3  # the random policy never guesses right, and three turns are all there are
        for prompt in prompts:
            assert episode.sequence.tokens[: len(prompt)].tolist() == prompt
            assert not episode.sequence.mask[len(prompt) - 1]
            assert episode.sequence.mask[len(prompt)]


class Forger(TokenPolicy):
    """Changes a token that was sampled, as a conversation that is tokenised again would."""

    def observe(self, conversation: Conversation, messages: Sequence[Any]) -> bool:
        conversation.tokens[conversation.mask.index(True)] += 1
        return super().observe(conversation, messages)


def test_a_sampled_token_that_changes_between_turns_stops_everything(pool_of: Any, backend_of: Any) -> None:
    forger = Forger(backend_of(), SamplingParams(4))
    with pytest.raises(AssertionError, match="changed between two turns"):
        Rollouts(pool_of()).play(requests(), forger)


def test_tokens_are_the_opening_the_words_and_the_bridges(pool_of: Any, policy: TokenPolicy) -> None:
    """The sequence put together a second time, from the messages and the sampled tokens alone."""
    renderer = policy.renderer
    for episode in Rollouts(pool_of()).play(requests(), policy):
        sequence, messages = episode.sequence, list(episode.messages)
        tokens = [*renderer.opening(messages[:1])]
        mask, turns = [False] * len(tokens), [0] * len(tokens)
        for turn in range(3):
            said = sequence.tokens[sequence.mask & (sequence.turns == turn)].tolist()
            assert messages[1 + 2 * turn] == {"role": "assistant", "content": renderer.decode(said)}
            assert 1 <= len(said) <= 4
            stopped = said[-1] in renderer.stop_ids
            bridge = [] if turn == 2 else list(renderer.bridge([messages[2 + 2 * turn]], stopped))
            tokens += said + bridge
            mask += [True] * len(said) + [False] * len(bridge)
            turns += [turn] * (len(said) + len(bridge))
        assert sequence.tokens.tolist() == tokens
        assert sequence.mask.tolist() == mask
        assert sequence.turns.tolist() == turns


def test_log_probabilities_are_those_of_one_pass_over_the_whole(pool_of: Any, policy: TokenPolicy) -> None:
    episodes = Rollouts(pool_of()).play(requests(), policy)
    scores = policy.backend.score([episode.sequence for episode in episodes])
    for episode, score in zip(episodes, scores, strict=True):
        # float64; the sampler computed it token by token behind a cache
        np.testing.assert_allclose(score.logprobs, episode.sequence.logprobs, atol=1e-10)


def test_a_turn_that_was_cut_off_keeps_an_end_it_did_not_sample(pool_of: Any, backend_of: Any) -> None:
    policy = TokenPolicy(backend_of(), SamplingParams(1))
    end = policy.renderer.stop_ids[0]
    cut = 0
    for episode in Rollouts(pool_of()).play(requests(), policy):
        tokens, mask = episode.sequence.tokens, episode.sequence.mask
        for place in np.flatnonzero(mask)[:-1]:  # nothing follows the last turn
            if tokens[place] != end:
                cut += 1
                assert tokens[place + 1] == end
                assert not mask[place + 1]
            assert tokens[place + 2 if tokens[place] != end else place + 1] != end
    assert cut > 6


def test_completions_cut_by_the_limit_are_counted_by_episode(pool_of: Any, backend_of: Any) -> None:
    policy, counts = TokenPolicy(backend_of(), SamplingParams(24)), set()
    for episode in Rollouts(pool_of()).play(requests(copies=8), policy):
        sequence, stops = episode.sequence, policy.renderer.stop_ids
        turns = [sequence.tokens[sequence.mask & (sequence.turns == turn)] for turn in np.unique(sequence.turns)]
        cut = sum(len(spoken) == 24 and spoken[-1] not in stops for spoken in turns)
        assert episode.metrics.get("truncated", 0) == cut
        counts.add(cut)
    assert len(counts) > 1


def test_greedy_takes_the_likeliest_token_whatever_the_seed(pool_of: Any, policy: TokenPolicy) -> None:
    one, other = (
        Rollouts(pool_of()).play([Request(TASKS[0], SeedTree(seed), greedy=True)], policy)[0] for seed in (1, 2)
    )
    assert one.sequence.tokens.tolist() == other.sequence.tokens.tolist()
    best = policy.backend.score([one.sequence], top_k=1)[0].distribution
    assert (best.ids[:, 0] == one.sequence.tokens)[one.sequence.mask].all()


def test_sampled_and_greedy_episodes_stand_in_one_call(pool_of: Any, policy: TokenPolicy) -> None:
    sampled, greedy = requests(copies=1), requests(copies=1, greedy=True)
    mixed = Rollouts(pool_of()).play(
        [request for pair in zip(sampled, greedy, strict=True) for request in pair], policy
    )
    assert rows(mixed[::2], 9) == rows(Rollouts(pool_of()).play(sampled, policy), 9)
    assert rows(mixed[1::2], 9) == rows(Rollouts(pool_of()).play(greedy, policy), 9)


def test_a_script_is_recorded_as_if_it_had_been_sampled(pool_of: Any, policy: TokenPolicy) -> None:
    pool = pool_of()
    scripts = [tuple(pool.environment.gold(task)) for task in TASKS]
    asked = [Request(task, SeedTree(0), script=script) for task, script in zip(TASKS, scripts, strict=True)]
    spoken, written = Rollouts(pool).play(asked, policy), Rollouts(pool).play(asked, MessagePolicy())
    for script, episode, text in zip(scripts, spoken, written, strict=True):
        sequence = episode.sequence
        assert (episode.reward, episode.success, episode.ending) == (1.0, True, Ending.COMPLETED)
        assert episode.messages == text.messages
        assert len(text.sequence) == 0
        assert not sequence.logprobs.any()
        for turn, words in enumerate(script):
            said = sequence.tokens[sequence.mask & (sequence.turns == turn)].tolist()
            assert said == [*policy.renderer.encode(words), policy.renderer.stop_ids[0]]


def test_a_script_that_runs_out_says_nothing_more(pool_of: Any) -> None:
    episode = Rollouts(pool_of()).play([Request("1-7:7", SeedTree(0), script=("1",))], MessagePolicy())[0]
    said = [m["content"] for m in episode.messages if m["role"] == "assistant"]
    assert said == ["1", "", ""]
    assert (episode.reward, episode.ending) == (0.0, Ending.TURN_LIMIT)


def test_a_privileged_context_stands_in_front(pool_of: Any, policy: TokenPolicy) -> None:
    context = ContextRequest("guess 7")
    episode = Rollouts(pool_of()).play(requests(copies=1, context=context), policy)[0]
    front = [*policy.renderer.context(context), *policy.renderer.opening(episode.messages[:1])]
    assert episode.sequence.tokens[: len(front)].tolist() == front
    assert not episode.sequence.mask[: len(front)].any()
    assert episode.messages[0]["content"] == "guess 1 to 7"  # the environment's words, not the teacher's


# ---------------------------------------------------------------- the window


@pytest.mark.parametrize("where", ["opening", "reply"])
def test_a_full_window_ends_the_episode_and_not_the_run(pool_of: Any, backend_of: Any, where: str) -> None:
    """96 tokens are the window of the tiny policy. What does not fit ends in TOKEN_LIMIT and goes through a training
    step."""
    backend = backend_of()
    long, short = pool_of(**{where: " higher lower" * 60}), pool_of()
    policy = TokenPolicy(backend, SamplingParams(4))
    groups = [
        RolloutGroup(task, tuple(Rollouts(pool).play([Request(task, SeedTree(s)) for s in range(3)], policy)))
        for pool, task in ((long, TASKS[0]), (short, TASKS[1]))
    ]
    for episode in groups[0].episodes:
        assert episode.ending is Ending.TOKEN_LIMIT
        assert (episode.reward, episode.success) == (0.0, False)
        assert 0 < len(episode.sequence) <= backend.window
        assert episode.sequence.mask.sum() == (0 if where == "opening" else 4)
    method = make_method("agents.methods.grpo:GRPO", {"kl": 0.1})
    evidence = gather(method, groups, backend, None, SeedTree(0)).evidence
    credits, _, _ = method.assign(groups, evidence, {})
    flat = [credit for row in credits for credit in row]
    metrics = backend.update(pack([e.sequence for g in groups for e in g.episodes], flat), LossSettings())
    assert math.isfinite(metrics["loss/total"])


def test_a_completion_that_fills_the_window_is_a_token_limit(pool_of: Any, backend_of: Any) -> None:
    backend = backend_of()
    policy = TokenPolicy(backend, SamplingParams(backend.window))
    for episode in Rollouts(pool_of()).play(requests(), policy):
        if episode.ending is Ending.TOKEN_LIMIT:
            assert len(episode.sequence) == backend.window
            assert episode.messages[-1]["role"] == "assistant"
            return
    raise AssertionError("a random policy hardly ever stops: some episode must have filled its window")


# ---------------------------------------------------------------- what an environment can do to us

CASES = [(fault, at, kind) for at in ("reset", "step") for fault, (kind, _) in FAULTS.items()]
CASES += [(fault, "step", kind) for fault, (kind, _) in STEP_FAULTS.items()]


@pytest.mark.parametrize(("fault", "at", "kind"), [case for case in CASES if case[0] != "hangs"])
def test_a_failed_episode_is_an_error_and_never_a_reward(
    pool_of: Any, policy: TokenPolicy, fault: str, at: str, kind: str
) -> None:
    seen: list[tuple[str, str]] = []
    rollouts = Rollouts(
        pool_of(fault=fault, at=at, only=TASKS[1]), lambda task, failure: seen.append((task, failure.kind))
    )
    good, bad, fine = rollouts.play(requests(copies=1), policy)
    assert bad.ending is Ending.ERROR
    assert math.isnan(bad.reward)
    assert not bad.success
    assert bad.metrics == {}
    assert rollouts.failures == {kind: 2}
    assert seen == [(TASKS[1], kind)] * 2
    assert {good.ending, fine.ending} == {Ending.TURN_LIMIT}
    assert FAILED[TASKS[1]] == 2


@pytest.mark.parametrize(
    ("fault", "at", "kind"), [case for case in CASES if case[0] in ("raises", "exits", "says nothing", "reports")]
)
def test_a_second_attempt_is_made_in_a_fresh_environment(
    pool_of: Any, policy: TokenPolicy, fault: str, at: str, kind: str
) -> None:
    healthy = Rollouts(pool_of()).play(requests(), policy)
    pool = pool_of(fault=fault, at=at, only=TASKS[1], times=1)
    rollouts = Rollouts(pool)
    rollouts.play(requests(tasks=TASKS[:1]), policy)  # leaves used environments in the pool
    PLAYED.clear()
    assert rows(rollouts.play(requests(), policy), 9) == rows(healthy, 9)
    assert rollouts.failures == {kind: 1}
    attempts = [number for number, task in PLAYED if task == TASKS[1]]
    assert len(attempts) == 3  # two siblings, one of them twice
    assert attempts[-1] > max(
        number for number, _ in PLAYED[:-1]
    )  # the last one is an instance that nobody had played in
    PLAYED.clear()
    rollouts.play(requests(), policy)
    assert len(attempts) == 3
    failed = set(attempts[:2]) - {number for number, _ in PLAYED}
    assert len(failed) == 1  # the one that failed is never used again


@pytest.mark.parametrize("at", ["reset", "step"])
def test_an_environment_that_hangs_costs_its_deadline_and_no_more(pool_of: Any, policy: TokenPolicy, at: str) -> None:
    before = threading.active_count()
    pool = pool_of(fault="hangs", at=at, only=TASKS[1], deadline_s=0.3)
    rollouts = Rollouts(pool)
    good, bad, fine = rollouts.play(requests(copies=1), policy)  # while the two attempts that hang still do
    assert (bad.ending, rollouts.failures) == (Ending.ERROR, {"deadline": 2})
    assert {good.ending, fine.ending} == {Ending.TURN_LIMIT}
    pool.close()
    _wait_for(lambda: threading.active_count() <= before)


def test_a_hang_that_passes_is_played_again(pool_of: Any, policy: TokenPolicy) -> None:
    healthy = Rollouts(pool_of()).play(requests(), policy)
    rollouts = Rollouts(pool_of(fault="hangs", times=1, only=TASKS[2], deadline_s=0.3))
    assert rows(rollouts.play(requests(), policy), 9) == rows(healthy, 9)
    assert rollouts.failures == {"deadline": 1}


def test_threads_do_not_pile_up(pool_of: Any) -> None:
    before = threading.active_count()
    rollouts = Rollouts(pool_of(fault="raises", threads=2))
    for _ in range(20):
        episodes = rollouts.play(requests(script=("4",)), MessagePolicy())
        assert {episode.ending for episode in episodes} == {Ending.ERROR}
    _wait_for(lambda: threading.active_count() <= before + 2)


def test_every_step_may_be_somebody_elses_thread(pool_of: Any, policy: TokenPolicy) -> None:
    one = Rollouts(pool_of()).play(requests(), policy)
    assert rows(Rollouts(pool_of(threads=4)).play(requests(), policy)) == rows(one)


def test_nothing_to_play_is_no_episode(pool_of: Any, policy: TokenPolicy) -> None:
    assert Rollouts(pool_of()).play([], policy) == []


def _wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
