"""The proxy of the engine's APIs: `apis.<app>.<api>(...)`, and nothing else of collection, requester or server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from environments.appworld.inside.runtime_guard import BLOCK_MODULE, Untouched

OF_THE_REQUESTER = frozenset({"client", "show", "track"})
"""Arguments that the engine's requester takes for itself: which client answers, whether the request counts. No API has
a parameter so called."""

UNDOCUMENTED = frozenset({"admin"})
"""Apps that the engine's collection holds and its API docs do not: the bank, which would credit any card named to
it."""

DATE = "$date"
"""The key under which a date travels to the engine."""

DATES = frozenset({"date", "datetime", "time"})


class Collection(Untouched):
    """Read-only names, as attributes and as keys. Each collection has a class of its own that holds them."""

    __slots__ = ()
    _missing: Callable[[str], str]
    _members: Mapping[str, Any]

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # Python itself asks, and expects this error where there is none
            raise AttributeError(name)
        raise Exception(type(self)._missing(name))

    def __getitem__(self, name: str) -> Any:
        return type(self)._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(type(self)._members))

    def __len__(self) -> int:
        return len(type(self)._members)

    def __contains__(self, name: object) -> bool:
        return name in type(self)._members

    def keys(self) -> list[str]:
        """The names."""
        return list(type(self)._members)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


def apis_proxy(apis: Mapping[str, Mapping[str, Callable[..., Any]]]) -> Any:
    """What a block knows as `apis`. apis: the engine's collection (or any mapping of apps to mappings of functions).

    Arguments and results are plain data. Whatever an API raises arrives as an error of the same text that holds no
    object of the engine's.
    """
    apps = {
        app: _collection(app, {name: _call(app, name, function) for name, function in functions.items()}, functions)
        for app, functions in apis.items()
        if not app.startswith("_") and app not in UNDOCUMENTED
    }
    return _collection("apis", apps, apis)


def _collection(name: str, members: Mapping[str, Any], engine: Mapping[str, Any]) -> Any:
    template = getattr(type(engine), "error_message", "{key!r} is not among the names of " + name)

    def missing(key: str) -> str:
        return "422: " + template.replace("{key}", key).replace("{key!r}", repr(key))

    shown = {key: staticmethod(value) for key, value in members.items()}
    return type(
        name, (Collection,), shown | {"__slots__": (), "_missing": staticmethod(missing), "_members": members}
    )()


def _call(app: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **parameters: Any) -> Any:
        for parameter in parameters:
            if parameter.startswith("_") or parameter in OF_THE_REQUESTER:
                raise TypeError(f"{parameter!r} is no parameter of {app}.{name}")
        try:
            return plain(function(*arguments, **{key: plain(value) for key, value in parameters.items()}))
        except Exception as error:
            clean = _without_engine(error)
        raise clean  # out here, so that no context leads to the engine's frames

    call.__name__ = call.__qualname__ = name
    return call


def _without_engine(error: Exception) -> Exception:
    """An error of the same text that holds no object of the engine's; of the same type where that is a plain one."""
    kind = type(error)
    if kind in (TypeError, ValueError, AttributeError, RuntimeError, OverflowError, RecursionError, MemoryError):
        return kind(str(error))
    return Exception(str(error))


def plain(value: Any) -> Any:
    """A copy of JSON-like data in plain types; dates pass. TypeError in the json module's words for what is neither."""
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if issubclass(kind, dict):
        return {plain(key): plain(entry) for key, entry in dict.items(value)}
    for base in (list, tuple, set, frozenset):
        if issubclass(kind, base):
            copied = [plain(entry) for entry in base.__iter__(value)]
            return copied if base is list else base(copied)
    for text_or_number, converted in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if issubclass(kind, text_or_number):
            return converted(value)
    if kind.__module__ != BLOCK_MODULE and DATES & {
        base.__name__ for base in kind.__mro__ if base.__module__ == "datetime"
    }:
        return value
    raise TypeError(f"Object of type {kind.__name__} is not JSON serializable")


def on_the_wire(value: Any) -> Any:
    """Plain data as JSON has it; a date is an object of the key DATE that holds the name of its type and its text."""
    if isinstance(value, dict):
        return {key: on_the_wire(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [on_the_wire(entry) for entry in value]
    if isinstance(value, set | frozenset):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    if value is None or isinstance(value, str | int | float):
        return value
    return {DATE: [type(value).__name__, str(value)]}
