"""Who plays the user: `oneshot` and `scripted` here, a language model in `llm_user`; and what ends a dialogue.

protocol   plays              what its numbers mean
oneshot    every task         a replay or smoke run: all facts at once, over after the agent's first message
scripted   procedural tasks   answers what is asked for, slot by slot
llm        every task         τ³-bench's own protocol; a number names the model that played the user
"""

from __future__ import annotations

import re
from typing import Protocol

from environments.tau3_airline.tasks import Task

GREETING = "Hi! How can I help you today?"
"""The agent's first message, fixed by upstream; the user's turn follows."""
STOP, HAND_OVER, OUT_OF_SCOPE = "###STOP###", "###TRANSFER###", "###OUT-OF-SCOPE###"
"""A user message that contains one of these ends the dialogue."""
USERS = ("oneshot", "scripted", "llm")


class UserFailedError(Exception):
    """Whoever plays the user failed, by no fault of the agent's. `kind` is a short word for the log."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class User(Protocol):
    """One user in one dialogue."""

    def open(self) -> str:
        """The answer to the greeting."""
        ...

    def reply(self, message: str) -> str:
        """The answer to a message of the agent's."""
        ...


def ends_dialogue(message: str) -> bool:
    """Whether a user's message carries one of the tokens that end the conversation."""
    return any(token in message for token in (STOP, HAND_OVER, OUT_OF_SCOPE))


class OneShotUser:
    """Says everything at once, and is content with whatever the agent answers."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def open(self) -> str:
        """The reason for calling and everything the user knows."""
        return "\n\n".join(part for part in (self._task.reason, self._task.known) if part)

    def reply(self, message: str) -> str:
        """The end."""
        return STOP


ASKS = re.compile(
    r"\?|\bplease (?:provide|share|tell|give|send|state|let me know)\b|\b(?:i|we)(?:'ll| will)? need\b", re.I
)
CONFIRMS = re.compile(
    r"yes/no|\(yes|\bdo you (?:confirm|agree)|\bproceed|\bgo ahead|\bshall i\b|\bwould you like me to\b", re.I
)
CLOSES = re.compile(r"\banything else\b|\bfurther (?:help|assistance)\b|\bbeing transferred\b", re.I)
CUES = {
    "user_id": re.compile(r"\buser[ _]?id\b|\b(?:account|customer|profile)\b|\bwho am i\b", re.I),
    "reservation_id": re.compile(r"\breservation\b|\bbooking\b|\bconfirmation (?:number|code)\b", re.I),
    "reason": re.compile(r"\breason\b|\bwhy\b", re.I),
    "details": re.compile(r"\bdetails?\b|\bwhich\b|\bwhat\b|\bhow many\b", re.I),
    "payment": re.compile(r"\bpay(?:ment|ing)?\b|\bcard\b|\brefund\b", re.I),
}
"""What in an agent's question asks for a slot."""


class ScriptedUser:
    """Gives only the slots an agent asks for, says yes when asked to confirm, and leaves once it is told something.

    A message that asks for nothing ends the dialogue, so the agent must ask before it concludes; a question without a
    known cue gets the opening again. After `patience` answers the user gives up and the dialogue is graded as it
    stands.
    """

    def __init__(self, task: Task, patience: int = 8) -> None:
        self._task, self._left = task, patience

    def open(self) -> str:
        """The kind of request alone."""
        return self._task.reason

    def reply(self, message: str) -> str:
        """The slots asked for, a yes, the opening again, or the end."""
        self._left -= 1
        if CLOSES.search(message) or not ASKS.search(message) or self._left < 0:
            return STOP
        if CONFIRMS.search(message):
            return "Yes, please go ahead."
        answers = [text for slot, text in self._task.slots.items() if CUES[slot].search(message)]
        return " ".join(answers) or self._task.reason
