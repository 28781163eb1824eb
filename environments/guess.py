"""Guess-v0: find a secret number by "higher" and "lower" replies; the environment to read first.

environment  guess 3 to 9     agent  6
environment  higher           agent  8
environment  lower            agent  7
environment  yes              (the task ends; reward 1)
"""

from __future__ import annotations

from environments.text import BadAction, Reply, TextEnv, over

NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana")


class Guess(TextEnv):
    """A task is a window of `size` numbers and a secret in it, e.g. `3-9:7`; halving finds it within the turns.

    The habitual mistake is to count up from the bottom, which finds the lowest `max_turns` secrets of a window (3 of
    7). Every window has one secret in dev, two in test and the others in train, so that all its numbers are seen in
    training. What pays in training is then never to guess a secret that is held out: a policy trained long enough on
    these tasks gets worse on the others.

    With `players`, somebody asks (`Ann 3-9:7`, "Ann: guess 3 to 9"), and each player keeps other secrets out of the
    training: one player's of every secret is in dev, another's in test. All secrets are rewarded in training, and a
    policy that learns to halve does so for everybody.
    """

    def __init__(self, size: int = 7, windows: int = 12, max_turns: int | None = None, players: int = 0) -> None:
        """size: numbers in a window, at least 4. windows: how many windows, starting at 1, 2, ...

        max_turns: by default what halving needs. players: 0, or 3 to 8.
        """
        if size < 4 or windows < 1:
            raise ValueError(f"Guess needs size >= 4 and windows >= 1, got size {size} and windows {windows}")
        if players and not 3 <= players <= len(NAMES):
            raise ValueError(f"Guess needs no players or 3 to {len(NAMES)} of them, got {players}")
        tasks: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
        self._places: dict[str, tuple[int, int, int]] = {}
        for low in range(1, windows + 1):
            for secret in range(low, low + size):
                for player, name in enumerate(NAMES[:players] or [""]):
                    task_id = f"{name} {low}-{low + size - 1}:{secret}".strip()
                    self._places[task_id] = (low, low + size - 1, secret)
                    # for one window this runs through all residues once; the 3 moves the held-out secret between
                    # windows
                    residue = (low + secret + player) % players if players else (3 * low + secret) % size
                    held_out = 2 if players else 3
                    tasks["dev" if residue == 0 else "test" if residue < held_out else "train"].append(task_id)
        turns = size.bit_length() if max_turns is None else max_turns
        version = f"1 size={size} windows={windows} max_turns={turns}" + (f" players={players}" if players else "")
        super().__init__(tasks, max_turns=turns, version=version)

    def open(self, task_id: str) -> Reply:
        """The window, and who asks."""
        low, high, _ = self._places[task_id]
        name, _, _ = task_id.rpartition(" ")
        return Reply(f"{name}: guess {low} to {high}" if name else f"guess {low} to {high}")

    def respond(self, action: str) -> Reply:
        """Higher, lower, or the end."""
        try:
            guess = int(action)
        except ValueError:
            raise BadAction("send one whole number") from None
        secret = self._places[self.task_id][2]
        return over(True, "yes") if guess == secret else Reply("higher" if guess < secret else "lower")

    def gold(self, task_id: str) -> list[str]:
        """Halving what is left."""
        self.split_of(task_id)
        low, high, secret = self._places[task_id]
        guesses: list[int] = []
        while not guesses or guesses[-1] != secret:
            guesses.append((low + high) // 2)
            low, high = (guesses[-1] + 1, high) if guesses[-1] < secret else (low, guesses[-1] - 1)
        return [str(guess) for guess in guesses]

    def habit(self, task_id: str) -> list[str]:
        """Counting up from the bottom."""
        self.split_of(task_id)
        low, _, secret = self._places[task_id]
        return [str(guess) for guess in range(low, min(secret, low + self.max_turns - 1) + 1)]

    def answer(self, task_id: str) -> str:
        """The secret."""
        self.split_of(task_id)
        return str(self._places[task_id][2])
