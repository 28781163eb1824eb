"""What a policy's block sees: read-only proxies of modules, its own built-ins, and the run-time half of the guard.

Every namespace belongs to one episode. Nothing in it leads to a real module, to the interpreter's built-ins or to the
engine by attributes that `guard` lets through, and nothing in it can be changed but what the block made itself.
"""

from __future__ import annotations

import builtins
import collections
import copy
import dataclasses
import enum
import functools
import importlib
import random
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from environments.appworld.inside.apis_proxy import apis_proxy
from environments.appworld.inside.guard import READ, SUPER, WRITE
from environments.appworld.inside.names import BUILTINS, INTERNALS, MODULES, UNAVAILABLE, WATCHED
from environments.appworld.inside.runtime_guard import (
    BLOCK_MODULE,
    ByStatement,
    RuntimeGuard,
    Untouched,
    free,
    plain_name,
)

FROM_C = frozenset({"_strptime", "time", "unicodedata", "warnings"})
"""Modules that C functions import in the name of the frame that called them; they then read sys.modules, whatever they
got."""
for _name in FROM_C:
    importlib.import_module(_name)


class ModuleProxy(Untouched):
    """A read-only object that shows some names of a module. Each proxy has a class of its own that holds them."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name!r} of {type(self).__name__!r} is not available here")

    def __repr__(self) -> str:
        return f"<module {type(self).__name__!r}>"


def module_proxy(name: str, members: Mapping[str, Any]) -> ModuleProxy:
    """A proxy that shows these members. staticmethod keeps functions from turning into methods of the proxy."""
    shown = {key: staticmethod(value) for key, value in members.items()}
    made: ModuleProxy = type(name, (ModuleProxy,), {"__slots__": (), **shown})()
    return made


def block_namespace(preamble: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """The namespace for a policy's blocks.

    preamble: the shell's namespace after the engine's own preamble, or {} without an engine; what it imports is there
    under the same names, as proxies. seed: of the block's `random`, which is a stream of its own.
    """
    namespace: dict[str, Any] = {"__name__": BLOCK_MODULE}
    guard = RuntimeGuard(namespace)
    modules = _modules(preamble, guard, seed)
    for name in ("calendar", "datetime", "itertools", "json", "math", "pendulum", "random", "re"):
        if name in modules:
            namespace[name] = modules[name]
    for module, names in PREAMBLE.items():
        for name in names:
            if module in modules:
                namespace[name] = getattr(modules[module], name)
    namespace |= {name: preamble[name] for name in ("Date", "DateTime", "Time") if name in preamble}
    if "apis" in preamble:
        namespace["apis"] = apis_proxy(preamble["apis"])
    namespace["__builtins__"] = _builtins(preamble, guard, modules)
    _show(guard, namespace.values(), namespace["__builtins__"].values())
    for proxy in modules.values():
        _show(guard, (getattr(type(proxy), name) for name in vars(type(proxy)) if not name.startswith("__")))
    return namespace


def _show(guard: RuntimeGuard, *collections_of_values: Iterable[Any]) -> None:
    for values in collections_of_values:
        guard.shown.update(value for value in values if isinstance(value, type))


PREAMBLE = {
    "collections": ("Counter", "defaultdict"),
    "collections.abc": ("Iterator",),
    "copy": ("deepcopy",),
    "functools": ("reduce",),
    "pendulum": ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY"),
}
"""Names that the engine's preamble imports from modules."""


def _modules(preamble: Mapping[str, Any], guard: RuntimeGuard, seed: int) -> dict[str, ModuleProxy]:
    replaced = _replacements(guard, seed)
    made: dict[str, ModuleProxy] = {}
    for name, offered in sorted(MODULES.items(), reverse=True):  # collections.abc before collections
        module: Any = preamble.get(name)
        if not isinstance(module, types.ModuleType):
            try:
                module = importlib.import_module(name)
            except ModuleNotFoundError:  # pendulum, where the engine is not installed
                continue
        members = {key: getattr(module, key) for key in offered if hasattr(module, key)} | replaced.get(name, {})
        if name == "collections":
            members["abc"] = made["collections.abc"]
        made[name] = module_proxy(name, members)
    return made


def _builtins(preamble: Mapping[str, Any], guard: RuntimeGuard, modules: Mapping[str, ModuleProxy]) -> dict[str, Any]:
    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0 and name in modules:
            return modules[name] if fromlist else modules[name.partition(".")[0]]
        if level == 0 and name in FROM_C:
            return None
        raise ImportError(f"the module {name!r} is not available here")

    shown = {name: getattr(builtins, name) for name in BUILTINS}
    shown |= {name: _unavailable(name, why) for name, why in UNAVAILABLE.items()}
    shown |= {
        "print": preamble.get("print", print),
        "input": preamble.get("input", _unavailable("input", "decide yourself")),
    }
    for method in (guard.getattr, guard.hasattr, guard.setattr, guard.delattr, guard.vars, guard.dir):
        shown[method.__name__] = free(method)
    shown |= {
        "type": guard.type,
        "__import__": import_,
        "__build_class__": free(guard.build_class),
        READ: free(guard.read),
        WRITE: free(guard.write),
        SUPER: free(guard.super),
        "__name__": "builtins",
    }
    return shown


def _unavailable(name: str, why: str) -> Callable[..., NoReturn]:
    def unavailable(*arguments: Any, **keywords: Any) -> NoReturn:
        raise NameError(f"{name}() is not available here: {why}")

    return unavailable


def _replacements(guard: RuntimeGuard, seed: int) -> dict[str, dict[str, Any]]:
    """Safe versions of what looks up attributes by text, changes what is not the block's own, or depends on the
    time."""
    stream = Random(seed)
    return {
        "collections": {"namedtuple": _namedtuple},
        "copy": {"copy": free(copy.copy), "deepcopy": _deepcopy},
        "dataclasses": {"dataclass": _dataclass(guard)},
        "enum": {"Enum": Enum, "IntEnum": IntEnum, "StrEnum": StrEnum},
        "functools": {"total_ordering": _total_ordering(guard), "wraps": _wraps(guard)},
        "operator": {"attrgetter": _attrgetter(guard)},
        "random": {name: getattr(stream, name) for name in MODULES["random"] - {"Random"}} | {"Random": Random},
        "time": {"sleep": _sleep},
        "typing": {"NamedTuple": ByStatement(typing.NamedTuple), "TypedDict": ByStatement(typing.TypedDict)},
    }


class Random(random.Random):
    """Random numbers that are the same in every run: no seed means 0."""

    def seed(self, a: Any = None, version: int = 2) -> None:
        """As in the standard library, but no seed means 0."""
        super().seed(0 if a is None else a, version)


class Members(enum.EnumMeta):
    """Enumerations by class statement only: the functional form takes names as text, special ones too."""

    def __call__(cls, value: Any, *more: Any, **keywords: Any) -> Any:
        if more or keywords:
            raise TypeError("write an enumeration as a class statement")
        return super().__call__(value)


class Enum(enum.Enum, metaclass=Members):
    """`enum.Enum`, by class statement only."""


class IntEnum(enum.IntEnum, metaclass=Members):
    """`enum.IntEnum`, by class statement only."""


class StrEnum(enum.StrEnum, metaclass=Members):
    """`enum.StrEnum`, by class statement only."""


def _namedtuple(
    typename: str, field_names: str | Iterable[str], *, rename: bool = False, defaults: Iterable[Any] | None = None
) -> Any:
    given = field_names.replace(",", " ").split() if isinstance(field_names, str) else field_names
    names = [str.__str__(str(name)) for name in given]
    for name in names:
        if name in INTERNALS | WATCHED:
            raise ValueError(f"a field may not be called {name!r}; choose another name")
    typename = str.__str__(str(typename))
    return collections.namedtuple(typename, names, rename=bool(rename), defaults=defaults, module=BLOCK_MODULE)


def _dataclass(guard: RuntimeGuard) -> Callable[..., Any]:
    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        if not issubclass(type(cls), type):
            raise TypeError("dataclass() is for classes")
        _check_fields(guard.write(cls))
        plain = {str.__str__(name): bool(value) for name, value in options.items()}
        return guard.adopt(dataclasses.dataclass(cls, **plain))

    return dataclass


def _check_fields(cls: type) -> None:
    """The names of fields become code: they are those that the class statement wrote, and fields are the library's."""
    held = type.__dict__["__dict__"].__get__(cls)
    names = list(held.get("__annotations__", ()))
    if not all(type(name) is str and name.isidentifier() for name in names):
        raise TypeError("the names of fields are those of the class statement")
    for name, value in held.items():
        if issubclass(type(value), dataclasses.Field) and type(value) is not dataclasses.Field:
            raise TypeError(f"{name} is no field of dataclasses")


def _deepcopy(value: Any, memo: None = None) -> Any:
    """`copy.deepcopy` without a memo of the caller's, which would say what functions and methods are bound to."""
    if memo is not None:
        raise TypeError("deepcopy() takes 1 argument here")
    return copy.deepcopy(value)


def _total_ordering(guard: RuntimeGuard) -> Callable[[type], type]:
    def total_ordering(cls: type) -> type:
        return functools.total_ordering(guard.write(cls))

    return total_ordering


def _wraps(guard: RuntimeGuard) -> Callable[[Any], Callable[[Any], Any]]:
    def wraps(wrapped: Any) -> Callable[[Any], Any]:
        def decorate(wrapper: Any) -> Any:
            guard.write(wrapper)
            for name in ("__name__", "__qualname__", "__doc__"):
                setattr(wrapper, name, getattr(wrapped, name, None) or getattr(wrapper, name, ""))
            return wrapper

        return decorate

    return wraps


def _attrgetter(guard: RuntimeGuard) -> Callable[..., Any]:
    def attrgetter(*names: str) -> Callable[[Any], Any]:
        paths = [str.__str__(name).split(".") for name in names]
        for part in (part for path in paths for part in path):
            plain_name(part)

        def get(value: Any) -> Any:
            found = tuple(functools.reduce(guard.getattr, path, value) for path in paths)
            return found[0] if len(found) == 1 else found

        return get

    return attrgetter


def _sleep(seconds: float) -> None:
    """Time stands still in an episode."""
