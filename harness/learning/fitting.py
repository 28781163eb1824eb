"""The weights of a warm start: supervised on demonstrations, deliberately imperfect, under a seed.

A share of the demonstrations follows the environment's habitual mistake, so that greedy success has room to grow;
another share is conditioned on the privileged contexts that teachers will read, because a policy that has never seen
a context cannot be a teacher.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.records import write_json
from harness.core.seeds import SeedTree
from harness.core.sums import seal
from harness.core.types import Credit, TokenSequence
from harness.experiment import Experiment, LossSettings, OptimiserSettings, WarmStartSettings
from harness.learning.demonstrations import Demonstrator, Replays
from harness.losses import pack
from harness.protocols.backend import Backend, BackendSettings, Start, make_backend

Progress = Callable[[str, int, int], None]


def make_weights(
    experiment: Experiment,
    settings: WarmStartSettings,
    replays: Replays,
    base: Path | None,
    directory: Path,
    seed: int,
    progress: Progress,
    notes: Mapping[str, Mapping[str, Any]],
) -> None:
    """Fit the policy (from `base`, or a fresh tiny one) and leave it in `directory`, which appears whole or not at
    all. Only one process may be at it. notes: JSON files to leave beside the weights, by name."""
    seeds = SeedTree(seed)["warm-start"]
    scratch = directory.with_name(f".{directory.name}")
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    scratch.mkdir(parents=True)
    try:
        demonstrator = Demonstrator.of(experiment, settings, replays, seeds)
        if base is None:
            from harness.backends.torch.models import create_tiny

            create_tiny(scratch, demonstrator.texts(), experiment.model.tiny, seeds["weights"].integer())
        optimiser = OptimiserSettings(
            lr=settings.lr,
            schedule="cosine",
            warmup_steps=min(20, settings.steps // 4),
            micro_tokens=experiment.optimiser.micro_tokens,
        )
        model, drawn = experiment.model, seeds["backend"].integer()
        backend = make_backend(
            experiment.backend,
            Start(base or scratch),
            BackendSettings(optimiser, settings.steps, 1.0, model.dtype, model.device, drawn),
        )
        with contextlib.closing(backend):
            _fit(backend, demonstrator.sequences(backend), settings, seeds, progress)
            backend.save(scratch)
        # Training begins with an optimiser of its own.
        (scratch / "trainer_state.pt").unlink(missing_ok=True)
        for name, content in notes.items():
            write_json(scratch / name, content)
        seal(scratch, [file.relative_to(scratch).as_posix() for file in scratch.rglob("*") if file.is_file()])
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(scratch, directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fit(
    backend: Backend, sequences: list[TokenSequence], settings: WarmStartSettings, seeds: SeedTree, progress: Progress
) -> None:
    """Supervised steps: the likelihood term of the one loss with weight 1 on every demonstrated token."""
    rng = seeds["batches"].rng()
    queue: list[int] = []
    for step in range(settings.steps):
        while len(queue) < settings.batch:
            queue.extend(rng.permutation(len(sequences)).tolist())
        part, queue = queue[: settings.batch], queue[settings.batch :]
        chosen = [sequences[place] for place in part]
        backend.update(pack(chosen, [Credit(likelihood=s.mask.astype(np.float64)) for s in chosen]), LossSettings())
        progress("warm start", step + 1, settings.steps)
