"""Whose weights a method's teacher has: the three options that methods with a teacher share, checked and told in one
place."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from agents.methods.base import Number, one_of, within
from harness.types import Needs, TeacherPolicy


@dataclass(frozen=True)
class TeacherWeights:
    """The fields of these names of a method.

    teacher: "current" is the policy itself, "initial" its frozen start, "ema" a moving average that begins at the
    start: average <- teacher_decay * average + (1 - teacher_decay) * policy after every `teacher_every`-th step. Decay
    0 takes the policy's weights over.
    """

    teacher: TeacherPolicy
    teacher_decay: Number = 0.0
    teacher_every: int = 1

    def __post_init__(self) -> None:
        one_of(self, "teacher", self.teacher, ("current", "initial", "ema"))
        within(self, 0, 1, teacher_decay=self.teacher_decay)
        Needs(teacher_decay=float(self.teacher_decay), teacher_every=self.teacher_every)

    @classmethod
    def of(cls, method: object) -> TeacherWeights:
        """Those of a method that has the fields. ValueError where one is out of range."""
        return cls(**{entry.name: getattr(method, entry.name) for entry in fields(cls)})

    def asked(self, needs: Needs) -> Needs:
        """`needs` with this teacher, where they ask for a teacher at all."""
        if needs.teacher == "none" or self.teacher == "current":
            return needs
        if self.teacher == "initial":
            return replace(needs, teacher_policy="initial")
        return replace(
            needs,
            teacher_policy="ema",
            teacher_decay=float(self.teacher_decay),
            teacher_every=self.teacher_every,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a table's footnote says of it; nothing where the teacher is the policy itself."""
        if self.teacher == "current":
            return ()
        if self.teacher == "initial":
            return ("its teacher has the weights of the start",)
        when = "every step" if self.teacher_every == 1 else f"every {self.teacher_every} steps"
        if self.teacher_decay == 0:
            return (f"its teacher takes the policy's weights over {when}",)
        return (f"its teacher averages the policy's weights, decay {self.teacher_decay:g} {when}",)
