"""The guard: which Python a policy's block may be made of, decided on the syntax tree before anything runs.

It is an allow-list of statements, names and attributes. What a tree does not show (whose attribute `x.format` is,
whether `x` in `x.y = 1` belongs to the block's own program) is left to `runtime_guard`: `checked` returns the tree with
calls to it put in, so only that tree may be run, in a namespace made by `proxies`.
"""

from __future__ import annotations

import ast
import difflib
import warnings
from collections.abc import Iterator
from typing import TypeGuard

from environments.appworld.inside.names import INTERNALS, METHODS, MODULES, WATCHED, readable, special

READ, WRITE, SUPER = " read", " write", " super"
"""Names of the run-time checks; no block can spell a name with a blank in it."""

MAX_CHARACTERS = 100_000
"""Length of a block, in characters."""

MAX_DEPTH = 200
"""Levels of nesting of a tree; Python's own limit lies near 1,000 calls, which the caller has spent part of."""

_WORDS = (
    "Add And AnnAssign Assert Assign Attribute AugAssign BinOp BitAnd BitOr BitXor BoolOp Break Call ClassDef Compare "
    "Constant Continue Del Delete Dict DictComp Div Eq ExceptHandler Expr FloorDiv For FormattedValue FunctionDef "
    "GeneratorExp Global Gt GtE If IfExp Import ImportFrom In Invert Is IsNot JoinedStr LShift Lambda "
    "List ListComp Load Lt "
    "LtE MatMult Match MatchAs MatchClass MatchMapping MatchOr MatchSequence MatchSingleton MatchStar "
    "MatchValue Mod Module "
    "Mult Name NamedExpr Nonlocal Not NotEq NotIn Or Pass Pow RShift Raise Return Set SetComp Slice Starred Store Sub "
    "Subscript Try TryStar Tuple UAdd USub UnaryOp While With Yield YieldFrom alias arg arguments "
    "comprehension keyword "
    "match_case withitem"
)
NODES = frozenset(_WORDS.split())
"""Kinds of syntax a block may use: all of Python but what is asynchronous."""

_TEXT = frozenset(
    {("Constant", "value"), ("Constant", "kind"), ("Attribute", "attr"), ("ImportFrom", "module"), ("alias", "name")}
)
"""Fields that hold text which is no variable's name, or that have a rule of their own."""


class Refused(ValueError):
    """A block asks for what is not available; the message is one line for the agent."""


def refusal(code: str) -> str | None:
    """Why a block may not run, in one line for the agent, or None where it may. Total: no string raises.

    A block that is no Python gets None: running it ends in the syntax error that shows the agent so.
    """
    try:
        checked(code)
    except Refused as error:
        return str(error)
    except SyntaxError:
        pass
    return None


def checked(code: str) -> ast.Module:
    """The tree to run for a block, checks put in.

    Raises Refused for what is not available, SyntaxError for what is no Python.
    """
    if len(code) > MAX_CHARACTERS:
        raise Refused(f"The block has {len(code)} characters; at most {MAX_CHARACTERS} are allowed.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes, which a strict interpreter would turn into errors
            tree = ast.parse(code)
    except SyntaxError:
        raise
    except (MemoryError, RecursionError, OverflowError):
        raise Refused("The block is nested too deeply; use shorter expressions.") from None
    except ValueError:
        raise Refused("The block holds characters that no Python source may hold (null or lone surrogate).") from None
    for node, klass in _walk(tree):
        _check(node)
        _put_in_checks(node, klass)
    return tree


def _walk(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the class it stands in, parents last: a child may be replaced once seen."""
    found: list[tuple[ast.AST, str]] = []
    stack: list[tuple[ast.AST, str, int]] = [(tree, "", 0)]
    while stack:
        node, klass, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise Refused("The block is nested too deeply; use shorter expressions.")
        found.append((node, klass))
        inside = node.name if isinstance(node, ast.ClassDef) else klass
        body = set(map(id, node.body)) if isinstance(node, ast.ClassDef) else set()
        stack.extend(
            (child, inside if not body or id(child) in body else klass, depth + 1)
            for child in ast.iter_child_nodes(node)
        )
    yield from reversed(found)


def _check(node: ast.AST) -> None:
    kind = type(node).__name__
    if kind not in NODES or (isinstance(node, ast.comprehension) and node.is_async):
        raise Refused(f"{_in_words(kind)} is not available; write plain synchronous Python.")
    if isinstance(node, ast.Import):
        for alias in node.names:
            _check_module(alias.name)
    elif isinstance(node, ast.ImportFrom):
        _check_import_from(node)
    elif isinstance(node, ast.Attribute):
        _check_attribute(node)
    elif isinstance(node, ast.ClassDef) and node.keywords:
        raise Refused("A class takes only base classes: metaclasses and other keywords are not available.")
    elif isinstance(node, ast.MatchClass):
        for name in node.kwd_attrs:
            if name.startswith("_") or name in INTERNALS | WATCHED:
                raise Refused(f"A pattern may not look at the attribute {name!r}.")
    elif (
        isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in INTERNALS | WATCHED
    ):
        # dataclasses look up fields by name
        raise Refused(f"A field may not be called {node.target.id!r}; choose another name.")
    for name in _names(node, kind):
        asked = name == "__name__" and isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        if special(name) and name not in METHODS and not asked:
            raise Refused(f"The name {name!r} is not available.")


def _names(node: ast.AST, kind: str) -> Iterator[str]:
    for field, value in ast.iter_fields(node):
        if (kind, field) in _TEXT:
            continue
        for entry in value if isinstance(value, list) else (value,):
            if isinstance(entry, str):
                yield entry


def _check_module(name: str) -> None:
    if name in MODULES:
        return
    near = difflib.get_close_matches(name, MODULES, n=1)
    allowed = ", ".join(sorted(module for module in MODULES if module != "__future__"))
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise Refused(f"Importing {name[:80]!r} is not allowed; {hint}Available modules: {allowed}.")


def _check_import_from(node: ast.ImportFrom) -> None:
    if node.level or not node.module:
        raise Refused("Relative imports are not available; import a module by its name.")
    _check_module(node.module)
    for alias in node.names:
        if alias.name == "*":
            raise Refused("Star imports are not available; name what you need.")
        if alias.name not in MODULES[node.module]:
            near = difflib.get_close_matches(alias.name, MODULES[node.module], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise Refused(f"{alias.name[:80]!r} of the module {node.module!r} is not available{hint}")


def _check_attribute(node: ast.Attribute) -> None:
    if not readable(node.attr) or (special(node.attr) and not isinstance(node.ctx, ast.Load)):
        raise Refused(f"The attribute {node.attr[:80]!r} is not available; use public attributes and methods.")


def _put_in_checks(node: ast.AST, klass: str) -> None:
    """Replace the attributes among a node's children by calls.

    x.format becomes one that looks it up, x in `x.y = 1` one that checks whether x may be changed.
    """
    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
        node.value = _call(WRITE, node.value, node.value)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute):
        _check_update(node.target, klass)
    for field, value in ast.iter_fields(node):
        if _is_super(value) and not _is_bare_call(node):
            value.id = SUPER
        elif isinstance(value, ast.Attribute):
            setattr(node, field, _looked_up(value, node, klass))
        elif isinstance(value, list):
            for entry in filter(_is_super, value):
                entry.id = SUPER
            value[:] = [
                _looked_up(entry, node, klass) if isinstance(entry, ast.Attribute) else entry for entry in value
            ]


def _is_super(node: object) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and node.id == "super" and isinstance(node.ctx, ast.Load)


def _is_bare_call(node: ast.AST) -> bool:
    """`super()` finds class and object itself, both the block's own; with arguments it could be told of others."""
    return isinstance(node, ast.Call) and not node.args and not node.keywords


def _check_update(target: ast.Attribute, klass: str) -> None:
    """`x.y += z` reads x.y as well, and hands it to z."""
    if target.attr in WATCHED:
        raise Refused(f"The attribute {target.attr!r} cannot be updated in place; assign to it.")
    if target.attr.startswith("_"):
        assert isinstance(target.value, ast.Call)
        target.value.args.append(ast.copy_location(ast.Constant(_mangled(target.attr, klass)), target.value))


def _looked_up(node: ast.Attribute, parent: ast.AST, klass: str) -> ast.expr:
    private = node.attr.startswith("_") and not special(node.attr)
    if not isinstance(node.ctx, ast.Load) or not (private or node.attr in WATCHED):
        return node
    if isinstance(parent, ast.MatchValue | ast.MatchMapping | ast.MatchClass):
        raise Refused(f"A pattern may not look at the attribute {node.attr!r}.")
    return _call(READ, node, node.value, ast.Constant(_mangled(node.attr, klass)))


def _mangled(name: str, klass: str) -> str:
    """The name under which Python keeps `self.__x` in a class."""
    owner = klass.lstrip("_")
    if not owner or not name.startswith("__") or name.endswith("__"):
        return name
    return f"_{owner}{name}"


def _call(function: str, place: ast.expr, *arguments: ast.expr) -> ast.expr:
    call = ast.copy_location(ast.Call(ast.Name(function, ast.Load()), list(arguments), []), place)
    for part in (call.func, *arguments[1:]):
        ast.copy_location(part, place)
    return call


def _in_words(kind: str) -> str:
    return {"AsyncFunctionDef": "async def", "AsyncFor": "async for", "AsyncWith": "async with", "Await": "await"}.get(
        kind, "asynchronous code" if kind == "comprehension" else f"the syntax {kind!r}"
    ).capitalize()
