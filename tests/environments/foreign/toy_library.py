"""An engine as a library's would be, for tests: a lamp that the right word lights, and words that break it."""

from __future__ import annotations

import os
import time

TASKS = 40


class Lamp:
    """The task's number is the word. `crash`, `hang` and `raise` do to the worker what they say."""

    verbs = ("facts", "tasks", "known", "begin", "act")

    def __init__(self, missing=""):
        self._missing = missing
        self._task = ""

    def warm(self):
        if self._missing:
            __import__(self._missing)

    def facts(self):
        return {"version": "1"}

    def tasks(self):
        # 0 and 20, 1 and 21, ... hold the same
        from environments.foreign.inside.contents import first_of_each

        return first_of_each((str(n), n % (TASKS // 2)) for n in range(TASKS))

    def known(self, task):
        return {"word": task}

    def begin(self, task):
        self._task = task
        return {"messages": [f"say {task}"]}

    def act(self, action):
        if action == "crash":
            os._exit(3)
        if action == "hang":
            time.sleep(60)
        if action == "raise":
            raise ValueError("the lamp is broken")
        if action == self._task:
            return {"reward": 1.0}
        return {"messages": ["dark"]} if action else {"reward": 0.25}
