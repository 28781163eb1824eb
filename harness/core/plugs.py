"""One name form for everything that plugs in: `"module:Name"`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.errors import UnknownNameError, UserError


def resolve(name: str, kind: str = "plug") -> Any:
    """The object behind `"module:Name"`. The current directory is importable, so a file beside the user's spec works.

    Raises UnknownNameError with the nearest right name when the module or the object does not exist.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(f"{kind} {name!r} must have the form 'module:Name'")
    module = load(module_name, kind, attribute)
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = [f"{module_name}:{entry}" for entry in vars(module) if not entry.startswith("_")]
        raise UnknownNameError(kind, name, public) from None


def load(module_name: str, kind: str, attribute: str) -> ModuleType:
    """The module of a plug; UnknownNameError names the nearest one that exists beside it."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (module_name == missing or module_name.startswith(missing + ".")):
            raise  # the module exists and lacks a dependency: its own error says which
        given, near = f"{module_name}:{attribute}", _siblings(module_name, attribute)
        raise UnknownNameError(kind, given, near, f"(there is no module {module_name!r} here)") from None


def construct(name: str, options: Mapping[str, Any], kind: str = "plug") -> Any:
    """An instance of the class behind `"module:Name"`; unknown options are refused with the nearest known one."""
    cls = resolve(name, kind)
    if not callable(cls):
        raise UserError(f"{kind} {name!r} is a {type(cls).__name__}, not a class")
    check_options(cls, options, f"option of {kind} {name}")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind} {name}: {error}") from error


def check_options(maker: Callable[..., Any], options: Mapping[str, Any], kind: str) -> None:
    """UnknownNameError for the first option that `maker` does not take by name."""
    parameters = inspect.signature(maker).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise UnknownNameError(kind, option, parameters)


def _siblings(module_name: str, attribute: str) -> list[str]:
    """Modules that exist beside a missing one, as full plug names."""
    parent, _, _ = module_name.rpartition(".")
    try:
        paths = list(importlib.import_module(parent).__path__) if parent else [str(Path.cwd())]
    except (ImportError, AttributeError):
        return []
    files = [
        file
        for path in paths
        for pattern in ("*.py", *(["*/__init__.py"] if parent else []))
        for file in Path(path).glob(pattern)
    ]
    stems = {file.parent.name if file.stem == "__init__" else file.stem for file in files} - {
        Path(p).name for p in paths
    }
    return [f"{parent}.{stem}:{attribute}" if parent else f"{stem}:{attribute}" for stem in stems]
