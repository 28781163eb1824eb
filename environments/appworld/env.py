"""AppWorld-v0: a person's apps, worked on in Python, as a Gymnasium environment of chat messages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from environments.appworld.engine_pool import BlameError, EnginePool, Episode
from environments.appworld.metrics import summarise
from environments.appworld.tasks import MINI, OWN, Tasks, official_tasks, own_tasks
from environments.isolation import walls
from environments.isolation.pool import RemoteError, Worker
from environments.text import BadAction, Message, Reply, TextEnv, over, unknown_name
from harness.endpoint import without_thinking

INSTRUCTIONS = Path(__file__).with_name("instructions.md")
TURNS = 50
SHOWN = 12_000
"""Characters of an observation; SGCD (2606.12634) cuts there."""
_PYTHON = re.compile(
    r"```[ \t]*(?:python3?|py)[^\S\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE | re.IGNORECASE
)
_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
Which = Literal["auto", "own", "official", "mini"]


class AppWorldEnv(TextEnv):
    """AppWorld's tasks, or the project's own: the agent writes Python, the engine runs it and judges the end state.

    An action is a block of Python, bare or between ```python and ```; text around the first fence is the agent's
    thinking and is not run. The answer is what the block printed, or its error. What the guard refuses, what is no
    Python and an empty block are answered and cost a turn. The episode ends when the block calls
    `apis.supervisor.complete_task(...)` or the turns run out; then AppWorld's own tests judge the state, in another
    process. A block that computes past its deadline or crashes its process ends the episode unsolved (`killed`).

    When the engine fails for no fault of the agent's, the episode ends with truncated=True and `info["failure"]`.
    """

    success_metrics = ("SGC",)

    def __init__(
        self,
        world: Which = "auto",
        *,
        reward: Literal["sparse", "dense"] = "sparse",
        max_turns: int = TURNS,
        shown: int = SHOWN,
        step_s: float = 10.0,
        deadline_s: float = 60.0,
        memory_mb: int = 1024,
        instructions: str | None = None,
        outputs: str | None = None,
    ) -> None:
        """world: `official` for AppWorld's own splits, `own` for the project's; `auto` takes the official data where it
        is installed, `mini` is what AppWorldMini wraps.

        reward: `sparse` is 1 where every test passes; `dense` is (f - f0) / (1 - f0), f the share of tests passed and
        f0 what doing nothing passes. shown: characters of an observation. step_s: seconds of processor time a block may
        take before it is interrupted; deadline_s: seconds until its process is killed. memory_mb: MiB its process may
        take beyond what the engine itself needs. instructions: a file in place of the agent's instructions ({name},
        {email}, {phone}, {apps}, {turns} are filled in). outputs: a folder `experiments/outputs/NAME` that keeps every
        finished episode in AppWorld's layout, for `appworld evaluate NAME SPLIT`.

        Raises ValueError for unknown options and data that is not whole; NotInstalledError where AppWorld cannot be
        installed.
        """
        for name, given, known in (
            ("world", world, ("auto", "own", "official", "mini")),
            ("reward", reward, ("sparse", "dense")),
        ):
            if given not in known:
                raise unknown_name(name, given, known)
        self.known: Tasks = _tasks(world)
        self.reward, self._shown, self._deadline_s, self._outputs = reward, shown, deadline_s, outputs
        self._step_s = step_s
        self._instructions = _read_instructions(instructions)
        self._engines = EnginePool.of(self.known.root, step_s, shown, memory_mb)
        self._episode: Episode | None = None
        digest = hashlib.sha256(self._instructions.encode()).hexdigest()[:8]
        super().__init__(
            self.known.splits,
            max_turns=max_turns,
            version=f"1 {self.known.version} reward={reward} turns={max_turns} shown={shown} step_s={step_s:g} "
            f"instructions={digest}",
            trainable=[split for split in self.known.splits if split not in ("test_normal", "test_challenge", "test")],
        )

        wall = walls.standing()
        # without a wall a policy that gets past the guard could read what decides its reward: its rows must say so
        self.protocol = self.known.protocol + (
            f", no wall around the player ({wall})" if wall.startswith("none") else ""
        )

    # What a reader of results asks

    def gold(self, task_id: str) -> list[str] | None:
        """Blocks that solve the task; None for official tasks, whose solutions are not the project's to ship."""
        self.split_of(task_id)
        return self.known.program(task_id, "gold")

    def habit(self, task_id: str) -> list[str] | None:
        """Blocks of someone who overlooks what decides the task."""
        self.split_of(task_id)
        return self.known.program(task_id, "wrong")

    def summary(self, episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Success by difficulty, and what the agent did in the shell."""
        return summarise(episodes)

    # The episode

    def open(self, task_id: str) -> Reply:
        """Open the task's world in a player; the agent's instructions and the task's."""
        self._give_back()
        self._counts = dict.fromkeys(("api_calls", "refused", "malformed", "timeouts", "killed"), 0)
        self._episode = self._engines.episode(task_id, self._deadline_s)
        task = self._episode.facts
        return Reply(
            (
                {"role": "system", "content": self._fill(task)},
                {"role": "user", "content": task["instruction"]},
            )
        )

    def _fill(self, task: Mapping[str, Any]) -> str:
        person = task["supervisor"]
        known = {
            "name": f"{person['first_name']} {person['last_name']}",
            "email": person["email"],
            "phone": person["phone_number"],
            "apps": "\n".join(f"  - {app}: {what}" for app, what in task["apps"].items()),
            "turns": str(self.max_turns),
        }
        return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), self._instructions)

    def respond(self, action: str) -> Reply:
        """Run a block; the verdict where it completed the task."""
        code = block_of(action)
        if not code.strip():
            raise BadAction("there is no code to run; write one block between ```python and ```")
        episode = self._episode
        assert episode is not None
        before = episode.calls
        try:
            ran = episode.block(code, self._deadline_s)
        except BlameError:
            self._counts["api_calls"] += episode.calls - before
            return self._killed("The block was killed: it computed without end or crashed its process.")
        self._counts["api_calls"] += episode.calls - before
        kind = {"refused": "refused", "malformed": "malformed", "time": "timeouts"}.get(ran["status"])
        if kind:
            self._counts[kind] += 1
        return self._verdict(ran["output"]) if episode.completed else Reply(ran["output"])

    def _killed(self, why: str) -> Reply:
        """The episode ends unsolved, by the agent's own doing."""
        self._counts["killed"] += 1
        self._give_back()
        return over(False, why, metrics=self._metrics(None))

    def stop(self) -> Reply:
        """Out of turns: the state is judged as it is."""
        return self._verdict("")

    def _verdict(self, output: str) -> Reply:
        assert self._episode is not None
        outcome = self._episode.outcome(self._deadline_s)
        if outcome is None:
            return self._killed("The episode has changed more than can be judged.")
        judged = self._engines.judge(self.task_id, outcome, self._outputs, self._deadline_s)
        self._give_back()
        total, passed = judged["total"], sum(passes for _, passes in judged["tests"])
        success, idle = judged["success"], self.known.idle(self.task_id, judged)
        dense = (passed / total - idle) / (1 - idle)
        return over(
            success, output, reward=float(success) if self.reward == "sparse" else dense, metrics=self._metrics(judged)
        )

    def _metrics(self, judged: Mapping[str, Any] | None) -> dict[str, float]:
        """Tests passed and in all (none where nothing was judged), the task's difficulty, and counts of what the agent
        did.

        `tool_calls` are API calls.
        """
        counts: dict[str, float] = {name: float(count) for name, count in self._counts.items()}
        counts["bad_actions"] = float(self._bad_actions) + counts["refused"] + counts["malformed"]
        counts["tool_calls"] = counts["api_calls"]
        counts["tests_passed"] = float(sum(passes for _, passes in judged["tests"])) if judged else 0.0
        counts["tests"] = float(judged["total"]) if judged else 0.0
        return counts | {"difficulty": float(self.known.difficulty(self.task_id, judged))}

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """One turn of the agent; see the class for how failures of the engine are reported."""
        try:
            return super().step(action)
        except RemoteError as error:
            self._give_back()
            info = {"task_id": self.task_id, "success": False, "metrics": {"turns": float(self.turn)}}
            info["failure"] = {"kind": error.kind, "message": str(error)}
            return (), 0.0, False, True, info

    def _give_back(self) -> None:
        if self._episode is not None:
            self._episode.close()
            self._episode = None

    @property
    def _worker(self) -> Worker | None:
        """The process that runs the episode's blocks."""
        return None if self._episode is None else self._episode.player

    def close(self) -> None:
        """Give the processes back; the processes end with this one, or when they have been idle."""
        self._give_back()


def block_of(action: str) -> str:
    """The code of an action: its first fence of Python, else its first of no language, else all of it. What a model
    thinks before it acts (`harness.endpoint.thinking`) holds none."""
    action = without_thinking(action)
    python = _PYTHON.search(action)
    if python:
        return python[1]
    return next((fence[2] for fence in _FENCE.finditer(action) if not fence[1]), action)


def _tasks(world: Which) -> Tasks:
    if world == "mini":
        return own_tasks(MINI)
    if world in ("auto", "official"):
        found = official_tasks()
        if found is not None:
            return found
        if world == "official":
            raise ValueError(
                "the official data is not installed; fetch it with: harness setup appworld-data (or choose world='own')"
            )
    return own_tasks(OWN)


def _read_instructions(file: str | None) -> str:
    path = INSTRUCTIONS if file is None else Path(file)
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the file of instructions {str(path)!r} cannot be read: {error}") from None
