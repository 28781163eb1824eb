"""AppWorldMini-v0: errands in one line of Python a turn, small enough for a model of a million parameters.

    user   pay back yusuf           agent  note(yusuf)
    user   25                       agent  pay(yusuf, 25)        (the task ends; reward 1)

The same engine, apps, shell and evaluator as AppWorld-v0: every action is a line of Python that the engine runs, over
functions that call its APIs. Those are defined and logged in before the episode. A Mini number is never set beside an
AppWorld number.
"""

from __future__ import annotations

import json
import re
from typing import Any

from environments.appworld.env import AppWorldEnv
from environments.appworld.world.vocabulary import COMMANDS, LOOK_UPS, WORDS
from environments.caching.transitions import Cached
from environments.text import BadAction, Message, Reply, TextEnv, over

TURNS = 4
SHOWN = 120
"""Characters of an observation."""
_READY: dict[str, str] = {}
"""The block that defines the commands, as it stands in a task, and with the logins done."""
_LINE = re.compile(r"\s*([a-z]+)\(\s*((?:[a-z0-9]+\s*(?:,\s*[a-z0-9]+\s*)*)?)\)\s*")


class AppWorldMini(TextEnv):
    """Eight kinds of errands of `environments.appworld.world.mini`; three variants a scenario, splits by scenario.

    Look up: `note(WORD)`, `sent(NAME)`, `got(NAME)`, `asked(NAME)`, `todo(DAY)`. Act, which ends the task: `pay(NAME,
    N)`, `ask(NAME, N)`, `accept(N)`, `tick(ITEM)`, `text(NAME, N)`, `answer(N)`, `done()`. The habitual mistake is to
    skip the look-up that decides.
    """

    mini = True
    success_metrics = ("SGC",)
    protocol = "AppWorld's engine, Mini: one line of Python a turn on procedural errands (not AppWorld)"

    def __init__(self, max_turns: int = TURNS, deadline_s: float = 60.0) -> None:
        # the lines are ours, so the inner limits are never met
        self._inner = AppWorldEnv("mini", max_turns=10 * max_turns, deadline_s=deadline_s)
        super().__init__(
            {split: self._inner.tasks(split) for split in self._inner.splits},
            max_turns=max_turns,
            version=f"1 {self._inner.version} mini max_turns={max_turns} shown={SHOWN}",
        )

    def open(self, task_id: str) -> Reply:
        """The errand. No world is opened yet."""
        self._live, self._lookups = False, 0
        return Reply(self._inner.known.instruction(task_id))

    def _start(self) -> None:
        """Open the task's world: not before a command needs it, for many an episode of an untrained policy has none."""
        self._inner.reset(options={"task_id": self.task_id})
        self._log_in(self._program("gold")[0])
        self._live = True

    def _log_in(self, tools: str) -> None:
        """Define the commands. One login's tokens serve all tasks: one person, one frozen moment."""
        if tools not in _READY:
            messages, *_ = self._inner_step(f"{tools}\nprint({{app: token(app) for app in accounts}})")
            _READY[tools] = tools.replace("tokens = {}", f"tokens = {json.loads(messages[0]['content'])}")
        else:
            self._inner_step(_READY[tools])

    def respond(self, action: str) -> Reply:
        """Run one command in the engine."""
        command = self._command(action)
        if not self._live:
            self._start()
        if command in LOOK_UPS:
            self._lookups += 1
        messages, reward, ended, info = self._inner_step(action.strip())
        output = messages[0]["content"].strip() if messages else ""
        if not ended:
            return Reply("error" if output.startswith("Execution failed") else output[:SHOWN])
        return over(info["success"], reward=reward, metrics=self._metrics(info))

    def _command(self, action: str) -> str:
        """The command of a line of the small language; BadAction for other texts, which the engine never sees."""
        line = _LINE.fullmatch(action)
        if line is None or line[1] not in COMMANDS:
            raise BadAction(f"say one of: {' '.join(COMMANDS)}")
        kinds, words = COMMANDS[line[1]], re.findall(r"[a-z0-9]+", line[2])
        fits = len(words) == len(kinds) and all(
            re.fullmatch(r"[1-9]\d{0,4}", word) if kind == "NUMBER" else word in WORDS[kind]
            for word, kind in zip(words, kinds, strict=True)
        )
        if not fits:
            raise BadAction(f"say {line[1]}({', '.join(kinds)})")
        return line[1]

    def _inner_step(self, line: str) -> tuple[tuple[Message, ...], float, bool, dict[str, Any]]:
        messages, reward, terminated, truncated, info = self._inner.step(line)
        if "failure" in info:
            raise RuntimeError(f"{info['failure']['kind']}: {info['failure']['message']}")
        return messages, reward, terminated or truncated, info

    def stop(self) -> Reply:
        """Out of turns: no command that acts was given, so nothing is judged."""
        return over(False, metrics=self._metrics(None))

    def _metrics(self, info: dict[str, Any] | None) -> dict[str, float]:
        counts = {"lookups": float(self._lookups), "tool_calls": float(self._lookups)}
        difficulty = float(self._inner.known.difficulty(self.task_id, None))
        judged = {name: float(info["metrics"][name]) for name in ("tests_passed", "tests")} if info else {}
        return counts | judged | {"difficulty": difficulty}

    def _program(self, which: Any) -> list[str]:
        return self._inner.known.program(self.task_id, which) or []

    def gold(self, task_id: str) -> list[str]:
        """Look up what decides, and act."""
        return (self._inner.gold(task_id) or [])[1:]

    def habit(self, task_id: str) -> list[str]:
        """Act without the look-up that decides, or on the first entry of it."""
        return (self._inner.habit(task_id) or [])[1:]

    def summary(self, episodes: Any) -> dict[str, Any]:
        """Success by difficulty."""
        return {name: value for name, value in self._inner.summary(episodes).items() if name != "per episode"}

    def close(self) -> None:
        """Give the engine's process back."""
        self._inner.close()


class CachedAppWorldMini(Cached):
    """AppWorldMini with a cache of transitions: the engine runs only what no earlier episode or run has run."""

    def __init__(
        self,
        max_turns: int = TURNS,
        deadline_s: float = 60.0,
        cache: str | None = ".cache/transitions",
        audit: float = 0.0005,
        worlds: int = 16,
    ) -> None:
        """cache: the cache's folder, or None for one in memory. audit: share of the hits that is executed again and
        must agree.

        worlds: live worlds at most, in each process.
        """
        super().__init__(
            lambda: AppWorldMini(max_turns, deadline_s),
            folder=cache,
            version="AppWorldMini",
            audit=audit,
            seeded=False,
            worlds=worlds,
            canonical=_canonical,
        )


def _canonical(action: str) -> str:
    """One spelling for lines that differ in blanks only; other texts stand for themselves."""
    line = _LINE.fullmatch(action)
    if line is None:
        return action
    return f"{line[1]}({', '.join(re.findall(r'[a-z0-9]+', line[2]))})"
