"""Tau3Airline-v0 and Tau3AirlineProcedural-v0: the airline's service as a Gymnasium environment of chat messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from environments.tau3_airline.actions import call_text, read_call, spoken
from environments.tau3_airline.data import VERSION
from environments.tau3_airline.grader import DENIAL, Verdict, engine
from environments.tau3_airline.journal import changes
from environments.tau3_airline.llm_user import PARAMS, LLMUser, UserModel
from environments.tau3_airline.metrics import ERRORS, summarise, user_tokens
from environments.tau3_airline.procedural import procedural_tasks
from environments.tau3_airline.tasks import KINDS, Call, Kind, Outcome, Task, official_tasks
from environments.tau3_airline.tools import TRANSFER, WRITES, Toolbox, schemas
from environments.tau3_airline.users import (
    GREETING,
    USERS,
    OneShotUser,
    ScriptedUser,
    User,
    UserFailedError,
    ends_dialogue,
)
from environments.text import Message, Reply, TextEnv, over, unknown_name

UserName = Literal["oneshot", "scripted", "llm"]
TURNS = {"official": 100, "procedural": 30}
"""Upstream stops at 200 messages, which are about 100 of the agent's turns. The longest reference takes 20."""

INSTRUCTIONS = """\
You work at an airline's service desk and follow the policy below to the letter.
Each of your turns is one of two things, never both:
- a tool call: one JSON object {{"name": TOOL, "arguments": {{...}}}} and nothing around it;
- a message to the user: any other text.
Only the user ends the conversation.{extra}

<policy>
{policy}
</policy>"""
EXPLICIT = f"""
When the policy forbids what the user asks for, tell them so in a message that contains the words {DENIAL}."""
ASK_ALL = (
    "Could you please tell me your user id, the reservation id, the details of the change, "
    "the reason, and the payment or refund method?"
)
PLEASE_HOLD = "YOU ARE BEING TRANSFERRED TO A HUMAN AGENT. PLEASE HOLD ON."


class Tau3AirlineEnv(TextEnv):
    """The official fifty tasks, or procedural ones, over the official tools, database and grading.

    An action that is a JSON object {"name": str, "arguments": object} is a tool call, answered by one `tool` message;
    any other text goes to the user. What a model thinks goes nowhere, and calls in the form of its family are read too
    (`environments.tau3_airline.actions`). Text that opens with a brace was meant as a call: if it cannot be read, the
    answer is an error and nothing reaches the user. Only the user ends the dialogue; the reward is then DB x
    COMMUNICATE (and, on procedural tasks, whether the agent refused or handed over exactly where it had to). Running
    out of turns scores 0.

    When the model that plays the user fails, `step` ends the episode with truncated=True, reward 0.0 and
    `info["failure"] = {"kind", "message"}`; a failure at the opening raises UserFailedError from `reset`.

    At the end `info["kind"]` says what the reference does (write, read-only, hand-over, none) and `info["user"]` who
    played the user. `protocol` is the heading a table of these numbers must carry.
    """

    def __init__(
        self,
        user: UserName = "oneshot",
        *,
        source: Literal["official", "procedural"] = "official",
        user_model: str | None = None,
        user_endpoint: Mapping[str, Any] | None = None,
        user_params: Mapping[str, Any] | None = None,
        max_turns: int | None = None,
    ) -> None:
        """user: who plays the user. The `llm` user needs `user_model`, a model's name; `user_endpoint` (base_url,
        cache, ...: see `UserModel`) says how it is reached, `user_params` how it is sampled. No other user takes these.

        max_turns: 100 by default, 30 on procedural tasks. Raises ValueError for an unknown user or source, for the
        scripted user on official tasks (they need a person's judgement), and when the data cannot be found or verified.
        """
        if source not in TURNS:
            raise unknown_name("source", source, TURNS)
        self._user_model = _user_model(user, source, user_model, user_endpoint, user_params)
        self._engine = engine()
        self.user, self.source = user, source
        by_split = self._by_split()
        self._by_id = {task_id: task for tasks in by_split.values() for task_id, task in tasks.items()}
        turns = TURNS[source] if max_turns is None else max_turns
        playing = user if self._user_model is None else f"{user} {self._user_model.name()}"
        super().__init__(
            {split: list(tasks) for split, tasks in by_split.items()},
            max_turns=turns,
            version=f"1 {VERSION} {source} user={playing} max_turns={turns}",
            tools=schemas(),
        )
        self.protocol = self._heading()
        # the one-shot user is content with any message, so an agent that does nothing passes some official tasks
        self.idle_reward = None if source == "official" else 0.0
        if source == "official":
            # `base` is all fifty, in upstream's order: a name for a union, so no split of its own
            self._tasks["base"] = self._engine.data.splits["base"]
        self._system = INSTRUCTIONS.format(
            policy=self._engine.data.policy, extra=EXPLICIT if source == "procedural" else ""
        )

    def _by_split(self) -> Mapping[str, Mapping[str, Task]]:
        if self.source == "procedural":
            return procedural_tasks()
        tasks, splits = official_tasks(), self._engine.data.splits
        return {split: {task_id: tasks[task_id] for task_id in splits[split]} for split in ("train", "test")}

    # What a reader of results asks

    def _heading(self) -> str:
        """The heading for a table of these numbers. Only the `llm` user's may be called τ³-airline."""
        if self.source == "procedural":
            return f"airline procedural tasks, {self.user} user (not τ³-airline)"
        if self._user_model is None:
            return f"airline official tasks, {self.user} user (not τ³-airline)"
        return f"τ³-airline, user played by {self._user_model.model}"

    def kind(self, task_id: str) -> Kind:
        """What the task's reference does."""
        return self._task_named(task_id).kind

    def floor(self, task_id: str) -> float:
        """1 where an agent that only says hello succeeds at the task, else 0."""
        return float(self._engine.floor(self._task_named(task_id)))

    def summary(self, episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Success by what the reference does, and means per episode, under the words a reader sees."""
        report = summarise(episodes, self.kind, self.floor)
        if self._user_model is not None:
            report["tokens of the user's model"] = user_tokens(episodes)
        return report

    def _task_named(self, task_id: str) -> Task:
        self.split_of(task_id)  # refuses unknown names
        return self._by_id[task_id]

    def gold(self, task_id: str) -> list[str]:
        """The reference calls, then one message with all that must be communicated.

        The `llm` user may need more words to be content.
        """
        task = self._task_named(task_id)
        return self._played(task, task.gold, task.outcome)

    def habit(self, task_id: str) -> list[str] | None:
        """Procedural tasks: doing what the user asks without looking anything up; right where the policy allows it."""
        task = self._task_named(task_id)
        return self._played(task, task.request, "done") if task.request else None

    def _played(self, task: Task, gold: Sequence[Call], outcome: Outcome | None) -> list[str]:
        calls = [call.action() for call in gold]
        if outcome is None:
            return [*calls, " ".join(("Everything is settled.", *task.communicate))]
        closing: Mapping[Outcome, str] = {
            "done": "That is done.",
            "denied": f"{DENIAL}: the policy does not allow it.",
            "transferred": PLEASE_HOLD,
        }
        if self.user == "oneshot":
            return [*calls, closing[outcome]]
        writes = [call.action() for call in gold if call.name in WRITES]
        reads = [action for action in calls if action not in writes]
        confirm = ["I will make this change now. Do you confirm (yes/no)?"] if writes else []
        return [ASK_ALL, *reads, *confirm, *writes, closing[outcome]]

    # The dialogue

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Begin a task; the split `base` may be named for every official one."""
        options = dict(options or {})
        if self.source == "official" and options.get("split") == "base" and options.get("task_id") is not None:
            del options["split"]
        return super().reset(seed=seed, options=options)

    def open(self, task_id: str) -> Reply:
        """The instructions, the greeting, and the user's answer to it. Raises UserFailedError."""
        task = self._by_id[task_id]
        self._task, self._view = task, self._engine.shared.view()
        self._toolbox, self._person = Toolbox(self._view), self._meet(task)
        self._sent: list[str] = [GREETING]
        self._called: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        return Reply(
            (
                {"role": "system", "content": self._system},
                {"role": "assistant", "content": GREETING},
                {"role": "user", "content": self._person.open()},
            )
        )

    def _meet(self, task: Task) -> User:
        if self._user_model is not None:
            seed = int(self.np_random.integers(2**31))
            return LLMUser(task, self._user_model, seed)
        return ScriptedUser(task) if self.user == "scripted" else OneShotUser(task)

    def respond(self, action: str) -> Reply:
        """A tool's result, or the user's answer."""
        words = spoken(action)
        if not words and action:
            self._errors["malformed"] += 1
            return _tool_message("Error: your turn ended before your thinking did; nobody heard a word of it")
        meant = call_text(words)
        if meant is None:
            return self._talk(words)
        try:
            call = read_call(meant)
        except ValueError as error:
            self._errors["malformed"] += 1
            return _tool_message(f"Error: {error}")
        self._called[call.name] += 1
        result = self._toolbox.call(call.name, call.arguments)
        if result.error is not None:
            self._errors[result.error] += 1
        return _tool_message(result.text)

    def _talk(self, message: str) -> Reply:
        self._sent.append(message)
        answer: Message = {"role": "user", "content": self._person.reply(message)}
        if not ends_dialogue(answer["content"]):
            return Reply((answer,))
        verdict = self._engine.verdict(self._task, changes(self._view), self._sent, self._called)
        return over(verdict.success, (answer,), metrics=self._metrics(verdict))

    def stop(self) -> Reply:
        """Out of turns: nothing is graded."""
        return over(False, metrics=self._metrics(None))

    def step(self, action: str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """One turn of the agent; see the class for how failures of the user's model are reported."""
        try:
            messages, reward, terminated, truncated, info = super().step(action)
        except UserFailedError as error:
            messages, reward, terminated, truncated = (), 0.0, False, True
            info = {"task_id": self.task_id, "success": False, "metrics": {"turns": float(self.turn)}}
            info["failure"] = {"kind": error.kind, "message": str(error)}
        if terminated or truncated:
            info |= {"kind": self._task.kind, "user": self.user}
        return messages, reward, terminated, truncated, info

    def _metrics(self, verdict: Verdict | None) -> dict[str, float]:
        """Parts of the verdict (0 when nothing was graded), counts of this episode, and `kind_<kind>`: the task's
        kind."""
        parts = {name: float(getattr(verdict, name, False)) for name in ("db", "communicate", "outcome")}
        counts = {
            "tool_calls": self._called.total(),
            "write_calls": sum(self._called[name] for name in WRITES),
            "transfers": self._called[TRANSFER],
            "messages": len(self._sent) - 1,
            "bad_actions": self._errors.total(),
        }
        errors = {f"error_{kind}": self._errors[kind] for kind in ERRORS}
        kinds = {f"kind_{kind.replace('-', '_')}": float(kind == self._task.kind) for kind in KINDS}
        usage = self._person.usage if isinstance(self._person, LLMUser) else {}
        return parts | {name: float(count) for name, count in (counts | errors | usage).items()} | kinds


def _user_model(
    user: UserName,
    source: str,
    model: str | None,
    endpoint: Mapping[str, Any] | None,
    params: Mapping[str, Any] | None,
) -> UserModel | None:
    """The model that plays the user, or None where none does. ValueError for options that do not go together."""
    if user not in USERS:
        raise unknown_name("user", user, USERS)
    if user == "scripted" and source == "official":
        raise ValueError("the scripted user plays procedural tasks only; for official ones choose 'oneshot' or 'llm'")
    if user != "llm":
        if model is not None or endpoint or params:
            raise ValueError(f"user_model, user_endpoint and user_params are for user='llm'; got user={user!r}")
        return None
    if not model:
        raise ValueError(f"user='llm' needs user_model, the name of a model; got {model!r}")
    return UserModel(model, endpoint or {}, PARAMS if params is None else params)


def _tool_message(text: str) -> Reply:
    messages: Sequence[Message] = ({"role": "tool", "content": text},)
    return Reply(messages)
