"""An environment whose conversations outgrow a small window."""

from __future__ import annotations

import gymnasium

from environments.text import Reply, TextEnv, over


class Long(TextEnv):
    """Solved when the bytes of everything that was said add up to an even number, which a random policy does by chance;
    told after `turns` turns."""

    idle_reward = None

    def __init__(self, turns: int = 5) -> None:
        tasks = {split: [f"{split}-{n}" for n in range(count)] for split, count in (("train", 8), ("test", 4))}
        super().__init__(tasks, max_turns=turns, version="1")
        self.total = 0

    def open(self, task_id: str) -> Reply:
        self.total = 0
        return Reply(f"guess {task_id[-1]} to 9")

    def respond(self, action: str) -> Reply:
        self.total += sum(action.encode())
        return over(self.total % 2 == 0) if self.turn == self.max_turns else Reply("say more: nothing is known yet")

    def gold(self, task_id: str) -> list[str]:
        return ["2"] * self.max_turns


gymnasium.register("Long-v0", Long, order_enforce=False, disable_env_checker=True)
