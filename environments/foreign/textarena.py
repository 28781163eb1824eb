"""TextArena-v0: a game of the library TextArena, with one seat for the agent."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from environments.foreign.env import ForeignEnv, Library, asked, by_content, named
from environments.isolation.pool import RemoteError
from environments.text import Reply

TEXTARENA = Library("TextArena", "textarena", "environments.foreign.inside.arena:Game")


class TextArena(ForeignEnv):
    """A game by its id in TextArena's registry; a task is the seed that opens it.

    The agent reads what its player reads since its last move. The game's reward is the episode's, and a success from
    `success_at` on. In a game of several players the other seats are played by one declared function.
    """

    def __init__(
        self,
        name: str,
        *,
        seeds: int = 200,
        max_turns: int = 50,
        players: int = 1,
        seat: int = 0,
        opponent: str | None = None,
        by_seed: bool = False,
        arguments: Mapping[str, Any] | None = None,
        success_at: float = 1.0,
        gold: str | None = None,
        python: str | None = None,
        deadline_s: float = 60.0,
        memory_mb: int = 1024,
    ) -> None:
        """seeds: how many seeds, from 0 on, are looked at; of those that open the game alike the first is a task.

        players, seat: how many play, and which of them the agent is. opponent: "module:function", called with all that
        its player has read and a `random.Random` of the task's seed. by_seed: every seed is a task of its own, for
        games that draw after they have opened; always so with an opponent, whose moves the seed decides too. arguments:
        of the game's class, beside those it is registered with.

        gold: "module:function", see `ForeignEnv`. python: the interpreter that has TextArena, by default the one that
        `harness setup textarena` made, else this one. Raises ValueError for options that do not go together or a game
        with too few tasks, NotInstalledError without TextArena, RuntimeError where the game cannot be made.
        """
        if not (players >= 1 and 0 <= seat < players):
            raise ValueError(f"seat must be in 0..{max(players, 1) - 1} for {players} players, got {seat}")
        if players > 1 and opponent is None:
            raise ValueError("other players need an opponent, for one environments.foreign.opponents:bracketed")
        if players == 1 and opponent is not None:
            raise ValueError(f"a game of one player has no opponent, got {opponent!r}")
        self._seat = seat
        self._opponent = None if opponent is None else named(opponent, "the opponent")
        given = dict(arguments or {})
        pool = TEXTARENA.pool(python, {"name": name, "players": players, "given": given}, memory_mb)
        version = asked(TEXTARENA, pool, "facts")["version"]
        tasks = asked(TEXTARENA, pool, "tasks", seeds=seeds, apart=by_seed or opponent is not None)
        self.protocol = f"{name} of TextArena" + (f", against {opponent}" if opponent else "")
        super().__init__(
            TEXTARENA,
            pool,
            by_content(name, tasks),
            max_turns=max_turns,
            version=f"1 textarena {version} {name} {given} seeds={seeds} by_seed={by_seed} players={players} "
            f"seat={seat} opponent={opponent} turns={max_turns} success_at={success_at:g} gold={gold}",
            success_at=success_at,
            gold=gold,
            deadline_s=deadline_s,
        )

    def _opened(self, answer: dict[str, Any]) -> Reply:
        self._chance = random.Random(int(self.task_id))
        self._read: dict[int, list[str]] = {}
        return self._until_ours(answer)

    def respond(self, action: str) -> Reply:
        """The agent's move, and those of the others until it is its turn again."""
        return self._until_ours(self._call("act", action=action))

    def _until_ours(self, answer: dict[str, Any]) -> Reply:
        while "rewards" not in answer:
            player, messages = answer["player"], answer["messages"]
            if player == self._seat:
                return Reply("\n\n".join(messages))
            if self._opponent is None:
                raise RemoteError("protocol", f"it is the turn of player {player} in a game of one player")
            read = self._read.setdefault(player, [])
            read.extend(messages)
            answer = self._call("act", action=str(self._opponent("\n".join(read), self._chance)))
        ours = str(self._seat)
        if ours not in answer["rewards"]:
            raise RemoteError("protocol", f"the game ended without a reward for player {ours}")
        others = [invalid for player, invalid in answer["invalid"].items() if player != ours]
        metrics = {"invalid": float(answer["invalid"].get(ours, False))}
        if others:
            metrics["opponents_invalid"] = float(any(others))
        return self._verdict(answer["rewards"][ours], metrics, answer["reasons"].get(ours, ""))
