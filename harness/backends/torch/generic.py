"""Any Hugging Face causal language model with the same interface as `forward.LlamaForward`, by its own forward pass.

Its cache appends the same columns to all rows, with holes where a row had nothing to add: a mask hides them, and
positions count what is seen. `hidden` is the logits themselves here, so that whatever a model does after its last
layer is kept.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor


class HoleCache:
    """A model's own cache, which columns of it each row sees, and how many those are."""

    def __init__(self, store: Any, seen: Tensor) -> None:
        self.store, self.seen = store, seen

    @property
    def lengths(self) -> Tensor:
        """int64[row]: how many columns each row sees."""
        return self.seen.sum(1)

    def rows(self, rows: Tensor) -> HoleCache:
        """A copy of these rows; a row may be named more than once."""
        store = copy.deepcopy(self.store)
        store.batch_select_indices(rows)
        return HoleCache(store, self.seen[rows])


class GenericForward:
    """The forward pass of one model; prompts are not shared in training, and finished rows stay in the batch."""

    compacts = False
    shares_prompts = False

    def __init__(self, model: Any) -> None:
        self.model = model

    def cache(self, rows: int, width: int) -> HoleCache:
        """An empty cache (`width` is a hint this one does not need)."""
        from transformers import DynamicCache

        device = next(self.model.parameters()).device
        return HoleCache(
            DynamicCache(config=self.model.config), torch.zeros((rows, 0), dtype=torch.int64, device=device)
        )

    def freeze(self) -> None:
        """Nothing to prepare."""

    def thaw(self) -> None:
        """Nothing to undo."""

    def extend(self, ids: Tensor, counts: Tensor, cache: HoleCache) -> Tensor:
        """Logits after the last of every row's next tokens; see `LlamaForward.extend`."""
        steps = torch.arange(ids.shape[1], device=ids.device)
        positions = cache.lengths[:, None] + steps
        cache.seen = torch.cat([cache.seen, (steps < counts[:, None]).long()], 1)
        out = self.model(
            input_ids=ids,
            # A row that adds nothing here still has to see something, or its unused output is undefined.
            attention_mask=cache.seen,
            position_ids=positions.clamp(max=self.model.config.max_position_embeddings - 1),
            past_key_values=cache.store,
            use_cache=True,
        )
        logits: Tensor = out.logits[torch.arange(len(ids), device=ids.device), (counts - 1).clamp(min=0)]
        return logits

    def score(self, ids: Tensor, prompts: None = None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Logits of whole rows, padded on the right: under causal attention no real token sees the padding."""
        assert prompts is None
        return self.model(input_ids=ids, use_cache=False).logits, [], []

    def logits(self, hidden: Tensor) -> Tensor:
        """They are logits already."""
        return hidden
