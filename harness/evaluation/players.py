"""The policy that an evaluation names: a text policy, or a model that samples tokens."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import records
from harness.core.catalogue import catalogue
from harness.core.errors import UnknownNameError, UserError
from harness.core.plugs import resolve
from harness.evaluation.settings import Evaluation
from harness.experiment import Experiment, ModelSettings
from harness.learning.policy_hash import checkpoint_hash
from harness.protocols.backend import BackendSettings, SamplingParams, Start, make_backend
from harness.protocols.policy import TextPolicy, make_policy
from harness.rollout.policies import ActingPolicy, MessagePolicy, TokenPolicy

WAVE = 64
"""Episodes that a token policy samples as one batch."""


@dataclass(frozen=True)
class Player:
    """A policy, and how many episodes of it are played at once."""

    policy: ActingPolicy
    lanes: int
    """Conversations that go on at once without waiting for each other, each in environments of its own."""
    batch: int = 1
    """Episodes of one lane that are sampled as one batch."""
    version: str = ""
    """What makes the policy what it is, beyond its name: the hash of its weights, or what it says of itself."""
    text_policy: TextPolicy | None = None

    def spent(self) -> Mapping[str, float]:
        """What a text policy counted in this process, or nothing."""
        return self.text_policy.spent() if self.text_policy is not None else {}


def player_of(asked: Evaluation, cache: Path) -> Player:
    """The policy that `asked.policy` names."""
    short = catalogue("policies")
    kind, colon, argument = asked.policy.partition(":")
    if asked.policy in short:
        return _text_player(short[asked.policy], {}, asked)
    if colon and kind in short:
        return _text_player(short[kind], _model_options(short[kind], argument, asked), asked)
    if colon and not Path(asked.policy).is_dir():
        return _text_player(asked.policy, {}, asked)
    if asked.policy_options:
        raise UserError(
            f"--policy-options are for text policies; {asked.policy!r} takes none, got {dict(asked.policy_options)}"
        )
    return _token_player(asked, cache)


def _model_options(plug: str, model: str, asked: Evaluation) -> dict[str, Any]:
    """What an evaluation says of sampling, as far as the constructor of a policy with a model takes it."""
    offered = {"model": model, "temperature": asked.temperature, "max_tokens": asked.max_new_tokens}
    offered |= {"concurrency": asked.concurrency} if asked.concurrency else {}
    takes = inspect.signature(resolve(plug, "policy", TextPolicy)).parameters
    return {name: value for name, value in offered.items() if name in takes}


def _text_player(plug: str, options: Mapping[str, Any], asked: Evaluation) -> Player:
    policy = make_policy(plug, {**options, **asked.policy_options})
    version = policy.version or records.line_of(asked.policy_options)
    lanes = asked.concurrency or policy.concurrency
    return Player(MessagePolicy(policy), lanes, version=version, text_policy=policy)


def _token_player(asked: Evaluation, cache: Path) -> Player:
    if asked.policy == "tiny":
        raise UserError("the tiny policy has no weights of its own; name the directory of a checkpoint")
    if asked.policy != "smollm2" and not Path(asked.policy).is_dir():
        known = (*catalogue("policies"), "smollm2", "endpoint:MODEL")
        raise UnknownNameError("policy", asked.policy, known, "(or the directory of a model, or module:Name)")
    from harness.backends.torch.models import base_directory

    directory = base_directory(ModelSettings(name=asked.policy), cache)
    assert directory is not None
    named = Experiment.model_fields["backend"].default
    backend = make_backend(named, Start(directory), BackendSettings(temperature=asked.temperature))
    policy = TokenPolicy(backend, SamplingParams(asked.max_new_tokens, asked.temperature))
    return Player(policy, 1, asked.concurrency or WAVE, checkpoint_hash(directory))
