"""The property suite catches methods that are wrong, and says what is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from agents.check import MethodError, check_method
from agents.methods.grpo import GRPO
from harness.types import Credit, Needs


@dataclass(frozen=True)
class Spoilt(GRPO):
    """GRPO with one of its outputs changed by `_spoil`."""

    kl: float = 0.0

    def assign(self, groups, evidence, state):
        credits, later, log = super().assign(groups, evidence, {})
        return self._spoil(groups, credits, later, log)


class OffMask(Spoilt):
    def _spoil(self, groups, credits, state, log):
        return [[replace(c, advantages=c.advantages + 0.1) for c in row] for row in credits], state, log


class RewardItself(Spoilt):
    def _spoil(self, groups, credits, state, log):
        rows = [[Credit(np.where(e.sequence.mask, e.reward, 0.0)) for e in group.episodes] for group in groups]
        return rows, state, log


class FirstIsBest(Spoilt):
    def _spoil(self, groups, credits, state, log):
        return (
            [[replace(c, advantages=c.advantages * (i + 1)) for i, c in enumerate(row)] for row in credits],
            state,
            log,
        )


class Forgetful(Spoilt):
    def _spoil(self, groups, credits, state, log):
        return [row[:-1] for row in credits], state, log


class NotANumber(Spoilt):
    def _spoil(self, groups, credits, state, log):
        return credits, {"array": np.zeros(3)}, {"share": float("nan")}


class Moody(Spoilt):
    def _spoil(self, groups, credits, state, log):
        noise = float(np.random.default_rng().random()) + 1
        return [[replace(c, advantages=c.advantages * noise) for c in row] for row in credits], state, log


class WrongContext(GRPO):
    def context(self, group, index, rng):
        return "just text"


class Demanding(GRPO):
    @property
    def needs(self):
        return Needs(teacher="sampled", teacher_policy="ema", teacher_decay=1.0)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (OffMask(), ["not 0 off the sampled-token mask", "equal rewards has advantages"]),
        (RewardItself(), ["equal rewards has advantages", "adding a constant to all rewards changes credit"]),
        (FirstIsBest(), ["permuting siblings does not permute credit"]),
        (Forgetful(), ["one credit for every episode"]),
        (NotANumber(), ["'share' is not a finite float", "cannot be written to a checkpoint as JSON"]),
        (Moody(), ["not deterministic"]),
        (WrongContext(), ["context returned str"]),
        (Demanding(), ["Needs: teacher_decay must be in [0, 1), got 1.0"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_wrong_methods_are_caught(method, says):
    with pytest.raises(MethodError) as caught:
        check_method(method, seeds=range(10))
    for sentence in says:
        assert sentence in str(caught.value)
    assert type(method).__name__ in str(caught.value)


def test_no_method_at_all():
    with pytest.raises(MethodError, match="it lacks needs, initial_state, assign"):
        check_method(object())

    class Lazy:
        needs = "teacher"

        def initial_state(self):
            return None

        def assign(self, groups, evidence, state):
            return [], state, {}

    with pytest.raises(MethodError, match=r"not a harness\.types\.Needs"):
        check_method(Lazy())
    Lazy.needs = Needs()
    with pytest.raises(MethodError, match="one credit for every episode"):
        check_method(Lazy())
