"""The package's own models on databases in memory, with time standing still and an undo that copies memory."""

from __future__ import annotations

import os
import random
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

NOW = datetime(2024, 5, 17, 11, 30)
"""The moment of the whole world, a Friday."""
TODAY = NOW.date().isoformat()
"""Its day: dates in a task's truth are compared by the day."""


class Engine:
    """Every app's models over one set of databases in memory.

    `mark` makes the present contents the base; `undo` goes back to it. A task is written as what changed since the
    base, so thousands of tasks cost no reload of the base. ``root`` is the folder that holds ``data``.
    """

    def __init__(self, root: Path) -> None:
        os.environ["APPWORLD_ROOT"] = str(root)
        from appworld.apps import get_all_apps
        from appworld.apps.api_lib import set_local_date_and_time
        from appworld.apps.model_lib import CachedDBHandler
        from appworld.collections.models import ModelCollection
        from appworld.common.datetime import DateTime
        from appworld.common.utils import import_models_module

        self.apps: list[str] = get_all_apps()
        for app in self.apps:
            import_models_module(app)
        CachedDBHandler.reset()
        self._clock = set_local_date_and_time(NOW)
        random.seed(0)
        self._datetime = DateTime
        self.models: Any = ModelCollection.load(
            to_db_home_path=":memory:base", from_db_home_path=":memory:base", load_apps=self.apps, create_db=True
        )
        self._base: dict[str, sqlite3.Connection] = {}

    def moment(self, value: str | datetime) -> Any:
        """An ISO date or moment in the type that the models want."""
        plain = datetime.fromisoformat(value) if isinstance(value, str) else value
        return self._datetime(plain.year, plain.month, plain.day, plain.hour, plain.minute, plain.second)

    def database(self, app: str) -> Any:
        """The package's handle on one app's database."""
        return self.models[app].SQLModel.db

    def changes(self, app: str) -> list[Any]:
        """The SQL that changed one app since the last `mark` or `undo`, as the engine writes it to a task's folder."""
        changes: list[Any] = self.database(app).tracker.changes
        return changes

    def mark(self) -> None:
        """Make the present contents the base to which `undo` returns."""
        for app in self.apps:
            self._base[app] = sqlite3.connect(":memory:")
            self.database(app).connection.backup(self._base[app])
            self.database(app).tracker.reset()

    def undo(self) -> None:
        """Go back to the base, app by touched app."""
        for app in self.apps:
            if self.changes(app):
                self._base[app].backup(self.database(app).connection)
                self.database(app).tracker.reset()

    def save_base(self, folder: Path) -> None:
        """Write the base as one database file per app."""
        folder.mkdir(parents=True)
        for app, connection in self._base.items():
            with sqlite3.connect(folder / f"{app}.db") as target:
                connection.backup(target)
            target.close()

    def close(self) -> None:
        """Let time run again and drop the package's caches of databases and model hashes."""
        from appworld.apps.api_lib import unset_local_date_and_time
        from appworld.apps.model_lib import CachedDBHandler, ModelHashHandler

        unset_local_date_and_time(self._clock)
        CachedDBHandler.reset()
        ModelHashHandler.reset()
        for connection in self._base.values():
            connection.close()
