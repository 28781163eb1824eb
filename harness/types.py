"""The public door to the types that plugs exchange with the engine (`harness.core.types`)."""

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
    Method,
    Needs,
    RolloutGroup,
    Scores,
    State,
    TokenSequence,
    TopK,
)

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
    "Needs",
    "RolloutGroup",
    "Scores",
    "State",
    "TokenSequence",
    "TopK",
]
