"""The public door to the property suite of methods (`harness.protocols.check_method`)."""

from harness.protocols.check_method import (
    TOLERANCE,
    VOCABULARY,
    WORDS,
    MethodError,
    Step,
    check_method,
    differing,
    problems,
    random_step,
    streams,
)

__all__ = [
    "TOLERANCE",
    "VOCABULARY",
    "WORDS",
    "MethodError",
    "Step",
    "check_method",
    "differing",
    "problems",
    "random_step",
    "streams",
]
