"""One AppWorld world that is played: the engine's own class, without what an episode does not need, and guarded."""

from __future__ import annotations

import json
from typing import Any

from appworld import environment
from appworld.apps import model_lib
from appworld.environment import AppWorld
from appworld.task import Task

from environments.appworld.inside.guard import Refused, checked
from environments.appworld.inside.limits import Clock, TimeUpError, bounded_output
from environments.appworld.inside.proxies import block_namespace
from environments.appworld.inside.shell import Shell

OUTPUT = 200_000
"""Characters a block may print; the agent is shown far fewer."""
FAILED = "Execution failed. Traceback:\n"
"""How the engine begins an observation of something that went wrong."""

environment.InteractiveShellEmbed = Shell


class _Start:
    """Stands in for a second copy of the start state in memory, of which an episode asks the home alone."""

    def __init__(self, home: str) -> None:
        self.from_db_home_path = home


class World(AppWorld):  # type: ignore[misc]
    """A world that keeps its state in memory only and runs what the guard lets pass."""

    clock: Clock

    @classmethod
    def open(cls, task_id: str, clock: Clock) -> World:
        """The world of a task at its start."""
        load = Task.load.__func__

        def without_copy(of: type, *given: Any, **named: Any) -> Any:
            task = load(of, *given, **named)
            task._model_collection = _Start(task.models_from_db_home_path)
            return task

        Task.load = classmethod(without_copy)
        try:
            world = cls(task_id, experiment_name="episode", load_ground_truth=False, timeout_seconds=None)
        finally:
            Task.load = classmethod(load)
        world._guard(clock)
        return world

    def _guard(self, clock: Clock) -> None:
        self.clock = clock
        # the guard refuses more than the engine's own check, and earlier
        self.raise_on_unsafe_syntax = self.null_patch_unsafe_execution = False
        self.requester.request = clock.shielded(self.requester.request)
        self.shell.user_ns = block_namespace(self.shell.user_ns, self.random_seed)
        self._started = {app: len(changes) for app, changes in self._tracked().items()}

    def block(self, code: str) -> tuple[str, str]:
        """Run a block: what the agent sees, and the block's status ("ran", "refused", "malformed" or "time")."""
        code = code.strip()
        try:
            tree = checked(code)
        except Refused as refusal:
            return f"{FAILED}{refusal}", "refused"
        except SyntaxError:
            return self.execute(code), "malformed"  # the engine says why, and runs nothing
        self.shell.parse = lambda _: tree
        try:
            return self.clock.timed(self.execute, code), "ran"  # what the block raises may compute when it is shown
        except TimeUpError:
            return f"{FAILED}Execution timed out after {self.clock.seconds:g} seconds.", "time"

    def _shell_run_cell(self, code: str) -> Any:
        with bounded_output(OUTPUT):
            return self.shell.run_cell(code)

    def _tracked(self) -> dict[str, list[Any]]:
        return {
            app: model_lib.CachedDBHandler.get(f"{self.output_db_home_path_in_memory}/{app}.db")[1].changes
            for app in [*self.task.allowed_apps, "admin"]
        }

    def changes(self) -> dict[str, Any]:
        """What has changed since the start: statements per app, and the engine's counts of changes per model."""
        changes = {
            app: json.loads(json.dumps(made[self._started[app] :]))
            for app, made in self._tracked().items()
            if len(made) > self._started[app]
        }
        return {"changes": changes, "hashes": model_lib.ModelHashHandler.data[self.output_db_home_path_in_memory]}

    def close(self) -> None:
        """As the engine does; and drop what the blocks made."""
        super().close()
        self.shell.forget()

    # What an episode does not need

    def initialize(self) -> None:
        """As the engine does, but without closing all worlds: the last is closed, and this one's databases are open."""
        self._execute_preamble()
        self._set_datetime()

    def _prepare_directories(self) -> None:
        """Nothing is written."""

    def _save_state(self, directory: str) -> None:
        """The state is asked for once, at the end."""

    def save_logs(self) -> None:
        """The episode's record is kept outside."""
