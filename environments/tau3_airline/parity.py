"""Parity with the official package: the same trajectories graded here and by `tau2` itself, rewards compared.

    python -m environments.tau3_airline.parity                     # gold, doing nothing and disturbed gold
    python -m environments.tau3_airline.parity EPISODES.jsonl ...  # and what `harness evaluate` recorded

Needs the official package beside this project in one interpreter (Python 3.12 or newer), at the revision the data are
pinned to.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments.tau3_airline.actions import read_call
from environments.tau3_airline.data import VERSION, data_folder
from environments.tau3_airline.env import Tau3AirlineEnv
from environments.tau3_airline.grader import engine
from environments.tau3_airline.journal import changes
from environments.tau3_airline.tasks import Call, official_tasks
from environments.tau3_airline.tools import Toolbox
from environments.tau3_airline.users import ends_dialogue
from environments.text import Message, unknown_name

TIME = "2024-05-15T15:00:00"
"""The domain's fixed clock; upstream's records want some time."""


class OfficialMissingError(ImportError):
    """The official package is not installed here; the message says how to get it."""


@dataclass(frozen=True)
class Trajectory:
    """One dialogue on an official task, the system message left out or not."""

    name: str
    task_id: str
    messages: Sequence[Mapping[str, str]]

    @property
    def ended(self) -> bool:
        """Whether the user ended it; any other end scores 0."""
        last = self.messages[-1] if self.messages else {"role": "", "content": ""}
        return last["role"] == "user" and ends_dialogue(last["content"])


@dataclass(frozen=True)
class Comparison:
    """Both rewards of one trajectory."""

    trajectory: Trajectory
    ours: float
    official: float
    note: str = ""
    """Why the official evaluator could not grade, where it could not: whatever the rewards, that is no agreement."""

    @property
    def agrees(self) -> bool:
        """Whether both sides graded, and alike."""
        return self.ours == self.official and not self.note


# ---------------------------------------------------------------- a trajectory's turns


def turns(messages: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, Call | str, str]]:
    """The dialogue as ("call", tool call, its result) and ("assistant" or "user", text, "").

    An action that could not be read as a call, and was answered as such by a tool message, changed nothing and did not
    reach the user: both messages are left out, as upstream has no such thing.
    """
    place = 0
    while place < len(messages):
        message = messages[place]
        answer = messages[place + 1] if place + 1 < len(messages) else None
        if message["role"] == "assistant" and answer is not None and answer["role"] == "tool":
            call = _call(message["content"])
            if call is not None:
                yield "call", call, answer["content"]
            place += 2
            continue
        if message["role"] in ("assistant", "user"):
            yield message["role"], message["content"], ""
        place += 1


def _call(action: str) -> Call | None:
    try:
        return read_call(action)
    except ValueError:
        return None


def our_reward(trajectory: Trajectory) -> float:
    """The reward of this project's grader, the calls made afresh. ValueError for a task that is not official."""
    task = official_tasks().get(trajectory.task_id)
    if task is None:
        raise unknown_name("task", trajectory.task_id, official_tasks())
    view = engine().shared.view()
    toolbox = Toolbox(view)
    sent, called = [], []
    for role, content, _ in turns(trajectory.messages):
        if isinstance(content, Call):
            toolbox.call(content.name, content.arguments)
            called.append(content.name)
        elif role == "assistant":
            sent.append(content)
    return float(trajectory.ended and engine().verdict(task, changes(view), sent, called).success)


def as_official(messages: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The dialogue as plain data of upstream's message classes: tool calls with ids, each followed by its result."""
    official: list[dict[str, Any]] = []
    for role, content, result in turns(messages):
        if isinstance(content, Call):
            key = f"call{len(official):05d}"
            call = {"id": key, "name": content.name, "arguments": dict(content.arguments), "requestor": "assistant"}
            official.append({"role": "assistant", "content": None, "tool_calls": [call]})
            failed = result.startswith("Error: ")
            official.append({"role": "tool", "id": key, "content": result, "requestor": "assistant", "error": failed})
        else:
            official.append({"role": role, "content": content})
    return official


# ---------------------------------------------------------------- the official side


class Official:
    """The official evaluator. OfficialMissingError where it cannot be imported."""

    def __init__(self) -> None:
        try:
            self._evaluator = importlib.import_module("tau2.evaluator.evaluator")
            self._messages = importlib.import_module("tau2.data_model.message")
            self._simulation = importlib.import_module("tau2.data_model.simulation")
            airline = importlib.import_module("tau2.domains.airline.environment")
            importlib.import_module("loguru").logger.disable("tau2")  # it prints every tool result
        except ImportError as error:
            raise OfficialMissingError(
                f"the official τ³-bench package cannot be imported ({error}). It needs Python 3.12 or newer and is "
                f"on no package index (`tau2` "
                f"there is another project): check out {VERSION} from GitHub, `pip install` it into the interpreter "
                f"that runs this, and set "
                "TAU2_DATA_DIR to its `data` folder"
            ) from error
        self._tasks = {str(task.id): task for task in airline.get_tasks()}

    def reward(self, trajectory: Trajectory) -> tuple[float, str]:
        """The official reward, and what the evaluator noted when it could not grade."""
        classes = {"assistant": "AssistantMessage", "user": "UserMessage", "tool": "ToolMessage"}
        messages = [
            getattr(self._messages, classes[message["role"]]).model_validate(message)
            for message in as_official(trajectory.messages)
        ]
        reasons = self._simulation.TerminationReason
        run = self._simulation.SimulationRun(
            id=trajectory.name,
            task_id=trajectory.task_id,
            start_time=TIME,
            end_time=TIME,
            duration=0.0,
            messages=messages,
            termination_reason=reasons.USER_STOP if trajectory.ended else reasons.MAX_STEPS,
        )
        kinds = self._evaluator.EvaluationType
        found = self._evaluator.evaluate_simulation(
            simulation=run,
            task=self._tasks[trajectory.task_id],
            evaluation_type=kinds.ALL,
            solo_mode=False,
            domain="airline",
        )
        return float(found.reward), str((found.info or {}).get("error", ""))


def compare(trajectories: Iterable[Trajectory], official: Official) -> Iterator[Comparison]:
    """Both rewards of each. ValueError for a trajectory on a task that is not official."""
    for trajectory in trajectories:
        ours = our_reward(trajectory)
        try:
            reward, note = official.reward(trajectory)
        except ValueError as error:  # upstream's replay refuses a tool result that differs from the recorded one
            reward, note = 0.0, str(error)
        yield Comparison(trajectory, ours, reward, note)


# ---------------------------------------------------------------- trajectories


def built_in() -> Iterator[Trajectory]:
    """Gold, doing nothing and disturbed gold on every official task, played here with the one-shot user."""
    env = Tau3AirlineEnv()
    for task_id in env.tasks("base"):
        gold = env.gold(task_id)
        yield Trajectory(f"gold {task_id}", task_id, _played(env, task_id, gold))
        yield Trajectory(f"hello {task_id}", task_id, _played(env, task_id, ["Hello."]))
        for number, actions in enumerate(disturbed(gold)):
            yield Trajectory(f"disturbed {task_id}.{number}", task_id, _played(env, task_id, actions))


def disturbed(gold: Sequence[str]) -> Iterator[list[str]]:
    """What graders may disagree on.

    A call left out or made twice, numbers as floats and as text, lists turned round, noise, an early end.
    """
    *calls, closing = gold
    if calls:
        yield [*calls[:-1], closing]
        yield [*calls, calls[-1], closing]
        yield [*(_changed(call, float) for call in calls), closing]
        yield [*(_changed(call, str) for call in calls), closing]
        yield [*(_changed(call, None) for call in calls), closing]
        yield calls
    noise = [
        '{"name": ',
        '{"name": "no_such_tool", "arguments": {}}',
        '{"name": "cancel_reservation", "arguments": {"id": 1}}',
        "{}",
    ]
    yield [*noise, *calls, closing]


def _changed(action: str, number: type[float] | type[str] | None) -> str:
    """The call with its whole numbers in another type, or with its lists turned round."""

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: change(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [change(entry) for entry in (value if number else reversed(value))]
        return number(value) if number and type(value) is int else value

    call = read_call(action)
    return Call(call.name, change(dict(call.arguments))).action()


def _played(env: Tau3AirlineEnv, task_id: str, actions: Sequence[str]) -> list[Message]:
    opening, _ = env.reset(seed=0, options={"task_id": task_id})
    messages = list(opening)
    for action in actions:
        answer, _, terminated, _, _ = env.step(action)
        messages += [{"role": "assistant", "content": action}, *answer]
        if terminated:
            break
    return messages


def recorded(file: Path) -> Iterator[Trajectory]:
    """The finished episodes of a file that `harness evaluate` wrote. ValueError names a line that is no episode."""
    content = file.read_bytes()
    lines = (gzip.decompress(content) if file.suffix == ".gz" else content).decode().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if "schema" in row or row["ending"] == "error":
                continue
            trajectory = Trajectory(f"{file.name} line {number}", row["task_id"], row["messages"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number}: not a recorded episode ({type(error).__name__}: {error})"
            ) from None
        yield trajectory


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all rewards agree. 1: some differ. 2: no official package, or a file that cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m environments.tau3_airline.parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("files", nargs="*", type=Path, help="episodes to compare besides gold and doing nothing")
    files: list[Path] = parser.parse_args(arguments).files
    try:
        official = Official()
        given = [trajectory for file in files for trajectory in recorded(file)]
        found = list(compare([*built_in(), *given], official))
    except (OfficialMissingError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for each in found:
        if not each.agrees:
            print(f"{each.trajectory.name}: ours {each.ours:g}, official {each.official:g}  {each.note}".rstrip())
    print(f"{sum(each.agrees for each in found)} of {len(found)} rewards agree (ours: {data_folder()})")
    return int(not all(each.agrees for each in found))


if __name__ == "__main__":
    sys.exit(main())
