"""One AppWorld world that is played: the engine's own class without a shell, and without what an episode does not
need. Blocks run in another process; here their API calls are answered."""

from __future__ import annotations

import json
import resource
from typing import Any

from appworld import environment
from appworld.apps import model_lib
from appworld.environment import AppWorld
from appworld.requester import Requester
from appworld.task import Task

from environments.appworld.inside.apis_proxy import plain
from environments.appworld.inside.routes import BadArgument, Routes, size

KNOWN_ERRORS = (TypeError, ValueError, AttributeError, RuntimeError, OverflowError, RecursionError, MemoryError)
"""Types of errors that a block sees as they are; all others are Exceptions to it."""


class _NoShell:
    """Stands in for the engine's shell: nothing runs here."""

    def __init__(self, **_: Any) -> None:
        self.user_ns: dict[str, Any] = {}


environment.InteractiveShellEmbed = _NoShell


class _Start:
    """Stands in for a second copy of the start state in memory, of which an episode asks the home alone."""

    def __init__(self, home: str) -> None:
        self.from_db_home_path = home


class World(AppWorld):  # type: ignore[misc]
    """A world that keeps its state in memory only and answers API calls."""

    routes: Routes
    _sent: int
    _started: dict[str, int]

    @classmethod
    def open(cls, task_id: str, routes: Routes) -> World:
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
        world.routes, world._sent = routes, 0
        world._started = {app: len(changes) for app, changes in world._tracked().items()}
        return world

    def facts(self) -> dict[str, Any]:
        """Of the task: its `instruction`, `supervisor`, `moment`, and the `apps` it has with what they are for."""
        return {
            "instruction": self.task.instruction,
            "supervisor": dict(self.task.supervisor),
            "moment": self.task.datetime.isoformat(),
            "apps": dict(self.task.app_descriptions),
            "allowed": [app for app in self.requester.apps if app in self.routes.apis],
        }

    def answer(self, app: Any, name: Any, arguments: Any, first: bool) -> dict[str, Any]:
        """Answer a block's API call, whatever was asked: its `value`, or an `error` as the type's name and the text.

        first: whether it is the block's first, for the engine limits the calls of a block. Also the `cpu_s` it took,
        whether it was `counted` as a call, and whether the task is `completed` where that may have changed.
        """
        began = _cpu()
        if first:
            self.requester.reset_request_count()
        before = len(self.requester.requests)
        reply: dict[str, Any] = {}
        try:
            self._sent += size(arguments, self._sent)
            kept = self.routes.checked(app, name, arguments)
            if app not in self.requester.apps:
                raise BadArgument(f"there is no API {app}.{name}")
            reply["value"] = plain(self.requester.request(app, name, **kept))
        except Exception as error:  # the agent's: it asked for this
            kind = type(error).__name__ if type(error) in KNOWN_ERRORS else "Exception"
            reply["error"] = [kind, _text(error)]
        reply["counted"] = len(self.requester.requests) > before
        if app == "supervisor":  # the agent ends its task by an API call, so only after such is it worth asking
            reply["completed"] = self._is_completed(name == "complete_task" and "value" in reply)
        return reply | {"cpu_s": _cpu() - began}

    def _is_completed(self, likely: bool) -> bool:
        """Whether the task is. likely: whether a call just ended it: an odd answer (a NaN) cannot be shown again."""
        try:
            return bool(self.task_completed())
        except Exception:
            return likely

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

    # What an episode does not need

    def initialize(self) -> None:
        """As the engine does, but without closing all worlds: the last is closed, and this one's databases are open."""
        self._execute_preamble()
        self._set_datetime()

    def _execute_preamble(self) -> None:
        """A requester as the engine makes it, and no collection of functions over it."""
        self.requester = Requester(
            to_db_home_path=self.models_to_db_home_path,
            from_db_home_path=self.models_from_db_home_path,
            date_and_time=self.task.datetime,
            random_seed=self.random_seed,
            show_api_response_schemas=self.show_api_response_schemas,
            load_apps=self.task.allowed_apps,
            raise_on_failure=self.raise_on_failure,
            max_num_requests=self.max_api_calls_per_interaction,
        )
        self.apis = self.requester  # closing the world closes it

    def _prepare_directories(self) -> None:
        """Nothing is written."""

    def _save_state(self, directory: str) -> None:
        """The state is asked for once, at the end."""

    def save_logs(self) -> None:
        """The episode's record is kept outside."""


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:
        return "(the text of this error cannot be made)"


def _cpu() -> float:
    """Seconds of processor time so far; the engine freezes other clocks."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
