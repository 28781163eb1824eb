"""A Hugging Face model in two halves: everything up to its last hidden states, and what it makes of those.

`Model.forward` returns logits of all tokens, [row, step, vocabulary] at once. What stands behind the last layer differs
(a bias, a scale, a soft cap), and is the model's own code here too: it is run with given hidden states in place of its
lower half.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Halves:
    """Both halves of one model, reading its weights afresh at every call."""

    def __init__(self, model: Any) -> None:
        self.model = model
        # Some name a lower half that they do not have.
        self.lower = model.base_model if model.base_model is not model else getattr(model, "model", model)

    @classmethod
    def of(cls, model: Any) -> Halves | None:
        """None unless both halves together say what the model says, to the bit, on a few tokens."""
        ids = (
            torch.arange(10, device=model.device).reshape(2, 5) % model.config.get_text_config(decoder=True).vocab_size
        )
        with torch.no_grad():
            whole = model(input_ids=ids, use_cache=False).logits
            try:
                halves = cls(model)
                if halves.lower is model:
                    return None
                return halves if torch.equal(halves.logits(halves.hidden(ids)), whole) else None
            except Exception:  # a model raises what it likes where its halves cannot be called so
                return None

    def hidden(self, ids: Int[Tensor, "row step"]) -> Float[Tensor, "row step width"]:
        """The last hidden states of whole rows, padded on the right."""
        return self.lower(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows vocabulary"]:
        """What the model makes of them."""
        rows = hidden.reshape(1, -1, hidden.shape[-1])
        # On the instance, for this call: the class's own method is found again as soon as this one is gone.
        self.lower.forward = lambda *_, **__: _lower_output(rows)
        try:
            logits: Tensor = self.model(inputs_embeds=rows).logits
        finally:
            del self.lower.forward
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])


def _lower_output(hidden: Tensor) -> Any:
    """What a lower half returns. It knows nothing of caches, attention weights and routers: those are None."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    class LowerOutput(BaseModelOutputWithPast):  # type: ignore[misc]
        def __getattr__(self, name: str) -> None:
            if name.startswith("__"):
                raise AttributeError(name)

    return LowerOutput(last_hidden_state=hidden)
