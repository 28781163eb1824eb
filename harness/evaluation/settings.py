"""What is to be played: a policy, a split of an environment, and how. What changes an episode is part of the record's
name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.catalogue import environment_id
from harness.core.seeds import SeedTree
from harness.experiment import EnvironmentSettings
from harness.rollout.conversation import Request


@dataclass(frozen=True)
class Evaluation:
    """What is to be played. What changes an episode is part of the record's name: changed, it is another record."""

    env: str
    """An environment id, with or without its module."""
    policy: str
    """A short name (gold, do-nothing), endpoint:MODEL, smollm2, module:Name of a text policy, or a model directory."""
    split: str = "test"
    tasks: int = 20
    samples: int = 1
    greedy: bool = False
    max_new_tokens: int = 128
    temperature: float = 1.0
    env_options: Mapping[str, Any] = field(default_factory=dict)
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = 300.0
    """Longest wait for one reset or step. Generous: a user played by a model may need several attempts."""
    concurrency: int = 0
    """Episodes in flight; 0 lets the policy decide."""
    seed: int = 0
    out: Path = Path("runs/evaluations")

    @property
    def decoding(self) -> str:
        """How the policy chooses its tokens."""
        return "greedy" if self.greedy else "sampled"

    @property
    def environment(self) -> EnvironmentSettings:
        """The environment to be made."""
        return EnvironmentSettings(
            id=environment_id(self.env), options=dict(self.env_options), deadline_s=self.deadline_s
        )

    def identity(self, environment_version: str, policy_version: str) -> dict[str, Any]:
        """What makes up the record's name: what changes an episode. Keys of endpoints are never written."""
        same = {
            name: getattr(self, name)
            for name in ("policy", "split", "greedy", "max_new_tokens", "temperature", "env_options", "seed")
        }
        return _without_keys(
            same
            | {"env": self.environment.id, "environment_version": environment_version, "policy_version": policy_version}
        )

    def file(self, identity: Mapping[str, Any]) -> Path:
        """Where the episodes stand."""
        digest = hashlib.sha256(records.line_of(identity).encode()).hexdigest()[:8]
        policy = Path(self.policy).name if Path(self.policy).is_dir() else self.policy
        parts = (self.env.rpartition(":")[2], policy, self.split, self.decoding, f"seed{self.seed}", digest)
        return self.out / (re.sub(r"[^\w.-]+", "-", "_".join(parts)) + ".jsonl")

    def requests(self, tasks: Sequence[str]) -> list[Request]:
        """One request per task and sample, their randomness derived from the seed."""
        seeds = SeedTree(self.seed)["evaluation"]
        return [
            Request(task, seeds[self.decoding, task, number], greedy=self.greedy)
            for task in tasks
            for number in range(self.samples)
        ]


def _without_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_keys(entry) if isinstance(entry, Mapping) else _shown(name, entry)
        for name, entry in settings.items()
        if name not in ("api_key", "extra_headers", "extra_query")
    }


def _shown(name: str, entry: Any) -> Any:
    """An address may carry a password or a key: user and query are left out."""
    return re.sub(r"(?<=//)[^/]*@|[?#].*", "", entry) if name == "base_url" and isinstance(entry, str) else entry
