"""The shell that blocks run in, in place of the engine's IPython: it executes the checked tree and nothing else.

IPython would rewrite the text before it runs (`!`, `%`, `?`), keep a history and leave itself in the namespace.
"""

from __future__ import annotations

import ast
import builtins
import json
import linecache
import warnings
from collections.abc import Callable
from typing import Any

from environments.appworld.inside.limits import TimeUpError


class Shell:
    """Runs blocks one after another in the namespace `user_ns`."""

    def __init__(self) -> None:
        self.user_ns: dict[str, Any] = {"__name__": "__main__"}
        self.parse: Callable[[str], ast.Module] = ast.parse
        """Makes the tree that is run of a block's text."""
        self._ran = 0

    def run_cell(self, code: str) -> BaseException | None:
        """Execute a block; whatever it raises, an exit too, is returned. TimeUpError alone passes."""
        self._ran += 1
        name = f"<ipython-input-{self._ran}-block>"  # the engine keeps the frames of files so named in its tracebacks
        linecache.cache[name] = (len(code), None, [f"{line}\n" for line in code.splitlines()], name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a block's odd escapes and comparisons
                compiled = compile(self.parse(code), name, "exec")
            exec(compiled, self.user_ns)
        except TimeUpError:
            raise
        except Exception as error:
            return error
        except BaseException as error:
            return RuntimeError(f"{type(error).__name__} was raised; a block cannot end the shell")
        return None


def printed(*values: Any, **options: Any) -> None:
    """The engine's `print`: one container alone is shown as JSON."""
    if not options and len(values) == 1 and isinstance(values[0], list | tuple | dict):
        indent = 1 if len(json.dumps(values[0])) >= 100 else None
        builtins.print(json.dumps(values[0], indent=indent))
    else:
        builtins.print(*values, **options)


printed.__name__ = printed.__qualname__ = "print"
