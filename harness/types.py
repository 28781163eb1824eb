"""The public door to the types that plugs exchange with the engine (`harness.core.types`), and to the contract of a
method."""

from harness.core.types import (
    Anchor,
    ContextRequest,
    Credit,
    Distillation,
    Ending,
    Episode,
    Evidence,
    KLForm,
    Message,
    Needs,
    RolloutGroup,
    Scores,
    TeacherPolicy,
    TokenSequence,
    TopK,
    Values,
)
from harness.protocols.method import Method, MethodFacts, State

__all__ = [
    "Anchor",
    "ContextRequest",
    "Credit",
    "Distillation",
    "Ending",
    "Episode",
    "Evidence",
    "KLForm",
    "Message",
    "Method",
    "MethodFacts",
    "Needs",
    "RolloutGroup",
    "Scores",
    "State",
    "TeacherPolicy",
    "TokenSequence",
    "TopK",
    "Values",
]
