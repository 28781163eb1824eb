"""The records a table is made of: a run (one method under one seed) and an evaluation row (one policy on one task)."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import pydantic.dataclasses
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.core.budget import Budget
from harness.core.errors import UserError

DECODINGS = ("sampled", "greedy")
"""How an evaluated policy chose its tokens, in the order of a table's blocks."""


class Record(BaseModel):
    """A frozen record; a field it does not know is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@pydantic.dataclasses.dataclass(config=ConfigDict(extra="forbid"))
class RunBudget(Budget):
    """What one run spent, and how long it took."""

    wall_s: float | None = None
    """Seconds of training; kept out of everything that must be the same bytes twice."""


class Run(Record):
    """One method under one seed: what was run."""

    method: str
    """The row's label."""
    seed: int
    role: Literal["base", "method", "baseline", "reference"] = "method"
    """base: the starting point of all gains; baseline: a policy that does not learn (do-nothing, gold). Older records
    call a baseline "reference"; a record keeps its word, so that its table keeps its bytes."""
    matched: dict[str, Any]
    """`Experiment.matched_facts`: what all runs of one table share, flat."""
    plug: str = ""
    options: dict[str, Any] = {}
    code: str = ""
    """Revision of the plug's own code."""
    settings: dict[str, Any] = {}
    """Settings of the run that `matched` does not hold: those of the row's own, and those that were searched."""
    sources: tuple[str, ...] = ()
    """Modules whose code, with all they import, `matched` holds the revision of."""
    exploratory: bool = False
    """Shown, but tests nothing: no p-value. Declared before the run."""
    initial_checkpoint: str = ""
    """Hash of the weights it began from: one for all methods of a seed. Empty where the row has none, or `matched`
    holds it (records of before each seed had a start of its own)."""
    control: Literal["upper", "lower"] | None = None
    """What the row is measured against, as its method declares (`MethodFacts.control`); it stands outside all tests."""
    kl: float | None = None
    """Weight of the KL term to the reference policy; None where the row does not learn."""
    mixed_groups: bool | None = None
    context: str | None = None
    """What the teacher reads."""
    summariser: str | None = None
    """Who writes it, where somebody does."""
    notes: tuple[str, ...] = ()
    """Footnotes of the row: "teacher adds nothing", "weights inert", ..."""
    budget: RunBudget = RunBudget()

    @property
    def learns(self) -> bool:
        """Whether this is a run of a method: neither the starting point nor a baseline."""
        return self.role == "method"

    @property
    def is_baseline(self) -> bool:
        """Whether the policy does not learn and is not the starting point either."""
        return self.role in ("baseline", "reference")


class EvaluationRow(Record):
    """One policy on one task: the mean of its samples."""

    method: str
    seed: int
    matched: str
    """`fingerprint` of the run's matched facts."""
    split: str
    task_id: str
    decoding: Literal["sampled", "greedy"]
    samples: int
    """Finished episodes, over which the means are taken."""
    success: float | None
    """None when every episode failed for infrastructure's sake."""
    reward: float | None = None
    failed: int = 0
    """Episodes lost to the infrastructure; they are in no mean."""
    metrics: dict[str, float | None] = {}
    scenario: str | None = None
    """The scenario that the task is a variant of, where the environment names one."""
    answers: tuple[tuple[str | None, bool], ...] | None = None
    """(final answer, success) of every finished sample, where answers were recorded; None for a sample without one."""


R = TypeVar("R", bound=Record)


def parsed(model: type[R], given: Any) -> R:
    """A record from plain data. Raises UserError naming every wrong field and the fields there are."""
    if isinstance(given, model):
        return given
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UserError(f"not a {model.__name__}: {wrong}; its fields: {', '.join(model.model_fields)}") from None
