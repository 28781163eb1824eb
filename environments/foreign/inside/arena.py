"""A game of TextArena, as a worker process runs it: the target of `environments.isolation.pool`."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from typing import Any

from environments.foreign.inside.contents import first_of_each, plain


class Game:
    """One game at a time, by its seed. Every source of chance is the process's own, and seeded when a game begins.

    name: the game's id in TextArena's registry; players: how many play; given: arguments of its class.
    """

    verbs = ("facts", "tasks", "known", "begin", "act")

    def __init__(self, name: str, players: int, given: dict[str, Any]) -> None:
        self._name, self._players, self._given = name, players, given
        self._fresh: Any = None
        self._game: Any = None

    # A worker's life

    def warm(self) -> None:
        """Import the library and make the game: what it fetches, it fetches here."""
        import textarena

        with contextlib.redirect_stdout(sys.stderr):
            game = textarena.make(self._name, **self._given)
            # Its wrappers write the whole history into every observation; here the history is the conversation.
            while isinstance(game, textarena.Wrapper):
                game = game.env
        self._fresh = game

    def facts(self) -> dict[str, Any]:
        """The library's version."""
        import textarena

        return {"version": textarena.__version__}

    def tasks(self, seeds: int, apart: bool) -> list[dict[str, str]]:
        """The seeds 0, 1, ... that open the game in different ways; all of them where the seed itself counts
        (`apart`)."""
        described = ((str(seed), self.known(str(seed))) for seed in range(seeds))
        return first_of_each((seed, [known, seed if apart else ""]) for seed, known in described)

    def known(self, task: str) -> dict[str, Any]:
        """How a seed opens the game: what the first player reads, the game's state, the attributes of its class."""
        player, opening = self._reset(int(task))
        own = {name: value for name, value in vars(self._game).items() if name != "state"}
        return {
            "player": player,
            "opening": [text for _, text, _ in opening],
            "state": plain(self._game.state.game_state),
            "game": plain(own),
        }

    # An episode

    def begin(self, task: str) -> dict[str, Any]:
        """Open the game of a seed: whose turn it is, and what that player reads."""
        return self._turn(*self._reset(int(task)))

    def act(self, action: str) -> dict[str, Any]:
        """One move of the player whose turn it is."""
        with contextlib.redirect_stdout(sys.stderr):
            done, _ = self._game.step(action=action)
        if not done:
            return self._turn(*self._game.get_observation())
        rewards, infos = self._game.close()
        return {
            "rewards": {str(player): float(reward) for player, reward in (rewards or {}).items()},
            "reasons": {str(player): str(info.get("reason") or "") for player, info in infos.items()},
            "invalid": {str(player): bool(info.get("invalid_move")) for player, info in infos.items()},
        }

    def _reset(self, seed: int) -> tuple[int, list[Any]]:
        self._game = copy.deepcopy(self._fresh)  # some games carry over what the last one left
        random.seed(seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(seed)
        with contextlib.redirect_stdout(sys.stderr):
            self._game.reset(num_players=self._players, seed=seed)
        player, observation = self._game.get_observation()
        return player, observation

    def _turn(self, player: int, observation: Any) -> dict[str, Any]:
        """What a player reads: the game's messages and the other players' moves, without its own."""
        names = self._game.state.role_mapping
        read = [
            text if kind.name != "PLAYER_ACTION" else f"[{names.get(author, f'Player {author}')}] {text}"
            for author, text, kind in observation
            if not (kind.name == "PLAYER_ACTION" and author == player)
        ]
        return {"player": player, "messages": read}
