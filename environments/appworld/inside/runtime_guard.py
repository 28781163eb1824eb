"""The run-time half of the guard: what a policy's block made itself, and so may change, and what it may look up.

The built-ins that look up attributes by name (getattr, vars, type, str.format ...) are here in versions that keep to
the guard's rules.
"""

from __future__ import annotations

import abc
import builtins
import enum
import functools
import importlib
import string
import types
import typing
from collections.abc import Callable
from typing import Any, NoReturn

from environments.appworld.inside.names import WATCHED, readable, special

BLOCK_MODULE = "__main__"
"""__name__ of a policy's namespace, and so __module__ of its classes."""

OF_NAMEDTUPLES = frozenset({"_asdict", "_field_defaults", "_fields", "_make", "_replace"})
OF_ENUMS = frozenset({"_missing_", "_name_", "_value_"})
TYPING_BASES = (typing.Any,)

BY_INIT = (BaseException, dict, list, set)
"""Classes whose __init__ may be called on an object: that of a property would change what all its readers see."""


NO_BASES = frozenset({property, classmethod, staticmethod, super, functools.cached_property})
"""Descriptors: their methods change what all readers of an attribute see."""


class Untouched:
    """Base of what a block is handed: a copy of it is the thing itself."""

    __slots__ = ()

    def __copy__(self) -> Untouched:
        return self

    def __deepcopy__(self, memo: Any) -> Untouched:
        return self


class Label(Untouched):
    """Stands for a class that a block can see by its name only: nothing can be made of it or inherited from it."""

    __slots__ = ("__name__", "_stands_for")

    def __init__(self, kind: type) -> None:
        self._stands_for, self.__name__ = kind, kind.__name__

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._stands_for)

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._stands_for)

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"nothing can be made of {self.__name__!r} here")

    def __repr__(self) -> str:
        return repr(self._stands_for)


class OneArgumentType(Untouched):
    """`type` for looking, not for making classes."""

    __slots__ = ("_guard",)

    def __init__(self, guard: RuntimeGuard) -> None:
        self._guard = guard

    def __call__(self, value: object, *more: object) -> Any:
        if more:
            raise TypeError("type() takes 1 argument here; write a class statement")
        kind = type(value)
        return self if issubclass(kind, type) or kind is Label else self._guard.shown_as(kind)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, type | Label)

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, type)

    def __repr__(self) -> str:
        return "<class 'type'>"


class RuntimeGuard:
    """Which classes a block made itself, and what it may do to an object: look up, change, list.

    A method named like a built-in is what the block gets in its place.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.classes: set[type] = set()
        self.shown: set[type] = set()
        """Classes that a block is given by name."""
        self.type = OneArgumentType(self)
        self._labels: dict[type, Label] = {}

    def build_class(self, body: Callable[..., Any], name: str, *bases: Any) -> Any:
        """The class statement. A base that is no class would be called with the class's body as an argument."""
        for base in bases:
            if issubclass(type(base), type):
                known = base in self.classes or (base in self.shown and base not in NO_BASES)
            else:
                known = type(base).__module__ == "typing" or type(base) is ByStatement
            if not known and not any(base is special_form for special_form in TYPING_BASES):
                raise TypeError(f"{base!r:.80} is no class to inherit from")
        return self.adopt(builtins.__build_class__(body, name, *bases))

    def adopt(self, made: Any) -> Any:
        """Take a class for one of the block's own; whatever else is passed on as it is."""
        if issubclass(type(made), type):
            self.classes.add(made)
        return made

    def shown_as(self, kind: type) -> Any:
        """A class as a block may have it: itself, where the block made it or is given it by name; else a label."""
        if kind in self.classes or kind in self.shown:
            return kind
        return self._labels.setdefault(kind, Label(kind))

    def super(self, *given: Any) -> Any:
        """`super` with arguments: of a class of the block's own and one of its objects or heirs."""
        if len(given) != 2:
            raise TypeError("super() takes no argument here, or a class of your own and an object of it")
        kind, value = given
        heir = value if issubclass(type(value), type) else type(value)
        if kind not in self.classes or not issubclass(heir, kind):
            raise TypeError("super() takes a class of your own and an object of it")
        return builtins.super(kind, value)

    def read(self, value: Any, name: str) -> Any:
        """Look up an attribute that not every object may give away."""
        if name == "__class__":
            return self.type(value)
        if name == "__dict__":
            return self.vars(value)
        if name.startswith("_") and not special(name) and not self._is_private(value, name):
            raise AttributeError(f"{_kind(value)!r} object has no attribute {name!r} that may be used here")
        if name == "__init__" and not self._may_initialise(value):
            raise AttributeError(f"__init__ of {_kind(value)!r} is not available here")
        if name == "obj" and issubclass(type(value), BaseException) and type(value) not in self.classes:
            raise AttributeError("the object of an error is not available here")
        found = getattr(value, name)
        if name == "__init__" and issubclass(type(value), type) and not self._is_function(found):
            return _initialiser(value, found)
        if name in ("format", "format_map"):
            return _formatter(found)
        if name == "register" and (issubclass(type(value), abc.ABCMeta) or _is_registration(found)):
            raise AttributeError("classes cannot be registered here; inherit from them")
        return found

    def _may_initialise(self, value: Any) -> bool:
        if issubclass(type(value), type):
            return value in self.classes or issubclass(value, BY_INIT)
        return type(value) is super or type(value) in self.classes

    def _is_private(self, value: Any, name: str) -> bool:
        """Whether a name with an underscore is one of the block's own."""
        kind = value if issubclass(type(value), type) else type(value)
        if issubclass(kind, tuple if name in OF_NAMEDTUPLES else enum.Enum if name in OF_ENUMS else ()):
            return True
        if self._is_function(value):
            return name in value.__dict__
        if kind not in self.classes:
            return False
        classes = [base for base in type.__dict__["__mro__"].__get__(kind) if base in self.classes]
        return any(name in base.__dict__ for base in classes) or name in getattr(value, "__dict__", ())

    def _is_function(self, value: Any) -> bool:
        return type(value) is types.FunctionType and value.__globals__ is self.namespace

    def write(self, value: Any, updated: str | None = None) -> Any:
        """The object, where its attributes may be changed. updated: a private attribute that is read as well.

        AttributeError for what is not the block's own.
        """
        kind = type(value)
        if updated is not None and not self._is_private(value, updated):
            raise AttributeError(f"{_kind(value)!r} object has no attribute {updated!r} that may be used here")
        mine = value in self.classes if issubclass(kind, type) else kind in self.classes or self._is_function(value)
        if mine or (issubclass(kind, BaseException) and kind.__module__ == "builtins"):
            return value
        raise AttributeError(f"attributes of {_kind(value)!r} cannot be changed here")

    def getattr(self, value: Any, name: str, *default: Any) -> Any:
        """`getattr` of names that a block may read."""
        plain_name(name)
        if len(default) > 1:
            raise TypeError(f"getattr expected at most 3 arguments, got {2 + len(default)}")
        try:
            return self.read(value, name) if name.startswith("_") or name in WATCHED else getattr(value, name)
        except AttributeError:
            if default:
                return default[0]
            raise

    def hasattr(self, value: Any, name: str) -> bool:
        """`hasattr`: False also of names that a block may not read, so that it is no oracle."""
        if type(name) is str and not readable(name):
            return False
        try:
            self.getattr(value, name)
        except AttributeError:
            return False
        return True

    def setattr(self, value: Any, name: str, new: Any) -> None:
        """`setattr` on what is the block's own."""
        setattr(self.write(value), _settable(name), new)

    def delattr(self, value: Any, name: str) -> None:
        """`delattr` on what is the block's own."""
        delattr(self.write(value), _settable(name))

    def vars(self, value: Any) -> dict[str, Any]:
        """A copy of what an object of the block's own classes holds."""
        if type(value) not in self.classes or not hasattr(value, "__dict__"):
            raise TypeError(f"the attributes of {_kind(value)!r} cannot be listed here")
        return dict(value.__dict__)

    def dir(self, *values: Any) -> list[str]:
        """`dir`: public names only."""
        if len(values) != 1:
            raise TypeError("dir() takes 1 argument here")
        return [name for name in dir(values[0]) if readable(name) and not name.startswith("_")]


def _kind(value: Any) -> str:
    return value.__name__ if issubclass(type(value), type) else type(value).__name__


def plain_name(name: Any) -> str:
    """The name, where a block may read an attribute so called.

    TypeError for what is no plain string, AttributeError for other names.
    """
    if type(name) is not str:
        raise TypeError("attribute name must be a plain string")
    if not readable(name):
        raise AttributeError(f"the attribute {name!r} is not available here")
    return name


def _settable(name: Any) -> str:
    if special(plain_name(name)):
        raise AttributeError(f"the attribute {name!r} cannot be changed here")
    return plain_name(name)


class ByStatement(Untouched):
    """Stands for a maker of classes (`typing.NamedTuple`) where a class statement names it as its base, not else."""

    __slots__ = ("_maker",)

    def __init__(self, maker: Any) -> None:
        self._maker = maker

    def __mro_entries__(self, bases: Any) -> Any:
        return self._maker.__mro_entries__(tuple(self._maker if base is self else base for base in bases))

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"write a class statement with the base {self._maker.__name__}")

    def __repr__(self) -> str:
        return f"typing.{self._maker.__name__}"


def free(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method as a function: a copy of a bound method could be bound to another object."""

    def call(*given: Any, **named: Any) -> Any:
        return method(*given, **named)

    call.__name__ = call.__qualname__ = method.__name__
    return call


def _initialiser(kind: type, found: Any) -> Callable[..., None]:
    """An initialiser that a class has from elsewhere, for objects of that class alone."""

    def initialise(value: Any, /, *given: Any, **named: Any) -> None:
        if not issubclass(type(value), kind):
            raise TypeError(f"__init__ of {kind.__name__!r} is for objects of it")
        found(value, *given, **named)

    return initialise


def _is_registration(found: Any) -> bool:
    return getattr(found, "__func__", found) is abc.ABCMeta.register


def _formatter(found: Any) -> Any:
    """str.format and str.format_map with fields of public attributes only; any other method called so as it is."""
    for method in ("format", "format_map"):
        if found is str.__dict__[method]:
            return _unbound(method)
        if (
            type(found) is types.BuiltinMethodType
            and found.__name__ == method
            and issubclass(type(found.__self__), str)
        ):
            return _bound(method, str.__str__(found.__self__))
    return found


def _unbound(method: str) -> Callable[..., str]:
    def unbound(template: str, /, *values: Any, **named: Any) -> str:
        if not issubclass(type(template), str):
            raise TypeError(f"{method}() of str needs a str")
        return _bound(method, str.__str__(template))(*values, **named)

    return unbound


def _bound(method: str, template: str) -> Callable[..., str]:
    def bound(*values: Any, **named: Any) -> str:
        _check_fields(template)
        return template.format_map(*values, **named) if method == "format_map" else template.format(*values, **named)

    return bound


def _check_fields(template: str) -> None:
    split = importlib.import_module("_string").formatter_field_name_split
    for _, field, inner, _ in string.Formatter().parse(template):
        if field is None:
            continue
        for is_attribute, name in split(field)[1]:
            if is_attribute and (name.startswith("_") or not readable(name)):
                raise AttributeError(f"the attribute {name!r} is not available in a format")
        if inner:
            _check_fields(inner)
