"""Players of the other seats: functions of what a player has read and of the task's own chance."""

from __future__ import annotations

import random
import re

BRACKETED = re.compile(r"\[\s*[\w ]+?\s*\]")


def bracketed(read: str, chance: random.Random) -> str:
    """One of the moves in square brackets in the last line that has any, each as likely as the others.

    Such a line lists the moves that are possible in many of TextArena's board and card games.
    """
    lines: list[list[str]] = [BRACKETED.findall(line) for line in read.splitlines()]
    return chance.choice(next((moves for moves in reversed(lines) if moves), ["[0]"]))
