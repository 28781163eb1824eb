"""The engine's databases without needless work: what is the same for a whole process, or for two states, is done once.

AppWorld copies the databases of all apps for every state it opens, and finds out anew what a connection is each time it
turns from one state to another, hundreds of times in an evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from appworld.apps import get_all_apps, model_lib
from appworld.apps.api_lib import set_local_date_and_time, set_local_dbs
from appworld.apps.model_lib import CachedDBHandler, Database, get_db_home_path

_KNOWN, _SHARED = "_known_details", "_shared"
"""Notes left on SQLAlchemy's engines."""
BASE = ":memory:base"
Entry = tuple[Any, Any]
"""What the engine keeps of a database: SQLAlchemy's engine and the tracker of changes."""


def install() -> None:
    """Ask what a connection is once in its life, and freeze the time for the whole of this process.

    With the time frozen already, the engine's own freezing for each world only sets another time; else it searches
    every module for clocks.
    """
    find = Database._get_engine_to_details

    def details(engine: Any) -> Any:
        if _KNOWN not in engine.__dict__:
            engine.__dict__[_KNOWN] = find(engine)
        return engine.__dict__[_KNOWN]

    Database._get_engine_to_details = staticmethod(details)
    set_local_date_and_time(datetime(2024, 1, 1))


def share(task_id: str, start: Path, changed: Iterable[str]) -> None:
    """Open a task's start state for a judge, which only reads.

    What is as in the base databases is one copy for all tasks, and the end state uses the start's copy of what the
    episode left alone. start: the folder of the start state; changed: apps the episode changed.
    """
    before = get_db_home_path(storage_type="memory", type="task_input", task_id=task_id)
    after = get_db_home_path(storage_type="memory", type="task_output", task_id=task_id)
    apps = get_all_apps()
    for app in apps:
        file = start / f"{app}.jsonl"
        if CachedDBHandler.get(f"{before}/{app}.db") is None and not (file.is_file() and file.stat().st_size):
            _share(_base(app), before, app)
    set_local_dbs(before, str(start), apps)
    for app in set(apps) - set(changed):
        _share(CachedDBHandler.cache[f"{before}/{app}.db"], after, app)


def _base(app: str) -> Entry:
    path = f"{BASE}/{app}.db"
    if CachedDBHandler.get(path) is None:
        disk = get_db_home_path(storage_type="disk", type="base")
        CachedDBHandler.set(path, *model_lib.get_db_args(path, f"{disk}/{app}.db"))
    known: Entry = CachedDBHandler.cache[path]
    return known


def _share(entry: Entry, home: str, app: str) -> None:
    """The same database under another home, which its records will name as theirs."""
    engine, tracker = entry
    _, _, _, storage, connection = Database._get_engine_to_details(engine)
    other = engine.execution_options()  # an engine of its own over the same connection
    other.__dict__[_SHARED] = True
    path = f"{home}/{app}.db"
    other.__dict__[_KNOWN] = (f"sqlite:///{path}", path, home, storage, connection)
    CachedDBHandler.set(path, other, tracker)


def forget(task_id: str, which: str) -> None:
    """Close a state's databases (`task_input`, `task_output`), but for those it shares."""
    home = get_db_home_path(storage_type="memory", type=which, task_id=task_id)
    for path in [path for path in CachedDBHandler.cache if path.startswith(f"{home}/")]:
        if _SHARED in CachedDBHandler.cache[path][0].__dict__:
            del CachedDBHandler.cache[path]
    CachedDBHandler.reset(f"{home.removeprefix(':memory:')}/")
