"""A stream is declared once: a further one is packed, cut, added to the loss and recorded like the project's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from harness.core.errors import UnknownNameError
from harness.experiment import LossSettings
from harness.losses import pack, policy_loss, streams
from harness.losses.streams import Sampled, TokenStream
from harness.protocols.check_method import differing
from harness.protocols.check_method import streams as arrays
from harness.types import Credit


def squared(weights: torch.Tensor, sampled: Sampled) -> torch.Tensor:
    return (sampled.weights * weights * sampled.current.square()).sum()


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS", (*streams.STREAMS, TokenStream("surprise", "surprise", squared)))


@pytest.fixture
def sequences(ragged_groups: Callable[..., Any]) -> list[Any]:
    return [sequence for group in ragged_groups(4) for sequence in group]


def test_a_declared_stream_adds_its_term(declared: None, sequences: list[Any], backend_of: Any) -> None:
    rng = np.random.default_rng(0)
    values = [np.where(s.mask, rng.normal(size=len(s)), 0.0) for s in sequences]
    credits = [Credit(more={"surprise": value}) if n % 3 else Credit() for n, value in enumerate(values)]
    batch = pack(sequences, credits)
    logprobs = torch.from_numpy(-rng.exponential(size=batch.mask.shape)).requires_grad_()
    out = policy_loss(logprobs, batch, LossSettings())
    assert list(out.terms) == ["surprise"]
    expected = 0.0
    for row, index in enumerate(batch.order.tolist()):
        if index % 3:
            places = np.flatnonzero(sequences[index].mask)
            expected += sum(values[index][p] * float(logprobs.detach()[row, p - 1]) ** 2 for p in places)
    assert float(out.total.detach()) == pytest.approx(expected / batch.step_tokens, rel=1e-12)
    halves = [batch.rows(range(start, len(batch), 2)) for start in (0, 1)]
    parts = [
        policy_loss(logprobs[start::2, : part.mask.shape[1]], part, LossSettings()) for start, part in enumerate(halves)
    ]
    assert float(sum(part.total for part in parts).detach()) == pytest.approx(float(out.total.detach()), rel=1e-12)
    # a real backend trains on it and reports it
    metrics = backend_of().update(batch, LossSettings(), per_term=True)
    assert metrics["loss/surprise"] == pytest.approx(metrics["loss/total"])
    assert metrics["gradient_norm"] > 0


def test_a_declared_stream_is_checked_like_any(declared: None, sequences: list[Any]) -> None:
    short = Credit(more={"surprise": np.zeros(1)})
    with pytest.raises(ValueError, match="surprise has 1 entries"):
        pack(sequences[:1], [short])
    one, other = (Credit(more={"surprise": np.full(3, value)}) for value in (1.0, 2.0))
    assert dict(arrays(one)).keys() == {"surprise"}
    assert differing(one, other, 0) == ["surprise"]


def test_an_undeclared_stream_is_refused(sequences: list[Any]) -> None:
    with pytest.raises(UnknownNameError, match=r"'advantage'; did you mean 'advantages'"):
        pack(sequences[:1], [Credit(more={"advantage": np.zeros(len(sequences[0]))})])
