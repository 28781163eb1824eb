"""Environments of verifiers with several turns, with failures, and with a test split of their own; the real library."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest

import environments  # noqa: F401 - registers its ids
from environments.foreign.install import HOME

PYTHON = HOME / ".venvs" / "verifiers" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.heavy,
    pytest.mark.skipif(not PYTHON.exists(), reason="verifiers is not installed: harness setup verifiers"),
]

SPELLING = '''
"""Spell a word letter by letter: the environment says "next" until it is spelt or a letter is wrong."""

import verifiers.v1 as vf

WORDS = {"learn": "acorn birch cedar drum ember fable grove hazel ivory jolly".split(), "judge": ["plum", "acorn"]}
__all__ = ["SpellingEnv", "SpellingTaskset"]


class Config(vf.TasksetConfig):
    split: str = "learn"


class Data(vf.TaskData):
    word: str


class Spelling(vf.Task[Data]):
    @vf.reward(weight=2.0)
    async def spelt(self, trace) -> float:
        said = "".join(message.content or "" for message in trace.assistant_messages)
        if "!" in said:
            raise RuntimeError("the judge is away")
        return 0.5 * (said == self.data.word)

    @vf.metric
    async def letters(self, trace) -> float:
        return float(len(trace.assistant_messages))


class SpellingTaskset(vf.Taskset[Spelling, Config]):
    def load(self):
        for word in WORDS[self.config.split]:
            yield Spelling(Data(prompt=f"spell {word}", word=word, system_prompt="one letter a turn"), self.config.task)


class EnvConfig(vf.EnvConfig):
    speller: vf.AgentConfig = vf.AgentConfig()


class SpellingEnv(vf.Env[EnvConfig]):
    async def run(self, task, agents):
        async with agents.speller.interaction(task) as interaction:
            segment = await interaction.turn()
            for letter, following in zip(task.data.word, task.data.word[1:]):
                if segment.terminated or segment.last_reply != letter:
                    break
                segment = await interaction.turn(f"next, {len(task.data.word)} in all")
'''
DEBATE = """
import verifiers.v1 as vf

__all__ = ["DebateEnv", "DebateTaskset"]


class DebateTaskset(vf.Taskset[vf.Task, vf.TasksetConfig]):
    def load(self):
        yield vf.Task(vf.TaskData(prompt="argue"), self.config.task)


class EnvConfig(vf.EnvConfig):
    one: vf.AgentConfig = vf.AgentConfig()
    two: vf.AgentConfig = vf.AgentConfig()


class DebateEnv(vf.Env[EnvConfig]):
    async def run(self, task, agents):
        await agents.one.run(task)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "spelling.py").write_text(SPELLING)
    (tmp_path / "debate.py").write_text(DEBATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_turns_rewards_metrics_limits_and_failures_are_verifiers_own(folder: Path) -> None:
    env = gymnasium.make("Verifiers-v0", name="spelling", test={"split": "judge"}, max_turns=5)
    inner = env.unwrapped
    words = {inner.known(task)["word"]: task for split in inner.splits for task in inner.tasks(split)}
    # acorn stands in both of the taskset's splits: it is judged on, and never trained on
    assert {inner.known(task)["word"] for task in inner.tasks("test")} == {"plum", "acorn"}
    assert len(words) == 11  # ten to learn, two to judge, one of them in both

    said, _ = env.reset(seed=1, options={"task_id": words["drum"]})
    assert [message["content"] for message in said] == ["one letter a turn", "spell drum"]
    for letter in "dru":
        said, reward, terminated, truncated, _ = env.step(letter)
        assert (said, reward) == (({"role": "user", "content": "next, 4 in all"},), 0.0)
        assert not terminated
        assert not truncated
    _, reward, terminated, truncated, info = env.step("m")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)  # 2.0 * 0.5
    assert info["metrics"]["letters"] == 4.0

    env.reset(options={"task_id": words["plum"]})
    _, reward, terminated, _, info = env.step("x")
    assert (reward, terminated, info["success"]) == (0.0, True, False)

    env.reset(options={"task_id": words["birch"]})
    for letter in "birc":
        env.step(letter)
    _, reward, terminated, truncated, info = env.step("h")  # the fifth of five turns ends it
    assert (reward, terminated or truncated, info["success"]) == (1.0, True, True)

    env.reset(options={"task_id": words["plum"]})
    _, reward, terminated, truncated, info = env.step("!")
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "the judge is away" in info["failure"]["message"]

    env.reset(options={"task_id": words["plum"]})  # after a failure, and amid an episode
    env.step("p")
    env.reset(options={"task_id": words["drum"]})
    assert env.step("d")[0][0]["content"] == "next, 4 in all"
    env.close()


def test_a_limit_below_what_the_task_needs_cuts_it(folder: Path) -> None:
    env = gymnasium.make("Verifiers-v0", name="spelling", test={"split": "judge"}, max_turns=2)
    inner = env.unwrapped
    task = inner.tasks("train")[0]
    env.reset(options={"task_id": task})
    word = inner.known(task)["word"]
    env.step(word[0])
    said, reward, terminated, truncated, info = env.step(word[1])
    assert (said, reward, terminated, truncated, info["success"]) == ((), 0.0, False, True, False)
    assert info["metrics"]["letters"] == 2.0
    assert "failure" not in info
    env.close()


def test_several_seats_are_refused(folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"2 seats \(one, two\)"):
        gymnasium.make("Verifiers-v0", name="debate")
