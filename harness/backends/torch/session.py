"""The torch backend by four verbs, for a loop of one's own: the shape of Tinker's training client.

    session = Session(backend)
    session.forward_backward(batch, loss)      as often as there are parts: gradients add up
    session.optim_step()                       one step along what has been added up
    session.sample(prompts, params)            from the weights as they are now
    session.save(folder)

A batch carries the counts of its whole step (`step_tokens`, `step_sequences`) wherever its rows go: the parts of a cut
batch (`Batch.rows`), one after another, are the step on the whole. Everything else of a run (which episodes, credit,
records, budget) is the caller's; `harness.protocols.feed` has it for a loop that is driven.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.backends.torch.backend import TorchBackend
from harness.core.errors import HarnessError
from harness.losses import Batch, LossSpec, policy_loss
from harness.protocols.backend import Completion, Prompt, SamplingParams


class Session:
    """Gradients that wait for their step. ValueError for a backend without optimiser settings."""

    def __init__(self, backend: TorchBackend) -> None:
        if backend._optimiser is None:
            raise ValueError("this backend was made without optimiser settings: it samples and scores only")
        self.backend, self._optimiser = backend, backend._optimiser
        self.waiting = 0
        """Calls of `forward_backward` since the last step."""

    def forward_backward(self, batch: Batch, loss: LossSpec) -> dict[str, float]:
        """Add the gradient of `harness.losses.policy_loss` on a batch to what is waiting; the loss and its terms
        (`loss/total`, `loss/<term>`), this batch's share of the step's."""
        if not self.waiting:
            self._optimiser.zero()
        self.waiting += 1
        losses: dict[str, float] = {}
        for logprobs, support, part in self.backend.differentiable(batch):
            out = policy_loss(logprobs, part, loss, support)
            out.total.backward()  # type: ignore[no-untyped-call]
            for name, value in (out.terms | {"total": out.total}).items():
                losses[f"loss/{name}"] = losses.get(f"loss/{name}", 0.0) + float(value.detach())
        return losses

    def optim_step(self) -> dict[str, float]:
        """Clip, step along the waiting gradients, advance the schedule: `gradient_norm` (before clipping) and `lr`.
        HarnessError where none is waiting."""
        if not self.waiting:
            raise HarnessError("optim_step without forward_backward before it: there is no gradient to step along")
        self.waiting = 0
        self.backend.release()  # what is kept for conversations was computed with the weights that end here
        facts = self._optimiser.step()
        self._optimiser.zero()
        self.backend.version += 1
        return facts

    def sample(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Completion]:
        """See `harness.protocols.backend.Sampler.sample`."""
        return self.backend.sample(prompts, params)

    def save(self, path: Path | str) -> None:
        """See `harness.protocols.backend.Trainer.save`. HarnessError where gradients wait: they would be lost."""
        if self.waiting:
            raise HarnessError("save between forward_backward and optim_step: what is waiting would be lost")
        self.backend.save(path)
