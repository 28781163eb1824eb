"""`harness evaluate`: what was played stays played, what was lost is tried again, and the numbers are those of the
record."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import ChatServer
from rich.console import Console
from typer.testing import CliRunner

from harness.cli import app
from harness.core.episodes import read_episodes
from harness.core.errors import HarnessError, UnknownNameError, UserError
from harness.core.records import read
from harness.endpoint import BudgetSpentError
from harness.evaluation.evaluate import evaluate
from harness.evaluation.playing import LOST_IN_A_ROW
from harness.evaluation.settings import Evaluation
from harness.evaluation.summary import summarise
from harness.protocols.environment import TextEnvironment
from harness.report.evaluation import print_evaluated, print_summary
from harness.types import Ending, Episode, TokenSequence

AIRLINE = "Tau3Airline-v0"


def run(out: Path, **asked: Any) -> tuple[Path, str]:
    """The file of episodes and what was printed."""
    console = Console(file=io.StringIO(), width=200)
    given = {"env": AIRLINE, "policy": "gold", "tasks": 3} | asked
    evaluation = Evaluation(out=out, **given)
    done = evaluate(evaluation, out / "cache", console.print, lambda what, done, total: None)
    print_evaluated(done, evaluation.env, console)
    return done.file, console.file.getvalue()  # type: ignore[attr-defined]


def on(server: ChatServer, **more: Any) -> dict[str, Any]:
    return {"policy": "endpoint:m", "policy_options": {"base_url": server.url, "attempts": 1} | more}


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()[1:]


def hello(request: dict[str, Any], count: int) -> Any:
    return ChatServer.says("Hello.")


# ---------------------------------------------------------------- resuming


def test_a_second_call_plays_only_what_is_missing(chat_server: Callable[..., ChatServer], tmp_path: Path) -> None:
    server = chat_server(hello)
    file, _ = run(tmp_path, **on(server))
    assert len(lines(file)) == len(server.requests) == 3
    first = lines(file)
    again, said = run(tmp_path, **on(server), tasks=5, samples=2)
    assert again == file
    assert lines(file)[:3] == first
    assert len(lines(file)) == len(server.requests) == 10  # five tasks, two samples; three were there
    assert "3 of 10 episodes were played before" in said
    run(tmp_path, **on(server), tasks=5, samples=2)
    assert len(server.requests) == 10
    fresh, _ = run(tmp_path / "elsewhere", **on(server), tasks=5, samples=2)
    assert sorted(lines(fresh)) == sorted(lines(file))  # how often one was interrupted cannot be seen


def test_a_line_cut_off_by_a_kill_is_named_and_played_again(tmp_path: Path) -> None:
    file, _ = run(tmp_path)
    whole = sorted(lines(file))
    content = file.read_bytes()
    file.write_bytes(content[: content.rstrip().rfind(b"\n") + 40])
    _, said = run(tmp_path)
    assert "half-written" in said
    assert sorted({line for line in lines(file) if line in whole}) == whole
    episodes, damaged = read_episodes(file)
    assert (len(episodes), len(damaged)) == (3, 0)  # what was torn is gone


def test_lost_episodes_are_in_no_mean_and_are_tried_again(
    chat_server: Callable[..., ChatServer], tmp_path: Path
) -> None:
    down = [True]

    def answer(request: dict[str, Any], count: int) -> Any:
        lost = down[0] and "emma_kim_9957" in json.dumps(request["messages"])  # the user of task 0
        return (500, "{}") if lost else ChatServer.says("Hello.")

    server = chat_server(answer)
    asked = on(server) | {"split": "base", "tasks": 50}
    file, said = run(tmp_path, **asked)
    summary = json.loads(file.with_suffix(".json").read_text())
    assert (summary["episodes"], summary["lost"], summary["endings"]) == (49, 1, {"completed": 49, "error": 1})
    assert summary["success"] == pytest.approx(22 / 49)  # hello passes 23 of the 50, task 0 among them
    assert "1 episodes lost" in said
    assert "policy status: task '0'" in said
    assert sum(row["reward"] is None for row in read(file).rows) == 1
    down[0] = False
    before = len(server.requests)
    _, said = run(tmp_path, **asked)
    assert len(server.requests) == before + 1
    summary = json.loads(file.with_suffix(".json").read_text())
    assert (summary["success"], summary["doing_nothing"], summary["lost"]) == (23 / 50, 23 / 50, 0)
    assert "episodes lost" not in said


def test_a_dead_endpoint_is_not_asked_for_ever(tmp_path: Path) -> None:
    options = {"base_url": "http://127.0.0.1:9/v1", "attempts": 1, "concurrency": 2}
    with pytest.raises(HarnessError, match=r"8 episodes in a row .* policy connection: task .*127\.0\.0\.1:9"):
        run(tmp_path, policy="endpoint:m", policy_options=options, split="base", tasks=50)
    (file,) = tmp_path.glob("*.jsonl")
    assert LOST_IN_A_ROW <= len(lines(file)) <= LOST_IN_A_ROW + 1
    with pytest.raises(HarnessError, match="all 2 episodes were lost"):
        run(tmp_path, policy="endpoint:m", policy_options=options, tasks=2)


def test_a_spent_budget_keeps_what_was_played_and_a_larger_one_goes_on(
    chat_server: Callable[..., ChatServer], tmp_path: Path
) -> None:
    server = chat_server(hello)
    with pytest.raises(BudgetSpentError):
        run(tmp_path, **on(server, max_calls=2, concurrency=1), tasks=5)
    (file,) = tmp_path.glob("*.jsonl")
    assert len(lines(file)) == 2
    run(tmp_path, **on(server, max_calls=3), tasks=5)
    assert (len(lines(file)), len(server.requests)) == (5, 5)


# ---------------------------------------------------------------- the record's name


def test_what_changes_an_episode_changes_the_file_and_nothing_else_does(tmp_path: Path) -> None:
    base = Evaluation("Tau3Airline-v0", "endpoint:m")

    def name(environment: str = "1", policy: str = "p", **changed: Any) -> str:
        asked = Evaluation(**({"env": base.env, "policy": base.policy} | changed))
        return asked.file(asked.identity(environment, policy)).name

    same = {
        name(),
        name(tasks=9),
        name(samples=4),
        name(concurrency=3),
        name(env="environments:Tau3Airline-v0"),
        name(deadline_s=1.0),
        name(env_options={"user_endpoint": {}}),
        name(policy_options={"prices": [1, 2]}),
    }
    assert len(same) == 2  # an option of the environment may change an episode; only its key may not
    secret = {"user_endpoint": {"api_key": "hidden", "base_url": "b"}}
    assert "hidden" not in json.dumps(Evaluation("E", "p", env_options=secret).identity("1", ""))
    for address in ("http://me:hidden@h/v1", "https://hidden@h:8/v1", "http://h/v1?key=hidden", "http://h/v1#hidden"):
        reach = {"base_url": address, "extra_headers": {"X-Key": "hidden"}}
        kept = json.dumps(Evaluation("E", "p", env_options={"user_endpoint": reach}).identity("1", ""))
        assert ("hidden" in kept, "//h" in kept) == (False, True)
    different = {
        name(environment="2"),
        name(policy="q"),
        name(seed=1),
        name(split="train"),
        name(greedy=True),
        name(temperature=0.5),
        name(max_new_tokens=9),
        name(env="Guess-v0"),
        name(),
    }
    assert len(different) == 9
    assert all(re.fullmatch(r"[\w.-]+\.jsonl", each) for each in different)


def test_a_checkpoint_that_changed_is_another_policy(backend_of: Callable[..., Any], tmp_path: Path) -> None:
    backend = backend_of(dtype="float32")
    files = []
    for _ in range(2):
        backend.save(tmp_path / "model")
        asked = {
            "env": "Guess-v0",
            "policy": str(tmp_path / "model"),
            "tasks": 4,
            "samples": 2,
            "max_new_tokens": 3,
            "concurrency": 3,
        }
        file, _ = run(tmp_path / "out", **asked)
        files.append(file)
        next(iter(backend.model.parameters())).data.mul_(1.5)
    assert files[0] != files[1]
    episodes, _ = read_episodes(files[0])
    assert len(episodes) == 8
    assert all(episode.sequence.mask.any() for episode in episodes)  # a token policy leaves its tokens


def test_a_template_that_was_edited_is_another_policy(backend_of: Callable[..., Any], tmp_path: Path) -> None:
    """Wherever it stands: in a file of its own, or in tokenizer_config.json as older directories have it."""
    model, files = tmp_path / "model", []
    asked = {"env": "Guess-v0", "policy": str(model), "tasks": 2, "samples": 1, "max_new_tokens": 3}
    backend_of(dtype="float32").save(model)
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    settings = json.loads((model / "tokenizer_config.json").read_text())
    for text in (template, template, template.replace("<|end|>", " <|end|>")):
        (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": text}))
        files.append(run(tmp_path / "out", **asked)[0])
    assert files[0] == files[1] != files[2]
    assert len(read_episodes(files[2])[0]) == 2


# ---------------------------------------------------------------- numbers


def episode(task: str, success: bool, reward: float | None = None, **metrics: float) -> Episode:
    nothing = TokenSequence(np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0), np.zeros(0, np.int64))
    ending = Ending.ERROR if reward is not None and math.isnan(reward) else Ending.COMPLETED
    return Episode(task, nothing, float(success) if reward is None else reward, success, ending, metrics=metrics)


class World(TextEnvironment):
    """What an environment may say of itself."""

    protocol = "a world"
    splits, default_split, version = ("test",), "test", "1"

    def tasks(self, split: str) -> list[str]:
        return ["a", "b"]

    def trainable(self, split: str) -> bool:
        return False

    def reset(self, **_: Any) -> Any:
        raise AssertionError("it is asked, never played")

    def step(self, action: str) -> Any:
        raise AssertionError("it is asked, never played")

    def floor(self, task_id: str) -> bool:
        return task_id == "a"

    def summary(self, episodes: list[dict[str, Any]]) -> dict[str, Any]:
        rewards = [each["reward"] for each in episodes]
        return {"best": max(rewards), "words": {"x": 1, "y": 0.5}, "grid": {"row": {"p": 0.25, "q": None}}}


def test_numbers_by_hand_and_how_they_are_told() -> None:
    played = [
        (4, episode("a", True, turns=2.0, prompt_tokens=10.0, cost_usd=0.5)),
        (0, episode("a", False, turns=4.0, prompt_tokens=20.0, cost_usd=0.25)),
        (1, episode("b", True)),
        (2, episode("b", True)),
        (3, episode("b", False, math.nan, prompt_tokens=5.0)),
    ]
    summary = summarise(World(), played)
    assert summary["success"] == 0.75  # (1/2 + 2/2) / 2
    assert summary["doing_nothing"] == 0.5
    # pass^1 is the success rate; pass^2 = (C(1,2)/C(2,2) + C(2,2)/C(2,2)) / 2; the lost episode is no sample
    assert summary["pass_hat"] == {"1": 0.75, "2": 0.5}
    assert (summary["episodes"], summary["lost"]) == (4, 1)
    assert summary["used"] == {"prompt_tokens": 35.0, "cost_usd": 0.75}
    assert summary["tasks"][0] == {
        "task": "a",
        "succeeded": 1,
        "finished": 2,
        "reward": 0.5,
        "doing_nothing": 1.0,
        "turns": 3.0,
        "endings": "completed",
        "episodes": [4, 0],
    }
    console = Console(file=io.StringIO(), width=120)
    print_summary("World-v0", summary | {"policy": "me"}, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "a world   me",
        "success 0.750   doing nothing 0.500   2 tasks, 4 episodes",
        "pass^1 0.750   pass^2 0.500",
        "best 1.000",
        "words: x 1   y 0.500",
        "│ row  │ 0.250 │ - │",
        "prompt tokens 35, cost usd 0.75",
        "│ b    │ 2/2",
    ):
        assert part in said


def test_what_was_cut_is_counted_per_row_and_in_all() -> None:
    played = [
        (0, episode("a", True, truncated=2.0)),
        (1, episode("a", True, truncated=1.0, refused=1.0)),
        (2, episode("b", True)),
    ]
    summary = summarise(World(), played)
    assert [row.get("truncated", 0) for row in summary["tasks"]] == [3, 0]
    assert summary["used"] == {"truncated": 3.0, "refused": 1.0}
    console = Console(file=io.StringIO(), width=120)
    print_summary("World-v0", summary | {"policy": "me"}, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    heading, first, second = [re.split("[┃│]", line) for line in said.splitlines() if re.match("[┃│]", line)][:3]
    column = [cell.strip() for cell in heading].index("truncated")
    assert [first[column].strip(), second[column].strip()] == ["3", "0"]
    assert "truncated 3, refused 1" in said


def test_the_airline_says_what_it_must_say(tmp_path: Path) -> None:
    file, said = run(tmp_path, policy="do-nothing", split="base", tasks=50)
    summary = json.loads(file.with_suffix(".json").read_text())
    assert (summary["heading"], summary["success"], summary["doing_nothing"]) == (
        "airline official tasks, oneshot user (not τ³-airline)",
        0.46,
        0.46,
    )
    kinds = summary["environment"]["what the reference does"]
    assert {kind: row["tasks"] for kind, row in kinds.items()} == {
        "write": 26,
        "read-only": 16,
        "hand-over": 1,
        "none": 7,
    }
    assert all(row["success"] == row["doing nothing"] for row in kinds.values())
    assert summary["environment"]["successes without a tool call"] == 23
    for part in (
        "airline official tasks, oneshot user (not τ³-airline)",
        "doing nothing 0.460",
        "agent's errors per episode",
    ):
        assert part in said


# ---------------------------------------------------------------- the command


def test_the_command_plays_and_shows(
    chat_server: Callable[..., ChatServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = chat_server(hello)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    runner = CliRunner()
    words = [
        "evaluate",
        "--env",
        AIRLINE,
        "--policy",
        "endpoint:m",
        "--tasks",
        "2",
        "--out",
        str(tmp_path),
        "--policy-options",
        '{"prices": [1, 2]}',
    ]
    played = runner.invoke(app, words, catch_exceptions=False)
    assert played.exit_code == 0
    assert "cost usd 5e-05" in played.output  # 2 x (11 x 1 + 7 x 2) / 1e6 dollars
    (file,) = tmp_path.glob("*.jsonl")
    shown = runner.invoke(app, ["show", str(file), "1"], catch_exceptions=False)
    assert "Hello." in shown.output
    assert "###STOP###" in shown.output


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"policy": "smolm2"}, UnknownNameError, "did you mean 'smollm2'"),
        ({"policy": "tiny"}, UserError, "directory of a checkpoint"),
        ({"split": "tets"}, UnknownNameError, "did you mean 'test'"),
        ({"env": "Tau3Airlin-v0"}, UnknownNameError, "Tau3Airline-v0"),
        ({"policy": "smollm2", "policy_options": {"prices": [1, 2]}}, UserError, "text policies"),
        ({"policy": "gold", "policy_options": {"x": 1}}, UserError, "x"),
        ({"policy": "agents.policies.baselines:Gould"}, UnknownNameError, "agents.policies.baselines:Gold"),
        ({"env_options": {"user": "lmm"}}, UserError, "did you mean 'llm'"),
    ],
)
def test_mistakes_of_the_user(asked: dict[str, Any], error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=re.escape(said)):
        run(tmp_path, **asked)
    assert not list(tmp_path.glob("*.jsonl"))
