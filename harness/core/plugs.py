"""One name form for everything that plugs in, `"module:Name"`: found, given its options (checked against its own type
hints), and held to its contract."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.core.errors import UnknownNameError, UserError

NONE = "none"
"""How TOML, which has no null, says None where text would be out of place."""


# ---------------------------------------------------------------- finding


def resolve(name: str, kind: str = "plug", contract: type | None = None) -> Any:
    """The object named `"module:Name"`. The current directory is importable, so a file beside the user's spec works.

    Raises UnknownNameError with the nearest right name when the module or the object does not exist; with a
    `contract`, only classes that could keep it are near.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(f"{kind} {name!r} must have the form 'module:Name'")
    module = load(module_name, kind, attribute)
    try:
        return getattr(module, attribute)
    except AttributeError:
        offered = [
            entry for entry, value in vars(module).items() if not entry.startswith("_") and _fits(value, contract)
        ]
        raise UnknownNameError(kind, name, [f"{module_name}:{entry}" for entry in offered]) from None


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


def _siblings(module_name: str, attribute: str) -> list[str]:
    """Modules and packages that exist beside a missing one, as full plug names."""
    parent, _, _ = module_name.rpartition(".")
    try:
        folders = [Path(path) for path in importlib.import_module(parent).__path__] if parent else [Path.cwd()]
    except (ImportError, AttributeError):
        return []
    patterns = ("*.py", "*/__init__.py") if parent else ("*.py",)
    files = [file for folder in folders for pattern in patterns for file in folder.glob(pattern)]
    stems = {file.parent.name if file.stem == "__init__" else file.stem for file in files}
    stems -= {folder.name for folder in folders}
    return [f"{parent}.{stem}:{attribute}" if parent else f"{stem}:{attribute}" for stem in stems]


# ---------------------------------------------------------------- making


def construct(name: str, options: Mapping[str, Any], kind: str = "plug", contract: type | None = None) -> Any:
    """An instance of the class named `"module:Name"`, held to `contract` where one is given (see `completed`).

    Unknown options are refused with the nearest known one, and values of the wrong type with what is right.
    """
    cls = resolve(name, kind, contract)
    if not callable(cls):
        raise UserError(f"{kind} {name!r} is a {type(cls).__name__}, not a class")
    given = checked_options(cls, options, f"{kind} {name}")
    try:
        made = cls(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"{kind} {name}: {error}") from error
    return made if contract is None else completed(made, contract, f"{kind} {name}")


def checked_options(maker: Callable[..., Any], options: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Options as `maker` takes them by name, checked against its type hints: a table becomes the dataclass that is
    wanted, `"none"` becomes None where text would be out of place. UnknownNameError for an option that does not
    exist, UserError for a value of the wrong type."""
    parameters = inspect.signature(maker).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                raise UnknownNameError(f"option of {owner}", option, parameters)
    hints = _hints(maker)
    return {
        option: _checked(value, hints.get(option, Any), f"option {option} of {owner}")
        for option, value in options.items()
    }


def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    plain_class = inspect.isclass(maker) and not dataclasses.is_dataclass(maker)
    try:
        return typing.get_type_hints(maker.__init__ if plain_class else maker)
    except (NameError, TypeError, AttributeError):
        return {}  # hints that cannot be read at run time promise nothing


def _checked(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    record = next((arm for arm in _arms(hint) if inspect.isclass(arm) and dataclasses.is_dataclass(arm)), None)
    if record is not None and isinstance(value, Mapping):
        given = checked_options(record, value, where)
        try:
            return record(**given)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}") from error
    if record is not None and isinstance(value, record):
        return value
    return _validated(value, hint, where)


def _validated(value: Any, hint: Any, where: str) -> Any:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (
        Exception
    ):  # a hint that pydantic cannot express (a dataclass beside others, say) is left to the class itself
        return value
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = None  # an object, given from Python
    try:
        # As JSON, since a list of TOML may stand for a tuple; strictly, since "8" is no number.
        return adapter.validate_python(value, strict=True) if text is None else adapter.validate_json(text, strict=True)
    except ValidationError as error:
        if value == NONE and type(None) in _arms(hint):
            return None
        if all(typing.get_origin(arm) is typing.Literal for arm in _arms(hint)) and isinstance(value, str):
            allowed = [str(entry) for arm in _arms(hint) for entry in typing.get_args(arm)]
            option = where.split(" ")[1]
            raise UnknownNameError(option, value, allowed, f"({where})") from None
        wrong = error.errors()[0]["msg"]
        raise UserError(f"{where} is {value!r}: {wrong[:1].lower()}{wrong[1:]}") from None


def _arms(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the hint alone where it is none."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


# ---------------------------------------------------------------- contracts


def completed(made: Any, contract: type, what: str) -> Any:
    """`made`, with the contract's own defaults where it is silent: a class need not inherit a contract to keep it.

    Raises UserError naming the members without default that it lacks.
    """
    names = list(declared(contract))
    silent = [name for name in names if not hasattr(made, name)]
    lacking = [name for name in silent if name in required(contract)]
    if lacking:
        raise UserError(
            f"{what} lacks {', '.join(lacking)} ({contract.__module__}.{contract.__name__} says what they do)"
        )
    return _completion(made, contract, [name for name in names if name not in silent]) if silent else made


def declared(contract: type) -> Iterator[str]:
    """The names a contract declares, itself or in the contracts it is put together from: its public members, and the
    special methods it requires."""
    names = dict.fromkeys(name for part in _parts(contract) for name in [*vars(part), *inspect.get_annotations(part)])
    special: frozenset[str] = getattr(contract, "__abstractmethods__", frozenset())
    return (name for name in names if not name.startswith("_") or name in special)


def required(contract: type) -> set[str]:
    """The declared names that have no default: abstract methods, and attributes that are annotated only."""
    annotated = {name for part in _parts(contract) for name in inspect.get_annotations(part) if name not in vars(part)}
    return {*getattr(contract, "__abstractmethods__", ()), *annotated}


def _parts(contract: type) -> list[type]:
    """A contract and the contracts it is put together from."""
    return [part for part in contract.__mro__ if part not in (object, typing.Protocol, typing.Generic)]


def original(made: Any) -> Any:
    """What `completed` was given."""
    return getattr(made, "_completed", made)


def _completion(made: Any, contract: type, names: list[str]) -> Any:
    """An instance of the contract that answers by `made` where that has an answer, and by the contract's defaults
    elsewhere."""

    def member(name: str) -> property:
        return property(lambda self: getattr(made, name))

    members: dict[str, Any] = {name: member(name) for name in names if not name.startswith("_")}
    if "__call__" in names:
        members["__call__"] = lambda self, *given, **options: made(*given, **options)
    members |= {
        "__init__": lambda self: None,
        "__getattr__": lambda self, name: getattr(made, name),
        "__repr__": lambda self: repr(made),
        "_completed": made,
    }
    return type(type(made).__name__, (contract,), members)()


def _fits(value: Any, contract: type | None) -> bool:
    """Whether a module's entry may be what was meant."""
    if contract is None:
        return True
    methods = getattr(contract, "__abstractmethods__", ())
    return inspect.isclass(value) and not inspect.isabstract(value) and all(hasattr(value, name) for name in methods)
