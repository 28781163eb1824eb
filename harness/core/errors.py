"""The exceptions of the harness.

HarnessError
├── UserError (also a ValueError)     the caller's mistake: what was given, what is allowed, the nearest right name
│   ├── UnknownNameError              no such environment, method, key, model, dataset, task, ...
│   ├── UnmatchedError                runs that may not stand in one table
│   └── MissingDataError              data or an optional package is absent; says which command brings it
├── DamagedRecordError                a file of records cannot be read at a place; says which file and line
├── EnvironmentFailure                the environment or its worker failed, hung or returned garbage
└── EndpointError                     a model endpoint failed (timeout, status, garbage); never the agent's fault
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of everything this package raises on purpose."""


class UserError(HarnessError, ValueError):
    """The caller's mistake, with the way out in the message."""


class UnknownNameError(UserError):
    """A name that nothing answers to."""

    def __init__(self, kind: str, given: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(set(known))
        near = nearest(given, known)
        message = f"unknown {kind} {given!r}"
        if near:
            message += f"; did you mean {near!r}?"
        elif known:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            message += f"; known: {shown}"
        super().__init__(message + (f" {hint}" if hint else ""))
        self.given, self.nearest = given, near


class UnmatchedError(UserError):
    """Runs that differ in more than method and seed."""


class MissingDataError(UserError):
    """Something that has to be fetched or installed first."""


class DamagedRecordError(HarnessError):
    """A record that cannot be read."""


class EnvironmentFailure(HarnessError):
    """An infrastructure failure of an environment: `kind` is a short word, e.g. raised, deadline, garbage."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


class EndpointError(HarnessError):
    """A model endpoint that did not answer as it should."""


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name closest to what was typed, or None when nothing is close."""
    known = list(known)
    folded = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(given.casefold(), list(folded), n=1, cutoff=0.5)
    return folded[found[0]] if found else None
