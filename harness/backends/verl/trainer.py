"""verl's synchronous trainer with whole episodes for the estimator: before it computes advantages, they are read from
the rows' extra fields.

`_compute_advantage` is a method that verl may change between two versions: `check_hooks` says by name what has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.backends.verl.credit import Row, on_tokens, seen_by_trainer
from harness.backends.verl.loop import EPISODE
from harness.core.episodes import episode_from_row
from harness.core.errors import HarnessError, UserError

HOOKS: Mapping[str, tuple[str, ...]] = {"_compute_advantage": ("self", "batch", "metrics")}
"""Methods of verl's trainer that are overridden, with their parameters."""


def check_hooks(trainer: Any) -> None:
    """UserError naming every method of a trainer class that is missing or takes other parameters than `HOOKS` says."""
    for name, wanted in HOOKS.items():
        method = getattr(trainer, name, None)
        found = tuple(inspect.signature(method).parameters) if method else None
        if found != wanted:
            given = "is missing" if found is None else f"takes ({', '.join(found)})"
            raise UserError(
                f"this version of verl has another {trainer.__name__} than jobs are written for: "
                f"{name}({', '.join(wanted)}) {given}. Install verl 0.9"
            )


def fed_trainer(base: Any, fetch: Callable[..., Any], estimator_of: Callable[[str], Any]) -> Any:
    """A trainer class over verl's synchronous one. fetch: `transfer_queue.kv_batch_get`; estimator_of: an estimator by
    its name in verl's registry. UserError where the base is of another version."""
    check_hooks(base)

    class FedTrainer(base):  # type: ignore[misc]
        """Gives the estimator the episodes of its batch."""

        def __init__(self, config: Any) -> None:
            # By its name verl tells synchronous trainers from others, in several places.
            config.trainer.v1.trainer_mode = "sync"
            super().__init__(config)

        def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
            estimator = estimator_of(self.config.algorithm.adv_estimator)
            fields = ["extra_fields", "old_log_probs", *(["ref_log_prob"] if self.use_reference_policy else [])]
            data = fetch(keys=batch.keys, partition_id=batch.partition_id, select_fields=fields)
            padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
            extra = data["extra_fields"]
            with estimator.given(
                rows(
                    extra.tolist() if hasattr(extra, "tolist") else list(extra),
                    data["old_log_probs"].unbind(),
                    data["ref_log_prob"].unbind() if self.use_reference_policy else None,
                    padding,
                )
            ):
                batch = super()._compute_advantage(batch, metrics)
            metrics.update(estimator.diagnostics)
            return batch

    return FedTrainer


def rows(
    extra: Sequence[Mapping[str, Any]], old: Sequence[Any], reference: Sequence[Any] | None, padding: Sequence[bool]
) -> list[Row | None]:
    """The rows of a batch as methods see them; None for padding. extra: each row's extra fields; old, reference:
    log-probabilities of its response (tensors). HarnessError for a row that our loop has not played."""
    made: list[Row | None] = []
    for place, (fields, added) in enumerate(zip(extra, padding, strict=True)):
        if added:
            made.append(None)
            continue
        if EPISODE not in fields:
            raise HarnessError("a row holds no episode: the job's own agent loop plays them (agent.default_agent_loop)")
        episode = episode_from_row(fields[EPISODE])
        pulled = None if reference is None else on_tokens(episode.sequence, _numbers(reference[place]))
        made.append(Row(seen_by_trainer(episode, _numbers(old[place])), pulled))
    return made


def _numbers(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu().double().numpy())
