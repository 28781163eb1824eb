"""AppWorld's own kinds of dates without the rest of AppWorld, and a clock that stands still.

A player's process holds no application, no database and no evaluator: of the package it loads the one module that
blocks see something of, and the few functions which that module asks for when it is used.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

_HELPERS = {
    "appworld.apps.api_lib": (
        *("parse_time", "parse_date", "parse_datetime", "date_to_string", "datetime_to_string", "time_to_string"),
    ),
    "appworld.common.utils": ("range_plus", "nearest_to"),
}
"""Functions of modules that are not loaded, which dates call."""


def load() -> dict[str, Any]:
    """What a block's namespace has of it: `pendulum`, `Date`, `DateTime`, `Time`."""
    found = importlib.util.find_spec("appworld")
    if found is None or not found.submodule_search_locations:
        raise ImportError("AppWorld is not installed in this interpreter")
    home = Path(next(iter(found.submodule_search_locations)))
    for name in ("appworld", "appworld.common", "appworld.apps"):  # without what their own __init__ imports
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(home.joinpath(*name.split(".")[1:]))]
    dates: Any = importlib.import_module("appworld.common.datetime")
    known = {"DateTime": dates.DateTime, "datetime": datetime, "TItem": Any, "Any": Any}
    for name, functions in _HELPERS.items():
        sys.modules[name] = _helpers(name, home.joinpath(*name.split(".")[1:]).with_suffix(".py"), functions, known)
    importlib.import_module("appworld.common.random")  # asked for when dates are used, and by then out of reach
    return {
        "pendulum": dates.pendulum,
        "Date": dates.VanillaDate,
        "DateTime": dates.VanillaDateTime,
        "Time": dates.VanillaTime,
    }


def _helpers(name: str, file: Path, functions: Sequence[str], known: Mapping[str, Any]) -> ModuleType:
    """A module of those functions alone, from the package's own source."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in functions]
    made = ModuleType(name)
    made.__dict__.update(known)
    exec(compile(tree, str(file), "exec"), made.__dict__)
    return made


def freeze(moment: datetime) -> None:
    """Let time stand still at a moment. The first call looks through all modules for clocks, later ones do not."""
    importlib.import_module("freezegun").freeze_time(moment).start()
