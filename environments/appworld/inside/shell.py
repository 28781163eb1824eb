"""The shell that blocks run in, in place of the engine's IPython: it executes the checked tree and nothing else.

IPython would rewrite the text before it runs (`!`, `%`, `?`), keep a history and leave itself in the namespace.
"""

from __future__ import annotations

import ast
import linecache
import warnings
from collections.abc import Callable
from typing import Any

from environments.appworld.inside.limits import TimeUpError


class Outcome:
    """How a block ended: `success`, or an error that `raise_error` raises."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.success = error is None

    def raise_error(self) -> None:
        """Raise what the block raised, if it did."""
        if self.error is not None:
            raise self.error


class Shell:
    """Runs blocks one after another in the namespace `user_ns`; the engine asks of it what it asks of IPython's."""

    ast_node_interactivity = "none"
    """Never echo the last expression: the engine sets this on its own shell."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.user_ns: dict[str, Any] = {"__name__": "__main__"}
        self.parse: Callable[[str], ast.Module] = ast.parse
        """Makes the tree that is run of a block's text."""
        self._ran = 0

    def run_cell(self, raw_cell: str) -> Outcome:
        """Execute a block; whatever it raises, an exit too, is its outcome. TimeUpError alone passes."""
        self._ran += 1
        name = f"<ipython-input-{self._ran}-block>"  # the engine keeps the frames of files so named in its tracebacks
        linecache.cache[name] = (len(raw_cell), None, [f"{line}\n" for line in raw_cell.splitlines()], name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a block's odd escapes and comparisons
                code = compile(self.parse(raw_cell), name, "exec")
            exec(code, self.user_ns)
        except TimeUpError:
            raise
        except Exception as error:
            return Outcome(error)
        except BaseException as error:
            return Outcome(RuntimeError(f"{type(error).__name__} was raised; a block cannot end the shell"))
        return Outcome()

    def forget(self) -> None:
        """Drop the blocks' sources and all they made: collected later, it would cost a later block its time."""
        self.user_ns.clear()
        for name in [name for name in linecache.cache if name.startswith("<ipython-input-")]:
            del linecache.cache[name]
