"""One run: one method under one seed, from the shared starting weights to its last checkpoint. The run feeds
(`harness.learning.feed`), the backend's trainer steps, whoever owns the loop."""

from __future__ import annotations

from harness.learning.feed import RunFeed
from harness.learning.run import Run


def train(run: Run) -> None:
    """Train, evaluate and record; continues from the last checkpoint when the folder has one, and does nothing when
    it is finished."""
    run.backend.drive(RunFeed(run))
